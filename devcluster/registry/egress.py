"""How fast may the registry send, all connections together?"""

from __future__ import annotations

from collections.abc import Callable

from warmhook.ports import Sleep

__all__ = ["Egress"]


class Egress:
    """A token bucket without burst: each chunk is booked behind the ones before it, whoever asked for them."""

    def __init__(self, bytes_per_second: float, *, monotonic: Callable[[], float], sleep: Sleep) -> None:
        self.bytes_per_second = bytes_per_second
        """0 = no limit."""
        self._monotonic = monotonic
        self._sleep = sleep
        self._free_at = 0.0

    async def take(self, size_bytes: int) -> None:
        """Return once that many bytes may go."""
        if not self.bytes_per_second:
            return
        now = self._monotonic()
        self._free_at = max(now, self._free_at) + size_bytes / self.bytes_per_second
        await self._sleep(self._free_at - now)
