"""Make pages in a thread, one at a time, so that probes and small answers do not wait for large pages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from handlers.ui.access import Busy

_WAITING_MAX: Final = 32
"""Pages that wait for their turn: one of a large cluster takes a few tenths of a second."""
_OF_ONE_READER: Final = 8


class RenderQueue:
    """Pages in the order in which they were asked for."""

    def __init__(self, offload: Callable[..., Awaitable[Any]] = asyncio.to_thread) -> None:
        self._offload, self._turn = offload, asyncio.Lock()
        self._waiting: Counter[str] = Counter()
        """By the name of the reader."""

    async def render(self, reader: str, make: Callable[..., str], *values: object) -> str:
        """What `make` returns for these values. Raises `Busy`."""
        of_one = _OF_ONE_READER if reader else _WAITING_MAX
        if self._waiting.total() >= _WAITING_MAX or self._waiting[reader] >= of_one:
            raise Busy
        self._waiting[reader] += 1
        try:
            async with self._turn:
                return cast("str", await self._offload(make, *values))
        finally:
            self._waiting[reader] -= 1
            if not self._waiting[reader]:
                del self._waiting[reader]
