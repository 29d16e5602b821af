"""TLS connections count from their accept: silent ones keep nobody else out, and hold what they have for seconds."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import structlog
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from adapters.certificates import Pair, make_pair
from adapters.listener import open_listener
from adapters.server import Server
from handlers.serving.server import TlsServer, uvicorn_config
from tests.real.programs import eventually, real_time

pytestmark = pytest.mark.slow

LIMIT = 20
AT_ONCE_SECONDS = 2


async def hello(request: Request) -> PlainTextResponse:
    host = "" if request.client is None else request.client.host
    # What came by IPv4 to a socket for both families.
    return PlainTextResponse(f"{request.url.scheme} {host.removeprefix('::ffff:')}")


class Ports:
    """Both ports of one process, and who connects to them."""

    def __init__(self, plain: int, secured: int, pair: Pair) -> None:
        self.plain, self.secured = plain, secured
        self._trusting = ssl.create_default_context(cadata=pair.authority.decode())

    async def ask(self, scheme: str, host: str = "127.0.0.1", **headers: str) -> str:
        """What a new connection is answered, at once."""
        port = self.secured if scheme == "https" else self.plain
        async with httpx.AsyncClient(verify=self._trusting, trust_env=False, timeout=AT_ONCE_SECONDS) as client:
            return (await client.get(f"{scheme}://{host}:{port}/", headers=headers)).text


@contextlib.asynccontextmanager
async def serving(*, handshake_seconds: float) -> AsyncIterator[Ports]:
    """Both servers, as `web` configures them."""
    app = Starlette(routes=[Route("/", hello)])
    pair = make_pair(["127.0.0.1"], datetime.now(UTC))
    plain = Server(uvicorn_config(app, LIMIT))
    secured = TlsServer(uvicorn_config(app, LIMIT), handshakes=LIMIT, handshake_seconds=handshake_seconds)
    secured.use((pair.certificate, pair.key))
    with open_listener(0) as one, open_listener(0) as other, structlog.testing.capture_logs():
        tasks = [
            asyncio.create_task(server.serve(sockets=[listener]), name="serve")
            for server, listener in ((plain, one), (secured, other))
        ]
        await eventually(lambda: plain.started and secured.started, what="both servers serve")
        try:
            yield Ports(one.getsockname()[1], other.getsockname()[1], pair)
        finally:
            plain.should_exit = secured.should_exit = True
            await asyncio.wait(tasks, timeout=20)
            assert [task.exception() for task in tasks] == [None, None]


@contextlib.asynccontextmanager
async def silent(port: int, count: int) -> AsyncIterator[list[socket.socket]]:
    """Connections that say nothing."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            await loop.sock_connect(one, ("127.0.0.1", port))
            opened.append(one)
        yield opened


def on_each_loop(case: Callable[[], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test on the loop of asyncio and on that of uvloop."""

    def run(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(case())

    run.__name__ = run.__qualname__ = case.__name__
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("loop", loops, ids=["asyncio", "uvloop"])(run)


@on_each_loop
async def test_twice_the_limit_of_silent_connections_leaves_both_ports_answering_at_once() -> None:
    async with serving(handshake_seconds=60) as ports, silent(ports.secured, 2 * LIMIT):
        for _ in range(3):
            assert await ports.ask("http") == "http 127.0.0.1"
            assert await ports.ask("https") == "https 127.0.0.1"


@on_each_loop
async def test_the_oldest_handshake_gives_way_and_an_unfinished_one_ends_after_its_time() -> None:
    running = asyncio.get_running_loop()
    async with serving(handshake_seconds=60) as ports, silent(ports.secured, LIMIT + 1) as opened:
        assert await asyncio.wait_for(running.sock_recv(opened[0], 1), AT_ONCE_SECONDS) == b""
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(running.sock_recv(opened[-1], 1), 0.05)
    async with serving(handshake_seconds=0.2) as ports, silent(ports.secured, 3) as opened:
        for one in opened:
            assert await asyncio.wait_for(running.sock_recv(one, 1), AT_ONCE_SECONDS) == b""


@on_each_loop
async def test_a_connection_that_speaks_no_tls_is_closed() -> None:
    async with serving(handshake_seconds=60) as ports:
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.secured)
        writer.write(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in await asyncio.wait_for(reader.read(), AT_ONCE_SECONDS)
        writer.close()
        assert await ports.ask("https") == "https 127.0.0.1"


@real_time
async def test_no_header_says_where_a_request_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    async with serving(handshake_seconds=60) as ports:
        told = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}
        assert await ports.ask("http", **told) == "http 127.0.0.1"


def test_idle_connections_are_kept_for_longer_than_ingresses_keep_them() -> None:
    # nginx and ALB: 60 seconds; the API server keeps those to webhooks for 90.
    assert uvicorn_config(Starlette(), LIMIT).timeout_keep_alive > 90


def test_an_accept_that_fails_gives_up_the_oldest_handshake_and_is_tried_again() -> None:
    class Exhausted(asyncio.SelectorEventLoop):
        """Has no descriptor left while `left` is 0."""

        left = 3

        async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, object]:
            if self.left == 0:
                self.left = 1
                raise OSError(errno.EMFILE, "Too many open files")
            accepted = await super().sock_accept(sock)
            self.left = max(0, self.left - 1)
            return accepted

    async def case() -> None:
        running = asyncio.get_running_loop()
        async with serving(handshake_seconds=60) as ports, silent(ports.secured, 3) as opened:
            assert await asyncio.wait_for(running.sock_recv(opened[0], 1), AT_ONCE_SECONDS) == b""
            assert await ports.ask("https") == "https 127.0.0.1"

    with asyncio.Runner(loop_factory=Exhausted) as runner:
        runner.run(case())
