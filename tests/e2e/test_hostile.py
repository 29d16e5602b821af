"""Senders are served, and memory stays bounded, whatever others send to `web`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.stack import SECRET, Options, Stack, open_stack
from tests.real.programs import real_time

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

HOST = "registry.example.com"
MIB = 1024 * 1024
POST = b"POST /webhooks/registry HTTP/1.1\r\nhost: web\r\n"
# What a quiet `web` with watch inside needs, and 64 MiB of bodies, and connections.
MEMORY_MIB = 330
GARBAGE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
    "a secret in what is no request": b"POST /webhooks/registry?token=TOPSECRET HTTP/1.1\r\nhost\r\n\r\n",
    "a secret that is wrong": b"POST /webhooks/registry?token=TOPSECRET HTTP/1.1\r\nhost: web\r\n\r\n",
    "a secret where nothing is": b"POST /nowhere?token=TOPSECRET HTTP/1.1\r\nhost: web\r\n\r\n",
    "a bare line": b"hello\r\n\r\n",
    "an old version": b"GET /healthz HTTP/0.9\r\n\r\n",
    "no host": b"POST /webhooks/registry HTTP/1.1\r\n\r\n",
    "a proxy's request": b"GET http://evil.example/ HTTP/1.1\r\nhost: web\r\n\r\n",
    "a tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nhost: web\r\n\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\nhost: web\r\n\r\n",
    "a path beyond ASCII": b"GET /\xff\xfe HTTP/1.1\r\nhost: web\r\n\r\n",
    "two lengths": POST + b"content-length: 3\r\ncontent-length: 5\r\n\r\nabc",
    "length and chunks": POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative length": POST + b"content-length: -1\r\n\r\n",
    "a length beyond measure": POST + b"content-length: 99999999999999999999999\r\n\r\n",
    "a bad chunk": POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "an upgrade": b"GET /webhooks/registry HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "a header of zeros": b"GET /healthz HTTP/1.1\r\nhost: web\r\nx: \x00\x00\r\n\r\n",
    "a long address": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: web\r\n\r\n",
    "a long header": b"GET /healthz HTTP/1.1\r\nhost: web\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET /healthz HTTP/1.1\r\nhost: web\r\n" + b"x: y\r\n" * 20_000 + b"\r\n",
}
ENDLESS = {
    "headers": (POST, b"x: " + b"a" * 60 + b"\r\n"),
    "one header": (POST + b"x: ", b"a" * 64),
    "an address": (b"GET /", b"a" * 64),
    "a body": (POST + b"transfer-encoding: chunked\r\n\r\n", b"40\r\n" + b"a" * 64 + b"\r\n"),
    "trailers": (POST + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"x: " + b"a" * 60 + b"\r\n"),
    "one trailer": (POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ", b"a" * 64),
    "a body nobody reads": (b"POST /nowhere HTTP/1.1\r\nhost: web\r\ncontent-length: 99999999999\r\n\r\n", b"a" * 64),
}


@contextlib.asynccontextmanager
async def open_web() -> AsyncIterator[Stack]:
    """`web` and its API server, with a policy; at the end nothing has been written of a programming error."""
    async with open_stack(Options(HOST), nodes=()) as stack:
        await stack.apply_policy({"push": [{"repository": f"{HOST}/**", "keep": 3}]})
        yield stack
        assert stack.web.ended == ""
        assert "Traceback" not in stack.web.output()
        assert "TOPSECRET" not in stack.web.output()


async def deliver(stack: Stack, number: int) -> int:
    """A registry's honest delivery; 0 where the connection did not last. It tries three times."""
    digest = f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}"
    for _ in range(3):
        with contextlib.suppress(OSError, httpx.TransportError):
            return (await stack.notify("shop/app", f"v{number}", digest)).status_code
    return 0


async def exchange(port: int, sent: bytes) -> bytes:
    """Everything that comes back, within a second after the last byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(sent)
        async with asyncio.timeout(1):
            while part := await reader.read(65536):
                answer += part
    writer.close()
    return answer


def forget_memory(stack: Stack) -> None:
    """Let `memory_mib` begin anew (proc(5), `clear_refs`)."""
    Path(f"/proc/{stack.web.process.pid}/clear_refs").write_text("5")


def memory_mib(stack: Stack) -> float:
    """The most that `web` had in memory."""
    status = Path(f"/proc/{stack.web.process.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@real_time
async def test_what_is_no_request_is_refused_without_a_trace() -> None:
    async with open_web() as stack:
        answers = await asyncio.gather(*(exchange(stack.options.web_port, sent) for sent in GARBAGE.values()))
        for name, answer in zip(GARBAGE, answers, strict=True):
            assert not answer.startswith(b"HTTP/1.1 5"), name
            assert b"Traceback" not in answer, name
            assert len(answer) < 2000, name
        assert await deliver(stack, 1) == 202


@real_time
async def test_what_never_ends_is_cut_off_and_not_kept_in_memory() -> None:
    async with open_web() as stack:
        for number, (name, (begin, again)) in enumerate(ENDLESS.items()):
            forget_memory(stack)
            before = memory_mib(stack)
            sent, answer = await send_without_end(stack.options.web_port, begin, again)
            assert sent < 4096 * MIB, f"{name}: it was taken in without end"
            assert not answer.startswith(b"HTTP/1.1 5"), name
            assert memory_mib(stack) - before < 50, name
            assert await deliver(stack, number) == 202, name


async def send_without_end(port: int, begin: bytes, again: bytes) -> tuple[int, bytes]:
    """How many bytes were taken, of 4 GiB or half a minute, and what was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = len(begin)
    writer.write(begin)
    with contextlib.suppress(OSError):
        async with asyncio.timeout(30):
            while sent < 4096 * MIB and not writer.is_closing():
                writer.write(again * 1000)
                await writer.drain()
                sent += len(again) * 1000
    answer = b""
    with contextlib.suppress(OSError):
        answer = await asyncio.wait_for(reader.read(65536), 1)
    writer.close()
    return sent, answer


@real_time
async def test_slow_bodies_keep_nobody_out_and_memory_is_bounded() -> None:
    async with open_web() as stack:
        async with contextlib.AsyncExitStack() as slow:
            for _ in range(300):
                _reader, writer = await asyncio.open_connection("127.0.0.1", stack.options.web_port)
                slow.callback(writer.close)
                writer.write(POST + b"content-length: 1048576\r\n\r\n" + b" " * (MIB - 1))
            for number in range(50):
                assert await deliver(stack, number) == 202
        assert memory_mib(stack) < MEMORY_MIB
        await stack.eventually(lambda: "slow-body" in stack.web.output() or "busy" in stack.web.output(), what="told")


@real_time
async def test_thousands_of_silent_connections_keep_nobody_out(capsys: pytest.CaptureFixture[str]) -> None:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_000 if soft == resource.RLIM_INFINITY else max(100, min(10_000, soft - 500))
    async with open_web() as stack:
        statuses: list[int] = []
        with contextlib.ExitStack() as held:
            opened = 0
            for connections in batches(wanted):
                opened += await asyncio.to_thread(connect, stack.options.web_port, connections, held)
                statuses.append(await deliver(stack, len(statuses)))
            for _ in range(20):
                statuses.append(await deliver(stack, len(statuses)))
            with capsys.disabled():
                print(f"\n{opened} connections at once, {memory_mib(stack):.0f} MiB at most", end="")  # noqa: T201
        assert opened == wanted
        assert set(statuses) == {202}
        assert memory_mib(stack) < MEMORY_MIB


def batches(wanted: int) -> Iterator[range]:
    """Numbers of connections, 500 at a time."""
    for begin in range(0, wanted, 500):
        yield range(begin, min(begin + 500, wanted))


def connect(port: int, numbers: range, held: contextlib.ExitStack) -> int:
    """Connections that say nothing, or begin a head, or stop within a body; how many there are."""
    beginnings = (
        b"",
        b"POST /webhooks/reg",
        POST + b"authorization: " + SECRET.encode(),
        POST + b"content-length: 9\r\n\r\n{",
    )
    for number in numbers:
        connection = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        with contextlib.suppress(OSError):  # it may have been closed for a newer one
            connection.sendall(beginnings[number % len(beginnings)])
    return len(numbers)
