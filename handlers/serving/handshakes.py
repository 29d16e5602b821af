"""Accept TLS connections, with limits on handshakes that count from the accept.

A server of asyncio reports a connection only after its handshake, and waits 60 seconds for that. A thousand silent
connections would take every file descriptor of the process. Here few handshakes run at once, each for a few seconds,
and if there are too many the oldest is cancelled.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from adapters.logs import get_logger

_log = get_logger()

# The connection failed, not the accept.
_ABORTED: Final = frozenset(
    {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR, errno.ENETDOWN, errno.EHOSTDOWN}
)
_AGAIN_SECONDS: Final = 0.1


@dataclass(eq=False)
class Handshakes:
    """Accepts connections of one listener until it is closed. Has the methods of a server that uvicorn calls."""

    listener: socket.socket
    context: Callable[[], ssl.SSLContext]
    """Called for each handshake."""
    protocol: Callable[[], asyncio.Protocol]
    most: int
    """Limit of handshakes that run at once."""
    seconds: float
    """Limit of one handshake."""
    _running: dict[asyncio.Task[None], None] = field(default_factory=dict)
    """Oldest first."""
    _accepting: asyncio.Task[None] | None = None

    def start(self, backlog: int) -> None:
        """Listen and accept from now on."""
        self.listener.setblocking(False)
        self.listener.listen(backlog)
        self._accepting = asyncio.create_task(self._accept(), name="accept TLS")

    def close(self) -> None:
        """Accept no more, and cancel the handshakes that run. Open connections stay open."""
        for task in (self._accepting, *self._running):
            if task is not None:
                task.cancel()

    async def wait_closed(self) -> None:
        """Wait until everything that `close` cancelled has ended."""
        tasks = [task for task in (self._accepting, *self._running) if task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        failing = False
        while True:
            try:
                connection, _address = await loop.sock_accept(self.listener)
                failing = False
            except OSError as error:
                if error.errno in _ABORTED:
                    continue
                # No descriptor is free: the oldest handshake returns its own.
                if not failing:
                    _log.warning("accept-failed", problem=error.strerror)
                failing = True
                self._cancel_oldest()
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            if len(self._running) >= self.most:
                self._cancel_oldest()
            task = loop.create_task(self._shake_hands(connection), name="TLS handshake")
            self._running[task] = None
            task.add_done_callback(self._ended)

    def _cancel_oldest(self) -> None:
        if self._running:
            oldest = next(iter(self._running))
            del self._running[oldest]
            oldest.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("handshake-failed", problem=repr(error))

    async def _shake_hands(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self.protocol, connection, ssl=self.context(), ssl_handshake_timeout=self.seconds
            )
        except (OSError, asyncio.CancelledError) as error:
            # The caller does not speak TLS, trusts another certificate, is gone, or was silent for too long.
            connection.close()
            if isinstance(error, asyncio.CancelledError):
                raise
