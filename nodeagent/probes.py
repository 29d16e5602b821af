"""Serve `/metrics`, `/healthz` and `/readyz` on the agent's own event loop.

The port is on the node's network, where anybody may connect. So connections are few, short and closed after one answer,
and a new one closes the oldest instead of waiting for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from adapters.clock import Backoff, Clock
from adapters.listener import open_listener
from adapters.logs import Log
from adapters.outages import OutageLog
from adapters.tasks import in_background

CONNECTIONS: Final = 32
_SECONDS: Final = 5.0
"""The limit for one connection, from its beginning to its end."""
_HEAD_BYTES: Final = 8 * 1024
# A check ends within its interval and the runtime's time limit, successfully or not.
_SPARE_SECONDS: Final = 120.0
_PHRASES: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class Health:
    """The health of one agent."""

    def __init__(self, clock: Clock, check_seconds: float) -> None:
        self._clock, self._longest = clock, 1.05 * check_seconds + _SPARE_SECONDS
        self._checked_at = clock.monotonic()
        self._runtime_up = False
        self.lines_known = False
        """Whether the agent knows the lines of its node, from the API server or from its disk."""

    def checked(self, *, runtime_up: bool) -> None:
        """A check of the runtime ended; `runtime_up` is whether it answered."""
        self._checked_at, self._runtime_up = self._clock.monotonic(), runtime_up

    def sick(self) -> str:
        """Why the agent should be restarted; empty if it works."""
        seconds = self._clock.monotonic() - self._checked_at
        return f"the runtime was last asked {seconds:.0f} s ago" if seconds > self._longest else ""

    def unready(self) -> str:
        """Why the agent cannot do its work; empty if it can."""
        if sick := self.sick():
            return sick
        if not self._runtime_up:
            return "the runtime does not answer"
        return "" if self.lines_known else "it is not known what this node should hold"


@contextlib.asynccontextmanager
async def serve_probes(
    port: int, health: Health, exposition: Callable[[], bytes], clock: Clock, log: Log
) -> AsyncIterator[None]:
    """Answer while the context lasts; port 0 serves nothing. If the port is in use, it is tried again meanwhile."""
    if port == 0:
        yield
        return
    async with in_background(_serve(port, _Probes(health, exposition), clock, log), "probes"):
        yield


async def _serve(port: int, probes: _Probes, clock: Clock, log: Log) -> None:
    outage = OutageLog(log, clock, "metrics-port-in-use")
    backoff = Backoff(clock, first_seconds=1, longest_seconds=30)
    while True:
        try:
            with contextlib.ExitStack() as stack:
                listener = stack.enter_context(open_listener(port))
                # Another program can have bound the port at the same time: the first to listen has it.
                server = await asyncio.start_server(probes.answer, sock=listener, limit=_HEAD_BYTES)
                stack.pop_all()
        except OSError as error:
            outage.failed(port=port, error=str(error), hint="set WARMHOOK_METRICS_PORT to a free port; 0 disables it")
            await clock.sleep(backoff.seconds())
            continue
        outage.recovered()
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            probes.abort()


class _Probes:
    def __init__(self, health: Health, exposition: Callable[[], bytes]) -> None:
        self._health, self._exposition = health, exposition
        self._open: dict[asyncio.StreamWriter, None] = {}
        """Oldest first."""

    def abort(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        if len(self._open) > CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        try:
            async with asyncio.timeout(_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                status, kind, body = self._response(head.split(b"\r\n", 1)[0].decode("latin-1").split(" "))
                length = f"content-length: {len(body)}\r\nconnection: close"
                opening = f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: {kind}\r\n{length}\r\n\r\n"
                writer.write(opening.encode() + (b"" if head.startswith(b"HEAD ") else body))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._open.pop(writer, None)

    def _response(self, request: list[str]) -> tuple[int, str, bytes]:
        plain = "text/plain; charset=utf-8"
        if len(request) != 3 or not request[2].startswith("HTTP/1."):
            return 400, plain, b""
        if request[0] not in ("GET", "HEAD"):
            return 405, plain, b""
        match request[1].partition("?")[0]:
            case "/metrics":
                return 200, _TEXT, self._exposition()
            case "/healthz":
                problem = self._health.sick()
            case "/readyz":
                problem = self._health.unready()
            case _:
                return 404, plain, b""
        return (503 if problem else 200), plain, f"{problem or 'ok'}\n".encode()
