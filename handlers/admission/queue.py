"""Keep what admission saw until it can be handed on: bounded, folded, and dropped rather than waited for."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, TypeAlias

import structlog

from adapters.kubernetes.client import Unavailable
from warmhook.events import Event
from warmhook.ports import Sleep

__all__ = ["HAND_ON_AT_ONCE", "HAND_ON_MAX", "POSTS_MAX", "QUEUE_MAX", "Added", "AdmissionQueue", "Handle"]

_log = structlog.get_logger()

QUEUE_MAX: Final = 1000
"""Events that wait; what comes when there are so many is dropped."""
HAND_ON_MAX: Final = 50
"""Events of one namespace that the handlers of this process take at once."""
HAND_ON_AT_ONCE: Final = 8
"""Batches that they take side by side."""
POSTS_MAX: Final = 64
"""Posts under way at once: a Broker answers each when its slowest subscriber has."""
_FOLD_SECONDS: Final = 30.0
"""For so long a repeat is taken for the event that it repeats."""
_FOLDED_MAX: Final = 10_000
# As long as a Broker that starts knows of none and answers 404, and the API server may take to restart.
_TRY_SECONDS: Final = 60.0
_LONGEST_WAIT_SECONDS: Final = 5.0

Added: TypeAlias = Literal["queued", "folded", "dropped"]
Handle: TypeAlias = Callable[[Sequence[Event]], Awaitable[object]]
"""To the handlers. Raises `Unavailable` where that may work later."""


class AdmissionQueue:
    """The one queue of `web` in memory: a Pod's creation may not wait until something is written."""

    def __init__(
        self,
        hand_on: Handle,
        *,
        monotonic: Callable[[], float],
        sleep: Sleep,
        count: Callable[[str], None] = lambda _result: None,
        most: int = HAND_ON_MAX,
        at_once: int = 1,
    ) -> None:
        """`count` is told what became of each event after it was queued: `handled` or `failed`.

        At most `most` events of a namespace are handed on together, and as many of these batches as `at_once` says side
        by side. A namespace has no more of them under way than are free: what fails in it is tried for a minute.
        """
        self._hand_on = hand_on
        self._monotonic = monotonic
        self._sleep = sleep
        self._count = count
        self._most = most
        self._at_once = at_once
        self._under_way: Counter[str] = Counter()
        """Batches by namespace."""
        self._queues: dict[str, deque[tuple[bytes, Event]]] = {}
        """By namespace; the one whose turn it is comes first, and none is empty."""
        self._length = 0
        self._known: dict[bytes, float] = {}
        """What was queued lately, oldest first: until when a repeat of it is folded."""
        self._news = asyncio.Event()

    def __len__(self) -> int:
        """How many wait."""
        return self._length

    def add(self, event: Event) -> Added:
        """Take in one event, at once."""
        now, key, namespace = self._monotonic(), _key(event), _namespace(event)
        if self._known.get(key, now) > now:
            return "folded"
        if self._length >= QUEUE_MAX and not self._made_room(namespace):
            return "dropped"
        self._known.pop(key, None)
        self._known[key] = now + _FOLD_SECONDS
        if len(self._known) > _FOLDED_MAX:
            del self._known[next(iter(self._known))]
        self._queues.setdefault(namespace, deque()).append((key, event))
        self._length += 1
        self._news.set()
        return "queued"

    def _made_room(self, namespace: str) -> bool:
        """Drop the newest event of the namespace that has most, if that is another one."""
        longest = max(self._queues, key=lambda one: len(self._queues[one]))
        if len(self._queues[longest]) <= len(self._queues.get(namespace, ())) + 1:
            return False
        key, event = self._queues[longest].pop()
        self._length -= 1
        self._known.pop(key, None)
        self._tell("failed", [event])
        return True

    async def run(self) -> None:
        """Hand on whatever is queued; ends only when it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                while (namespace := self._next()) is not None:
                    batch = self._take(namespace)
                    self._under_way[namespace] += 1
                    group.create_task(self._settle(namespace, batch), name="hand on")
                await self._news.wait()

    def _next(self) -> str | None:
        """The namespace of which a batch may begin now."""
        free = self._at_once - self._under_way.total()
        return next((namespace for namespace in self._queues if self._under_way[namespace] < free), None)

    def _take(self, namespace: str) -> list[tuple[bytes, Event]]:
        queue = self._queues.pop(namespace)
        batch = [queue.popleft() for _ in range(min(self._most, len(queue)))]
        self._length -= len(batch)
        if queue:
            self._queues[namespace] = queue
        return batch

    async def _settle(self, namespace: str, batch: Sequence[tuple[bytes, Event]]) -> None:
        handed_on = await self._handed_on([event for _, event in batch])
        self._under_way[namespace] -= 1
        if not self._under_way[namespace]:
            del self._under_way[namespace]
        self._news.set()
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


def _namespace(event: Event) -> str:
    return str(event.data.get("namespace"))


def _key(event: Event) -> bytes:
    """Equal for Pods of one owner with the same images and constraints; what else they say may differ."""
    said = [event.id, *(event.data.get(name) for name in ("nodeSelector", "affinity", "tolerations"))]
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).digest()
