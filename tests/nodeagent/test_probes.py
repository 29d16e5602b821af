"""The agent's port answers on its own loop, over both IP families, whoever else connects."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import structlog

from adapters.clock import Clock, real_clock
from adapters.listener import open_listener
from nodeagent.metrics import Metrics
from nodeagent.probes import CONNECTIONS, Health, serve_probes
from tests.real.programs import real_time
from tests.support.agents import Bench, on_node
from tests.support.instant import until

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def probes(health: Health | None = None) -> AsyncIterator[int]:
    """Served on a port that this yields."""
    with open_listener(0) as found:
        port: int = found.getsockname()[1]
    health = health or Health(real_clock(), 45)
    async with serve_probes(port, health, Metrics().exposition, real_clock(), structlog.get_logger()):
        await until(lambda: _connects(port), seconds=10)
        yield port


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


async def ask(port: int, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split(" ")[1]), body


@real_time
async def test_metrics_and_probes_are_answered_and_nothing_else() -> None:
    async with probes() as port:
        status, body = await ask(port, "/metrics")
        assert status == 200
        for name in ("warmhook_lines", "process_resident_memory_bytes", "warmhook_runtime_up", "warmhook_api_up"):
            assert f"\n{name}" in body
        assert await ask(port, "/healthz") == (200, "ok\n")
        assert await ask(port, "/readyz") == (503, "the runtime does not answer\n")
        assert await ask(port, "/metrics?name=x", "HEAD") == (200, "")
        assert (await ask(port, "/"))[0] == 404
        assert (await ask(port, "/metrics", "POST"))[0] == 405
        assert (await ask(port, "/a b"))[0] == 400


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@real_time
async def test_the_port_is_open_over_ipv6_as_well() -> None:
    async with probes() as port:
        assert (await ask(port, "/healthz", host="::1"))[0] == 200


@real_time
async def test_silent_connections_take_few_descriptors_and_keep_no_probe_out() -> None:
    async with probes() as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4 * CONNECTIONS)]
        assert (await ask(port, "/healthz"))[0] == 200
        ended = [asyncio.create_task(reader.read()) for reader, _ in silent]
        _, still_open = await asyncio.wait(ended, timeout=0.5)
        assert len(still_open) <= CONNECTIONS
        for _, writer in silent:
            writer.close()
        await asyncio.gather(*ended, return_exceptions=True)


@real_time
async def test_a_request_without_end_is_given_up() -> None:
    async with probes() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /" + b"x" * 100_000)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()


@real_time
async def test_a_port_in_use_is_opened_as_soon_as_it_is_free() -> None:
    taken = open_listener(0)
    taken.listen()
    port = taken.getsockname()[1]
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        taken.close()
        await asyncio.sleep(0)

    clock = real_clock()
    clock = Clock(clock.utcnow, clock.monotonic, sleep, clock.random)
    async with serve_probes(port, Health(clock, 45), Metrics().exposition, clock, structlog.get_logger()):
        await until(lambda: bool(waits) and _connects(port), seconds=10)
        assert (await ask(port, "/healthz"))[0] == 200


@on_node
async def test_ready_means_that_the_runtime_answered_and_the_lines_are_known(b: Bench) -> None:
    b.runtime.unreachable = b.down = True
    async with b.agent() as agent:
        await asyncio.sleep(60)
        assert agent.health.sick() == ""
        assert agent.health.unready() == "the runtime does not answer"
        assert b.metrics.registry.get_sample_value("warmhook_runtime_up") == 0
        assert b.metrics.registry.get_sample_value("warmhook_api_up") == 0
        b.runtime.unreachable = False
        await until(lambda: agent.health.unready() == "it is not known what this node should hold")
        b.down = False
        await until(lambda: agent.health.unready() == "")
        assert b.metrics.registry.get_sample_value("warmhook_runtime_up") == 1
        assert b.metrics.registry.get_sample_value("warmhook_api_up") == 1
        checked = b.metrics.registry.get_sample_value("warmhook_last_check_timestamp_seconds")
        assert checked
        assert abs(checked - b.clock().utcnow().timestamp()) < 60


@on_node
async def test_an_agent_that_no_longer_asks_its_runtime_is_sick(b: Bench) -> None:
    health = Health(b.clock(), 45)
    health.checked(runtime_up=True)
    health.lines_known = True
    await asyncio.sleep(100)
    assert health.unready() == ""
    await asyncio.sleep(100)
    assert health.sick() == health.unready() == "the runtime was last asked 200 s ago"
