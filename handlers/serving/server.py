"""Serve an application over HTTP and over TLS until the process receives a signal to stop."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import uvicorn
from starlette.applications import Starlette

from adapters.env import BadSetting
from adapters.kubernetes.webhook_secret import SECRET, Certificate
from adapters.listener import open_listener, open_listener_at
from adapters.logs import get_logger
from adapters.server import Server
from adapters.signals import on_signals
from handlers.serving.credentials import LOOK_SECONDS, Credentials
from handlers.serving.handshakes import Handshakes
from handlers.serving.limits import Limits, limited
from handlers.settings import Settings
from warmhook.ports import Sleep

_log = get_logger()

# Open requests get this long after a signal to stop; a cancelled projection is repeated.
_GRACE_SECONDS: Final = 5
# Connections held at once; beyond that the one that has been silent for longest is closed.
_CONNECTIONS: Final = 4096
# Ingresses keep idle connections for 60 seconds or more, the API server keeps those to webhooks for 90. If they were
# closed here first, a delivery could arrive during the close, and many senders never repeat.
_KEEP_ALIVE_SECONDS: Final = 120
_HANDSHAKE_SECONDS: Final = 5.0
_HANDSHAKES: Final = 64


class Ports(NamedTuple):
    """Open ports."""

    plain: socket.socket
    """For HTTP."""
    tls: socket.socket | None = None
    """For TLS, if it is served."""
    page: socket.socket | None = None
    """For the page alone, on loopback, if it is served there."""


@contextlib.contextmanager
def listen(settings: Settings) -> Iterator[Ports]:
    """The ports, opened here because uvicorn would end the process with its own exit code. Raises `BadSetting`."""
    tls_port, ui_port = settings.tls_port, settings.ui_port
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(_opened(settings.port, "PORT"))
        tls = stack.enter_context(_opened(tls_port, "WARMHOOK_TLS_PORT")) if tls_port else None
        page = stack.enter_context(_opened(ui_port, "WARMHOOK_UI_PORT", _open_on_loopback)) if ui_port else None
        yield Ports(plain, tls, page)


def _open_on_loopback(port: int) -> socket.socket:
    return open_listener_at("127.0.0.1", port)


def _opened(port: int, setting: str, open_port: Callable[[int], socket.socket] = open_listener) -> socket.socket:
    try:
        return open_port(port)
    except OSError as error:
        raise BadSetting(f"{setting} {port} cannot be opened: {error.strerror}") from error


async def serve(
    app: Starlette,
    ports: Ports,
    credentials: Credentials,
    stopping: Callable[[], None],
    page: Starlette | None = None,
) -> None:
    """Run the application until SIGTERM or SIGINT; `page` is that of the port for the page alone.

    `stopping` is called when the servers begin to end, maybe more than once; open requests get a few seconds then. If
    a background task of the application or one of the servers fails, all end and the error is raised.
    """
    tls_listener = ports.tls
    most = _most_connections()
    servers = [Server(uvicorn_config(app, most))]

    def stop() -> None:
        for server in servers:
            server.should_exit = True
        stopping()

    with on_signals(stop):
        async with app.router.lifespan_context(app), asyncio.TaskGroup() as group:
            if tls_listener is not None:
                secured = TlsServer(uvicorn_config(app, most - most // 4), handshakes=most // 4)
                servers.append(secured)
                serving = group.create_task(serve_tls(secured, tls_listener, credentials), name="TLS")
            if ports.page is not None and page is not None:
                servers.append(Server(uvicorn_config(page, most // 4)))
                group.create_task(servers[-1].serve(sockets=[ports.page]), name="page")
            await servers[0].serve(sockets=[ports.plain])
            stop()
            if tls_listener is not None and not secured.started:
                serving.cancel()


def uvicorn_config(app: Starlette, most_connections: int) -> uvicorn.Config:
    """How both ports are served."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        # A header about a request's origin counts for nothing, whatever FORWARDED_ALLOW_IPS is set to.
        proxy_headers=False,
        forwarded_allow_ips=[],
        # Two servers share one application: `serve` enters its lifespan once, and sees it fail.
        lifespan="off",
        http=limited(Limits(most_connections)),
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )


def _most_connections() -> int:
    """At most a third of the file descriptors for each of two ports: the API server needs some as well."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CONNECTIONS if soft == resource.RLIM_INFINITY else max(64, min(_CONNECTIONS, soft // 3))


class TlsServer(Server):
    """A uvicorn server whose certificate can be replaced while it serves.

    New handshakes see the new certificate; open connections go on.
    """

    def __init__(
        self, config: uvicorn.Config, *, handshakes: int = _HANDSHAKES, handshake_seconds: float = _HANDSHAKE_SECONDS
    ) -> None:
        """At most `handshakes` run at a time, each for at most `handshake_seconds`."""
        super().__init__(config)
        self._handshakes, self._handshake_seconds = handshakes, handshake_seconds
        self._context: ssl.SSLContext | None = None

    def use(self, certificate: Certificate) -> None:
        """Show this certificate in all handshakes from now on. Raises `ssl.SSLError` if it is none.

        A context that failed to load a certificate is lost, together with its previous one.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The ssl module reads certificates from files only; these are deleted at once.
        with tempfile.TemporaryDirectory(prefix="warmhook-") as folder:
            chain, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
            for file, content in zip((chain, key), certificate, strict=True):
                file.touch(mode=0o600)
                file.write_bytes(content)
            # An encrypted key must not make the program ask for its password.
            context.load_cert_chain(chain, key, password=lambda: b"")
        self._context = context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Like uvicorn's, but connections count before their handshake."""
        await self.lifespan.startup()
        accepting = [
            Handshakes(
                listener, self._shown, self._new_protocol, most=self._handshakes, seconds=self._handshake_seconds
            )
            for listener in sockets or []
        ]
        for handshakes in accepting:
            handshakes.start(self.config.backlog)
        # uvicorn closes them, and waits for that.
        self.servers = cast("list[asyncio.base_events.Server]", accepting)
        self.started = True

    def _shown(self) -> ssl.SSLContext:
        assert self._context is not None  # noqa: S101 - a certificate is there before the server starts
        return self._context

    def _new_protocol(self) -> asyncio.Protocol:
        kind = cast("Any", self.config.http_protocol_class)
        protocol: asyncio.Protocol = kind(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=None
        )
        return protocol


async def serve_tls(
    server: TlsServer, listener: socket.socket, credentials: Credentials, *, sleep: Sleep = asyncio.sleep
) -> None:
    """Serve once there is a certificate, and use its changes, until the server must exit."""

    async def follow(used: Certificate) -> None:
        while True:
            used = await _use_next(server, credentials, used, sleep)

    used = await _use_next(server, credentials, None, sleep)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow(used), name="follow certificate")
        await server.serve(sockets=[listener])
        following.cancel()


async def _use_next(server: TlsServer, credentials: Credentials, used: Certificate | None, sleep: Sleep) -> Certificate:
    """Wait for a valid certificate other than `used`, and use it."""
    latest, logged = used, False
    while True:
        latest = await credentials.next_certificate(latest)
        try:
            server.use(latest)
        except (ssl.SSLError, ValueError) as error:
            _log.warning("certificate-unusable", secret=SECRET, problem=type(error).__name__)
            continue
        except OSError as error:
            # The certificate itself is valid, so it is tried again.
            if not logged:
                hint = "certificates are read from files: give the process a folder for temporary files"
                _log.error("certificate-unusable", secret=SECRET, problem=type(error).__name__, hint=hint)
            latest, logged = used, True
            await sleep(LOOK_SECONDS)
            continue
        _log.info("certificate-used", secret=SECRET)
        return latest
