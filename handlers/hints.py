"""Keep what admission saw until it can be handed on: bounded, folded, and dropped rather than waited for."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, TypeAlias

import structlog

from adapters.kubernetes.client import Unavailable
from warmhook.events import Event
from warmhook.ports import Sleep

__all__ = ["HAND_ON_MAX", "POSTS_MAX", "QUEUE_MAX", "Added", "HandOn", "Hints"]

_log = structlog.get_logger()

QUEUE_MAX: Final = 1000
"""Events that wait; what comes when there are so many is dropped."""
HAND_ON_MAX: Final = 50
"""Events that the handlers of this process take at once."""
POSTS_MAX: Final = 64
"""Posts under way at once: a Broker answers each when its slowest subscriber has."""
_FOLD_SECONDS: Final = 30.0
"""For so long a repeat is taken for the event that it repeats."""
_FOLDED_MAX: Final = 10_000
# As long as a Broker that starts knows of none and answers 404, and the API server may take to restart.
_TRY_SECONDS: Final = 60.0
_LONGEST_WAIT_SECONDS: Final = 5.0

Added: TypeAlias = Literal["queued", "folded", "dropped"]
HandOn: TypeAlias = Callable[[Sequence[Event]], Awaitable[object]]
"""To the handlers. Raises `Unavailable` where that may work later."""


class Hints:
    """The one queue of `web` in memory: a Pod's creation may not wait until something is written."""

    def __init__(
        self,
        hand_on: HandOn,
        *,
        monotonic: Callable[[], float],
        sleep: Sleep,
        count: Callable[[str], None] = lambda _result: None,
        most: int = HAND_ON_MAX,
        at_once: int = 1,
    ) -> None:
        """`count` is told what became of each event after it was queued: `handled` or `failed`.

        At most `most` events are handed on together, and as many of these batches as `at_once` says side by side.
        """
        self._hand_on = hand_on
        self._monotonic = monotonic
        self._sleep = sleep
        self._count = count
        self._most = most
        self._turns = asyncio.Semaphore(at_once)
        self._queue: deque[tuple[bytes, Event]] = deque()
        self._known: dict[bytes, float] = {}
        """What was queued lately, oldest first: until when a repeat of it is folded."""
        self._news = asyncio.Event()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue)

    def add(self, event: Event) -> Added:
        """Take in one event, at once."""
        now, key = self._monotonic(), _key(event)
        if self._known.get(key, now) > now:
            return "folded"
        if len(self._queue) >= QUEUE_MAX:
            return "dropped"
        self._known.pop(key, None)
        self._known[key] = now + _FOLD_SECONDS
        if len(self._known) > _FOLDED_MAX:
            del self._known[next(iter(self._known))]
        self._queue.append((key, event))
        self._news.set()
        return "queued"

    async def run(self) -> None:
        """Hand on whatever is queued; ends only when it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._turns.acquire()
                while not self._queue:
                    self._news.clear()
                    await self._news.wait()
                batch = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
                group.create_task(self._settle(batch), name="hand on")

    async def _settle(self, batch: Sequence[tuple[bytes, Event]]) -> None:
        handed_on = await self._handed_on([event for _, event in batch])
        self._turns.release()
        if not handed_on:
            for key, _ in batch:
                # The next Pod of that owner is another chance.
                self._known.pop(key, None)

    async def _handed_on(self, events: Sequence[Event]) -> bool:
        wait, until = 1.0, self._monotonic() + _TRY_SECONDS
        while True:
            try:
                await self._hand_on(events)
            except Unavailable as error:
                if self._monotonic() >= until:
                    _log.warning("hints-dropped", events=len(events), problem=str(error))
                    break
                await self._sleep(min(error.retry_after_seconds or wait, _LONGEST_WAIT_SECONDS))
                wait *= 2
            except Exception:
                # Whatever it is, it must not end the queue for everybody who comes later.
                _log.exception("hints-failed", events=len(events))
                break
            else:
                self._tell("handled", events)
                return True
        self._tell("failed", events)
        return False

    def _tell(self, result: str, events: Sequence[Event]) -> None:
        for _ in events:
            self._count(result)


def _key(event: Event) -> bytes:
    """Equal for Pods of one owner with the same images and constraints; what else they say may differ."""
    said = [event.id, *(event.data.get(name) for name in ("nodeSelector", "affinity", "tolerations"))]
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).digest()
