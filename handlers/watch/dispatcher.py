"""Send queued changes as CloudEvents, a few concurrently, each until it is accepted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from adapters.clock import Backoff, Clock
from adapters.logs import get_logger
from handlers.event_sink import Post, Refused, RetryLater
from handlers.watch.work_queue import Batch, Topic, WorkQueue
from warmhook.events import CHANGES_MAX, Event, changed_event, reported_event, sync_event

_log = get_logger()

_AT_ONCE: Final[dict[Topic, int]] = {"changes": 4, "reports": 1, "sync": 1}
"""Concurrent events, overdue ones not counted: a large projection must not delay a small one."""
_OVERDUE_SECONDS: Final = 2.0
"""After this an event is overdue: others no longer wait for it, and its keys are sent again if they change. A Broker
that answers after its slowest subscriber may have delivered it long before."""
OVERDUE_MAX: Final = 200
"""Limit of events in flight."""
_CHANGES_DEBOUNCE_SECONDS: Final = 0.2
"""While an event is under way another is sent so long after the last: many changes that are sent, read and written
together cost the API server a fraction."""
_DEBOUNCE_SECONDS_PER_OVERDUE: Final = 0.05
"""The more events are overdue the longer others are debounced. If each took 270 seconds, 140 would be under way."""
_REPORTS_DEBOUNCE_SECONDS: Final = 0.3
"""From the first report to its event: many nodes report at once, and pushes come first."""
_REPORT_SECONDS: Final = 1.0
"""The interval between two events about reports: a status is written once for all."""
_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 5.0
# Further failures in a row are not logged.
_FAILURES_LOGGED: Final = 8
# A slower answer is logged, once in so many seconds.
_SLOW_SECONDS: Final = 5.0
_SLOW_LOG_SECONDS: Final = 60.0


@dataclass(slots=True, eq=False)
class _UnderWay:
    """An event in flight."""

    batch: Batch
    overdue: bool = False


class EventDispatcher:
    """Empties a `WorkQueue` until cancelled."""

    def __init__(self, queue: WorkQueue, post: Post, clock: Clock) -> None:
        self._queue = queue
        self._post = post
        self._clock = clock
        self._backoff = Backoff(clock, first_seconds=_FIRST_WAIT_SECONDS, longest_seconds=_LONGEST_WAIT_SECONDS)
        self._running: dict[Topic, int] = dict.fromkeys(_AT_ONCE, 0)
        """Events in flight that are not overdue."""
        self._overdue = 0
        self._syncs = 0
        self._failures = 0
        """Failed events in a row."""
        self._slow_logged = float("-inf")
        """When a slow answer was last logged, on the monotonic clock."""
        self._debouncing: set[Topic] = set()
        """Topics currently being debounced."""
        self._debounced = False
        """Whether the reports that are queued were debounced."""

    async def run(self) -> None:
        """Send whatever is queued; ends only when it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                for topic in _AT_ONCE:
                    while self._may_begin(topic, group) and (batch := self._queue.get(topic, CHANGES_MAX)):
                        self._begin(batch, group)
                await self._queue.wait()

    def _may_begin(self, topic: Topic, group: asyncio.TaskGroup) -> bool:
        """Whether an event may be sent now; if not, the queue is woken when that may have changed."""
        if self._running[topic] >= _AT_ONCE[topic] or self._overdue >= OVERDUE_MAX:
            return False
        if topic == "changes":
            return topic not in self._debouncing or not (self._running[topic] or self._overdue)
        if topic == "reports" and self._queue.has(topic):
            if not self._debounced:
                self._debounce(topic, _REPORTS_DEBOUNCE_SECONDS, group)
                return False
            self._debounced = False
        return True

    def _begin(self, batch: Batch, group: asyncio.TaskGroup) -> None:
        self._running[batch.topic] += 1
        if batch.topic == "changes":
            self._debounce(batch.topic, _CHANGES_DEBOUNCE_SECONDS, group)
        under_way = _UnderWay(batch)
        limit = group.create_task(self._expire(under_way), name=f"limit {batch.topic}")
        group.create_task(self._send(under_way, limit), name=f"send {batch.topic}")

    def _debounce(self, topic: Topic, seconds: float, group: asyncio.TaskGroup) -> None:
        async def wait() -> None:
            await self._clock.sleep(max(seconds, _DEBOUNCE_SECONDS_PER_OVERDUE * self._overdue))
            self._debouncing.discard(topic)
            self._debounced |= topic == "reports"
            self._queue.wake()

        if topic not in self._debouncing:
            self._debouncing.add(topic)
            group.create_task(wait(), name=f"debounce {topic}")

    async def _expire(self, under_way: _UnderWay) -> None:
        """After a while let others be sent, and keys of this event again. A sync may take long and has no key."""
        batch = under_way.batch
        if batch.topic == "sync":
            return
        await self._clock.sleep(_OVERDUE_SECONDS)
        under_way.overdue = True
        self._running[batch.topic] -= 1
        self._overdue += 1
        self._queue.release(batch)

    async def _send(self, under_way: _UnderWay, limit: asyncio.Task[None]) -> None:
        """Send one event. If it is not taken its keys are queued again after a while, behind others."""
        batch, again = under_way.batch, True
        try:
            try:
                pause = await self._try(batch)
                again = pause is not None
                if batch.topic == "reports" and not again:
                    await self._clock.sleep(_REPORT_SECONDS)
            finally:
                limit.cancel()
                if under_way.overdue:
                    self._overdue -= 1
                else:
                    self._running[batch.topic] -= 1
                self._queue.wake()
            if pause is not None:
                await self._clock.sleep(pause)
        finally:
            self._queue.done(batch, again=again)

    async def _try(self, batch: Batch) -> float | None:
        """Post one event; in how many seconds its keys are to be sent again, `None` for never."""
        began = self._clock.monotonic()
        try:
            await self._post(self._event(batch))
        except Refused as error:
            # A repeat would be refused again; the next sync compares everything.
            _log.error("event-refused", about=batch.topic, keys=len(batch.items), problem=str(error))
        except RetryLater as error:
            return self._failed(batch, error, self._clock.monotonic() - began)
        if self._is_slow(seconds := self._clock.monotonic() - began):
            _log.warning("event-slow", about=batch.topic, keys=len(batch.items), seconds=round(seconds, 1))
        self._failures = 0
        self._backoff.reset()
        return None

    def _failed(self, batch: Batch, error: RetryLater, seconds: float) -> float:
        """Count and log an event that was not taken after so many seconds; how long to wait."""
        self._failures += 1
        # One failure is common, unless it took long.
        if 1 < self._failures < _FAILURES_LOGGED or (self._failures == 1 and self._is_slow(seconds)):
            fields = {"about": batch.topic, "keys": len(batch.items), "seconds": round(seconds, 1)}
            _log.warning("event-delayed", **fields, problem=str(error))
        return self._backoff.seconds(error.retry_after_seconds)

    def _is_slow(self, seconds: float) -> bool:
        """Whether an answer took long and no other such answer was logged lately."""
        if seconds <= _SLOW_SECONDS or self._clock.monotonic() - self._slow_logged < _SLOW_LOG_SECONDS:
            return False
        self._slow_logged = self._clock.monotonic()
        return True

    def _event(self, batch: Batch) -> Event:
        now = self._clock.utcnow()
        if batch.topic == "sync":
            self._syncs += 1
            return sync_event(int(now.timestamp()) * 1000 + self._syncs % 1000, now)
        if batch.topic == "reports":
            return reported_event(batch.warmimages, now)
        return changed_event(batch.changes, now)
