"""How much of what nobody has vouched for yet is held in memory, and for how long?

Senders that trickle must not keep others out: when all bodies together are too large, the one that has been coming for
longest gives way, never the newcomer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Final

__all__ = ["BODY_BYTES", "BadBody", "Bodies"]

BODY_BYTES: Final = 1024 * 1024
"""Of one body, also when it is decompressed."""
_ALL_BYTES: Final = 64 * 1024 * 1024
# A body that trickles in slower than this holds a connection for nothing.
_SECONDS: Final = 10.0


class BadBody(Exception):
    """The body is not taken; the reason is for the delivery's log line."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason


@dataclass(slots=True, eq=False)
class _Coming:
    """A body on its way."""

    deadline: asyncio.Timeout
    size: int = 0
    gave_way: bool = False


class Bodies:
    """Reads bodies within limits, counted while they come: a sender's Content-Length is only a claim."""

    def __init__(self, *, one_bytes: int = BODY_BYTES, all_bytes: int = _ALL_BYTES, seconds: float = _SECONDS) -> None:
        self._one_bytes, self._all_bytes, self._seconds = one_bytes, all_bytes, seconds
        self._coming: dict[_Coming, None] = {}
        """Oldest first."""
        self._held_bytes = 0
        """Of all of them."""

    async def read(self, parts: AsyncIterable[bytes]) -> bytes:
        """The whole body. Raises `BadBody`."""
        body = bytearray()
        coming = _Coming(asyncio.timeout(self._seconds))
        self._coming[coming] = None
        try:
            async with coming.deadline:
                async for part in parts:
                    if coming.gave_way:
                        break
                    body += part
                    coming.size += len(part)
                    self._held_bytes += len(part)
                    if coming.size > self._one_bytes:
                        raise BadBody(413, "too-large", f"at most {self._one_bytes} bytes")
                    self._make_room()
        except TimeoutError:
            if not coming.gave_way:
                raise BadBody(408, "slow-body", f"the body did not arrive within {self._seconds:.0f} seconds") from None
        finally:
            self._let_go(coming)
        if coming.gave_way:
            raise BadBody(503, "busy", "too many bodies at once, try again")
        return bytes(body)

    def _make_room(self) -> None:
        while self._held_bytes > self._all_bytes:
            oldest = next(iter(self._coming))
            oldest.gave_way = True
            oldest.deadline.reschedule(asyncio.get_running_loop().time())
            self._let_go(oldest)

    def _let_go(self, coming: _Coming) -> None:
        if coming in self._coming:
            del self._coming[coming]
            self._held_bytes -= coming.size
            coming.size = 0
