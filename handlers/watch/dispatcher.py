"""Send what is pending as CloudEvents, a few at once, each until it is taken."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from handlers.posting import Post, Refused, RetryLater
from handlers.watch.work_queue import Batch, What, WorkQueue
from warmhook.events import CHANGES_MAX, Event, changed_event, reported_event, sync_event
from warmhook.ports import Sleep, Utcnow

__all__ = ["OVERDUE_MAX", "Dispatcher"]

_log = structlog.get_logger()

_AT_ONCE: Final[dict[What, int]] = {"changes": 4, "reports": 1, "sync": 1}
"""Events at a time, without those that are overdue: a large projection must not hold up a small one."""
_OVERDUE_SECONDS: Final = 2.0
"""After this an event is overdue: others no longer wait for it, and its keys, if they change again, are sent again. A
Broker that answers when the slowest subscriber has may have delivered it long before."""
OVERDUE_MAX: Final = 200
"""Events under way beyond which no other is sent."""
_CHANGES_GATHER_SECONDS: Final = 0.2
"""While an event is under way another is sent so long after the last: what comes in crowds is sent, read and written
together, which costs the API server a fraction."""
_GATHER_SECONDS_PER_OVERDUE: Final = 0.05
"""The more events are overdue the longer others are gathered. If each took 270 seconds, 140 would be under way."""
_REPORTS_GATHER_SECONDS: Final = 0.3
"""From the first report to the event that names it: nodes report in crowds, and pushes come first."""
_REPORT_SECONDS: Final = 1.0
"""Between two events about reports: a status is written once for all."""
_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 5.0
# From here on the log has said it often enough.
_MOST_FAILURES: Final = 8
# An answer that takes longer is worth a line, once in so many seconds.
_SLOW_SECONDS: Final = 5.0
_SLOW_LOG_SECONDS: Final = 60.0


@dataclass(slots=True, eq=False)
class _UnderWay:
    """An event that was sent and not answered."""

    batch: Batch
    overdue: bool = False


@dataclass(slots=True)
class Dispatcher:
    """Empties `WorkQueue`, for ever."""

    pending: WorkQueue
    post: Post
    now: Utcnow
    monotonic: Callable[[], float]
    sleep: Sleep
    rng: random.Random
    _running: dict[What, int] = field(default_factory=lambda: dict.fromkeys(_AT_ONCE, 0))
    """Events under way that are not overdue."""
    _overdue: int = 0
    _syncs: int = 0
    _failures: int = 0
    """Events in a row that were not taken."""
    _pause: float = 0.0
    """After the last of them, in seconds."""
    _slow_logged: float = float("-inf")
    """When an answer that took long was last logged, on the monotonic clock."""
    _gathering: set[What] = field(default_factory=set)
    """For what it is waited whether more comes."""
    _gathered: bool = False
    """Whether the reports that are pending have been waited for."""

    async def run(self) -> None:
        """Send whatever becomes pending; ends only when it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                for what in _AT_ONCE:
                    while self._may_begin(what, group) and (batch := self.pending.take(what, CHANGES_MAX)):
                        self._begin(batch, group)
                await self.pending.news()

    def _may_begin(self, what: What, group: asyncio.TaskGroup) -> bool:
        """Whether an event may be sent now; if not, this is asked again when that may have changed."""
        if self._running[what] >= _AT_ONCE[what] or self._overdue >= OVERDUE_MAX:
            return False
        if what == "changes":
            return what not in self._gathering or not (self._running[what] or self._overdue)
        if what == "reports" and self.pending.waits(what):
            if not self._gathered:
                self._gather(what, _REPORTS_GATHER_SECONDS, group)
                return False
            self._gathered = False
        return True

    def _begin(self, batch: Batch, group: asyncio.TaskGroup) -> None:
        self._running[batch.what] += 1
        if batch.what == "changes":
            self._gather(batch.what, _CHANGES_GATHER_SECONDS, group)
        under_way = _UnderWay(batch)
        limit = group.create_task(self._expire(under_way), name=f"limit {batch.what}")
        group.create_task(self._send(under_way, limit), name=f"send {batch.what}")

    def _gather(self, what: What, seconds: float, group: asyncio.TaskGroup) -> None:
        async def wait() -> None:
            await self.sleep(max(seconds, _GATHER_SECONDS_PER_OVERDUE * self._overdue))
            self._gathering.discard(what)
            self._gathered |= what == "reports"
            self.pending.look_again()

        if what not in self._gathering:
            self._gathering.add(what)
            group.create_task(wait(), name=f"gather {what}")

    async def _expire(self, under_way: _UnderWay) -> None:
        """After a while let others be sent, and keys of this event once more. A sync may take long and names no key."""
        if under_way.batch.what == "sync":
            return
        await self.sleep(_OVERDUE_SECONDS)
        under_way.overdue = True
        self._running[under_way.batch.what] -= 1
        self._overdue += 1
        self.pending.release(under_way.batch)

    async def _send(self, under_way: _UnderWay, limit: asyncio.Task[None]) -> None:
        """Post one event; if it is not taken its keys are pending again after a while, and others go first."""
        batch, again = under_way.batch, True
        try:
            try:
                again = await self._post(batch)
                if batch.what == "reports" and not again:
                    await self.sleep(_REPORT_SECONDS)
            finally:
                limit.cancel()
                if under_way.overdue:
                    self._overdue -= 1
                else:
                    self._running[batch.what] -= 1
                self.pending.look_again()
            if again:
                await self.sleep(self._pause)
        finally:
            self.pending.ended(batch, again=again)

    async def _post(self, batch: Batch) -> bool:
        """Whether the keys are to be sent again."""
        began = self.monotonic()
        try:
            await self.post(self._event(batch))
        except Refused as error:
            # A repeat would be refused again; the next sync looks at everything anyway.
            _log.error("event-refused", about=batch.what, keys=len(batch.words), problem=str(error))
        except RetryLater as error:
            self._delayed(batch, error, self.monotonic() - began)
            return True
        if self._is_slow(seconds := self.monotonic() - began):
            _log.warning("event-slow", about=batch.what, keys=len(batch.words), seconds=round(seconds, 1))
        self._failures = 0
        return False

    def _delayed(self, batch: Batch, error: RetryLater, seconds: float) -> None:
        """Count and log an event that was not taken, and decide how long to wait."""
        wait = min(_FIRST_WAIT_SECONDS * 2**self._failures, _LONGEST_WAIT_SECONDS) * self.rng.uniform(0.5, 1.0)
        self._pause = min(max(error.retry_after_seconds or 0.0, wait), _LONGEST_WAIT_SECONDS)
        self._failures = min(self._failures + 1, _MOST_FAILURES)
        # One failure is an everyday thing, unless it took long.
        if 1 < self._failures < _MOST_FAILURES or (self._failures == 1 and self._is_slow(seconds)):
            _log.warning(
                "event-delayed", about=batch.what, keys=len(batch.words), seconds=round(seconds, 1), problem=str(error)
            )

    def _is_slow(self, seconds: float) -> bool:
        """Whether an answer took long and none that did was logged lately."""
        if seconds <= _SLOW_SECONDS or self.monotonic() - self._slow_logged < _SLOW_LOG_SECONDS:
            return False
        self._slow_logged = self.monotonic()
        return True

    def _event(self, batch: Batch) -> Event:
        moment = self.now()
        if batch.what == "sync":
            self._syncs += 1
            return sync_event(int(moment.timestamp()) * 1000 + self._syncs % 1000, moment)
        if batch.what == "reports":
            return reported_event(batch.warmimages, moment)
        return changed_event(batch.changes, moment)
