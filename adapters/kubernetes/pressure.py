"""How hard to press the API server: requests in flight, and bytes written per second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from warmhook.ports import Sleep

__all__ = ["ByteBudget", "InFlight"]

# Successes in a row after which one more request may be in flight.
_GROW_AFTER: Final = 20


class InFlight:
    """At most so many requests at once; half as many after a refusal, one more after a run of successes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = most
        self._successes = 0
        self._places = asyncio.Semaphore(most)
        self._surplus = 0
        """Places that a refusal took away and that are still held or free."""
        self._refusals = 0

    @property
    def limit(self) -> int:
        """How many may run at once now."""
        return self._limit

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Wait for a place and hold it; what it yields is for `refused`."""
        await self._places.acquire()
        while self._surplus:
            self._surplus -= 1
            await self._places.acquire()
        try:
            yield self._refusals
        finally:
            self._give_back()

    def refused(self, slot: int) -> None:
        """The server asked for less. Requests that were sent together and refused together count once."""
        if slot != self._refusals:
            return
        self._refusals += 1
        self._successes = 0
        less = max(1, self._limit // 2)
        self._surplus += self._limit - less
        self._limit = less

    def succeeded(self) -> None:
        """The server kept up."""
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


class ByteBudget:
    """At most so many bytes per second, over all writers of this process.

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
        """When all bytes written so far are paid."""

    async def wait(self) -> None:
        """Wait until earlier writes are paid, but for what one second allows."""
        if not self._rate:
            return
        while (ahead := self._free_at - self._monotonic()) > 1:
            await self._sleep(ahead - 1)

    def spend(self, size_bytes: int) -> None:
        """Account for an object of that size having been written."""
        if self._rate:
            self._free_at = max(self._free_at, self._monotonic()) + size_bytes / self._rate
