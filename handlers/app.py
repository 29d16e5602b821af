"""Build the application `web`: its parts, its background tasks, its routes, and the answer to each problem."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ExceptionHandler

from adapters.clock import Clock
from adapters.cloudevents import read_event
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, Unavailable
from adapters.kubernetes.rate_limit import ByteRateLimiter, Lanes
from adapters.kubernetes.readiness import wait_for_api_server
from adapters.logs import get_logger
from adapters.outages import WatchOutages
from handlers.admission.endpoint import Admission
from handlers.admission.queue import BATCH_MAX, BATCHES_MAX, POSTS_MAX, AdmissionQueue, forward
from handlers.admission.warm_nodes import WarmNodes
from handlers.configuration import Configuration
from handlers.event_sink import Post, Publisher, bearer, open_in_process, retry_after
from handlers.intake.deliveries import read_delivery
from handlers.intake.delivery_log import DeliveryLog
from handlers.intake.delivery_writer import DeliveryWriter
from handlers.intake.receiver import Receiver
from handlers.metrics import Metrics
from handlers.reconcile.context import Context
from handlers.reconcile.dead_letters import take_dead_letter
from handlers.reconcile.dispatch import Dispatch
from handlers.reconcile.early_blobs import EarlyBlobNotes
from handlers.reconcile.pushes import Pushes
from handlers.reconcile.reader import PolicyCache, Reader
from handlers.reconcile.recorder import Recorder
from handlers.reconcile.targets import HANDLED
from handlers.reconcile.writer import Writer
from handlers.serving.bodies import BadBody, Bodies
from handlers.serving.credentials import Credentials
from handlers.settings import Settings
from warmhook.delivery_records import key_of
from warmhook.distribution import Rates
from warmhook.events import Event, NotAnEvent
from warmhook.limits import Tenancy
from warmhook.ports import Registries, Transport

if TYPE_CHECKING:
    from handlers.ui.page import Page

_log = get_logger()

# For pushes that are being published when the process ends.
_DRAIN_SECONDS: Final = 3.0
_NO_SOURCE: Final = "no such source; the last part of the path is a name from WARMHOOK_CONFIG"


@dataclass(frozen=True, slots=True)
class Resources:
    """The objects that the program opened for `web`."""

    transport: Transport
    credentials: Credentials
    clock: Clock
    rng: random.Random
    """For names and tokens that nobody may guess."""
    metrics: Metrics
    post: Post | None = None
    """Sends an event out of this process; `None` if `settings.posts_events` is false."""
    registries: Registries | None = None
    """The registries that handlers may ask; `None`: none."""


class Web:
    """The parts of `web`. Between requests it keeps nothing but what admission needs, and the last deliveries."""

    def __init__(self, settings: Settings, configuration: Configuration, resources: Resources) -> None:
        self.settings = settings
        self.resources = resources
        self.clock = clock = resources.clock
        self.metrics = metrics = resources.metrics
        lanes = Lanes()
        self._kubernetes = Kubernetes(resources.transport, count=metrics.count_api_request, lanes=lanes)
        # A sender waits until its push is accepted, but not for the following work.
        accepting = Kubernetes(resources.transport, count=metrics.count_api_request, lanes=lanes, urgent=True)
        cache = PolicyCache()
        pushes = Pushes(_context(settings, accepting, clock, cache, configuration.tenancy))
        post = resources.post
        self._publisher = Publisher(post, metrics.count_published) if post and settings.publishes else None
        budget = ByteRateLimiter(settings.write_bytes, monotonic=clock.monotonic, sleep=clock.sleep)
        context = _context(settings, self._kubernetes, clock, cache, configuration.tenancy)
        rates = Rates(settings.registry_rate, settings.node_rate)
        context = replace(
            context,
            registries=resources.registries,
            rates=rates,
            early_nodes=settings.early_nodes,
            count_plan=metrics.count_plan,
            count_written=metrics.count_written,
        )
        self._early_blobs = EarlyBlobNotes(context, metrics.count_early_blobs)
        key = key_of(settings.host, settings.port)
        self._delivery_writer = DeliveryWriter(self._kubernetes, settings.namespace, key, clock)
        log = DeliveryLog(metrics, self._delivery_writer.add)
        self.receiver = Receiver(configuration.sources, pushes, log, clock, self._publisher, self._early_blobs.add)
        self._dispatch = Dispatch(context, configuration.sources, pushes, budget, metrics.push_to_warm_seconds.observe)
        if post and settings.forwards_admissions:
            handle, batch_max, batches_max = forward(post), 1, POSTS_MAX
        else:
            handle, batch_max, batches_max = self._dispatch.handle, BATCH_MAX, BATCHES_MAX
        self._queue = AdmissionQueue(handle, clock, metrics.count_hint, batch_max=batch_max, batches_max=batches_max)
        self._warm_nodes = WarmNodes(clock, configuration.tenancy)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        metrics.ask_certificate(lambda: resources.credentials.expiry)
        accept = resources.credentials.accept
        self.admission = Admission(self._queue, self._warm_nodes, metrics, settings.namespace, accept, clock)
        self.page = _page(self._kubernetes, settings, clock) if "ui" in settings.serve else None

    async def handle(self, event: Event, *, local: bool = False) -> None:
        """Handle an event and count its result; `local` as for `Dispatch.handle`.

        Raises `NotAnEvent` and `KubernetesError`.
        """
        result = "failed"
        try:
            result = await self._dispatch.handle([event], local=local)
        except NotAnEvent:
            result = "refused"
            raise
        except KubernetesError as error:
            result = "unavailable"
            _log.warning("event-unavailable", type=event.type, event_id=event.id, problem=str(error))
            raise
        finally:
            self.metrics.events.labels(event.type if event.type in HANDLED else "foreign", result).inc()

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Run the background tasks. If one of them fails, the block is cancelled and the error is raised."""
        try:
            async with asyncio.TaskGroup() as group:
                self._tasks = {name: group.create_task(work, name=name) for name, work in self._background().items()}
                yield
                for task in self._tasks.values():
                    _cancel(task)
        finally:
            await self._early_blobs.close()
            await self._delivery_writer.close()
            await self._dispatch.close()
            if self._publisher is not None:
                await self._publisher.drain(_DRAIN_SECONDS)

    def stop_watching(self) -> None:
        """Let another process lead at once, while requests that are open here are answered; end open streams."""
        if "watch" in self._tasks:
            _cancel(self._tasks["watch"])
        if self.page is not None:
            self.page.close()

    def _background(self) -> dict[str, Coroutine[Any, Any, None]]:
        settings, resources = self.settings, self.resources
        outages = WatchOutages(self.clock.monotonic)
        tasks: dict[str, Coroutine[Any, Any, None]] = {}
        if settings.watch:
            tasks["watch"] = self._watch(outages)
        else:
            tasks["wait for the API server"] = wait_for_api_server(self._kubernetes, self.clock)
        if "webhooks" in settings.serve:
            tasks["delivery records"] = self._delivery_writer.run()
        if "admission" in settings.serve:
            tasks["hints"] = self._queue.run()
            tasks["warm nodes"] = self._warm_nodes.run(self._kubernetes, settings.namespace, outages)
        if "admission" in settings.serve or settings.tls_port:
            tasks["credentials"] = resources.credentials.run(self.clock)
        if self.page is not None:
            tasks["page"] = self.page.run()
        return tasks

    async def _watch(self, outages: WatchOutages) -> None:
        # Imported here: the receiver alone starts faster without it.
        from handlers.watch.run import Process, watch

        resources = self.resources
        kubernetes = Kubernetes(resources.transport, count=self.metrics.count_api_request)
        async with open_in_process(functools.partial(self.handle, local=True)) as handle:
            post = resources.post or handle
            process = Process(self.clock, resources.rng, outages, self.metrics.ask_leader)
            await watch(kubernetes, post, self.settings, process)


def _cancel(task: asyncio.Task[None]) -> None:
    # A second time would interrupt the release of the Lease.
    if not task.cancelling():
        task.cancel()


def _page(kubernetes: Kubernetes, settings: Settings, clock: Clock) -> Page:
    # Imported here: no other process needs its templates.
    from handlers.ui.page import Page

    return Page(kubernetes, settings, clock)


def _context(settings: Settings, kubernetes: Kubernetes, clock: Clock, cache: PolicyCache, tenancy: Tenancy) -> Context:
    reader = Reader(kubernetes, settings.namespace, clock, cache, tenancy)
    writer = Writer(kubernetes, settings.namespace, clock)
    grace = timedelta(seconds=settings.sync_seconds)
    return Context(reader, writer, clock, Recorder(writer, clock), grace)


def create_app(web: Web) -> Starlette:
    """The application with the groups of routes that the settings name."""
    endpoints = _Endpoints(web)
    routes = {
        "": [
            Route("/healthz", endpoints.alive, methods=["GET"]),
            Route("/readyz", endpoints.alive, methods=["GET"]),
        ],
        "metrics": [Route("/metrics", endpoints.metrics, methods=["GET"])],
        "webhooks": [
            Route("/webhooks/{source}", endpoints.webhook, methods=["POST"]),
            Route("/webhooks/{source}", endpoints.handshake, methods=["OPTIONS"]),
        ],
        "events": [Route("/events", endpoints.events, methods=["POST"])],
        "dead-letters": [Route("/dead-letters", endpoints.dead_letter, methods=["POST"])],
        "admission": [Route("/admission/pods/{token}", web.admission.endpoint, methods=["POST"])],
    }
    if web.page is not None and not web.settings.ui_port:
        routes["ui"] = web.page.routes()
    answers: dict[type[Exception], Callable[[Request, Exception], Response]] = {
        _UnknownSource: lambda _request, _error: _text(404, _NO_SOURCE),
        BadBody: endpoints.bad_body,
        ClientDisconnect: endpoints.disconnected,
        _Unauthorized: lambda _request, _error: _text(401, "post with the bearer token of WARMHOOK_EVENTS_TOKEN_FILE"),
        NotAnEvent: lambda _request, error: _text(400, str(error)),
        KubernetesError: _unavailable,
    }
    app = Starlette(
        routes=[route for group, listed in routes.items() if group in {"", *web.settings.serve} for route in listed],
        exception_handlers={kind: _on_the_loop(answer) for kind, answer in answers.items()},
        lifespan=web.lifespan,
    )
    # A redirect counts as delivered with some senders, and would repeat any Host of the request.
    app.router.redirect_slashes = False
    return app


class _UnknownSource(Exception):
    """The configuration names no such source."""


class _Unauthorized(Exception):
    """The client may not post events."""


class _Endpoints:
    def __init__(self, web: Web) -> None:
        self._web = web
        self._bodies = Bodies()

    async def alive(self, _request: Request) -> Response:
        # Settings are read and sockets are open. Whether the API server answers does not count: web works without it.
        return Response(status_code=200)

    async def metrics(self, _request: Request) -> Response:
        return Response(self._web.metrics.exposition(), media_type="text/plain; version=0.0.4")

    async def webhook(self, request: Request) -> Response:
        source = self._source(request)
        body = await self._bodies.read(request.stream())
        received = self._web.clock.utcnow()
        delivery = read_delivery(dict(request.headers), request.scope["query_string"], body, received)
        answer = await self._web.receiver.deliver(source, delivery)
        headers = {"retry-after": str(answer.retry_after_seconds)} if answer.retry_after_seconds is not None else {}
        return Response(answer.body, answer.status, headers, answer.media_type or None)

    async def handshake(self, request: Request) -> Response:
        granted = self._web.receiver.permit(self._source(request), dict(request.headers))
        if granted is None:
            return _text(403, "WebHook-Request-Origin is none of allowedOrigins of this source")
        return Response(status_code=200, headers=granted)

    async def events(self, request: Request) -> Response:
        _check_may_post(self._web.settings, request.headers.get("authorization", ""))
        body = await self._bodies.read(request.stream())
        await self._web.handle(read_event(dict(request.headers), body, self._web.clock.utcnow()))
        return Response(status_code=204)

    async def dead_letter(self, request: Request) -> Response:
        # Read to its end and dropped: only the headers count.
        await self._bodies.read(request.stream())
        take_dead_letter(dict(request.headers), self._web.metrics)
        return Response(status_code=202)

    def bad_body(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, BadBody)  # noqa: S101 - the table of answers names it
        if source := request.path_params.get("source"):
            self._web.receiver.refuse(source, error.reason)
        return _text(error.status, str(error), {"retry-after": "5"} if error.status == 503 else None)

    def disconnected(self, request: Request, _error: Exception) -> Response:
        if source := request.path_params.get("source"):
            self._web.receiver.refuse(source, "disconnected")
        return Response(status_code=400)

    def _source(self, request: Request) -> str:
        source: str = request.path_params["source"]
        if not self._web.receiver.knows(source):
            raise _UnknownSource
        return source


def _check_may_post(settings: Settings, authorization: str) -> None:
    """Raises `_Unauthorized`, and `Unavailable` if the token cannot be read."""
    if settings.events_token_file is None:
        if settings.events_open:
            return
        raise _Unauthorized
    try:
        # The address of the caller proves nothing: behind the sidecar of a service mesh all are on this machine.
        expected = bearer(settings.events_token_file)
    except (OSError, UnicodeDecodeError) as error:
        problem = f"WARMHOOK_EVENTS_TOKEN_FILE: cannot read {settings.events_token_file}: {error}"
        _log.error("token-unreadable", problem=problem)
        raise Unavailable(problem) from error
    given = authorization.encode("latin-1", errors="replace")
    if not expected or not hmac.compare_digest(given, expected.encode()):
        raise _Unauthorized


def _on_the_loop(answer: Callable[[Request, Exception], Response]) -> ExceptionHandler:
    """An async handler: Starlette runs plain functions in a pool of threads, which many rejections would fill."""

    async def handler(request: Request, error: Exception) -> Response:
        return answer(request, error)

    return handler


def _unavailable(_request: Request, error: Exception) -> Response:
    # The text is for the log of `watch`; all that may post here may read it.
    return _text(503, str(error)[:500], {"retry-after": str(retry_after(error))})


def _text(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(text + "\n", status, headers)
