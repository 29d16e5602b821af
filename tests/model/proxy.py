"""Put a proxy between a program and the API server, which counts requests, kills the program, and rejects."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

__all__ = ["Proxy", "open_proxy"]

Trouble = Literal["", "429", "503", "cut"]

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CONNECTION = re.compile(rb"\r\nconnection:[^\r]*", re.IGNORECASE)


@dataclass(slots=True)
class Proxy:
    """One request per connection, which is what makes it small."""

    upstream: int
    rng: Random
    kill: Callable[[], None] = lambda: None
    """End the program, at once."""
    kills_left: int = 0
    within: int = 12
    """The next kill is at one of so many next requests."""
    killed: int = 0
    trouble: Trouble = ""
    port: int = 0
    _countdown: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._open:
            writer.transport.abort()

    def dies(self) -> bool:
        """Whether the program dies at this request; the number was drawn when the one before it died."""
        if not self.kills_left:
            return False
        self._countdown = (self._countdown or self.rng.randint(1, self.within)) - 1
        self.kills_left -= not self._countdown
        return not self._countdown

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection of the program's."""
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._serve(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1])) if length else b""
        if self.trouble == "cut":
            return
        if self.trouble:
            writer.write(
                b"HTTP/1.1 %b No\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                % self.trouble.encode()
            )
            await writer.drain()
            return
        dies, after = self.dies(), self.rng.random() < 0.5
        if dies and not after:
            self._kill()
            return
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            to_server.write(_CONNECTION.sub(b"", head)[:-2] + b"connection: close\r\n\r\n" + body)
            while chunk := await from_server.read(65536):
                if dies:
                    self._kill()
                    return
                writer.write(chunk)
                await writer.drain()
        finally:
            to_server.close()

    def _kill(self) -> None:
        self.killed += 1
        self.kill()


@contextlib.asynccontextmanager
async def open_proxy(upstream: int, rng: Random) -> AsyncIterator[Proxy]:
    """A proxy on a free port, in front of one on this machine."""
    proxy = Proxy(upstream, rng)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
