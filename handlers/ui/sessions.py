"""Find out who sent a request to the page, and what that reader may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.requests import Request

from handlers.ui.access import FRESH_SECONDS, Access
from warmhook.inventory import ALL_RIGHTS, Rights

COOKIE: Final = "warmhook-ui"
COOKIE_MAX: Final = 3800
"""Characters of a token in a cookie: browsers drop longer cookies without a word."""
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Session:
    """A reader."""

    name: str
    """Of the user; empty on loopback."""
    rights: Rights


class ForeignHost(Exception):
    """The request names a host that is not this machine: a page of others may have sent it (DNS rebinding)."""


class Sessions(Protocol):
    """Who may read."""

    signs_in: bool
    """Whether readers sign in with a token."""

    async def find(
        self, request: Request, namespaces: Sequence[str], *, fresh_seconds: float = FRESH_SECONDS
    ) -> Session | None:
        """The reader who sent a request, with what may be seen of these namespaces; `None`: nobody that is known.

        What was found out before is used for `fresh_seconds`. Raises `Busy`, `ForeignHost` and `KubernetesError`.
        """


class LoopbackSessions:
    """Everybody who reaches a port that only this machine reaches may see everything."""

    signs_in = False

    async def find(
        self,
        request: Request,
        namespaces: Sequence[str],  # noqa: ARG002 - all may be seen
        *,
        fresh_seconds: float = FRESH_SECONDS,  # noqa: ARG002 - nothing changes
    ) -> Session | None:
        """The one reader. Raises `ForeignHost`."""
        if host_name(request) not in _LOOPBACK:
            raise ForeignHost
        return Session("", ALL_RIGHTS)


class TokenSessions:
    """Readers prove themselves by a bearer token, in a header or in the cookie that signing in sets."""

    signs_in = True

    def __init__(self, access: Access) -> None:
        self._access = access

    async def find(
        self, request: Request, namespaces: Sequence[str], *, fresh_seconds: float = FRESH_SECONDS
    ) -> Session | None:
        """The reader whose token it is. Raises `Busy` and `KubernetesError`."""
        token = token_of(request)
        user = await self._access.identify(token, fresh_seconds=fresh_seconds)
        if user is None:
            return None
        return Session(user.name, await self._access.rights(user, namespaces, fresh_seconds=fresh_seconds))

    async def knows(self, token: str) -> bool:
        """Whether a token is valid. Raises as `find`."""
        return await self._access.identify(token) is not None


def token_of(request: Request) -> str:
    """The token of a request, that of the header first; empty without one.

    A header of another scheme is meant for a proxy on the way.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.cookies.get(COOKIE, "")


def host_name(request: Request) -> str:
    """The host that the client asked for, in lower case and without a port."""
    host = request.headers.get("host", "").lower()
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]


def is_own_form(request: Request) -> bool:
    """Whether a form of this page sent a POST, and not one of another site.

    Browsers say so in Sec-Fetch-Site, at least over TLS and on this machine, or in Origin; other programs in neither.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def is_embedded_elsewhere(request: Request) -> bool:
    """Whether the browser fetches a part of another site, which may measure how long or how large the answer is.

    Links of other sites, which open a tab, are none: https://www.w3.org/TR/fetch-metadata/
    """
    headers = request.headers
    if headers.get("sec-fetch-site") not in ("cross-site", "same-site"):
        return False
    return (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) != ("navigate", "document")
