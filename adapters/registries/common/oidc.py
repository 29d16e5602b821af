"""Verify OpenID Connect tokens: the configured sender signed the bearer token for this receiver.

The configuration names the keys; no address in a token (`jku`, `x5u`, `iss`) is ever fetched.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from adapters.registries.common.delivery import Delivery, IdToken, Keys
from adapters.strictjson import decode
from warmhook.ports import Json

if TYPE_CHECKING:
    from jwt import PyJWK
    from jwt.types import Options

_ALGORITHMS: Final = ["RS256", "ES256"]
_LEEWAY_SECONDS: Final = 60
_TOKEN_MAX: Final = 8192
# The time of receipt decides, so the library's own checks of times are off.
_WITHOUT_TIMES: Final[Options] = {
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
    "require": ["exp", "iat", "aud"],
}


async def verify_id_token(delivery: Delivery, keys: Keys | None, expected: IdToken) -> bool:
    """Whether `Authorization: Bearer` holds the `expected` token, signed by one of `keys` and valid at receipt.

    Raises `OSError` if the keys cannot be read now.
    """
    # Only sources with OpenID Connect pay for importing the cryptography.
    import jwt

    scheme, _, token = delivery.headers.get("authorization", "").strip().partition(" ")
    # The library raises its own errors for malformed tokens, but not for tokens that are not ASCII.
    if scheme.lower() != "bearer" or len(token) > _TOKEN_MAX or not token.isascii():
        return False
    if keys is None or not expected.audience or not all(expected.claims.values()):
        return False
    try:
        key_id = _header(token).get("kid")
        if not isinstance(key_id, str):
            return False
        key = _key(await keys.read(key_id), key_id)
        if key is None or key.algorithm_name not in _ALGORITHMS:
            return False
        found = jwt.decode(token, key, algorithms=_ALGORITHMS, audience=expected.audience, options=_WITHOUT_TIMES)
    except jwt.PyJWTError:
        return False
    return (
        found.get("iss") in expected.issuers
        and all(_equal(found.get(name), value) for name, value in expected.claims.items())
        and _valid_at(found, delivery.received)
    )


def _header(token: str) -> dict[str, Any]:
    import jwt

    try:
        return jwt.get_unverified_header(token)
    except RecursionError:
        raise jwt.DecodeError("nested too deeply") from None


def _key(key_set: str, key_id: str) -> PyJWK | None:
    """The key with that id; `None` if there is none, or if it cannot be used."""
    import jwt

    read: Any = decode(key_set)
    given = next((key for key in read["keys"] if isinstance(key, dict) and key.get("kid") == key_id), None)
    try:
        return None if given is None else jwt.PyJWK(given)
    except (ValueError, TypeError):
        return None


def _equal(found: Json, value: Json) -> bool:
    # In Python 1 equals True.
    return type(found) is type(value) and found == value


def _valid_at(claims: dict[str, Json], moment: datetime) -> bool:
    times = [claims["exp"], claims["iat"], claims.get("nbf", 0)]
    if not all(isinstance(time, int | float) for time in times):
        return False
    expires, issued, starts = map(float, times)
    return max(issued, starts) - _LEEWAY_SECONDS <= moment.timestamp() < expires + _LEEWAY_SECONDS
