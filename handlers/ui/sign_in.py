"""Sign readers in and out: a valid token becomes a cookie that no script and no other site gets."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from adapters.kubernetes.errors import KubernetesError
from handlers.serving.bodies import BadBody, Bodies
from handlers.ui.access import Busy
from handlers.ui.answers import BUSY, HEADERS, not_reviewed, sign_in
from handlers.ui.sessions import COOKIE, COOKIE_MAX, TokenSessions, is_own_form

_BODY_BYTES: Final = 64 * 1024
_BODIES_BYTES: Final = 4 * 1024 * 1024
_FIELDS_MAX: Final = 8
_WRONG: Final = "This token is not valid for this cluster, or has expired."
_TOO_LONG: Final = "This token is too long for a cookie. Use one of a ServiceAccount: kubectl create token NAME"
_NOT_OURS: Final = "Send the form of this page: the request came from another site."


class SignIn:
    """The form for a token."""

    def __init__(self, sessions: TokenSessions) -> None:
        self._sessions = sessions
        self._bodies = Bodies(one_bytes=_BODY_BYTES, all_bytes=_BODIES_BYTES)

    async def form(self, _request: Request) -> Response:
        """Show it."""
        return sign_in(200)

    async def post(self, request: Request) -> Response:
        """Take it, and set the cookie if its token is valid."""
        if not is_own_form(request):
            return sign_in(403, _NOT_OURS)
        try:
            token = await self._token(request)
            known = await self._sessions.knows(token)
        except BadBody as error:
            return sign_in(error.status, str(error))
        except Busy:
            return sign_in(503, BUSY)
        except KubernetesError as error:
            return not_reviewed(error)
        if not known or len(token) > COOKIE_MAX:
            return sign_in(400, _TOO_LONG) if known else sign_in(401, _WRONG)
        answer = RedirectResponse("/ui/", 303, HEADERS)
        answer.set_cookie(COOKIE, token, path="/ui", secure=_is_tls(request), httponly=True, samesite="strict")
        return answer

    async def out(self, request: Request) -> Response:
        """Remove the cookie."""
        answer = RedirectResponse("/ui/sign-in", 303, HEADERS)
        # That of another host of the same site brings the cookie.
        if COOKIE in request.cookies and is_own_form(request):
            answer.delete_cookie(COOKIE, path="/ui", secure=_is_tls(request), httponly=True, samesite="strict")
        return answer

    async def _token(self, request: Request) -> str:
        """The token in the form, without the spaces and line ends of a terminal; empty for anything else."""
        body = await self._bodies.read(request.stream())
        try:
            fields = parse_qs(body.decode("ascii"), max_num_fields=_FIELDS_MAX)
        except ValueError:
            return ""
        return "".join(fields.get("token", [""])[0].split())


def _is_tls(request: Request) -> bool:
    """Whether the browser came over TLS, also where an Ingress ended it."""
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
    return "https" in (request.url.scheme, forwarded)
