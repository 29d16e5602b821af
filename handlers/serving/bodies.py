"""Read request bodies within limits of size and time.

Slow senders must not keep others out: if all bodies together are too large, the oldest is dropped, never the newest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Final

BODY_BYTES: Final = 1024 * 1024
"""Limit of one body, also when it is decompressed."""
_ALL_BYTES: Final = 64 * 1024 * 1024
# A slower body holds a connection for nothing.
_SECONDS: Final = 10.0


class BadBody(Exception):
    """The body was not read; the reason is for the delivery's log line."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason


@dataclass(slots=True, eq=False)
class _Incoming:
    """A body that is being read."""

    deadline: asyncio.Timeout
    size: int = 0
    dropped: bool = False


class Bodies:
    """Counts bytes as they arrive, because a sender's Content-Length is only a claim."""

    def __init__(self, *, one_bytes: int = BODY_BYTES, all_bytes: int = _ALL_BYTES, seconds: float = _SECONDS) -> None:
        self._one_bytes, self._all_bytes, self._seconds = one_bytes, all_bytes, seconds
        self._incoming: dict[_Incoming, None] = {}
        """Oldest first."""
        self._held_bytes = 0
        """The bytes of all of them."""

    async def read(self, parts: AsyncIterable[bytes]) -> bytes:
        """The whole body. Raises `BadBody`."""
        body = bytearray()
        incoming = _Incoming(asyncio.timeout(self._seconds))
        self._incoming[incoming] = None
        try:
            async with incoming.deadline:
                async for part in parts:
                    if incoming.dropped:
                        break
                    body += part
                    incoming.size += len(part)
                    self._held_bytes += len(part)
                    if incoming.size > self._one_bytes:
                        raise BadBody(413, "too-large", f"at most {self._one_bytes} bytes")
                    self._make_room()
        except TimeoutError:
            if not incoming.dropped:
                raise BadBody(408, "slow-body", f"the body did not arrive within {self._seconds:.0f} seconds") from None
        finally:
            self._remove(incoming)
        if incoming.dropped:
            raise BadBody(503, "busy", "too many bodies at once, try again")
        return bytes(body)

    def _make_room(self) -> None:
        while self._held_bytes > self._all_bytes:
            oldest = next(iter(self._incoming))
            oldest.dropped = True
            oldest.deadline.reschedule(asyncio.get_running_loop().time())
            self._remove(oldest)

    def _remove(self, incoming: _Incoming) -> None:
        if incoming in self._incoming:
            del self._incoming[incoming]
            self._held_bytes -= incoming.size
            incoming.size = 0
