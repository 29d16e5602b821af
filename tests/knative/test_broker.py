"""Through a Broker that answers when its slowest subscriber has, pushes reach the nodes as without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog

from adapters.cloudevents import STRUCTURED, write_event
from handlers.event_sink import SINK_SECONDS, RetryLater
from handlers.watch.dispatcher import OVERDUE_MAX
from tests.handlers.world import HOST, World, in_world, run_in_world
from tests.support.broker import Broker, Delivery, Trigger
from tests.support.instant import until
from warmhook.events import CHANGED, REPORTED, SYNC, Event
from warmhook.ports import Response

pytestmark = pytest.mark.slow

PATH = "/warmhook-system/warmhook"
OURS = Delivery(retry=5, backoff_seconds=1, timeout_seconds=30)
RECORDED = Delivery()
"""Of a Trigger whose `delivery` is not ours: 31.5 seconds of waits."""


async def unavailable(_headers: dict[str, str], _data: bytes) -> tuple[int, bytes]:
    return 503, b""


async def hanging(_headers: dict[str, str], _data: bytes) -> tuple[int, bytes]:
    await asyncio.sleep(86400)
    return 204, b""


@dataclass
class Sink:
    """How `watch` reaches a Broker."""

    world: World
    foreign: list[Trigger] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    posts: list[Event] = field(default_factory=list)
    buried: list[str] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        ours = [Trigger(self.handle, {"type": kind}, OURS) for kind in (CHANGED, REPORTED, SYNC)]
        self.broker = Broker([*ours, *self.foreign], dead_letters=self.bury)

    async def handle(self, headers: dict[str, str], data: bytes) -> tuple[int, bytes]:
        self.delivered.append(headers["ce-type"])
        answer = await self.world.client.post("/events", content=data, headers=headers)
        return answer.status_code, answer.content

    async def bury(self, headers: dict[str, str], _data: bytes) -> tuple[int, bytes]:
        self.buried.append(headers["ce-type"])
        return 202, b""

    async def post(self, event: Event) -> None:
        self.posts.append(event)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            async with asyncio.timeout(SINK_SECONDS):
                headers = {"content-type": STRUCTURED}
                status, _ = await self.broker.ingress("POST", PATH, headers, write_event(event))
        except TimeoutError as error:
            raise RetryLater("no answer") from error
        finally:
            self.under_way -= 1
        assert status == 202


async def delay(_method: str, _path: str) -> Response | None:
    """An API server takes its time."""
    await asyncio.sleep(0.05)
    return None


def behind(foreign: list[Trigger], case: Callable[[World, Sink], Awaitable[None]]) -> None:
    """Run a case beside a `watch` that posts to a Broker, in a cluster of one node."""

    async def run(world: World) -> None:
        await world.add_nodes("a")
        await world.add_policy(push=[{"repository": f"{HOST}/shop/**"}])
        sink = Sink(world, foreign)
        async with world.watching(sink.post):
            await until(lambda: SYNC in sink.delivered)
            world.faults.append(delay)
            world.writes()
            await case(world, sink)

    run_in_world(run)


async def push_many(world: World, number: int) -> None:
    """Pushes to as many repositories, 20 a second."""
    pushes = []
    for index in range(number):
        pushes.append(asyncio.create_task(world.push(repository=f"shop/app{index}"), name="push"))
        await asyncio.sleep(0.05)
    for push in pushes:
        assert (await push).status_code == 202


def node_writes(world: World) -> int:
    return sum(("/configmaps" in path and "desired" in path) or "/configmaps?" in path for _, path in world.writes())


async def arrived(world: World, number: int) -> float:
    """Seconds until the node has so many lines."""
    began = world.monotonic()
    while len((await world.lines()).get("a", [])) < number:
        assert world.monotonic() - began < 60
        await asyncio.sleep(0.1)
    return world.monotonic() - began


def test_a_burst_of_pushes_writes_a_node_as_often_as_without_a_broker() -> None:
    writes: list[int] = []

    async def burst(world: World) -> None:
        await push_many(world, 60)
        assert await arrived(world, 60) < 1
        writes.append(node_writes(world))

    async def plain(world: World) -> None:
        await world.add_nodes("a")
        await world.add_policy(push=[{"repository": f"{HOST}/shop/**"}])
        async with world.watching():
            await asyncio.sleep(2)
            world.faults.append(delay)
            world.writes()
            await burst(world)

    run_in_world(plain)
    behind([], lambda world, _sink: burst(world))
    # When rounds begin differs by the moments at which answers come.
    assert abs(writes[1] - writes[0]) <= 3
    assert max(writes) <= 17


@in_world()
async def test_requests_that_arrive_side_by_side_are_handled_in_common_rounds(world: World) -> None:
    await world.add_nodes("a")
    await world.add_warmimage("first", f"{HOST}/shop/first:v1")
    await world.changed("WarmImage", "first")
    world.faults.append(delay)
    world.writes()
    requests = []
    for index in range(60):
        await world.add_warmimage(f"x{index}", f"{HOST}/shop/app{index}:v1")
        requests.append(asyncio.create_task(world.changed("WarmImage", f"x{index}"), name="event"))
        await asyncio.sleep(0.05)
    assert {(await request).status_code for request in requests} == {204}
    assert len((await world.lines())["a"]) == 61
    assert node_writes(world) <= 17


@pytest.mark.parametrize("kind", ["", CHANGED])
@pytest.mark.parametrize("subscriber", [unavailable, hanging])
def test_pushes_arrive_in_time_while_another_trigger_does_not_answer(subscriber: Any, kind: str) -> None:
    async def case(world: World, sink: Sink) -> None:
        for number in range(1, 17):
            await world.push(repository=f"shop/app{number}")
            assert await arrived(world, number) < 7
            await asyncio.sleep(15)
        assert sink.most_under_way <= OVERDUE_MAX + 6
        assert sink.buried == [] or subscriber is unavailable

    behind([Trigger(subscriber, {"type": kind} if kind else {}, RECORDED)], case)


def test_with_the_recorded_subscriber_pushes_arrive_within_two_seconds() -> None:
    async def case(world: World, sink: Sink) -> None:
        for number in range(1, 16):
            await world.push(repository=f"shop/app{number}")
            assert await arrived(world, number) < 2
        assert sink.under_way > 0

    behind([Trigger(unavailable, {"type": CHANGED}, RECORDED)], case)


def test_a_newer_push_of_the_same_tag_does_not_wait_for_the_answer_to_the_older_one() -> None:
    async def case(world: World, sink: Sink) -> None:
        await world.push(content="sha256:" + "a" * 64)
        await arrived(world, 1)
        await asyncio.sleep(1)
        await world.push(content="sha256:" + "b" * 64)
        began = world.monotonic()
        while "bbb" not in str((await world.desired("a") or {}).get("data")):
            assert world.monotonic() - began < 3
            await asyncio.sleep(0.1)
        assert sink.under_way >= 2

    behind([Trigger(hanging, {"type": CHANGED}, RECORDED)], case)


def test_an_event_that_no_handler_takes_becomes_a_dead_letter_and_is_made_good_by_the_next_sync() -> None:
    async def case(world: World, sink: Sink) -> None:
        broken = True

        async def outage(_method: str, path: str) -> Response | None:
            return Response(503, {}, b"{}") if broken and "configmaps" in path else None

        world.faults.append(outage)
        await world.push()
        await until(lambda: CHANGED in sink.buried, seconds=240)
        broken = False
        assert await until(lambda: sink.delivered.count(SYNC) > 1, seconds=300)
        await arrived(world, 1)

    behind([], case)


def test_events_that_are_late_are_logged_once_a_minute() -> None:
    async def case(world: World, _sink: Sink) -> None:
        for number in range(8):
            await world.push(repository=f"shop/app{number}")
            await asyncio.sleep(30)
        lines = [entry for entry in structlog.get_config()["processors"][0].entries if entry["event"] == "event-slow"]
        assert lines[0]["about"] == "changes"
        assert len(lines) <= 4

    behind([Trigger(unavailable, {"type": CHANGED}, RECORDED)], case)
