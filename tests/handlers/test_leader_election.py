"""One of several watches sends, and never two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from adapters.kubernetes import paths
from devcluster.apiserver import InProcessTransport
from tests.handlers.world import NAMESPACE, AsyncTest, World, giving, in_world, run_in_world, status
from warmhook.events import Event
from warmhook.leader_election import LEASE_SECONDS, POLL_SECONDS
from warmhook.ports import Object, Response, Unreachable

pytestmark = pytest.mark.slow

LEASE = paths.leases(NAMESPACE, "warmhook-watch")


@dataclass
class Process:
    """A watch that can be stopped in the middle of anything, as a process can."""

    world: World
    name: str
    sent: list[tuple[float, str, str]]
    """When, who, and which type."""
    runs: asyncio.Event = field(default_factory=asyncio.Event)
    fault: Callable[[str, str], Response | None] = lambda _method, _path: None

    def __post_init__(self) -> None:
        self.runs.set()

    async def before(self, method: str, path: str) -> Response | None:
        await self.runs.wait()
        return self.fault(method, path)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.runs.wait()

    async def post(self, event: Event) -> None:
        await self.runs.wait()
        self.sent.append((self.world.monotonic(), self.name, event.type.split(".")[2]))

    @property
    def transport(self) -> InProcessTransport:
        return InProcessTransport(self.world.server, user_agent=self.name, before=self.before)


async def traffic(world: World) -> None:
    """Something to tell every second."""
    for number in range(10_000):
        await world.admin.patch(paths.node("a"), {"metadata": {"labels": {"n": str(number)}}})
        await asyncio.sleep(1)


def _run_beside_two_watches(case: AsyncTest) -> None:
    """Run a case beside two watches, the first of which leads, with something to tell every second."""

    async def run(world: World) -> None:
        await world.add_nodes("a")
        sent: list[tuple[float, str, str]] = []
        one, two = Process(world, "one", sent), Process(world, "two", sent)
        async with AsyncExitStack() as stack:
            for process in (one, two):
                watching = world.watching(process.post, transport=process.transport, sleep=process.sleep)
                await stack.enter_async_context(watching)
                await asyncio.sleep(1)
            noise = asyncio.create_task(traffic(world))
            stack.callback(noise.cancel)
            await case(world, one, two)

    run_in_world(run)


beside_two_watches = giving(3, _run_beside_two_watches)


def gaps(sent: list[tuple[float, str, str]]) -> list[float]:
    return [later[0] - earlier[0] for earlier, later in pairwise(sent)]


def handovers(sent: list[tuple[float, str, str]]) -> list[tuple[str, str]]:
    return [(earlier[1], later[1]) for earlier, later in pairwise(sent) if earlier[1] != later[1]]


async def lease(world: World) -> Object:
    found: Object = (await world.admin.get(LEASE))["spec"]
    return found


@beside_two_watches
async def test_one_of_two_watches_sends_and_stays_the_leader(world: World, one: Process, two: Process) -> None:
    await asyncio.sleep(600)
    assert {name for _, name, _ in one.sent} == {"one"}
    assert max(gaps(one.sent)) <= 2


@beside_two_watches
async def test_a_leader_that_is_stopped_beyond_its_lease_is_followed_by_the_other_and_tells_nothing_more(
    world: World, one: Process, two: Process
) -> None:
    await asyncio.sleep(60)
    for leader in (one, two, one, two):
        leader.runs.clear()
        await asyncio.sleep(70)
        leader.runs.set()
        await asyncio.sleep(60)
    # What was on its way when the process was stopped may still arrive when it goes on, and nothing after that.
    late = {
        here
        for before, here, after in zip(one.sent, one.sent[1:], one.sent[2:], strict=False)
        if before[1] == after[1] != here[1]
    }
    assert len(late) <= 4
    kept = [it for it in one.sent if it not in late]
    assert handovers(kept) == [("one", "two"), ("two", "one"), ("one", "two"), ("two", "one")]
    assert max(gaps(one.sent)) < 2 * LEASE_SECONDS


@beside_two_watches
async def test_a_new_leader_begins_with_a_sync(world: World, one: Process, two: Process) -> None:
    await asyncio.sleep(10)
    one.runs.clear()
    await asyncio.sleep(60)
    first = next(types for _, name, types in one.sent if name == "two")
    assert first == "sync"
    assert (await lease(world))["leaseTransitions"] == 1


@beside_two_watches
async def test_a_leader_cut_off_from_the_api_server_stops_before_the_other_begins(
    world: World, one: Process, two: Process
) -> None:
    await asyncio.sleep(10)

    def cut(_method: str, path: str) -> Response | None:
        if "leases" in path:
            raise Unreachable("cut off")
        return None

    one.fault = cut
    await asyncio.sleep(60)
    assert handovers(one.sent) == [("one", "two")]
    last = max(moment for moment, name, _ in one.sent if name == "one")
    first = min(moment for moment, name, _ in one.sent if name == "two")
    assert 0 < first - last < 2 * LEASE_SECONDS


@beside_two_watches
async def test_a_leader_that_gets_no_answer_for_a_while_goes_on(world: World, one: Process, two: Process) -> None:
    await asyncio.sleep(10)
    until = world.monotonic() + 8
    one.fault = lambda _method, path: status(503) if "leases" in path and world.monotonic() < until else None
    await asyncio.sleep(120)
    assert handovers(one.sent) == []
    assert max(gaps(one.sent)) <= 2


@in_world(nodes="a")
async def test_a_watch_that_ends_gives_the_lease_back_so_that_the_next_need_not_wait(world: World) -> None:
    sent: list[tuple[float, str, str]] = []
    one, two = Process(world, "one", sent), Process(world, "two", sent)
    async with AsyncExitStack() as stack:
        async with world.watching(one.post, transport=one.transport):
            await asyncio.sleep(5)
            await stack.enter_async_context(world.watching(two.post, transport=two.transport))
            await asyncio.sleep(5)
        assert "holderIdentity" not in await lease(world)
        ended = world.monotonic()
        await asyncio.sleep(30)
        first = min(moment for moment, name, _ in sent if name == "two")
        assert first - ended <= POLL_SECONDS * 1.5


@in_world()
async def test_without_permission_for_leases_nothing_is_told_and_the_log_says_what_is_missing(world: World) -> None:
    sent: list[tuple[float, str, str]] = []
    one = Process(world, "one", sent, fault=lambda _method, path: status(403) if "leases" in path else None)
    async with world.watching(one.post, transport=one.transport):
        await asyncio.sleep(100)
    assert sent == []


@beside_two_watches
async def test_a_lease_that_somebody_deleted_is_made_again(world: World, one: Process, two: Process) -> None:
    await asyncio.sleep(10)
    await world.admin.delete(LEASE)
    await asyncio.sleep(60)
    assert (await lease(world))["holderIdentity"]
    assert max(gaps(one.sent)) < 2 * LEASE_SECONDS


@beside_two_watches
async def test_the_lease_is_one_that_kubectl_understands(world: World, one: Process, two: Process) -> None:
    await asyncio.sleep(1)
    spec = await lease(world)
    assert spec["leaseDurationSeconds"] == LEASE_SECONDS
    assert spec["renewTime"].endswith("Z")
    assert len(spec["renewTime"].partition(".")[2]) == 7
