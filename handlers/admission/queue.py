"""Queue the Pods that admission saw until they are handled: bounded, without repeats, and never waited for."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from adapters.clock import Clock
from adapters.kubernetes.errors import Unavailable
from adapters.logs import get_logger
from handlers.event_sink import Post, RetryLater
from warmhook.events import Event

_log = get_logger()

QUEUE_MAX: Final = 1000
"""Events that wait; further ones are dropped."""
BATCH_MAX: Final = 50
"""Events of one namespace that the handlers of this process take in one batch."""
BATCHES_MAX: Final = 8
"""Batches that the handlers of this process take concurrently."""
POSTS_MAX: Final = 64
"""Concurrent posts: a Broker answers each after its slowest subscriber has answered."""
_FOLD_SECONDS: Final = 30.0
"""A repeat within this time is not queued again."""
_FOLDED_MAX: Final = 10_000
# A Broker that starts answers 404 for up to this time, and the API server may take as long to restart.
_TRY_SECONDS: Final = 60.0
_LONGEST_WAIT_SECONDS: Final = 5.0

Added: TypeAlias = Literal["queued", "folded", "dropped"]
Handle: TypeAlias = Callable[[Sequence[Event]], Awaitable[object]]
"""Handles events of one namespace. Raises `Unavailable` if that may work later."""


def forward(post: Post) -> Handle:
    """Hand events to another process, one by one."""

    async def handle(events: Sequence[Event]) -> None:
        for event in events:
            try:
                await post(event)
            except RetryLater as error:
                raise Unavailable(str(error), retry_after_seconds=error.retry_after_seconds) from error

    return handle


@dataclass(eq=False)
class AdmissionQueue:
    """The queue of admission, in memory: the creation of a Pod must not wait for a write."""

    handle: Handle
    clock: Clock
    count: Callable[[str], None] = lambda _result: None
    """Called with the result of each queued event: `handled` or `failed`."""
    batch_max: int = BATCH_MAX
    """Limit of events of one namespace in a batch."""
    batches_max: int = 1
    """Limit of batches that are handled concurrently.

    A namespace has no more batches under way than are free, because one that fails is tried for a minute.
    """
    _under_way: Counter[str] = field(default_factory=Counter)
    """Batches by namespace."""
    _queues: dict[str, deque[tuple[bytes, Event]]] = field(default_factory=dict)
    """By namespace; the next one comes first, and none is empty."""
    _length: int = 0
    _known: dict[bytes, float] = field(default_factory=dict)
    """Until when a repeat of an event that was queued lately is folded; oldest first."""
    _wakeup: asyncio.Event = field(default_factory=asyncio.Event)

    def __len__(self) -> int:
        """The number of events that wait."""
        return self._length

    def add(self, event: Event) -> Added:
        """Queue one event, without waiting."""
        now, key, namespace = self.clock.monotonic(), _key(event), str(event.data.get("namespace"))
        if self._known.get(key, now) > now:
            return "folded"
        if self._length >= QUEUE_MAX and not self._make_room(namespace):
            return "dropped"
        self._known.pop(key, None)
        self._known[key] = now + _FOLD_SECONDS
        if len(self._known) > _FOLDED_MAX:
            del self._known[next(iter(self._known))]
        self._queues.setdefault(namespace, deque()).append((key, event))
        self._length += 1
        self._wakeup.set()
        return "queued"

    def _make_room(self, namespace: str) -> bool:
        """Drop the newest event of the namespace with most events, if that is another one; whether one was dropped."""
        longest = max(self._queues, key=lambda name: len(self._queues[name]))
        if len(self._queues[longest]) <= len(self._queues.get(namespace, ())) + 1:
            return False
        key, event = self._queues[longest].pop()
        self._length -= 1
        self._known.pop(key, None)
        self._count_each("failed", [event])
        return True

    async def run(self) -> None:
        """Handle whatever is queued; ends only when it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wakeup.clear()
                while (namespace := self._next()) is not None:
                    batch = self._take(namespace)
                    self._under_way[namespace] += 1
                    group.create_task(self._settle(namespace, batch), name="handle admissions")
                await self._wakeup.wait()

    def _next(self) -> str | None:
        """A namespace whose next batch may begin now."""
        free = self.batches_max - self._under_way.total()
        return next((namespace for namespace in self._queues if self._under_way[namespace] < free), None)

    def _take(self, namespace: str) -> list[tuple[bytes, Event]]:
        queue = self._queues.pop(namespace)
        batch = [queue.popleft() for _ in range(min(self.batch_max, len(queue)))]
        self._length -= len(batch)
        if queue:
            self._queues[namespace] = queue
        return batch

    async def _settle(self, namespace: str, batch: Sequence[tuple[bytes, Event]]) -> None:
        handled = await self._is_handled([event for _, event in batch])
        self._under_way[namespace] -= 1
        if not self._under_way[namespace]:
            del self._under_way[namespace]
        self._wakeup.set()
        if not handled:
            for key, _ in batch:
                # The next Pod of that owner is another chance.
                self._known.pop(key, None)

    async def _is_handled(self, events: Sequence[Event]) -> bool:
        """Try for a minute; whether the events were handled."""
        wait, until = 1.0, self.clock.monotonic() + _TRY_SECONDS
        while True:
            try:
                await self.handle(events)
            except Unavailable as error:
                if self.clock.monotonic() >= until:
                    _log.warning("hints-dropped", events=len(events), problem=str(error))
                    break
                await self.clock.sleep(min(error.retry_after_seconds or wait, _LONGEST_WAIT_SECONDS))
                wait *= 2
            except Exception:
                # An error of one batch must not end the queue for all that come later.
                _log.exception("hints-failed", events=len(events))
                break
            else:
                self._count_each("handled", events)
                return True
        self._count_each("failed", events)
        return False

    def _count_each(self, result: str, events: Sequence[Event]) -> None:
        for _ in events:
            self.count(result)


def _key(event: Event) -> bytes:
    """Equal for Pods of one owner with the same images and constraints, whatever else differs."""
    identity = [event.id, *(event.data.get(name) for name in ("nodeSelector", "affinity", "tolerations"))]
    return hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).digest()
