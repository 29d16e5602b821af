"""Coalesce requests that arrive together: while a few rounds run, the next round gathers their items.

A Broker delivers each event by itself, and a round writes each node that differs once, for all of its items. A request
that comes alone starts at once, and an item that hangs delays no item of another round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeAlias, TypeVar

from adapters.kubernetes.errors import Unavailable
from warmhook.ports import Sleep

Item = TypeVar("Item", bound=Hashable)
Work: TypeAlias = Callable[[Mapping[Item, int]], Awaitable[Mapping[Item, Exception]]]
"""Handles items, each with the highest named resourceVersion (0: none), and returns the problems by item."""

_GATHER_SECONDS: Final = 0.2
"""While a round runs, another starts so long after the last."""
_ITEMS_MAX: Final = 500


@dataclass(slots=True)
class _Waiting:
    """An item that waits for a round."""

    version: int
    ended: asyncio.Future[Exception | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """The problem with the item, or `None`."""


@dataclass(eq=False)
class Coalescer(Generic[Item]):
    """Handles items of one kind; each is in one round at a time."""

    name: str
    work: Work[Item]
    at_once: int
    """Limit of concurrent rounds."""
    seconds: float
    """Limit of one round."""
    sleep: Sleep
    _waiting: dict[Item, _Waiting] = field(default_factory=dict)
    _running: set[Item] = field(default_factory=set)
    _rounds: set[asyncio.Task[None]] = field(default_factory=set)
    _gathering: asyncio.Task[None] | None = None

    async def join(self, items: Mapping[Item, int]) -> None:
        """Handle items, each with the resourceVersion at which it changed, and wait for their outcomes.

        Raises the problem of one of them, preferably one that a repeat may solve. If the caller is cancelled, the items
        are handled nevertheless.
        """
        futures = []
        for item, version in items.items():
            waiting = self._waiting.setdefault(item, _Waiting(version))
            waiting.version = max(waiting.version, version)
            futures.append(waiting.ended)
        if not futures:
            return
        self._begin()
        await asyncio.wait(futures)
        problems = [problem for future in futures if (problem := future.result()) is not None]
        if problems:
            raise next((problem for problem in problems if isinstance(problem, Unavailable)), problems[0])

    def _begin(self) -> None:
        """Start a round if one may begin now."""
        while len(self._rounds) < self.at_once and not (self._rounds and self._gathering):
            free = [item for item in self._waiting if item not in self._running][:_ITEMS_MAX]
            if not free:
                return
            taken = {item: self._waiting.pop(item) for item in free}
            self._running.update(taken)
            task = asyncio.create_task(self._round(taken), name=f"round of {self.name}")
            self._rounds.add(task)
            if self._gathering is None:
                self._gathering = asyncio.create_task(self._gather(), name=f"gather {self.name}")

    async def _gather(self) -> None:
        await self.sleep(_GATHER_SECONDS)
        self._gathering = None
        self._begin()

    async def _round(self, taken: Mapping[Item, _Waiting]) -> None:
        problems: Mapping[Item, Exception] = dict.fromkeys(taken, Unavailable("the process is ending"))
        try:
            async with asyncio.timeout(self.seconds):
                problems = await self.work({item: waiting.version for item, waiting in taken.items()})
        except TimeoutError:
            late = Unavailable("there was more to do than could be done in time", retry_after_seconds=1)
            problems = dict.fromkeys(taken, late)
        except Exception as error:
            problems = dict.fromkeys(taken, error)
        finally:
            for item, waiting in taken.items():
                waiting.ended.set_result(problems.get(item))
            self._running.difference_update(taken)
            if (task := asyncio.current_task()) is not None:
                self._rounds.discard(task)
        self._begin()
