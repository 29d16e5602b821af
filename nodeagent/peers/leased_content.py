"""Read and write the blobs of one image in containerd's content store, kept by one lease, also while it restarts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from nodeagent.peers.exchange import Exchange, Order
from warmhook.node_report import clean_message
from warmhook.ports import AlreadyThere, Busy, PullFailed, RuntimeUnreachable

RESTART_SECONDS: Final = 30.0
"""A restart of containerd takes less; a transfer that gets on meanwhile has so long again."""
_AGAIN_SECONDS: Final = 1.0
_BUSY_SECONDS: Final = 0.25
# Linux ENOSPC and EDQUOT, at the end of an error of containerd.
_FULL: Final = ("no space left on device", "disk quota exceeded")
_Result = TypeVar("_Result")


class LeasedContent:
    """The content store, for one image."""

    def __init__(self, exchange: Exchange, order: Order, progress: Callable[[], int]) -> None:
        """`progress` grows while the transfer gets on."""
        self.store, self._clock, self._progress = exchange.content, exchange.clock, progress
        self._order = order

    @property
    def lease(self) -> str:
        """The name of the lease."""
        return self._order.lease

    async def open(self) -> None:
        """Have the lease."""
        await self.surviving(lambda: self.store.create_lease(self.lease, self._order.expires_at))

    async def has(self, digest: str) -> bool:
        """Whether the blob is there. It is kept from then on, also if it comes later."""

        async def look() -> bool:
            # First the lease: nothing may remove the blob in between.
            await self.store.add_to_lease(self.lease, digest)
            return await self.store.info(digest) is not None

        return await self.surviving(look)

    async def read(self, digest: str, limit_bytes: int) -> bytes | None:
        """A small blob; `None` if it is not there, or larger."""

        async def read() -> bytes | None:
            found = await self.store.info(digest)
            if found is None or found.size_bytes > limit_bytes:
                return None
            return b"".join([bytes(part) async for part in self.store.read(digest, 0, found.size_bytes)])

        return await self.surviving(read)

    async def write(self, ref: str, digest: str, body: bytes) -> None:
        """Write a small blob that has this digest."""

        async def write() -> None:
            try:
                async with self.store.open_writer(ref, digest, len(body), self.lease) as writer:
                    if writer.offset:
                        await writer.restart()
                    await writer.write(body)
                    await writer.commit({})
            except AlreadyThere:
                pass

        await self.surviving(write)

    async def surviving(self, work: Callable[[], Awaitable[_Result]]) -> _Result:
        """The result of `work`, which is repeated while containerd restarts, and while others write the same blob.

        Raises `RuntimeUnreachable` if containerd stays away, and `PullFailed` if its disk is full.
        """
        progress, since = self._progress(), self._clock.monotonic()
        while True:
            pause = _BUSY_SECONDS
            try:
                return await work()
            except Busy:
                since = self._clock.monotonic()
            except RuntimeUnreachable as error:
                if is_disk_full(error):
                    raise PullFailed("DiskFull", clean_message(str(error))) from error
                if self._progress() > progress:
                    progress, since = self._progress(), self._clock.monotonic()
                # A lease that has ended does not come back.
                if self._clock.monotonic() - since >= RESTART_SECONDS or self._clock.utcnow() >= self._order.expires_at:
                    raise
                pause = _AGAIN_SECONDS
            await self._clock.sleep(self._clock.jitter(pause))


def is_disk_full(error: BaseException) -> bool:
    """Whether the store could not write for want of space."""
    return str(error).lower().endswith(_FULL)
