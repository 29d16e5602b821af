"""Check in constant time that the sender knows a configured secret, on the bytes as received."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final, Literal

from adapters.registries.common.delivery import Delivery, Source

_BEARER: Final = b"bearer "
# RFC 9110, 5.5: these are not part of a header's value. (Python's `str.strip` would cut bytes of UTF-8 too.)
_AROUND_HEADERS: Final = b" \t"
# A URL's query gives these a meaning of their own.
_RESERVED_IN_QUERY: Final = b"+&%#"


def verify_header(delivery: Delivery, source: Source, name: str = "authorization") -> bool:
    """Whether a header holds the secret. A `Bearer ` in front of the header's value or of the secret is ignored."""
    secrets = (_after_bearer(secret.strip(_AROUND_HEADERS)) for secret in source.secrets)
    return _among(_after_bearer(_header(delivery, name)), secrets)


def verify_query(delivery: Delivery, source: Source, name: str = "token") -> bool:
    """Whether the URL's query holds the secret, for senders that can be configured with a URL only.

    A secret that begins with `Bearer `, because the same file is also used for a header, matches without that word too.
    """
    forms = (form for secret in source.secrets for form in (secret, _after_bearer(secret)))
    return _among(_query_value(delivery, name), forms)


def verify_access_token(delivery: Delivery, source: Source) -> bool:
    """Whether `Authorization` or the query's `access_token` holds the secret (CloudEvents webhook specification, 3)."""
    return verify_header(delivery, source) or verify_query(delivery, source, "access_token")


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
    """Whether the query holds the secret as its file has it, although it must be percent-encoded.

    For the log of a refused delivery only. A client does not send the part after a `#`.
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
    # All candidates are compared, so the time does not depend on which one matches. An empty one matches nothing.
    return sum(hmac.compare_digest(given, candidate) for candidate in accepted if candidate) > 0
