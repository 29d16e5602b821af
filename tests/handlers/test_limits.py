"""Connections are held to limits, so that no caller keeps the others out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
import structlog
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adapters.certificates import make_pair
from adapters.listener import open_listener
from adapters.server import Server
from handlers.serving.limits import Limits, limited
from handlers.serving.server import TlsServer, uvicorn_config
from tests.real.programs import eventually

pytestmark = pytest.mark.slow

LIMIT = 3
UNTAKEN_SECONDS = 3.0
# More than the buffers of both kernels hold.
LARGE = b"x" * 8 * 1024 * 1024
ASK = b"GET /large HTTP/1.1\r\nhost: web\r\n\r\n"


async def small(_request: Request) -> Response:
    return Response(b"small")


async def large(_request: Request) -> Response:
    return Response(LARGE)


@contextlib.asynccontextmanager
async def serving(*, secured: bool = False) -> AsyncIterator[tuple[int, Server]]:
    """The port, and the server behind it as `web` configures it."""
    config = uvicorn_config(Starlette(routes=[Route("/", small), Route("/large", large)]), LIMIT)
    config.http = limited(Limits(LIMIT, untaken_seconds=UNTAKEN_SECONDS))
    server = TlsServer(config, handshakes=LIMIT) if secured else Server(config)
    if isinstance(server, TlsServer):
        pair = make_pair(["127.0.0.1"], datetime.now(UTC))
        server.use((pair.certificate, pair.key))
    with open_listener(0) as listener, structlog.testing.capture_logs():
        task = asyncio.create_task(server.serve(sockets=[listener]), name="serve")
        await eventually(lambda: server.started, what="the server serves")
        try:
            yield listener.getsockname()[1], server
        finally:
            server.should_exit = True
            await asyncio.wait([task], timeout=20)


async def answers(port: int, scheme: str) -> bool:
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=5) as client:
        with contextlib.suppress(httpx.TransportError):
            return (await client.get(f"{scheme}://127.0.0.1:{port}/")).status_code == 200
    return False


def connect(port: int, *, secured: bool) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port))
    if not secured:
        return plain
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain)


@pytest.mark.parametrize("secured", [False, True], ids=["http", "https"])
def test_callers_that_ask_and_never_read_keep_nobody_out(secured: bool) -> None:
    async def run() -> None:
        async with serving(secured=secured) as (port, server):
            with contextlib.ExitStack() as held:
                state = server.server_state
                callers = []
                for _ in range(LIMIT):
                    caller = await asyncio.to_thread(connect, port, secured=secured)
                    callers.append(held.enter_context(caller))
                    caller.sendall(ASK)
                await eventually(lambda: state.total_requests == LIMIT and not state.tasks, what="all are answered")

                async def all_wait() -> bool:
                    """Whether the answers of all wait for room in the buffers; if not, they ask once more."""
                    for caller in callers:
                        caller.sendall(ASK)
                    await asyncio.sleep(0.1)
                    return len(state.tasks) == LIMIT

                await eventually(all_wait, what="the answers of all wait")
                await eventually(
                    lambda: answers(port, "https" if secured else "http"), what="others are answered", seconds=10
                )

    uvloop.run(run())


def test_a_caller_that_takes_its_answer_in_time_gets_all_of_it() -> None:
    async def run() -> None:
        async with serving() as (port, _server):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(2):
                writer.write(ASK)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                assert len(await reader.readexactly(len(LARGE))) == len(LARGE)
            await asyncio.sleep(1.1 * UNTAKEN_SECONDS)
            writer.write(ASK.replace(b"/large", b"/"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            writer.close()

    uvloop.run(run())
