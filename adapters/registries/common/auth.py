"""Check that the sender knows a configured secret: in constant time, on the bytes as they came."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, Literal

from adapters.registries import Delivery, Source

__all__ = ["sent_unencoded", "verify_header", "verify_hmac", "verify_query"]

_BEARER: Final = b"bearer "
# RFC 9110, 5.5: around a header's value these are not part of it. (Python's `str.strip` would cut bytes of UTF-8 too.)
_AROUND_HEADERS: Final = b" \t"
# What a URL's query means something else by than itself.
_RESERVED_IN_QUERY: Final = b"+&%#"


def verify_header(delivery: Delivery, source: Source, name: str = "authorization") -> bool:
    """Whether a header holds the secret. `Bearer ` in front of either of them does not count."""
    secrets = (_after_bearer(secret.strip(_AROUND_HEADERS)) for secret in source.secrets)
    return _among(_after_bearer(_header(delivery, name)), secrets)


def verify_query(delivery: Delivery, source: Source, name: str = "token") -> bool:
    """Whether the URL's query holds the secret: for senders that can be told nothing but a URL.

    A secret that begins with `Bearer `, because the same file also serves a header, matches without that word as well.
    """
    forms = (form for secret in source.secrets for form in (secret, _after_bearer(secret)))
    return _among(_query_value(delivery, name), forms)


def verify_hmac(
    delivery: Delivery, source: Source, name: str, *, algorithm: Literal["sha1", "sha256"] = "sha256", prefix: str = ""
) -> bool:
    """Whether a header holds the body's HMAC in hexadecimal digits of either case, after `prefix`."""
    given = _header(delivery, name)
    digest = hashlib.sha1 if algorithm == "sha1" else hashlib.sha256
    secrets = (secret for secret in source.secrets if secret)
    expected = (prefix + hmac.new(secret, delivery.body, digest).hexdigest() for secret in secrets)
    return _among(given.lower(), (text.encode() for text in expected))


def sent_unencoded(delivery: Delivery, source: Source) -> bool:
    """Whether the query holds the secret as it is written in its file, where it has to be percent-encoded.

    For the log of a refused delivery only. A client keeps what follows a `#` for itself.
    """
    given = delivery.query_string.partition(b"token=")[2]
    reserved = [secret for secret in source.secrets if any(byte in _RESERVED_IN_QUERY for byte in secret)]
    sent = [part for secret in reserved if (part := secret.partition(b"#")[0])]
    return any(
        hmac.compare_digest(given[: len(part)], part) and given[len(part) : len(part) + 1] in (b"", b"&")
        for part in sent
    )


def _after_bearer(value: bytes) -> bytes:
    # The scheme is case-insensitive (RFC 9110, 11.1).
    return value[len(_BEARER) :].lstrip(b" ") if value[: len(_BEARER)].lower() == _BEARER else value


def _header(delivery: Delivery, name: str) -> bytes:
    return delivery.headers.get(name, "").encode("latin-1", errors="replace").strip(_AROUND_HEADERS)


def _query_value(delivery: Delivery, name: str) -> bytes:
    try:
        return delivery.query.get(name, "").encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return b""


def _among(given: bytes, accepted: Iterable[bytes]) -> bool:
    # Every candidate is compared, so the time does not tell which of them came close. An empty one proves nothing.
    return sum(hmac.compare_digest(given, candidate) for candidate in accepted if candidate) > 0
