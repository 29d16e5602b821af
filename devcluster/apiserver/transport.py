"""Carry the requests of a program under test to an API server in the same process, with faults on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from types import MappingProxyType

from devcluster.apiserver.core import ApiServer
from warmhook.ports import Json, Response, Stream, Unreachable

Before = Callable[[str, str], Awaitable[Response | None]]
"""Called with method and path before each request: an answer replaces the server's, an exception is raised."""
After = Callable[[str, str, Response], Awaitable[Response]]
"""Called with method, path and the server's answer: may lose an answer (raise) whose request has had its effect."""
CutStream = Callable[[str], int | None]
"""Called with the path of each stream: after how many bytes its connection breaks; `None` for never."""

Swallow = Callable[[float], bool]
"""Called before each line of a stream with the loop's time at which the stream was opened. `True`: the connection stays
open and delivers nothing from then on, as if a load balancer had lost its state."""

_NONE: Mapping[str, str] = MappingProxyType({})


class InProcessTransport:
    """`warmhook.ports.Transport` over an `ApiServer` in the same process."""

    def __init__(
        self,
        server: ApiServer,
        *,
        user_agent: str = "warmhook",
        before: Before | None = None,
        after: After | None = None,
        cut_stream: CutStream | None = None,
        swallow: Swallow = lambda _opened: False,
    ) -> None:
        self.server = server
        """Replaced in the middle of a test, it is a server that restarted."""
        self.before = before
        self.after = after
        self.cut_stream = cut_stream
        self.swallow = swallow
        self._user_agent = user_agent

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        mine = {"accept": "application/json", "user-agent": self._user_agent}
        return mine | {name.lower(): value for name, value in headers.items()}

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = _NONE,
        headers: Mapping[str, str] = _NONE,
        body: Json | None = None,
        timeout_seconds: float = 10,  # noqa: ARG002 - the port's signature; nothing here takes time
    ) -> Response:
        """Send `body` as JSON and return the answer."""
        if self.before is not None and (answer := await self.before(method, path)) is not None:
            return answer
        content = b"" if body is None else json.dumps(body).encode()
        # A real request lets others run before it arrives; without this, concurrent callers would never interleave.
        await asyncio.sleep(0)
        answered = self.server.handle(method, path, query, self._headers(headers), content)
        return await self.after(method, path, answered) if self.after is not None else answered

    def stream(
        self,
        path: str,
        *,
        query: Mapping[str, str] = _NONE,
        headers: Mapping[str, str] = _NONE,
        timeout_seconds: float = 330,  # noqa: ARG002 - the port's signature; the server's timeoutSeconds ends streams
    ) -> AbstractAsyncContextManager[Stream]:
        """GET `path` and read the answer as it comes."""
        return self._stream(path, query, headers)

    @asynccontextmanager
    async def _stream(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> AsyncIterator[Stream]:
        answer = await self.before("GET", path) if self.before is not None else None
        begun = answer or self.server.watch(path, query, self._headers(headers))
        limit_bytes = self.cut_stream(path) if self.cut_stream is not None else None
        if isinstance(begun, Response):
            async with aclosing(_lines(begun.body)) as lines:
                yield Stream(begun.status, begun.headers, lines)
            return
        content_type = {"content-type": "application/json"}
        async with aclosing(begun.lines()) as source, aclosing(_cut(source, limit_bytes)) as lines:
            yield Stream(200, content_type, _swallowed(lines, self.swallow))


async def _swallowed(lines: AsyncIterator[bytes], swallow: Swallow) -> AsyncGenerator[bytes, None]:
    opened = asyncio.get_running_loop().time()
    async for line in lines:
        if swallow(opened):
            await asyncio.Event().wait()
        yield line


async def _lines(body: bytes) -> AsyncGenerator[bytes, None]:
    for line in body.splitlines():
        yield line


async def _cut(source: AsyncIterator[bytes], limit_bytes: int | None) -> AsyncGenerator[bytes, None]:
    """The lines of a stream whose connection breaks after that many bytes: a line cut short never arrives."""
    sent = 0
    if limit_bytes == 0:
        raise Unreachable("the connection was cut")
    async for line in source:
        sent += len(line)
        if limit_bytes is not None and sent > limit_bytes:
            raise Unreachable("the connection was cut")
        yield line.rstrip(b"\n")
        if sent == limit_bytes:
            raise Unreachable("the connection was cut")
