"""Keep the blobs that this node is receiving, so that it can serve them before it has all of their bytes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from warmhook.images import is_digest

WINDOW_BYTES: Final = 4 * 1024 * 1024
"""The last bytes of a blob that stay in memory. Readers that are further behind read the spool file."""
_WINDOWS_BYTES: Final = 12 * 1024 * 1024
"""Of all blobs together."""
_SHARE: Final = 8
"""Pulls leave 20 % of a disk free, and below 15 % a kubelet removes images: copies for others must not go so far."""


class Incoming:
    """One blob that is being received, from its first byte on."""

    def __init__(
        self,
        digest: str,
        size_bytes: int,
        spool: int,
        offload: Callable[..., Awaitable[Any]],
        window_bytes: Callable[[], int],
    ) -> None:
        """`spool`: the descriptor of an open file, closed at the end. `window_bytes`: the most that is in memory."""
        self.digest, self.size_bytes = digest, size_bytes
        self.received_bytes = 0
        self.ended = False
        """Whether no more bytes come: it was committed, failed or was given up."""
        self._spool, self._offload, self._window_max = spool, offload, window_bytes
        self._window: deque[tuple[int, bytes]] = deque()
        self._window_bytes = 0
        self._changed = asyncio.Event()
        # No thread may use a descriptor that was closed meanwhile.
        self._using = threading.Lock()

    async def receive(self, offset: int, data: bytes) -> None:
        """Keep the bytes at `offset`; those that are known already are skipped. Raises `OSError` if the disk is full.

        `offset` is never beyond `received_bytes`. Nothing changes `data` afterwards.
        """
        if skipped := self.received_bytes - offset:
            data = data[skipped:]
        if self.ended or not data:
            return
        if not await self._offload(self._write, data, self.received_bytes):
            return
        self._window.append((self.received_bytes, data))
        self._window_bytes += len(data)
        while self._window_bytes > self._window_max() and len(self._window) > 1:
            self._window_bytes -= len(self._window.popleft()[1])
        self.received_bytes += len(data)
        self._notify()

    async def wait_beyond(self, offset: int) -> bool:
        """Wait until there are bytes at `offset`; false if the blob ended.

        A blob that was committed is in the content store, from which a reader continues at its offset. The last byte
        comes from there only: whoever has all bytes of a blob from this node has what this node has verified.
        """
        while not self.ended and self.readable_bytes <= offset:
            await self._changed.wait()
        return not self.ended

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """At most `length` bytes at `offset`, fewer if there are not more yet; empty if the blob ended.

        It reads the disk only for bytes before the window, and may be called in a thread.
        """
        length = min(length, self.readable_bytes - offset)
        for start, data in reversed(tuple(self._window)):
            if start <= offset < start + len(data):
                return memoryview(data)[offset - start : max(0, offset - start + length)]
        with self._using:
            return b"" if self.ended or length <= 0 else os.pread(self._spool, length, offset)

    @property
    def readable_bytes(self) -> int:
        """What `read` gives so far."""
        return min(self.received_bytes, self.size_bytes - 1)

    async def reserve(self) -> None:
        """Have room on the disk for all bytes. Raises `OSError` if there is none."""
        if self.size_bytes:
            await self._offload(self._allocate)

    def end(self) -> None:
        """End it: it was committed, or failed. Readers see no further byte."""
        with self._using:
            if not self.ended:
                self.ended = True
                os.close(self._spool)
        self._window.clear()
        self._notify()

    def _allocate(self) -> None:
        with self._using:
            if not self.ended:
                os.posix_fallocate(self._spool, 0, self.size_bytes)

    def _write(self, data: bytes, offset: int) -> bool:
        """Write to the disk; false if the blob ended."""
        with self._using:
            written = 0
            while not self.ended and written < len(data):
                written += os.pwrite(self._spool, memoryview(data)[written:], offset + written)
            return not self.ended

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class IncomingBlobs:
    """All blobs that are being received from their first byte on, while other nodes want them."""

    def __init__(self, folder: Path, offload: Callable[..., Awaitable[Any]] = asyncio.to_thread) -> None:
        """`folder` holds nothing but spool files."""
        self._folder, self._offload = folder, offload
        self._blobs: dict[str, Incoming] = {}

    def _window_bytes(self) -> int:
        return min(WINDOW_BYTES, _WINDOWS_BYTES // max(1, len(self._blobs)))

    def get(self, digest: str) -> Incoming | None:
        """The blob, if it is being received."""
        return self._blobs.get(digest)

    def remove_files(self) -> None:
        """Remove what an agent before left on the disk. Raises `OSError`."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder)

    @contextlib.asynccontextmanager
    async def receiving(self, digest: str, size_bytes: int) -> AsyncIterator[Incoming]:
        """A blob that is received in this context, from its first byte on. Raises `OSError` if there is no room.

        The file has its room on the disk at once, and is removed with the end of the context. All files together have
        at most an eighth of what is free without them.
        """
        if not is_digest(digest) or digest in self._blobs:
            raise ValueError(f"{digest!r} is no digest, or is being received")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        others = sum(blob.size_bytes for blob in self._blobs.values())
        if others + size_bytes > (_free_bytes(self._folder) + others) // _SHARE:
            raise OSError(errno.ENOSPC, f"{size_bytes} bytes are too much of the free space", str(self._folder))
        path = self._folder / digest.replace(":", "-")
        spool = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        blob = self._blobs[digest] = Incoming(digest, size_bytes, spool, self._offload, self._window_bytes)
        try:
            await blob.reserve()
            yield blob
        finally:
            del self._blobs[digest]
            blob.end()
            with contextlib.suppress(OSError):
                path.unlink()


def _free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
