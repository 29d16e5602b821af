"""The HTTP side of `web`: its routes, its limits, and which answer each problem gets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from adapters.cloudevents import read_event
from adapters.kubernetes.client import KubernetesError, Unavailable
from handlers.admission.endpoint import Admission
from handlers.events_token import EventsToken
from handlers.intake.deliveries import read_delivery
from handlers.intake.receiver import Receiver
from handlers.metrics import Metrics
from handlers.reconcile.dead_letters import DeadLetters
from handlers.reconcile.dispatch import HANDLED, Dispatch
from handlers.serving.bodies import BadBody, Bodies
from handlers.settings import Settings
from warmhook.events import NotAnEvent
from warmhook.ports import Utcnow

__all__ = ["Web", "create_app"]

_log = structlog.get_logger()

_NO_SOURCE: Final = "no such source; the last part of the path is a name from WARMHOOK_CONFIG"


@dataclass(frozen=True, slots=True)
class Web:
    """What the routes work with."""

    settings: Settings
    receiver: Receiver
    events: Dispatch
    admission: Admission
    events_token: EventsToken
    metrics: Metrics
    now: Utcnow


class _Forbidden(Exception):
    """The caller may not post events."""


def create_app(web: Web) -> Starlette:
    """The application with the groups of routes that the settings ask for."""
    endpoints = _Endpoints(web)
    routes = [
        Route("/healthz", endpoints.alive, methods=["GET"]),
        Route("/readyz", endpoints.alive, methods=["GET"]),
    ]
    if "metrics" in web.settings.serve:
        routes.append(Route("/metrics", endpoints.metrics, methods=["GET"]))
    if "webhooks" in web.settings.serve:
        routes.append(Route("/webhooks/{source}", endpoints.webhook, methods=["POST"]))
        routes.append(Route("/webhooks/{source}", endpoints.handshake, methods=["OPTIONS"]))
    if "events" in web.settings.serve:
        routes.append(Route("/events", endpoints.events, methods=["POST"]))
    if "dead-letters" in web.settings.serve:
        routes.append(Route("/dead-letters", endpoints.dead_letter, methods=["POST"]))
    if "admission" in web.settings.serve:
        routes.append(Route("/admission/pods/{token}", web.admission.endpoint, methods=["POST"]))
    answers: dict[type[Exception], Callable[[Request, Exception], Response]] = {
        BadBody: _bad_body,
        _Forbidden: lambda _request, _error: _text(401, "post with the bearer token of WARMHOOK_EVENTS_TOKEN_FILE"),
        NotAnEvent: lambda _request, error: _text(400, str(error)),
        Unavailable: _unavailable,
        KubernetesError: _unavailable,
        ClientDisconnect: lambda _request, _error: Response(status_code=400),
    }
    app = Starlette(routes=routes, exception_handlers={kind: _on_the_loop(answer) for kind, answer in answers.items()})
    # A redirect counts as delivered with some senders, and would repeat whatever Host it was asked by.
    app.router.redirect_slashes = False
    return app


class _Endpoints:
    def __init__(self, web: Web) -> None:
        self._web = web
        self._bodies = Bodies()
        self._dead_letters = DeadLetters(web.metrics)

    async def alive(self, _request: Request) -> Response:
        # Settings are read and sockets open, or nobody could have asked. Never a question to the API server: while
        # that is down, answering is more important than ever.
        return Response(status_code=200)

    async def metrics(self, _request: Request) -> Response:
        return Response(self._web.metrics.exposition(), media_type="text/plain; version=0.0.4")

    async def webhook(self, request: Request) -> Response:
        source = request.path_params["source"]
        if not self._web.receiver.knows(source):
            return _text(404, _NO_SOURCE)
        try:
            body = await self._bodies.read(request.stream())
        except BadBody as error:
            self._web.receiver.refuse(source, error.reason)
            raise
        except ClientDisconnect:
            self._web.receiver.refuse(source, "disconnected")
            raise
        delivery = read_delivery(dict(request.headers), request.scope["query_string"], body, self._web.now())
        answer = await self._web.receiver.deliver(source, delivery)
        headers = {"retry-after": str(answer.retry_after_seconds)} if answer.retry_after_seconds is not None else {}
        return Response(answer.body, answer.status, headers, answer.media_type or None)

    async def handshake(self, request: Request) -> Response:
        source = request.path_params["source"]
        if not self._web.receiver.knows(source):
            return _text(404, _NO_SOURCE)
        granted = self._web.receiver.permit(source, dict(request.headers))
        if granted is None:
            return _text(403, "WebHook-Request-Origin is none of allowedOrigins of this source")
        return Response(status_code=200, headers=granted)

    async def events(self, request: Request) -> Response:
        self._check_may_post(request)
        body = await self._bodies.read(request.stream())
        event = read_event(dict(request.headers), body, self._web.now())
        result: str = "failed"
        try:
            result = await self._web.events.handle([event])
        except NotAnEvent:
            result = "refused"
            raise
        except KubernetesError as error:
            result = "unavailable"
            _log.warning("event-unavailable", type=event.type, event_id=event.id, problem=str(error))
            raise
        finally:
            self._web.metrics.events.labels(event.type if event.type in HANDLED else "foreign", result).inc()
        return Response(status_code=204)

    async def dead_letter(self, request: Request) -> Response:
        # Read for its end: only the headers say something about it.
        await self._bodies.read(request.stream())
        self._dead_letters.take(dict(request.headers))
        return Response(status_code=202)

    def _check_may_post(self, request: Request) -> None:
        settings = self._web.settings
        if settings.events_open and settings.events_token_file is None:
            return
        try:
            # Where a request comes from says nothing: behind the sidecar of a service mesh all come from this machine.
            accepted = self._web.events_token.accepts(request.headers.get("authorization", ""))
        except (OSError, UnicodeDecodeError) as error:
            problem = f"WARMHOOK_EVENTS_TOKEN_FILE: cannot read {settings.events_token_file}: {error}"
            _log.error("token-unreadable", problem=problem)
            raise Unavailable(problem) from error
        if not accepted:
            raise _Forbidden


def _bad_body(_request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, BadBody) else 400
    return _text(status, str(error), {"retry-after": "5"} if status == 503 else None)


def _on_the_loop(answer: Callable[[Request, Exception], Response]) -> ExceptionHandler:
    """Starlette runs plain functions in a pool of threads, which a flood of refusals would fill."""

    async def handler(request: Request, error: Exception) -> Response:
        return answer(request, error)

    return handler


def _unavailable(_request: Request, error: Exception) -> Response:
    wait = error.retry_after_seconds if isinstance(error, Unavailable) else None
    # Whoever may post here may know: it tells the reader of watch's log what is wrong.
    return _text(503, str(error)[:500], {"retry-after": str(max(0, math.ceil(wait if wait is not None else 1)))})


def _text(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(text + "\n", status, headers)
