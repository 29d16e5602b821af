"""List the routes of the page, and answer them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, get_args

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from adapters.clock import Clock
from adapters.kubernetes.errors import KubernetesError
from handlers.ui.access import Busy
from handlers.ui.answers import BUSY, html, not_reviewed, problem, sign_in
from handlers.ui.cache import ClusterCache
from handlers.ui.changes import ChangeStreams, TooManyStreams
from handlers.ui.content import Content
from handlers.ui.pages import (
    View,
    deliveries_page,
    failing_page,
    image_page,
    node_page,
    overview_page,
)
from handlers.ui.render_queue import RenderQueue
from handlers.ui.sessions import ForeignHost, Session, Sessions, TokenSessions, is_embedded_elsewhere
from handlers.ui.sign_in import SignIn
from handlers.ui.static_files import StaticFiles
from warmhook.overview import STATES, CellState, Dimension
from warmhook.overview_rows import Selection
from warmhook.warmimages import ObjectKey

_QUERY: Final = ("by", "state", "namespace", "q")
_QUERY_MAX: Final = 200
"""Characters of a value in the URL; the rest is dropped."""
_FOREIGN: Final = "This page answers to localhost only. Open it as http://localhost or http://127.0.0.1, with its port."
_ELSEWHERE: Final = "Another site asked for this page. Open it in a tab of its own."
_NO_IMAGE: Final = "There is no such WarmImage, or you may not see it."
_NOT_LISTED: Final = "The page could not read everything yet, so it does not know. The first page says why."
_NO_NODE: Final = "There is no such node."
_NOT_NODES: Final = "You may not see nodes: ask an administrator for the right to list nodes."
_NOT_DELIVERIES: Final = (
    "You may not see deliveries: ask an administrator for the right to get the ConfigMap warmhook-deliveries."
)

_Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
_Shown: TypeAlias = Callable[[Request, Session, View], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes need."""

    cache: ClusterCache
    content: Content
    sessions: Sessions
    streams: ChangeStreams
    renders: RenderQueue
    clock: Clock


def ui_routes(parts: Parts) -> list[Route]:
    """What the group `ui` serves."""
    endpoints = _Endpoints(parts)
    shown: dict[str, _Shown] = {
        "/ui/": endpoints.overview,
        "/ui/images/{namespace}/{name}": endpoints.image,
        "/ui/nodes/{name}": endpoints.node,
        "/ui/deliveries": endpoints.deliveries,
        "/ui/failing": endpoints.failing,
        "/ui/changes": endpoints.changes,
    }
    routes = [Route(path, endpoints.for_readers(answer), methods=["GET"]) for path, answer in shown.items()]
    routes.append(Route("/ui/static/{file}", StaticFiles().endpoint, methods=["GET"]))
    routes.append(Route("/ui", endpoints.start, methods=["GET"]))
    if isinstance(parts.sessions, TokenSessions):
        signing = SignIn(parts.sessions)
        routes.append(Route("/ui/sign-in", signing.form, methods=["GET"]))
        routes.append(Route("/ui/sign-in", signing.post, methods=["POST"]))
        routes.append(Route("/ui/sign-out", signing.out, methods=["POST"]))
    return routes


class _Endpoints:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def for_readers(self, answer: _Shown) -> _Endpoint:
        """An endpoint that answers known readers, and says to others why it does not."""

        async def endpoint(request: Request) -> Response:
            namespaces = self._parts.cache.inventory.all_namespaces()
            if is_embedded_elsewhere(request):
                return problem(403, _ELSEWHERE)
            try:
                session = await self._parts.sessions.find(request, _asked_first(request, namespaces))
                if session is None:
                    return sign_in(401)
                return await answer(request, session, self._view(request, session))
            except ForeignHost:
                return problem(421, _FOREIGN)
            except Busy:
                return problem(503, BUSY)
            except KubernetesError as error:
                return not_reviewed(error)

        return endpoint

    def _view(self, request: Request, session: Session) -> View:
        cache, rights = self._parts.cache, session.rights
        staleness = cache.staleness
        return View(
            reader=session.name,
            # Of what is shown: a later change must make the page load again.
            change=cache.counted().changes.number(rights),
            query={name: request.query_params[name][:_QUERY_MAX] for name in _QUERY if name in request.query_params},
            namespaces=tuple(name for name in cache.inventory.all_namespaces() if rights.sees(name)),
            may_see_nodes=rights.nodes,
            may_see_deliveries=rights.deliveries,
            stale_seconds=round(staleness.seconds),
            refusal=staleness.refusal,
            at=self._parts.clock.utcnow(),
            sees_all_namespaces=rights.namespaces is None,
        )

    def _absent(self, message: str) -> Response:
        # Of what was never listed nobody knows whether it exists.
        return problem(404, message) if self._parts.cache.listed.is_set() else problem(503, _NOT_LISTED)

    async def _page(self, view: View, make: Callable[..., str], *values: object) -> Response:
        return html(200, await self._parts.renders.render(view.reader, make, *values, view))

    async def start(self, _request: Request) -> Response:
        return RedirectResponse("/ui/", 308)

    async def overview(self, _request: Request, session: Session, view: View) -> Response:
        return await self._page(view, overview_page, self._parts.content.overview(session.rights, _selection(view)))

    async def failing(self, _request: Request, session: Session, view: View) -> Response:
        found, checks = self._parts.content.failing(session.rights, _selection(view))
        return await self._page(view, failing_page, found, checks)

    async def deliveries(self, _request: Request, session: Session, view: View) -> Response:
        if not session.rights.deliveries:
            return problem(403, _NOT_DELIVERIES)
        cache = self._parts.cache
        staleness = cache.staleness_of_deliveries
        view = replace(view, stale_seconds=round(staleness.seconds), refusal=staleness.refusal)
        return await self._page(view, deliveries_page, cache.inventory.deliveries or ())

    async def image(self, request: Request, session: Session, view: View) -> Response:
        key = ObjectKey(request.path_params["namespace"], request.path_params["name"])
        found = await self._parts.content.image(session.rights, key)
        return self._absent(_NO_IMAGE) if found is None else await self._page(view, image_page, found)

    async def node(self, request: Request, session: Session, view: View) -> Response:
        if not session.rights.nodes:
            return problem(403, _NOT_NODES)
        found = await self._parts.content.node(session.rights, request.path_params["name"])
        return self._absent(_NO_NODE) if found is None else await self._page(view, node_page, found)

    async def changes(self, request: Request, session: Session, _view: View) -> Response:
        if request.method == "HEAD":
            # A stream without a body would only take the place of another.
            return Response(media_type="text/event-stream")
        try:
            return self._parts.streams.open(request, session)
        except TooManyStreams:
            return problem(503, BUSY)


def _selection(view: View) -> Selection:
    """What the URL asks for; a value that is none of the known ones is ignored."""
    query = view.query
    by: Dimension = next((one for one in get_args(Dimension) if one == query.get("by")), "pool")
    state: CellState | None = next((one for one in STATES if one == query.get("state")), None)
    return Selection(by, state, query.get("namespace", ""), query.get("q", ""))


def _asked_first(request: Request, namespaces: list[str]) -> list[str]:
    """The namespaces with that of the request first: there may be more than are asked about."""
    wanted = request.path_params.get("namespace") or request.query_params.get("namespace")
    return sorted(namespaces, key=lambda name: name != wanted) if wanted in namespaces else namespaces
