"""Did the sender know the secret? In constant time, on the bytes as they came, against each configured secret."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, Literal

from adapters.registries import Delivery, Source

__all__ = ["by_header", "by_hmac", "by_query"]

_BEARER: Final = b"Bearer "


def by_header(delivery: Delivery, source: Source, name: str = "authorization") -> bool:
    """A header holds the secret, as it is or after `Bearer `."""
    given = _header(delivery, name)
    return _among(given, (form for secret in _secrets(source) for form in (secret, _BEARER + secret)))


def by_query(delivery: Delivery, source: Source, name: str = "token") -> bool:
    """The URL's query holds the secret: for senders that can be told nothing but a URL."""
    return _among(delivery.query.get(name, "").encode(errors="replace"), _secrets(source))


def by_hmac(
    delivery: Delivery, source: Source, name: str, *, algorithm: Literal["sha1", "sha256"] = "sha256", prefix: str = ""
) -> bool:
    """A header holds the body's HMAC in hexadecimal digits of either case, after `prefix`."""
    given = _header(delivery, name)
    digest = hashlib.sha1 if algorithm == "sha1" else hashlib.sha256
    expected = (prefix + hmac.new(secret, delivery.body, digest).hexdigest() for secret in _secrets(source))
    return _among(given.lower(), (text.encode() for text in expected))


def _secrets(source: Source) -> list[bytes]:
    return [secret for secret in source.secrets if secret]


def _header(delivery: Delivery, name: str) -> bytes:
    return delivery.headers.get(name, "").strip().encode("latin-1", errors="replace")


def _among(given: bytes, accepted: Iterable[bytes]) -> bool:
    # Every candidate is compared, so the time does not tell which of them came close.
    return sum(hmac.compare_digest(given, candidate) for candidate in accepted) > 0
