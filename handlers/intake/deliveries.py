"""Read a delivery from an HTTP request: its headers, its query, and its body without the content encoding."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final
from urllib.parse import parse_qsl

from adapters.registries import Delivery
from handlers.serving.bodies import BODY_BYTES, BadBody

_GZIP: Final = frozenset({"gzip", "x-gzip"})
# zlib's number for a gzip header and trailer around the largest window.
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS


def read_delivery(headers: Mapping[str, str], query_string: bytes, body: bytes, received: datetime) -> Delivery:
    """The delivery as it was sent; header names in lower case. If a parameter is given twice, the last one counts."""
    # A secret may be any bytes, so none is replaced.
    text = query_string.decode(errors="surrogateescape")
    query = dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))
    return Delivery(body, received, headers, query, query_string)


def decode_body(delivery: Delivery, limit_bytes: int = BODY_BYTES) -> Delivery:
    """The delivery with its decoded body. Raises `BadBody` with 413 or 415.

    Call it after authentication: a signature covers the bytes as they were sent, and bodies of strangers are not
    decompressed. A body that is declared as gzip but is not stays unchanged: a proxy may have decompressed it already,
    and its adapter rejects any other body as `malformed`.
    """
    named = (part.strip().lower() for part in delivery.headers.get("content-encoding", "").split(","))
    encodings = [encoding for encoding in named if encoding not in ("", "identity")]
    if not encodings:
        return delivery
    if len(encodings) > 1 or encodings[0] not in _GZIP:
        raise BadBody(415, "unknown-encoding", "Content-Encoding must be gzip or absent")
    return replace(delivery, body=_gunzip(delivery.body, limit_bytes))


def _gunzip(body: bytes, limit_bytes: int) -> bytes:
    member = zlib.decompressobj(_GZIP_WINDOW)
    try:
        content = member.decompress(body, limit_bytes + 1)
    except zlib.error:
        return body
    if len(content) > limit_bytes:
        raise BadBody(413, "too-large", f"at most {limit_bytes} bytes, decompressed")
    return content if member.eof and not member.unused_data else body
