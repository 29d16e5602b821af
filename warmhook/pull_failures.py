"""Decide why a pull failed, from the code and the text of the runtime's error."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from warmhook.error_texts import without_server_words

FailureReason: TypeAlias = Literal[
    "NotFound",
    "Unauthorized",
    "RateLimited",
    "Network",
    "Timeout",
    "DiskFull",
    "NotRunnable",
    "PlatformMissing",
    "RuntimeError",
    "TooManyLines",
    "NoAgent",
    "Evicted",
    "Refused",
]
"""Why a line is not warm; the closed list that reports and statuses use."""

LASTING_FAILURES: Final[frozenset[FailureReason]] = frozenset(
    {"NotFound", "Unauthorized", "NotRunnable", "PlatformMissing"}
)
"""Failures that only a person can end: they are retried more rarely."""

REASONS: Final[tuple[tuple[str | None, str, FailureReason], ...]] = (
    (None, "no space left on device", "DiskFull"),
    (None, "disk quota exceeded", "DiskFull"),
    # containerd, then containers/image (CRI-O).
    (None, "no match for platform", "PlatformMissing"),
    (None, "no image found in manifest list for architecture", "PlatformMissing"),
    (None, "no image found in image index for architecture", "PlatformMissing"),
    # containerd on a Helm chart, on other artefacts, on a tag that is no manifest; CRI-O on artefacts.
    (None, "mismatched image rootfs and manifest layers", "NotRunnable"),
    (None, "no processor for media-type", "NotRunnable"),
    (None, "unexpected media type", "NotRunnable"),
    (None, "unsupported image-specific operation on artifact", "NotRunnable"),
    # Before the network: a damaged layer ends in "unexpected EOF" too.
    (None, "failed to extract layer", "RuntimeError"),
    (None, "too many requests", "RateLimited"),
    (None, "toomanyrequests", "RateLimited"),
    (None, "401 unauthorized", "Unauthorized"),
    (None, "403 forbidden", "Unauthorized"),
    (None, "unauthorized:", "Unauthorized"),
    (None, "authentication required", "Unauthorized"),
    (None, "authorization failed", "Unauthorized"),
    (None, "access denied", "Unauthorized"),
    (None, "access to the resource is denied", "Unauthorized"),
    (None, "no basic auth credentials", "Unauthorized"),
    ("UNAUTHENTICATED", "", "Unauthorized"),
    ("PERMISSION_DENIED", "", "Unauthorized"),
    (None, "connection refused", "Network"),
    (None, "connection reset", "Network"),
    (None, "no such host", "Network"),
    (None, "temporary failure in name resolution", "Network"),
    (None, "server misbehaving", "Network"),
    (None, "network is unreachable", "Network"),
    (None, "no route to host", "Network"),
    (None, "i/o timeout", "Network"),
    (None, "client.timeout exceeded", "Network"),
    (None, "tls handshake timeout", "Network"),
    (None, "unexpected eof", "Network"),
    (None, "x509:", "Network"),
    (None, "server gave http response to https client", "Network"),
    (None, "500 internal server error", "Network"),
    (None, "502 bad gateway", "Network"),
    (None, "503 service unavailable", "Network"),
    (None, "504 gateway time", "Network"),
    (None, "registryunavailable", "Network"),
    ("UNAVAILABLE", "", "Network"),
    ("DEADLINE_EXCEEDED", "", "Timeout"),
    (None, "context deadline exceeded", "Timeout"),
    ("NOT_FOUND", "", "NotFound"),
    (None, "manifest unknown", "NotFound"),
    (None, "name unknown", "NotFound"),
    (None, ": not found", "NotFound"),
)
"""Name of the gRPC code (`None`: any), a part of the text in lower case, the reason; the first match wins.

A full disk stops all pulls of the node, so DiskFull matches only the end of the text of the runtime: the system error.
Registries and names of files in layers can put such words anywhere else.

Texts of containerd 1.6 to 2.4 were observed, and of CRI-O 1.36 those for a missing tag, plain HTTP and an
unreachable registry; its other texts are from memory.
"""


def failure_reason(code: str, text: str) -> FailureReason:
    """Why a pull failed, by the name of its gRPC code and its text. `RuntimeError` if nothing in the table fits."""
    lower = text.lower()
    own = without_server_words(text).lower().strip().removesuffix(": unknown")
    fitting = (
        reason
        for wanted, part, reason in REASONS
        if wanted in (None, code) and (own.endswith(f": {part}") if reason == "DiskFull" else part in lower)
    )
    return next(fitting, "RuntimeError")
