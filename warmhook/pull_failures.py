"""Decide why a pull failed, from the code and the text of the runtime's error.

The words of the registry decide nothing, except those that `without_server_words` keeps: its HTTP status, and its error
code at the end. They would let a registry choose how its image is treated.
"""

from __future__ import annotations

from dataclasses import dataclass
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

REFUSALS: Final[frozenset[FailureReason]] = frozenset({"Unauthorized", "NotFound"})
"""Failures that other credentials may end: registries deny that there is what they refuse."""


@dataclass(frozen=True, slots=True)
class ErrorText:
    """One row: the reason of errors that have this code and this part."""

    part: str
    """In lower case; empty: any text."""
    reason: FailureReason
    runtime: str
    """The runtimes and versions that say so; `all` for what comes from Go, gRPC, the kernel or a registry."""
    source: str
    code: str = ""
    """Name of the gRPC code; empty: any."""
    at_end: bool = False
    """Whether the text must end with `: ` and the part."""


_RESOLVER = "containerd core/remotes/docker/resolver.go"

ERROR_TEXTS: Final = (
    # A full disk stops all pulls of the node, so only the system error at the end counts: names of files in layers can
    # have such words anywhere else.
    ErrorText("no space left on device", "DiskFull", "all", "Linux ENOSPC", at_end=True),
    ErrorText("disk quota exceeded", "DiskFull", "all", "Linux EDQUOT", at_end=True),
    ErrorText("no match for platform", "PlatformMissing", "containerd", "containerd core/images/image.go"),
    ErrorText(
        "no image found in manifest list for architecture",
        "PlatformMissing",
        "CRI-O",
        "containers/image internal/manifest/docker_schema2_list.go",
    ),
    ErrorText(
        "no image found in image index for architecture",
        "PlatformMissing",
        "CRI-O",
        "containers/image internal/manifest/oci_index.go",
    ),
    ErrorText(
        "mismatched image rootfs and manifest layers",
        "NotRunnable",
        "containerd 1.6 (charts), 1.7 (signatures)",
        "containerd image.go",
    ),
    ErrorText("no processor for media-type", "NotRunnable", "containerd 1.6", "containerd diff/stream.go"),
    ErrorText("unexpected media type", "NotRunnable", "containerd", "containerd core/images/image.go"),
    ErrorText(
        "unsupported image-specific operation on artifact",
        "NotRunnable",
        "CRI-O before 1.36",
        "containers/image manifest/oci.go",
    ),
    # Before the network: a damaged layer ends in "unexpected EOF" too.
    ErrorText("failed to extract layer", "RuntimeError", "containerd", "containerd rootfs/apply.go"),
    ErrorText(
        "unexpected commit digest",
        "RuntimeError",
        "containerd",
        "containerd plugins/content/local/writer.go",
    ),
    ErrorText("429 too many requests", "RateLimited", "all", "RFC 6585"),
    ErrorText("toomanyrequests", "RateLimited", "all", "OCI distribution-spec, TOOMANYREQUESTS", at_end=True),
    ErrorText("too many requests to registry", "RateLimited", "CRI-O", "containers/image docker/errors.go"),
    ErrorText("401 unauthorized", "Unauthorized", "all", "RFC 9110"),
    ErrorText("403 forbidden", "Unauthorized", "all", "RFC 9110"),
    ErrorText("451 unavailable for legal reasons", "Unauthorized", "all", "RFC 7725"),
    ErrorText("unauthorized", "Unauthorized", "all", "OCI distribution-spec, UNAUTHORIZED", at_end=True),
    ErrorText("denied", "Unauthorized", "all", "OCI distribution-spec, DENIED", at_end=True),
    ErrorText("pull access denied", "Unauthorized", "containerd", _RESOLVER),
    ErrorText(
        "no basic auth credentials", "Unauthorized", "containerd", "containerd core/remotes/docker/authorizer.go"
    ),
    ErrorText("access to the resource is denied", "Unauthorized", "CRI-O", "containers/image docker/errors.go"),
    ErrorText("unable to retrieve auth token", "Unauthorized", "CRI-O", "containers/image docker/errors.go"),
    ErrorText("", "Unauthorized", "all", "gRPC", code="UNAUTHENTICATED"),
    ErrorText("", "Unauthorized", "all", "gRPC", code="PERMISSION_DENIED"),
    ErrorText("408 request timeout", "Network", "all", "RFC 9110"),
    ErrorText("500 internal server error", "Network", "all", "RFC 9110"),
    ErrorText("502 bad gateway", "Network", "all", "RFC 9110"),
    ErrorText("503 service unavailable", "Network", "all", "RFC 9110"),
    ErrorText("504 gateway timeout", "Network", "all", "RFC 9110"),
    ErrorText("connection refused", "Network", "all", "Linux ECONNREFUSED"),
    ErrorText("connection reset", "Network", "all", "Linux ECONNRESET"),
    ErrorText("broken pipe", "Network", "all", "Linux EPIPE"),
    ErrorText("no such host", "Network", "all", "Go net/dnsclient.go"),
    ErrorText("temporary failure in name resolution", "Network", "all", "glibc EAI_AGAIN"),
    ErrorText("server misbehaving", "Network", "all", "Go net/dnsclient_unix.go"),
    ErrorText("network is unreachable", "Network", "all", "Linux ENETUNREACH"),
    ErrorText("no route to host", "Network", "all", "Linux EHOSTUNREACH"),
    ErrorText("i/o timeout", "Network", "all", "Go os.ErrDeadlineExceeded"),
    ErrorText("client.timeout exceeded", "Network", "all", "Go net/http/client.go"),
    ErrorText("tls handshake timeout", "Network", "all", "Go net/http/transport.go"),
    ErrorText("unexpected eof", "Network", "all", "Go io.ErrUnexpectedEOF"),
    ErrorText("eof", "Network", "all", "Go io.EOF", at_end=True),
    ErrorText("x509:", "Network", "all", "Go crypto/x509"),
    ErrorText("server gave http response to https client", "Network", "all", "Go net/http/client.go"),
    ErrorText("registryunavailable", "Network", "CRI-O 1.28 and later", "cri-api pkg/errors/errors.go"),
    ErrorText("", "Network", "containerd 2", "gRPC; of a pull, not of the runtime", code="UNAVAILABLE"),
    ErrorText("", "Timeout", "all", "gRPC", code="DEADLINE_EXCEEDED"),
    ErrorText("context deadline exceeded", "Timeout", "all", "Go context.DeadlineExceeded"),
    # After the network: the server of tokens may be down as well.
    ErrorText("failed to authorize", "Unauthorized", "containerd", _RESOLVER),
    ErrorText("", "NotFound", "containerd", "gRPC", code="NOT_FOUND"),
    ErrorText("404 not found", "NotFound", "all", "RFC 9110"),
    ErrorText("410 gone", "NotFound", "all", "RFC 9110"),
    ErrorText("manifest unknown", "NotFound", "CRI-O", "OCI distribution-spec, MANIFEST_UNKNOWN", at_end=True),
    ErrorText("name unknown", "NotFound", "CRI-O", "OCI distribution-spec, NAME_UNKNOWN", at_end=True),
)
"""The first row that fits decides. No text means two things on two runtimes, so the runtime needs not be known.

`tests/data/pull_errors.toml` has an error for each row.
"""


def failure_reason(code: str, text: str) -> FailureReason:
    """Why a pull failed, by the name of its gRPC code and its text. `RuntimeError` if nothing in the table fits."""
    row = error_row(code, text)
    return row.reason if row else "RuntimeError"


def error_row(code: str, text: str) -> ErrorText | None:
    """The row that decides; `None` if no row fits."""
    own = " ".join(without_server_words(text).lower().split()).removesuffix(": unknown")
    for row in ERROR_TEXTS:
        fits = own.endswith(f": {row.part}") if row.at_end else row.part in own
        if fits and row.code in ("", code):
            return row
    return None
