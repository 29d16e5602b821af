"""Limit the bytes that a node sends to others in a second."""

from __future__ import annotations

from typing import Final

from adapters.clock import Clock

_BURST_SECONDS: Final = 0.25


class Pace:
    """The limit of one node. Senders take turns in the order in which they ask."""

    def __init__(self, bytes_per_second: int, clock: Clock) -> None:
        """0: no limit."""
        self._rate, self._clock = bytes_per_second, clock
        self._free_at = 0.0
        """When all bytes that were asked for have been sent at this rate."""

    async def take(self, count: int) -> None:
        """Wait until so many bytes may be sent."""
        if self._rate:
            now = self._clock.monotonic()
            self._free_at = max(self._free_at, now - _BURST_SECONDS)
            begin = self._free_at
            self._free_at += count / self._rate
            if begin > now:
                await self._clock.sleep(begin - now)
