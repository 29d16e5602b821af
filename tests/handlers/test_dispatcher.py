"""Events without an answer hold up no other event, and their number is bounded."""

from __future__ import annotations

import asyncio

import structlog

from handlers.event_sink import SINK_SECONDS, RetryLater
from handlers.watch.dispatcher import OVERDUE_MAX, EventDispatcher
from handlers.watch.work_queue import WorkQueue
from tests.handlers.world import START
from tests.support.instant import instantly, loop_clock
from warmhook.events import CHANGED, Changed, Event


def test_with_a_sink_that_never_answers_changes_are_still_sent_and_their_events_are_bounded() -> None:
    under_way = most = 0
    waited: dict[str, float] = {}

    async def run() -> None:
        loop = asyncio.get_running_loop()

        async def hang(event: Event) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            if event.type == CHANGED:
                for one in event.data["objects"]:
                    waited.setdefault(one["name"], loop.time() - float(one["resourceVersion"]))
            try:
                await asyncio.sleep(SINK_SECONDS)
                raise RetryLater("no answer")
            finally:
                under_way -= 1

        queue = WorkQueue()
        queue.open()
        dispatcher = EventDispatcher(queue, hang, loop_clock(START))
        task = asyncio.create_task(dispatcher.run(), name="dispatch")
        for number in range(2400):
            queue.changed(Changed("WarmImage", "shop", f"x{number}", resource_version=str(loop.time())))
            queue.reported(f"shop/x{number % 50}")
            await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait({task})

    with structlog.testing.capture_logs():
        instantly(run())
    assert len(waited) > 2380
    assert max(waited.values()) < 8
    assert 100 < most < 150 < OVERDUE_MAX
