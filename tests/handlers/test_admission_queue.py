"""Admissions are handled once and in order, and are dropped rather than waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

import pytest
import structlog

from adapters.kubernetes.errors import Unavailable
from handlers.admission.queue import BATCHES_MAX, POSTS_MAX, QUEUE_MAX, AdmissionQueue
from tests.support.instant import instant, loop_clock
from warmhook.admission_review import Admitted
from warmhook.events import Event, admitted_event
from warmhook.images import parse_reference
from warmhook.timestamps import parse_time

NOW = parse_time("2026-03-01T12:00:00Z")


def event(number: int, namespace: str = "shop", **selector: str) -> Event:
    image = parse_reference(f"ghcr.io/a/b:v{number}")
    return admitted_event(Admitted(namespace, "Deployment/web", (image,), node_selector=selector), NOW)


class Queue:
    """The queue, what was handed on, and what became of it."""

    def __init__(self, fault: Callable[[int], BaseException | None] = lambda _attempt: None) -> None:
        self.handed: list[Event] = []
        self.counted: list[str] = []
        self.attempts = 0
        self.fault = fault
        self.hints = AdmissionQueue(self.hand_on, loop_clock(NOW), self.counted.append)

    async def hand_on(self, events: Sequence[Event]) -> None:
        self.attempts += 1
        if (error := self.fault(self.attempts)) is not None:
            raise error
        self.handed += events


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@contextlib.asynccontextmanager
async def running(hints: AdmissionQueue) -> AsyncIterator[None]:
    task = asyncio.create_task(hints.run(), name="hints")
    yield
    task.cancel()
    await asyncio.wait({task})


async def drained(queue: Queue, seconds: float = 100) -> None:
    async with running(queue.hints):
        await asyncio.sleep(seconds)


@instant
async def test_queued_events_are_handled_in_order() -> None:
    queue = Queue()
    events = [event(number) for number in range(120)]
    assert [queue.hints.add(one) for one in events] == ["queued"] * 120
    await drained(queue)
    assert (queue.handed, queue.attempts) == (events, 3)
    assert queue.counted == ["handled"] * 120


@instant
async def test_a_repeat_is_folded_for_a_while_and_other_constraints_are_no_repeat() -> None:
    queue = Queue()
    assert queue.hints.add(event(1)) == "queued"
    assert queue.hints.add(replace(event(1), time=parse_time("2026-03-01T12:00:09Z"))) == "folded"
    assert queue.hints.add(event(1, pool="web")) == "queued"
    await drained(queue)
    assert queue.hints.add(event(1)) == "queued"


@instant
async def test_the_queue_never_holds_more_than_its_limit() -> None:
    queue = Queue()
    added = [queue.hints.add(event(number)) for number in range(QUEUE_MAX + 10)]
    assert added == ["queued"] * QUEUE_MAX + ["dropped"] * 10
    assert len(queue.hints) == QUEUE_MAX
    await drained(queue)
    # What was dropped was not remembered either.
    assert queue.hints.add(event(QUEUE_MAX)) == "queued"


@instant
async def test_an_event_that_cannot_be_handled_is_tried_again_and_then_dropped() -> None:
    once = Queue(lambda attempt: Unavailable("down") if attempt == 1 else None)
    once.hints.add(event(1))
    await drained(once)
    assert once.counted == ["handled"]
    never = Queue(lambda _attempt: Unavailable("down", retry_after_seconds=3600))
    never.hints.add(event(1))
    async with running(never.hints):
        await asyncio.sleep(59)
        assert never.counted == []
        await asyncio.sleep(2)
        assert (never.counted, never.attempts) == (["failed"], 13)
    # The next Pod of that owner is another chance, at once.
    assert never.hints.add(event(1)) == "queued"


@instant
async def test_a_broker_that_is_not_there_yet_costs_no_hint() -> None:
    loop = asyncio.get_running_loop()
    queue = Queue(lambda _attempt: Unavailable("404") if loop.time() < 40 else None)
    queue.hints.add(event(1))
    await drained(queue)
    assert queue.counted == ["handled"]


@instant
async def test_one_post_that_hangs_holds_up_no_other() -> None:
    handed: list[Event] = []

    async def hand_on(events: Sequence[Event]) -> None:
        await asyncio.sleep(31.8 if events == [event(0)] else 0.01)
        handed.extend(events)

    hints = AdmissionQueue(hand_on, loop_clock(NOW), batch_max=1, batches_max=POSTS_MAX)
    async with running(hints):
        for number in range(200):
            hints.add(event(number))
        await asyncio.sleep(1)
        assert len(handed) == 199
        await asyncio.sleep(32)
        assert len(handed) == 200


@instant
async def test_an_error_of_one_event_does_not_end_the_queue() -> None:
    queue = Queue(lambda attempt: KeyError("a bug") if attempt == 1 else None)
    queue.hints.add(event(1))
    async with running(queue.hints):
        await asyncio.sleep(1)
        queue.hints.add(event(2))
        await asyncio.sleep(1)
        assert (queue.handed, queue.counted) == ([event(2)], ["failed", "handled"])


@pytest.mark.parametrize("hangs", [False, True])
@instant
async def test_pods_of_a_namespace_that_cannot_be_written_keep_those_of_no_other_waiting(hangs: bool) -> None:
    loop = asyncio.get_running_loop()
    handed: dict[str, float] = {}

    async def hand_on(events: Sequence[Event]) -> None:
        if events[0].data["namespace"] == "other":
            await asyncio.sleep(27 if hangs else 0)
            raise Unavailable("failed calling webhook")
        handed.update({one.id: loop.time() for one in events})

    hints = AdmissionQueue(hand_on, loop_clock(NOW), batches_max=BATCHES_MAX)
    async with running(hints):
        for second in range(100):
            for number in range(10):
                hints.add(event(10 * second + number, "other"))
            await asyncio.sleep(1)
            hints.add(event(second))
            added = loop.time()
            await asyncio.sleep(0.1)
            assert handed[event(second).id] == added


@instant
async def test_a_namespace_that_fills_the_queue_makes_room_for_another() -> None:
    queue = Queue()
    assert [queue.hints.add(event(number, "other")) for number in range(QUEUE_MAX)] == ["queued"] * QUEUE_MAX
    assert queue.hints.add(event(1)) == "queued"
    assert (len(queue.hints), queue.counted) == (QUEUE_MAX, ["failed"])
    assert queue.hints.add(event(QUEUE_MAX, "other")) == "dropped"
    await drained(queue)
    assert event(1).id in {one.id for one in queue.handed}
    assert len(queue.handed) == QUEUE_MAX
