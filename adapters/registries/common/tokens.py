"""Is a bearer token one that the configured sender signed for us? OpenID Connect, as Google's Pub/Sub uses it.

The keys come from where the configuration says; nothing in a token (`jku`, `x5u`, `iss`) is ever fetched.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from adapters.registries import Delivery, Source
from warmhook.ports import Json

if TYPE_CHECKING:
    from jwt import PyJWK

__all__ = ["by_token"]

_ALGORITHMS: Final = ["RS256", "ES256"]
_LEEWAY_SECONDS: Final = 60
_TOKEN_MAX: Final = 8192


async def by_token(delivery: Delivery, source: Source, *, issuers: frozenset[str], audience: str, email: str) -> bool:
    """Whether `Authorization: Bearer` holds a valid token of `email` for `audience`.

    Raises `OSError` where the keys cannot be read at present.
    """
    # Only sources with OpenID Connect pay for importing the cryptography.
    import jwt

    scheme, _, token = delivery.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "bearer" or len(token) > _TOKEN_MAX or source.keys is None or not audience or not email:
        return False
    try:
        key_id = jwt.get_unverified_header(token).get("kid")
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
        claims = jwt.decode(token, key, algorithms=_ALGORITHMS, audience=audience, options=without_times)  # type: ignore[arg-type]  # a TypedDict
    except jwt.PyJWTError:
        return False
    return (
        claims.get("iss") in issuers
        and claims.get("email") == email
        and claims.get("email_verified") is True
        and _valid_at(claims, delivery.received)
    )


def _key(key_set: str, key_id: str) -> PyJWK | None:
    import jwt

    return next((key for key in jwt.PyJWKSet.from_json(key_set).keys if key.key_id == key_id), None)


def _valid_at(claims: dict[str, Json], moment: datetime) -> bool:
    times = [claims["exp"], claims["iat"], claims.get("nbf", 0)]
    if not all(isinstance(time, int | float) for time in times):
        return False
    expires, issued, starts = map(float, times)
    return max(issued, starts) - _LEEWAY_SECONDS <= moment.timestamp() < expires + _LEEWAY_SECONDS
