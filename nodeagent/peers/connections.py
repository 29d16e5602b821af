"""Accept the connections of other nodes with TLS, and limit how many there are.

Anybody who reaches the port can open connections. So those of unknown callers are few and short, and the oldest gives
way to a new one: of its own address first, so that one address cannot keep the children of this node out.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

STRANGERS_MAX: Final = 32
"""Connections whose caller is not known. Each connection takes about 0.3 MiB."""
STRANGERS_PER_ADDRESS_MAX: Final = 8
KNOWN_MAX: Final = 64
"""Connections of children."""
HANDSHAKE_SECONDS: Final = 5.0
HEAD_BYTES_MAX: Final = 10 * 1024
_AGAIN_SECONDS: Final = 1.0


@dataclass(slots=True, eq=False)
class Caller:
    """The other side of one connection."""

    address: str
    node: str = ""
    """The child of this node that it has proved to be; empty before that."""
    task: asyncio.Task[None] | None = None
    """Serves the connection."""

    def drop(self) -> None:
        """Close the connection."""
        if self.task is not None:
            self.task.cancel()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Caller], Awaitable[None]]


class Connections:
    """The open connections of one server."""

    def __init__(self, tls: ssl.SSLContext, handler: Handler) -> None:
        """`handler` serves one connection until it ends, and is cancelled when the other side closes it."""
        self._tls, self._handler = tls, handler
        self._open: dict[Caller, None] = {}
        """Oldest first."""

    async def accept(self, listener: socket.socket) -> None:
        """Serve the connections of a listening socket, until it is cancelled; then all are closed."""
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    accepted, address = await loop.sock_accept(listener)
                except OSError:
                    # Such as too many open files.
                    await asyncio.sleep(_AGAIN_SECONDS)
                    continue
                self._begin(accepted, Caller(address[0]))
        finally:
            ending = [caller.task for caller in self._open if caller.task is not None]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)

    def _begin(self, accepted: socket.socket, caller: Caller) -> None:
        caller.task = asyncio.create_task(self._serve(accepted, caller), name="peer")
        caller.task.add_done_callback(lambda _: self._ended(accepted, caller))
        self._open[caller] = None
        strangers = [each for each in self._open if not each.node]
        same = [each for each in strangers if each.address == caller.address]
        known = [each for each in self._open if each.node]
        if len(same) > STRANGERS_PER_ADDRESS_MAX:
            same[0].drop()
        elif len(strangers) > STRANGERS_MAX:
            strangers[0].drop()
        if len(known) > KNOWN_MAX:
            ((most, _),) = Counter(each.node for each in known).most_common(1)
            next(each for each in known if each.node == most).drop()

    def _ended(self, accepted: socket.socket, caller: Caller) -> None:
        self._open.pop(caller, None)
        # A task that was cancelled before it began closes nothing.
        accepted.close()

    async def _serve(self, accepted: socket.socket, caller: Caller) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(HEAD_BYTES_MAX, loop)
        protocol = _Protocol(reader, caller)
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
            try:
                await self._handler(reader, asyncio.StreamWriter(transport, protocol, reader, loop), caller)
            finally:
                transport.abort()


class _Protocol(asyncio.StreamReaderProtocol):
    """Ends the work for a connection that is lost."""

    def __init__(self, reader: asyncio.StreamReader, caller: Caller) -> None:
        super().__init__(reader)
        self._caller = caller

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._caller.drop()
