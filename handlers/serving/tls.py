"""Serve the same application over TLS, with the certificate of the Secret `warmhook-tls`, whenever that changes.

New handshakes see the new certificate; connections that are open, and requests on them, go on.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Any, Final, cast

import structlog
import uvicorn

from adapters.kubernetes.webhook_secret import SECRET, Certificate
from handlers.serving.credentials import LOOK_SECONDS, Credentials
from handlers.serving.handshakes import Handshakes
from handlers.serving.server import Server
from warmhook.ports import Sleep

__all__ = ["TlsServer", "serve_tls"]

_log = structlog.get_logger()

_HANDSHAKE_SECONDS: Final = 5.0
_HANDSHAKES: Final = 64


class TlsServer(Server):
    """uvicorn with a certificate that can be replaced while it serves."""

    def __init__(
        self, config: uvicorn.Config, *, handshakes: int = _HANDSHAKES, handshake_seconds: float = _HANDSHAKE_SECONDS
    ) -> None:
        """At most `handshakes` at once, each for at most `handshake_seconds`."""
        super().__init__(config)
        self._handshakes, self._handshake_seconds = handshakes, handshake_seconds
        self._context: ssl.SSLContext | None = None

    def use(self, certificate: Certificate) -> None:
        """Show this certificate in all handshakes from now on. Raises `ssl.SSLError` where it is none.

        A context into which a certificate could not be loaded is lost, also with the one it had.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The ssl module reads certificates from files only; these are gone as soon as it has.
        with tempfile.TemporaryDirectory(prefix="warmhook-") as folder:
            chain, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
            for file, content in zip((chain, key), certificate, strict=True):
                file.touch(mode=0o600)
                file.write_bytes(content)
            # An encrypted key must not make the program ask for its password.
            context.load_cert_chain(chain, key, password=lambda: b"")
        self._context = context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but connections are counted before their handshake."""
        await self.lifespan.startup()
        accepting = [
            Handshakes(
                listener, self._shown, self._new_protocol, most=self._handshakes, seconds=self._handshake_seconds
            )
            for listener in sockets or []
        ]
        for each in accepting:
            each.start(self.config.backlog)
        # uvicorn closes them, and waits until they are.
        self.servers = cast("list[asyncio.base_events.Server]", accepting)
        self.started = True

    def _shown(self) -> ssl.SSLContext:
        assert self._context is not None  # noqa: S101 - a certificate is there before the server starts
        return self._context

    def _new_protocol(self) -> asyncio.Protocol:
        kind = cast("Any", self.config.http_protocol_class)
        made: asyncio.Protocol = kind(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=None
        )
        return made


async def serve_tls(
    server: TlsServer, listener: socket.socket, credentials: Credentials, *, sleep: Sleep = asyncio.sleep
) -> None:
    """Serve as soon as there is a certificate, and follow its changes, until the server is told to exit."""
    used = await _use_next(server, credentials, None, sleep)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(_follow(server, credentials, used, sleep), name="follow certificate")
        await server.serve(sockets=[listener])
        following.cancel()


async def _follow(server: TlsServer, credentials: Credentials, used: Certificate, sleep: Sleep) -> None:
    while True:
        used = await _use_next(server, credentials, used, sleep)


async def _use_next(server: TlsServer, credentials: Credentials, used: Certificate | None, sleep: Sleep) -> Certificate:
    """Wait for another certificate than `used` that can be shown, and show it."""
    looked_at, told = used, False
    while True:
        looked_at = await credentials.next_certificate(looked_at)
        try:
            server.use(looked_at)
        except (ssl.SSLError, ValueError) as error:
            _log.warning("certificate-unusable", secret=SECRET, problem=type(error).__name__)
            continue
        except OSError as error:
            # Nothing is wrong with the certificate, so it is tried again.
            if not told:
                hint = "certificates are read from files: give the process a folder for temporary files"
                _log.error("certificate-unusable", secret=SECRET, problem=type(error).__name__, hint=hint)
            looked_at, told = used, True
            await sleep(LOOK_SECONDS)
            continue
        _log.info("certificate-used", secret=SECRET)
        return looked_at
