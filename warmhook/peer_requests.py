"""Name what one agent asks of another, and read such a request.

    GET|HEAD /v1/images/<line key>/blobs/<digest>    with `Range: bytes=N-` or `bytes=N-M`
    POST     /v1/images/<line key>/done              the node has the image: it will not ask again

A request is hostile input: what is no such request is `None`, and is answered like one for a blob that is not there.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from warmhook.images import is_digest

KEY_HEADER: Final = "Warmhook-Key"
"""The SubjectPublicKeyInfo (DER) of the agent's key, in base64url without padding."""
PROOF_HEADER: Final = "Warmhook-Proof"
"""The signature of `proof_message` by that key, in base64url without padding."""
AUDIENCE: Final = "warmhook-peers"
"""Of the ServiceAccount token in the header `Authorization`."""

_LINE: Final = re.compile(r"(GET|HEAD|POST) /v1/images/([0-9a-f]{16})/(done|blobs/([!-~]{1,200})) HTTP/1\.1")
_RANGE: Final = re.compile(r"bytes=(\d{1,15})-(\d{0,15})", re.ASCII)
_BODYLESS: Final = ("", "0")


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """One request, of whoever it is."""

    method: str
    line_key: str
    digest: str
    """Empty: the node is done with the image."""
    start: int = 0
    """The first byte that is wanted."""
    end: int | None = None
    """The last byte that is wanted; `None`: all from `start` on."""
    ranged: bool = False
    """Whether it names a range."""
    token: str = field(default="", repr=False)
    public: str = ""
    """As in `KEY_HEADER`."""
    proof: str = field(default="", repr=False)

    def part(self, size_bytes: int) -> tuple[int, int] | None:
        """Offset and length of what is wanted of a blob of that size, in bytes; `None` if it has no such part."""
        if self.ranged and self.start >= size_bytes:
            return None
        end = size_bytes if self.end is None else min(self.end + 1, size_bytes)
        return self.start, end - self.start


def blob_path(line_key: str, digest: str) -> str:
    """The path of a blob of the image of that line."""
    return f"/v1/images/{line_key}/blobs/{digest}"


def done_path(line_key: str) -> str:
    """The path to which a child says that it has the image of that line."""
    return f"/v1/images/{line_key}/done"


def proof_message(parent_key: str, token: str) -> bytes:
    """What a child signs: for another parent or another token it proves nothing."""
    digest = hashlib.sha256(token.encode("utf-8", errors="surrogateescape")).hexdigest()
    return f"warmhook-peer\n{parent_key}\n{digest}".encode()


def read_request(head: bytes) -> PeerRequest | None:
    """The request with this head, of which the empty line is the last; `None` if it is not for a peer."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    match = _LINE.fullmatch(first)
    headers = _read_headers(lines)
    if match is None or headers is None:
        return None
    method, line_key, digest = match[1], match[2], match[4] or ""
    if (method == "POST") == bool(digest) or (digest and not is_digest(digest)):
        return None
    if headers.get("content-length", "") not in _BODYLESS or "transfer-encoding" in headers:
        return None
    wanted = _read_range(headers.get("range", ""))
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if wanted is None or scheme.lower() != "bearer":
        return None
    return PeerRequest(
        method,
        line_key,
        digest,
        *wanted,
        token=token.strip(),
        public=headers.get(KEY_HEADER.lower(), ""),
        proof=headers.get(PROOF_HEADER.lower(), ""),
    )


def _read_headers(lines: list[str]) -> dict[str, str] | None:
    """The headers by name in lower case; `None` if one has no form or comes twice."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name in headers or name != name.strip():
            return None
        headers[name] = value.strip(" \t")
    return headers


def _read_range(text: str) -> tuple[int, int | None, bool] | None:
    """The first and the last byte, and whether they are named; `None` if it is no range that a child asks for."""
    if not text:
        return 0, None, False
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    start, end = int(match[1]), int(match[2]) if match[2] else None
    return None if end is not None and end < start else (start, end, True)
