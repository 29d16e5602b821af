"""`python -m handlers [--watch]`: the program `web`, with `watch` inside where it is asked for."""

from __future__ import annotations

from adapters.early_exit import exit_when_asked

if __name__ == "__main__":
    # Before the imports, which take most of the time of a start.
    exit_when_asked()

import asyncio
import contextlib
import os
import random
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import structlog
import uvicorn
import uvloop
from starlette.applications import Starlette

from adapters.clock import utcnow
from adapters.env import BadSetting
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.readiness import wait_for_api_server
from adapters.kubernetes.transport import BadKubeconfig, open_transport
from adapters.listening import open_listener
from adapters.logs import set_up_logs
from adapters.outages import WatchOutages
from handlers.admission.forward import open_forwarder
from handlers.event_sink import open_publisher
from handlers.events_token import EventsToken, events_token
from handlers.metrics import Metrics
from handlers.posting import open_post
from handlers.serving.credentials import Credentials
from handlers.serving.limits import Limits, limited
from handlers.serving.server import Server
from handlers.settings import Settings, read_settings
from handlers.signals import on_signals
from handlers.sources import Configuration, read_configuration
from handlers.wiring import build_web

_log = structlog.get_logger()

# Open requests get this long when the process is asked to stop; a projection that is cut off is repeated.
_GRACE_SECONDS = 5
# Connections held at once; beyond that the one that says nothing for longest is closed.
_CONNECTIONS = 4096
# Ingresses keep idle connections for 60 seconds or more, the API server keeps those to webhooks for 90. If they were
# closed here first, a delivery would now and then meet the close, and many senders never repeat.
_KEEP_ALIVE_SECONDS = 120


async def run(settings: Settings, configuration: Configuration, *, with_watch: bool) -> None:
    """Serve until the process is asked to stop. Raises `BadSetting` where the port is taken."""
    metrics = Metrics()
    rng = random.SystemRandom()
    outages = WatchOutages(time.monotonic)
    token = events_token(settings, rng)
    async with (
        open_transport(settings.kubeconfig, user_agent="warmhook-web") as transport,
        _listening(settings.port) as listener,
        open_publisher(settings, metrics.count_published) as publisher,
        open_forwarder(settings, token) as hand_on,
        _listening(settings.tls_port, "WARMHOOK_TLS_PORT") as tls_listener,
    ):
        kubernetes = Kubernetes(transport, count=metrics.count_api_request)
        credentials = Credentials(kubernetes, settings.namespace)
        app = build_web(
            settings,
            configuration,
            transport,
            os.environ,
            metrics,
            now=utcnow,
            monotonic=time.monotonic,
            rng=rng,
            publisher=publisher,
            hand_on=hand_on,
            outages=outages,
            credentials=credentials,
            token=token,
        )
        if "events" in settings.serve and not (with_watch or settings.events_open or settings.events_token_file):
            _log.warning("events-closed", hint="nobody can post to /events without WARMHOOK_EVENTS_TOKEN_FILE")
        _log.info("web-started", port=settings.port, sources=sorted(configuration.sources), watch=with_watch)
        first = (
            _watch(settings, kubernetes, token, rng, outages)
            if with_watch
            else wait_for_api_server(kubernetes, sleep=asyncio.sleep, rng=rng)
        )
        secured = tls_listener if settings.tls_port else None
        await _serve(app, listener, secured, credentials, first)
    _log.info("web-stopped")


async def _serve(
    app: Starlette,
    listener: socket.socket,
    tls_listener: socket.socket | None,
    credentials: Credentials,
    first: Coroutine[Any, Any, None],
) -> None:
    """Both ports, `first`, and what runs beside the application, until a signal comes or one of them fails."""
    server = Server(_config(app, _most_connections()))
    async with asyncio.TaskGroup() as group:
        # Should it fail, the server stops as well: a web that silently no longer watches would help nobody.
        tasks = [
            group.create_task(first, name="watch or reach"),
            group.create_task(app.state.beside(), name="admission"),
        ]
        servers: list[Server] = [server]
        if tls_listener is not None:
            # Imported here: most that is needed for certificates is not needed elsewhere.
            from handlers.serving.tls import TlsServer, serve_tls

            handshakes = _most_connections() // 4
            secured = TlsServer(_config(app, _most_connections() - handshakes), handshakes=handshakes)
            servers.append(secured)
            tasks.append(group.create_task(serve_tls(secured, tls_listener, credentials), name="TLS"))

        def stop() -> None:
            for one in servers:
                one.should_exit = True
            tasks[0].cancel()

        with on_signals(stop):
            await server.serve(sockets=[listener])
        stop()
        if servers[-1].started:
            await asyncio.wait(tasks[2:] or tasks[:1], timeout=_GRACE_SECONDS)
        for task in tasks:
            task.cancel()


def _config(app: Starlette, most_connections: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        # What a header says of a request's origin counts for nothing, whatever FORWARDED_ALLOW_IPS says.
        proxy_headers=False,
        forwarded_allow_ips=[],
        lifespan="off",
        http=limited(Limits(most_connections)),
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


def _most_connections() -> int:
    """Of the file descriptors at most a third for each of two ports, or there were none left for the API server."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CONNECTIONS if soft == resource.RLIM_INFINITY else max(64, min(_CONNECTIONS, soft // 3))


@contextlib.asynccontextmanager
async def _listening(port: int, setting: str = "PORT") -> AsyncIterator[socket.socket]:
    """The port, opened here because uvicorn would end the process with a code of its own. Raises `BadSetting`."""
    try:
        # Port 0 is a free one, which nobody is told and nobody listens on.
        listener = open_listener(port)
    except OSError as error:
        raise BadSetting(f"{setting} {port} cannot be opened: {error.strerror}") from error
    with listener:
        yield listener


async def _watch(
    settings: Settings, kubernetes: Kubernetes, token: EventsToken, rng: random.Random, outages: WatchOutages
) -> None:
    # Imported here: the receiver alone starts faster without it.
    from handlers.watch.run import watch

    async with open_post(settings, token) as post:
        await watch(
            kubernetes,
            post,
            settings.namespace,
            sync_seconds=settings.sync_seconds,
            now=utcnow,
            sleep=asyncio.sleep,
            rng=rng,
            outages=outages,
        )


def main(arguments: Sequence[str]) -> int:
    """The program; 2 for settings it cannot use, 1 where it cannot serve."""
    if list(arguments) not in ([], ["--watch"]):
        sys.stderr.write("warmhook web: usage: python -m handlers [--watch]\n")
        return 2
    try:
        settings = read_settings(os.environ)
        set_up_logs(settings.log, sys.stderr)
        configuration = read_configuration(settings.config, os.environ)
        uvloop.run(run(settings, configuration, with_watch=bool(arguments)))
    except (BadSetting, BadKubeconfig) as error:
        sys.stderr.write(f"warmhook web: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
