"""Read the blobs of this node for others: from the content store, or from the copy that is being received."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any, Final

from nodeagent.peers.incoming import WINDOW_BYTES, Incoming, IncomingBlobs
from warmhook.ports import ContentStore

CHUNK_BYTES: Final = 256 * 1024
"""What is sent and accounted for at once."""
_DISK_BYTES: Final = 1024 * 1024
"""What is read from the disk at once: a thread does it, and handing over costs more than reading."""
STALL_SECONDS: Final = 60.0
"""How long a reader waits for a blob that does not arrive. A child gives up after 10 seconds."""


class Gone(Exception):
    """The blob is not there any more, or did not arrive."""


class Blobs:
    """The blobs of one node."""

    def __init__(
        self,
        content: ContentStore,
        incoming: IncomingBlobs,
        offload: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self._content, self._incoming, self._offload = content, incoming, offload

    async def size(self, digest: str) -> int | None:
        """The bytes of a blob that is there or being received; `None` if it is neither."""
        arriving = self._incoming.get(digest)
        if arriving is not None:
            return arriving.size_bytes
        found = await self._content.info(digest)
        return found.size_bytes if found is not None else None

    async def read(self, digest: str, offset: int, length: int) -> AsyncGenerator[memoryview, None]:
        """A part of a blob, at most `CHUNK_BYTES` at once, as it arrives. Raises `Gone` and what the store raises."""
        end = offset + length
        arriving = self._incoming.get(digest)
        while arriving is not None and offset < end and await _has(arriving, offset):
            data = await self._received(arriving, offset, end - offset)
            if not data:
                break
            offset += len(data)
            for piece in _pieces(data):
                yield piece
        if offset < end:
            async with aclosing(self._stored(digest, offset, end)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _received(self, arriving: Incoming, offset: int, length: int) -> bytes | memoryview:
        if offset >= arriving.received_bytes - WINDOW_BYTES:
            return arriving.read(offset, min(length, CHUNK_BYTES))
        # It may have to be read from the disk.
        data: bytes | memoryview = await self._offload(arriving.read, offset, min(length, _DISK_BYTES))
        return data

    async def _stored(self, digest: str, offset: int, end: int) -> AsyncGenerator[memoryview, None]:
        if await self._content.info(digest) is None:
            raise Gone(digest)
        async with aclosing(self._content.read(digest, offset, end - offset)) as parts:
            async for part in parts:
                for piece in _pieces(part):
                    yield piece


def _pieces(data: bytes | memoryview) -> Iterator[memoryview]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield memoryview(data)[start : start + CHUNK_BYTES]


async def _has(arriving: Incoming, offset: int) -> bool:
    """Whether there are bytes at `offset` after a wait; false if the blob ended. Raises `Gone` if nothing comes."""
    try:
        async with asyncio.timeout(STALL_SECONDS):
            return await arriving.wait_beyond(offset)
    except TimeoutError as error:
        raise Gone(f"{arriving.digest} does not arrive") from error
