"""Share one read among the callers that arrive before it begins, or shortly after.

The API server looks at every WarmImage of a namespace for each list, whatever its selector. Without sharing, the lists
of pushes that come together would cost it more than their writes. A push that comes alone is read for at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable
from dataclasses import InitVar, dataclass, field
from typing import Final, Generic, TypeVar

from adapters.clock import Clock
from adapters.kubernetes.errors import Unavailable

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")

# What is read for may be part of a URL.
_MOST_ITEMS: Final = 100


@dataclass(slots=True, eq=False)
class _Flight(Generic[Item, Result]):
    """A read that callers share."""

    shared_until: float
    """By the monotonic clock, for callers whose item it reads for."""
    items: set[Item] = field(default_factory=set)
    begun: bool = False
    task: asyncio.Task[Result] | None = None

    def serves(self, item: Item, now: float) -> bool:
        """Whether a caller that wants `item` now may share it."""
        if self.task is not None and _failed(self.task):
            return False
        if not self.begun:
            return len(self.items) < _MOST_ITEMS
        return item in self.items and now < self.shared_until


@dataclass(eq=False)
class SingleFlight(Generic[Item, Result]):
    """Reads of one kind, a few at a time."""

    read: Callable[[Collection[Item]], Awaitable[Result]]
    clock: Clock
    at_once: InitVar[int]
    """Limit of concurrent reads. A read is shared until it begins, and `shared_seconds` from its first caller on."""
    shared_seconds: float = 0.0
    timeout_seconds: float | None = None
    _last: _Flight[Item, Result] | None = None

    def __post_init__(self, at_once: int) -> None:
        self._turns = asyncio.Semaphore(at_once)

    async def get(self, item: Item) -> Result:
        """What is read for `item`, and for what others want at the same time.

        Raises as the read does, and `Unavailable` where that takes longer than the timeout.
        """
        now, flight = self.clock.monotonic(), self._last
        if flight is None or not flight.serves(item, now):
            flight = self._last = _Flight(now + self.shared_seconds)
        flight.items.add(item)
        if flight.task is None:
            flight.task = asyncio.create_task(self._run(flight), name="shared read")
            flight.task.add_done_callback(_failed)
        # Shielded: that one caller gives up must not fail the others.
        return await asyncio.shield(flight.task)

    async def _run(self, flight: _Flight[Item, Result]) -> Result:
        async with self._turns:
            flight.begun = True
            try:
                # One read that gets no answer must not hold up all that come after it.
                async with asyncio.timeout(self.timeout_seconds):
                    return await self.read(flight.items)
            except TimeoutError as error:
                raise Unavailable(f"no answer to a read within {self.timeout_seconds or 0:g} seconds") from error


def _failed(task: asyncio.Task[Result]) -> bool:
    """Whether it ended without a result; looked at even where every caller has given up."""
    return task.done() and (task.cancelled() or task.exception() is not None)
