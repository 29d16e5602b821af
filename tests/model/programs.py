"""Run a program in the process of the test, and kill it at one of its requests like a power failure."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from random import Random
from typing import Any

from devcluster.apiserver import ApiServer, InProcessTransport
from tests.support.instant import InstantLoop
from warmhook.ports import Response, Stream, Unreachable

__all__ = ["Connection", "Network", "Program", "ProgramLoop"]

_RUNNING: ContextVar[Program | None] = ContextVar("running", default=None)
_SLOWEST_SECONDS = 0.05


class ProgramLoop(InstantLoop):
    """An instant loop that knows which program each task belongs to."""

    def __init__(self) -> None:
        super().__init__()
        self.set_task_factory(_new_task)


def _new_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    context = options.get("context")
    program = context.get(_RUNNING) if context is not None else _RUNNING.get()
    if program is not None:
        program.tasks.add(task)
        task.add_done_callback(program.tasks.discard)
    return task


@dataclass(slots=True, eq=False)
class Program:
    """One process."""

    name: str
    alive: bool = True
    dies_in: int = 0
    """After so many requests; 0: not."""
    dies_after: bool = False
    """Whether the API server still takes the last one."""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    died: asyncio.Event = field(default_factory=asyncio.Event)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something as a part of this program."""
        context = copy_context()
        context.run(_RUNNING.set, self)
        return asyncio.get_running_loop().create_task(work, name=name, context=context)

    def kill(self) -> None:
        """End it here and now: nothing it does from here on reaches anybody."""
        if self.alive:
            self.alive = False
            context = copy_context()
            context.run(_RUNNING.set, None)
            asyncio.get_running_loop().create_task(self._reap(), name=f"kill {self.name}", context=context)

    async def _reap(self) -> None:
        self.died.set()
        while self.tasks:
            for task in list(self.tasks):
                task.cancel()
            await asyncio.sleep(0)


@dataclass(slots=True)
class Network:
    """What lies between the programs and the API server."""

    server: ApiServer
    rng: Random
    trouble: str = ""
    """`429`, `503`, `504` or `timeout`: what happens to most requests."""
    cuts: int = 0
    """How often all watches were cut."""
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    """Methods, and parts of paths, that no program is allowed."""

    def delay(self) -> float:
        """Seconds; mostly few. Whose request comes first is up to chance."""
        return self.rng.random() ** 3 * _SLOWEST_SECONDS


class Connection:
    """A program's `warmhook.ports.Transport`."""

    def __init__(self, network: Network, program: Program) -> None:
        self._network, self._program = network, program
        self._server = InProcessTransport(network.server, user_agent=program.name)

    async def request(self, method: str, path: str, *, timeout_seconds: float = 10, **given: Any) -> Response:
        if any(method == verb and part in path for verb, part in self._network.forbidden):
            await asyncio.sleep(self._network.delay())
            return _refusal(403)
        ask = self._server.request(method, path, **_serving(method, given))
        try:
            return await self._through(ask, timeout_seconds)
        finally:
            ask.close()

    async def _through(self, ask: Coroutine[Any, Any, Response], timeout_seconds: float) -> Response:
        network, program = self._network, self._program
        dies = await self._leave()
        trouble = network.trouble if network.trouble and network.rng.random() < 0.8 else ""
        if trouble in ("429", "503"):
            return _refusal(int(trouble))
        lost = trouble and network.rng.random() < 0.5
        answer = None if lost else await ask
        if dies:
            program.kill()
        if trouble == "timeout":
            await asyncio.sleep(timeout_seconds)
            raise Unreachable("timed out")
        await asyncio.sleep(network.delay())
        return _refusal(504) if trouble or answer is None else answer

    async def _leave(self) -> bool:
        """On the way to the server, where the program may die; whether it does as soon as the server has answered."""
        program = self._program
        if not program.alive:
            raise asyncio.CancelledError
        await asyncio.sleep(self._network.delay())
        if program.dies_in:
            program.dies_in -= 1
            if not program.dies_in:
                if program.dies_after:
                    return True
                program.kill()
                await asyncio.sleep(86400)
        return False

    @asynccontextmanager
    async def stream(self, path: str, **given: Any) -> AsyncIterator[Stream]:
        if await self._leave():
            self._program.kill()
        if self._network.trouble:
            raise Unreachable("refused")
        async with (
            self._server.stream(path, **given) as stream,
            aclosing(self._lines(stream.lines)) as lines,
        ):
            yield Stream(stream.status, stream.headers, lines)

    async def _lines(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        cuts = self._network.cuts
        async for line in lines:
            await asyncio.sleep(self._network.delay())
            if self._network.cuts != cuts:
                raise Unreachable("cut")
            yield line


def _serving(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a program asks; every report says that its node serves images to others."""
    metadata = (given.get("body") or {}).get("metadata", {})
    if method == "GET" or not {"warmhook.dev/warm"} & metadata.get("annotations", {}).keys():
        return given
    node = metadata["annotations"]["warmhook.dev/node"]
    peer = json.dumps({"a": "10.0.0.5:9465", "k": hashlib.sha256(node.encode()).hexdigest()[:43]})
    annotations = metadata["annotations"] | {"warmhook.dev/peer": peer}
    return given | {"body": given["body"] | {"metadata": metadata | {"annotations": annotations}}}


def _refusal(status: int) -> Response:
    body = b'{"kind":"Status","apiVersion":"v1","status":"Failure","message":"not now","code":%d}' % status
    return Response(status, {"content-type": "application/json", "retry-after": "1"}, body)
