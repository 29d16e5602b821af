"""Tell the handlers what is pending: post CloudEvents, a few at once, each until it is taken."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from adapters.cloudevents import BATCHED, write_batch
from handlers.watch.pending import Batch, Pending, What
from warmhook.events import Event, changed_event, reported_event, sync_event
from warmhook.ports import Sleep, Utcnow

__all__ = ["Post", "Refused", "Teller", "TryLater", "Write", "in_one_batch"]

_log = structlog.get_logger()

_MOST_KEYS: Final = 500
_AT_ONCE: Final[dict[What, int]] = {"changes": 4, "reports": 1, "sync": 1}
"""Requests at a time: a large projection must not hold up a small one."""
_CHANGES_GATHER_SECONDS: Final = 0.2
"""While one request runs another begins so long after the last: what comes in crowds is told, read and written
together, which costs the API server a fraction."""
_REPORTS_GATHER_SECONDS: Final = 0.3
"""From the first report to the request that tells of it: nodes report in crowds, and pushes come first."""
_REPORT_SECONDS: Final = 1.0
"""Between two requests that tell of reports: a status is written once for all."""
_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 5.0
# From here on the log has said it often enough.
_MOST_FAILURES: Final = 8


class TryLater(Exception):
    """The handlers could not take it now."""

    def __init__(self, problem: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(problem)
        self.retry_after_seconds = retry_after_seconds


class Refused(Exception):
    """The handlers will never take it."""


Post = Callable[[str, bytes], Awaitable[None]]
"""Post a body of a content type to `/events`. Raises `TryLater` or `Refused`."""

Write = Callable[[Sequence[Event]], list[tuple[str, bytes]]]
"""Content type and body of each request that tells of events."""


def in_one_batch(events: Sequence[Event]) -> list[tuple[str, bytes]]:
    """The handlers take all at once."""
    return [(BATCHED, write_batch(events))]


@dataclass(slots=True)
class Teller:
    """Empties `Pending`, for ever."""

    pending: Pending
    post: Post
    now: Utcnow
    sleep: Sleep
    rng: random.Random
    write: Write = in_one_batch
    _syncs: int = 0
    _failures: int = 0
    """Requests in a row that were not taken."""
    _pause: float = 0.0
    """After the last of them, in seconds."""
    _gathering: set[What] = field(default_factory=set)
    """Of which it is waited whether more comes."""
    _gathered: bool = False
    """Whether the reports that are pending have been waited for."""

    async def run(self) -> None:
        """Tell whatever becomes pending; ends only when it is cancelled."""
        async with asyncio.TaskGroup() as group:
            running: dict[What, int] = {"changes": 0, "reports": 0, "sync": 0}
            while True:
                for what, most in _AT_ONCE.items():
                    while (
                        running[what] < most
                        and self._may_begin(what, running[what], group)
                        and (batch := self.pending.take(what, _MOST_KEYS))
                    ):
                        running[what] += 1
                        group.create_task(self._tell(what, batch, running), name=f"tell {what}")
                        if what == "changes":
                            self._gather(what, _CHANGES_GATHER_SECONDS, group)
                await self.pending.news()

    def _may_begin(self, what: What, running: int, group: asyncio.TaskGroup) -> bool:
        """Whether it should not wait for more; who has to wait is asked again when that is over."""
        if what == "changes":
            return not running or what not in self._gathering
        if what == "reports" and self.pending.has_reports:
            if not self._gathered:
                self._gather(what, _REPORTS_GATHER_SECONDS, group)
                return False
            self._gathered = False
        return True

    def _gather(self, what: What, seconds: float, group: asyncio.TaskGroup) -> None:
        async def wait() -> None:
            await self.sleep(seconds)
            self._gathering.discard(what)
            self._gathered |= what == "reports"
            self.pending.look_again()

        if what not in self._gathering:
            self._gathering.add(what)
            group.create_task(wait(), name=f"gather {what}")

    async def _tell(self, what: What, batch: Batch, running: dict[What, int]) -> None:
        """Post one batch; where it is not taken give its keys back after a while, and let others go first meanwhile."""
        again = True
        try:
            try:
                again = await self._post(batch)
                if batch.warmimages and not again:
                    await self.sleep(_REPORT_SECONDS)
            finally:
                running[what] -= 1
                self.pending.look_again()
            if again:
                await self.sleep(self._pause)
        finally:
            self.pending.told(batch, again=again)

    async def _post(self, batch: Batch) -> bool:
        """Whether the keys are to be told again."""
        events = self._events(batch)
        try:
            for content_type, body in self.write(events):
                try:
                    await self.post(content_type, body)
                except Refused as error:
                    # A repeat would be refused again; the next sync looks at everything anyway.
                    _log.error("event-refused", events=len(events), problem=str(error))
        except TryLater as error:
            wait = min(_FIRST_WAIT_SECONDS * 2**self._failures, _LONGEST_WAIT_SECONDS) * self.rng.uniform(0.5, 1.0)
            self._pause = min(max(error.retry_after_seconds or 0.0, wait), _LONGEST_WAIT_SECONDS)
            self._failures = min(self._failures + 1, _MOST_FAILURES)
            if 1 < self._failures < _MOST_FAILURES:
                _log.warning("event-delayed", events=len(events), problem=str(error))
            return True
        self._failures = 0
        return False

    def _events(self, batch: Batch) -> list[Event]:
        moment = self.now()
        if batch.sync:
            self._syncs += 1
            return [sync_event(int(moment.timestamp()) * 1000 + self._syncs % 1000, moment)]
        if batch.warmimages:
            return [reported_event(batch.warmimages, moment)]
        return [changed_event(change, moment) for change in batch.changes]
