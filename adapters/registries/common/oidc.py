"""Check that a bearer token is one that the configured sender signed for this receiver: OpenID Connect.

The keys come from where the configuration says; nothing in a token (`jku`, `x5u`, `iss`) is ever fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from adapters.registries import Delivery, Source
from adapters.strictjson import decode
from warmhook.ports import Json

if TYPE_CHECKING:
    from jwt import PyJWK

__all__ = ["verify_id_token"]

_ALGORITHMS: Final = ["RS256", "ES256"]
_LEEWAY_SECONDS: Final = 60
_TOKEN_MAX: Final = 8192


async def verify_id_token(
    delivery: Delivery, source: Source, *, issuers: frozenset[str], audience: str, claims: Mapping[str, Json]
) -> bool:
    """Whether `Authorization: Bearer` holds a valid token for `audience` that has these `claims`.

    Raises `OSError` where the keys cannot be read at present.
    """
    # Only sources with OpenID Connect pay for importing the cryptography.
    import jwt

    scheme, _, token = delivery.headers.get("authorization", "").strip().partition(" ")
    # The library raises errors of its own for what is no token, but not for what is no ASCII.
    if scheme.lower() != "bearer" or len(token) > _TOKEN_MAX or not token.isascii():
        return False
    if source.keys is None or not audience or not all(claims.values()):
        return False
    try:
        key_id = _header(token).get("kid")
        if not isinstance(key_id, str):
            return False
        key = _key(await source.keys.read(key_id), key_id)
        if key is None or key.algorithm_name not in _ALGORITHMS:
            return False
        # The clock is the delivery's, so the library's own checks of time are off.
        without_times = {
            "verify_exp": False,
            "verify_iat": False,
            "verify_nbf": False,
            "require": ["exp", "iat", "aud"],
        }
        found = jwt.decode(token, key, algorithms=_ALGORITHMS, audience=audience, options=without_times)  # type: ignore[arg-type]  # a TypedDict
    except jwt.PyJWTError:
        return False
    return (
        found.get("iss") in issuers
        and all(_equal(found.get(name), value) for name, value in claims.items())
        and _valid_at(found, delivery.received)
    )


def _header(token: str) -> dict[str, Any]:
    import jwt

    try:
        return jwt.get_unverified_header(token)
    except RecursionError:
        raise jwt.DecodeError("nested too deeply") from None


def _key(key_set: str, key_id: str) -> PyJWK | None:
    """The key of that id; `None` where there is none, or none that can be used."""
    import jwt

    read: Any = decode(key_set)
    given = next((key for key in read["keys"] if isinstance(key, dict) and key.get("kid") == key_id), None)
    try:
        return None if given is None else jwt.PyJWK(given)
    except (ValueError, TypeError):
        return None


def _equal(found: Json, value: Json) -> bool:
    # 1 equals True otherwise.
    return type(found) is type(value) and found == value


def _valid_at(claims: dict[str, Json], moment: datetime) -> bool:
    times = [claims["exp"], claims["iat"], claims.get("nbf", 0)]
    if not all(isinstance(time, int | float) for time in times):
        return False
    expires, issued, starts = map(float, times)
    return max(issued, starts) - _LEEWAY_SECONDS <= moment.timestamp() < expires + _LEEWAY_SECONDS
