"""Limit the load on the API server: requests in flight and their order, and bytes written per second."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from warmhook.ports import Sleep

# Requests of one process at once, watches not counted: with 1,000 in flight from one ServiceAccount, API
# Priority and Fairness rejected 2,590 of 3,000 patches.
_MOST: Final = 32
# Places for urgent requests only.
_RESERVED: Final = 4
# Other requests in flight while urgent ones arrive: enough for a projection to continue, few enough that a small API
# server answers the urgent ones at once.
_BESIDE_URGENT: Final = 4
# The requests of one push, and the pushes of one sender, follow each other with gaps of this order.
_GAP_SECONDS: Final = 0.1

# Successes in a row after which one more request may be in flight.
_GROW_AFTER: Final = 20


class Lanes:
    """The requests of one process in flight: urgent ones start first, and others are few meanwhile.

    A sender waits for its answer, a projection has 20 seconds: without lanes the patches of a hundred nodes would be
    ahead of each request of the next push.

    A group is a namespace that is written to. It takes a place only while it holds fewer places than are free, so half
    of them if it is alone (dynamic thresholds, Choudhury and Hahne, IEEE/ACM Trans. Networking 1998): the webhooks of
    one namespace may hang, and a request that hangs holds its place for seconds.
    """

    def __init__(self) -> None:
        self._running = {True: 0, False: 0}
        """Requests in flight, by whether they are urgent."""
        self._held: Counter[tuple[bool, str]] = Counter()
        """The same by group; requests without a group are not counted."""
        self._waiting: dict[bool, deque[tuple[str, asyncio.Future[None]]]] = {True: deque(), False: deque()}
        self._gap: asyncio.TimerHandle | None = None
        """Set for a while after the last urgent request."""

    async def enter(self, *, urgent: bool, group: str = "") -> None:
        """Wait for a place; `leave` gives it back."""
        place = asyncio.get_running_loop().create_future()
        self._waiting[urgent].append((group, place))
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave(urgent=urgent, group=group)
            raise

    def leave(self, *, urgent: bool, group: str = "") -> None:
        """A request has ended."""
        self._running[urgent] -= 1
        if group:
            self._held[urgent, group] -= 1
            if not self._held[urgent, group]:
                del self._held[urgent, group]
        if urgent:
            if self._gap is not None:
                self._gap.cancel()
            self._gap = asyncio.get_running_loop().call_later(_GAP_SECONDS, self._gap_ended)
        self._admit()

    def _gap_ended(self) -> None:
        self._gap = None
        self._admit()

    def _admit(self) -> None:
        for urgent in (True, False):
            waiting, passed = self._waiting[urgent], deque[tuple[str, asyncio.Future[None]]]()
            while waiting and (free := self._free(urgent=urgent)) > 0:
                group, place = waiting.popleft()
                if place.done():
                    continue
                if group and self._held[urgent, group] >= free:
                    passed.append((group, place))
                    continue
                self._running[urgent] += 1
                if group:
                    self._held[urgent, group] += 1
                place.set_result(None)
            waiting.extendleft(reversed(passed))

    def _free(self, *, urgent: bool) -> int:
        if urgent:
            return _MOST - sum(self._running.values())
        urgent_come = self._running[True] or self._waiting[True] or self._gap is not None
        most = _BESIDE_URGENT if urgent_come else _MOST - _RESERVED
        return most - self._running[False]


class AdaptiveLimiter:
    """A limit on concurrent requests: half as many after a rejection, one more after a run of successes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = most
        self._successes = 0
        self._places = asyncio.Semaphore(most)
        self._surplus = 0
        """Places that a rejection removed and that are still held or free."""
        self._refusals = 0

    @property
    def limit(self) -> int:
        """The current limit."""
        return self._limit

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Wait for a place and hold it; the yielded value is for `refused`."""
        await self._places.acquire()
        while self._surplus:
            self._surplus -= 1
            await self._places.acquire()
        try:
            yield self._refusals
        finally:
            self._give_back()

    def refused(self, slot: int) -> None:
        """Count a rejection for overload. Requests that were sent and rejected together count once."""
        if slot != self._refusals:
            return
        self._refusals += 1
        self._successes = 0
        less = max(1, self._limit // 2)
        self._surplus += self._limit - less
        self._limit = less

    def succeeded(self) -> None:
        """Count a success."""
        self._successes += 1
        if self._successes >= _GROW_AFTER and self._limit < self._most:
            self._limit += 1
            self._successes = 0
            self._give_back()

    def _give_back(self) -> None:
        if self._surplus:
            self._surplus -= 1
        else:
            self._places.release()


class ByteRateLimiter:
    """A limit on bytes per second over all writers of this process.

    Every patch rewrites its whole object in etcd, which keeps all versions for five minutes: pushes to thousands of
    nodes could otherwise fill its quota and make the cluster read-only. The size is known only after a write, so a
    writer pays afterwards and the next one waits.
    """

    def __init__(self, bytes_per_second: int, *, monotonic: Callable[[], float], sleep: Sleep) -> None:
        """0 bytes per second means no limit."""
        self._rate = bytes_per_second
        self._monotonic = monotonic
        self._sleep = sleep
        self._free_at = monotonic()
        """The time at which all bytes written so far are paid."""

    async def wait(self) -> None:
        """Wait until earlier writes are paid, except the bytes of one second."""
        if not self._rate:
            return
        while (ahead := self._free_at - self._monotonic()) > 1:
            await self._sleep(ahead - 1)

    def spend(self, size_bytes: int) -> None:
        """Count the write of an object of that size."""
        if self._rate:
            self._free_at = max(self._free_at, self._monotonic()) + size_bytes / self._rate
