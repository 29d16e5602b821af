"""containerd's content store and leases in memory, which are slow, busy or full if a test wants them to be.

`tests/contract/test_content.py` runs on it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from warmhook.ports import AlreadyThere, Busy, Content, NotContainerd, RuntimeUnreachable, Writer, WrongDigest


def unreachable() -> RuntimeUnreachable:
    """The fault of a runtime that is stopped."""
    return RuntimeUnreachable("memory://: nobody answers")


def absent() -> NotContainerd:
    """The fault of another runtime than containerd."""
    return NotContainerd("memory://: not containerd")


@dataclass(slots=True)
class MemoryContentStore:
    """Removes nothing by itself: `collect` does what containerd's garbage collection would do."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    labels: defaultdict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    """By digest."""
    ingests: dict[str, bytearray] = field(default_factory=dict)
    """By ref, what was written and not committed."""
    locked: set[str] = field(default_factory=set)
    """Refs that a client writes now."""
    held: dict[str, set[str]] = field(default_factory=dict)
    """By lease, the digests that it keeps."""
    expires_at: dict[str, datetime] = field(default_factory=dict)
    """By lease."""
    snapshots: set[tuple[str, str]] = field(default_factory=set)
    """Snapshotter and chain ID."""
    error: Exception | None = None
    """What every call raises."""
    write_seconds: float = 0.0
    """How long each write takes."""
    read_seconds: float = 0.0
    """How long each piece takes that is read."""
    piece_bytes: int = 1024 * 1024
    """Of a blob that is read."""
    free_bytes: int | None = None
    """The room on the disk; `None`: enough."""
    written: Counter[str] = field(default_factory=Counter)
    """By digest, the bytes that all its writers wrote."""

    def have(self, content: bytes) -> str:
        """The blob is there, as if a pull had fetched it; returns its digest."""
        digest = _digest_of(content)
        self.blobs[digest] = content
        return digest

    def collect(self, now: datetime, *, kept: frozenset[str] = frozenset()) -> None:
        """End expired leases, and remove the blobs that neither a lease nor `kept` names."""
        for lease, expires_at in list(self.expires_at.items()):
            if expires_at <= now:
                self._end(lease)
        held = kept.union(*self.held.values())
        self.blobs = {digest: blob for digest, blob in self.blobs.items() if digest in held}

    async def info(self, digest: str) -> Content | None:
        self._answer()
        blob = self.blobs.get(digest)
        return None if blob is None else Content(digest, len(blob), dict(self.labels[digest]))

    async def read(self, digest: str, offset: int, size_bytes: int) -> AsyncGenerator[bytes, None]:
        self._answer()
        end = offset + size_bytes
        if end > len(self._blob(digest)):
            raise RuntimeUnreachable(f"memory://: {digest} has no {end} bytes")
        for first in range(offset, end, self.piece_bytes):
            await asyncio.sleep(self.read_seconds)
            self._answer()
            yield self._blob(digest)[first : min(first + self.piece_bytes, end)]

    @contextlib.asynccontextmanager
    async def open_writer(self, ref: str, digest: str, size_bytes: int, lease: str) -> AsyncIterator[Writer]:
        self._answer()
        self._lease(lease)
        if digest in self.blobs:
            self.held[lease].add(digest)
            raise AlreadyThere(digest)
        if ref in self.locked:
            raise Busy(ref)
        self.locked.add(ref)
        try:
            yield _MemoryWriter(self, ref, digest, size_bytes, lease)
        finally:
            self.locked.discard(ref)

    async def abort(self, ref: str) -> None:
        self._answer()
        self.ingests.pop(ref, None)

    async def create_lease(self, lease: str, expires_at: datetime) -> None:
        self._answer()
        if lease not in self.held:
            self.held[lease], self.expires_at[lease] = set(), expires_at

    async def add_to_lease(self, lease: str, digest: str) -> None:
        self._answer()
        self._lease(lease).add(digest)

    async def delete_lease(self, lease: str) -> None:
        self._answer()
        self._end(lease)

    async def leases(self) -> list[str]:
        self._answer()
        return sorted(self.held)

    async def has_snapshot(self, snapshotter: str, chain_id: str) -> bool:
        self._answer()
        return (snapshotter, chain_id) in self.snapshots

    def _end(self, lease: str) -> None:
        self.held.pop(lease, None)
        self.expires_at.pop(lease, None)

    def _blob(self, digest: str) -> bytes:
        if digest not in self.blobs:
            raise RuntimeUnreachable(f"memory://: {digest} not found")
        return self.blobs[digest]

    def _lease(self, lease: str) -> set[str]:
        if lease not in self.held:
            raise RuntimeUnreachable(f"memory://: lease {lease} not found")
        return self.held[lease]

    def _answer(self) -> None:
        if self.error is not None:
            raise self.error


@dataclass(slots=True)
class _MemoryWriter:
    store: MemoryContentStore
    ref: str
    digest: str
    size_bytes: int
    lease: str

    @property
    def offset(self) -> int:
        return len(self.store.ingests.setdefault(self.ref, bytearray()))

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        self._answer()
        await asyncio.sleep(self.store.write_seconds)
        self._answer()
        if self.store.free_bytes is not None:
            if len(data) > self.store.free_bytes:
                raise RuntimeUnreachable("memory://: UNKNOWN: write /ingest/data: no space left on device")
            self.store.free_bytes -= len(data)
        self.store.ingests.setdefault(self.ref, bytearray()).extend(data)
        self.store.written[self.digest] += len(data)

    async def restart(self) -> None:
        self._answer()
        self.store.ingests.pop(self.ref, None)

    async def commit(self, labels: Mapping[str, str]) -> None:
        self._answer()
        content = bytes(self.store.ingests.pop(self.ref, b""))
        if len(content) != self.size_bytes or _digest_of(content) != self.digest:
            raise WrongDigest(self.digest)
        if self.digest in self.store.blobs:
            raise AlreadyThere(self.digest)
        self.store.blobs[self.digest] = content
        self.store.labels[self.digest].update(labels)
        self.store.held.setdefault(self.lease, set()).add(self.digest)

    def _answer(self) -> None:
        self.store._answer()


def _digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
