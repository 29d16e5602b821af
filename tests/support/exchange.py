"""Fetch images from other nodes in memory: a content store, parents and a registry, all with faults."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from adapters.clock import Clock
from devcluster.registry.images import Image
from nodeagent.peers.exchange import Exchange, Fetched, Order
from nodeagent.peers.incoming import IncomingBlobs
from nodeagent.peers.transfer import fetch_image
from tests.support.instant import loop_clock
from tests.support.runtime import MemoryRuntime
from warmhook.hints import Child, Hint, Peer
from warmhook.images import Reference, parse_reference
from warmhook.platforms import Platform
from warmhook.ports import (
    AlreadyThere,
    Busy,
    Content,
    Credentials,
    ImageFilesystem,
    NotHere,
    NotYet,
    Part,
    RegistryBlobs,
    RuntimeUnreachable,
    SourceFailed,
    SourceRefuses,
    Writer,
    WrongDigest,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
EXPIRES = int((START + timedelta(hours=1)).timestamp())
LINE = "0123456789abcdef"
PIECE = 1000
"""Bytes that a source sends at once."""


def digest_of(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def blobs_of(image: Image) -> dict[str, bytes]:
    """Everything of an image by digest."""
    found = {image.digest: image.manifest} | {digest_of(blob): blob for blob in image.blobs}
    for child in image.children:
        found |= blobs_of(child)
    return found


def layers_of(image: Image) -> list[str]:
    return [digest_of(layer) for layer in image.blobs[1:]]


# --- the content store -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class MemoryWriter:
    """Writes one blob of a `MemoryContent`."""

    store: MemoryContent
    ref: str
    digest: str
    size_bytes: int

    @property
    def offset(self) -> int:
        return len(self.store.ingests[self.ref])

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        self.store.check()
        await asyncio.sleep(self.store.write_seconds)
        self.store.check()
        if 0 < self.store.full < sum(self.store.written.values()):
            raise RuntimeUnreachable("memory://: UNKNOWN: write /data: no space left on device")
        self.store.ingests[self.ref] += data
        self.store.written[self.digest] += len(data)

    async def restart(self) -> None:
        self.store.check()
        self.store.ingests[self.ref] = bytearray()

    async def commit(self, labels: Mapping[str, str]) -> None:
        self.store.check()
        body = bytes(self.store.ingests.pop(self.ref))
        if digest_of(body) != self.digest or len(body) != self.size_bytes:
            raise WrongDigest(self.digest)
        self.store.blobs[self.digest] = body


@dataclass(slots=True)
class MemoryContent:
    """containerd's content store, with its leases and snapshots."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    ingests: dict[str, bytearray] = field(default_factory=dict)
    held: dict[str, set[str]] = field(default_factory=dict)
    """Lease to its digests."""
    ends: dict[str, datetime] = field(default_factory=dict)
    """Lease to its end."""
    snapshots: set[str] = field(default_factory=set)
    locked: set[str] = field(default_factory=set)
    written: Counter[str] = field(default_factory=Counter)
    """Digest to all bytes that were written for it."""
    write_seconds: float = 0.0
    full: int = 0
    """Bytes for which the disk has room; 0: no limit."""
    error: Exception | None = None
    """What every call raises."""

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    async def info(self, digest: str) -> Content | None:
        self.check()
        return Content(digest, len(self.blobs[digest])) if digest in self.blobs else None

    async def read(self, digest: str, offset: int, size_bytes: int) -> AsyncGenerator[bytes, None]:
        self.check()
        yield self.blobs[digest][offset : offset + size_bytes]

    @contextlib.asynccontextmanager
    async def open_writer(self, ref: str, digest: str, size_bytes: int, lease: str) -> AsyncIterator[Writer]:
        self.check()
        self.held[lease].add(digest)
        if digest in self.blobs:
            raise AlreadyThere(digest)
        if ref in self.locked:
            raise Busy(ref)
        self.locked.add(ref)
        self.ingests.setdefault(ref, bytearray())
        try:
            yield MemoryWriter(self, ref, digest, size_bytes)
        finally:
            self.locked.discard(ref)

    async def abort(self, ref: str) -> None:
        self.check()
        self.ingests.pop(ref, None)

    async def create_lease(self, lease: str, expires_at: datetime) -> None:
        self.check()
        self.held.setdefault(lease, set())
        self.ends.setdefault(lease, expires_at)

    async def add_to_lease(self, lease: str, digest: str) -> None:
        self.check()
        self.held[lease].add(digest)

    async def delete_lease(self, lease: str) -> None:
        self.check()
        self.held.pop(lease, None)

    async def leases(self) -> list[str]:
        self.check()
        return list(self.held)

    async def has_snapshot(self, snapshotter: str, chain_id: str) -> bool:
        self.check()
        return snapshotter == "overlayfs" and chain_id in self.snapshots


@dataclass(slots=True)
class Runtime(MemoryRuntime):
    """A runtime with the snapshotter `overlayfs`."""

    async def filesystems(self) -> list[ImageFilesystem]:
        return [ImageFilesystem("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs", 0)]


# --- sources ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Source:
    """The blobs of a parent or a registry, and what is wrong with it."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, int]] = field(default_factory=list)
    """Digest and offset of each."""
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes by digest."""
    error: Exception | None = None
    """What every request raises."""
    breaks_after: dict[str, int] = field(default_factory=dict)
    """Bytes of a blob, from its first byte on, after which the source breaks off."""
    expects: bool = False
    """Whether it says of a blob that it has not got that it will have it."""
    corrupt: set[str] = field(default_factory=set)
    """Digests of blobs that come with a wrong byte."""
    piece_seconds: float = 0.0
    """Before each piece."""
    piece_bytes: int = PIECE
    after_piece: Callable[[str, int], None] = lambda _digest, _offset: None

    @contextlib.asynccontextmanager
    async def read(self, digest: str, offset: int) -> AsyncIterator[Part]:
        self.requests.append((digest, offset))
        await asyncio.sleep(0.001)
        if self.error is not None:
            raise self.error
        if digest not in self.blobs:
            raise (NotYet if self.expects else NotHere)(digest)
        body = self.blobs[digest]
        if digest in self.corrupt:
            body = bytes([body[0] ^ 1]) + body[1:]
        yield Part(len(body), self._pieces(digest, body, offset))

    async def _pieces(self, digest: str, body: bytes, offset: int) -> AsyncIterator[bytes]:
        end = self.breaks_after.get(digest, len(body))
        while offset < end:
            await asyncio.sleep(self.piece_seconds)
            if self.error is not None:
                raise SourceFailed("broken off")
            piece = body[offset : min(end, offset + self.piece_bytes)]
            offset += len(piece)
            self.sent[digest] += len(piece)
            yield piece
            self.after_piece(digest, offset)
        if end < len(body):
            raise SourceFailed("broken off")


@dataclass(slots=True)
class Peers:
    """Other nodes by name."""

    nodes: dict[str, Source] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)

    def read(self, peer: Peer, line_key: str, digest: str, offset: int) -> contextlib.AbstractAsyncContextManager[Part]:
        assert line_key == LINE
        return self.nodes[peer.node].read(digest, offset)

    async def done(self, peer: Peer, line_key: str) -> None:
        self.finished.append(peer.node)


class Registry(Source):
    """A registry; one without a blob refuses."""

    def manifest(self, digest: str) -> contextlib.AbstractAsyncContextManager[Part]:
        return self.blob(digest, 0)

    @contextlib.asynccontextmanager
    async def blob(self, digest: str, offset: int) -> AsyncIterator[Part]:
        try:
            async with self.read(digest, offset) as part:
                yield part
        except NotHere as error:
            raise SourceRefuses(digest) from error


# --- a node ----------------------------------------------------------------------------------------------------------


class Node:
    """A node that fetches images."""

    def __init__(self, folder: Path, parents: Sequence[str] = (), children: Sequence[str] = ()) -> None:
        self.clock: Clock = loop_clock(START)
        self.content, self.peers, self.registry, self.runtime = MemoryContent(), Peers(), Registry(), Runtime()
        self.parents = [self.peers.nodes.setdefault(name, Source()) for name in parents]
        self.hint = Hint(
            EXPIRES,
            parents=tuple(Peer(name, "10.0.0.5:9465", "k" * 43) for name in parents),
            children=tuple(Child(name, "k" * 43) for name in children),
        )
        self.progress: list[int] = []
        self.incoming = IncomingBlobs(folder / "incoming", _here)
        self.exchange = Exchange(
            self.content,
            self.peers,
            self._open_registry,
            self.incoming,
            self.runtime,
            Platform("linux", "amd64"),
            self.clock,
            structlog.get_logger(),
        )

    @contextlib.asynccontextmanager
    async def _open_registry(
        self, image: Reference, credentials: Sequence[Credentials]
    ) -> AsyncIterator[RegistryBlobs]:
        assert image.host == "registry.example.com"
        yield self.registry

    def order(self, image: Image, name: str = "shop") -> Order:
        """The image by the hint of this node."""
        return Order(LINE, parse_reference(f"registry.example.com/{name}:1"), image.digest, self.hint)

    async def fetch(self, image: Image) -> Fetched:
        """Fetch the image."""
        return await fetch_image(
            self.exchange,
            self.order(image),
            lambda fetched: self.progress.append(fetched.peer_bytes + fetched.registry_bytes),
        )

    @property
    def leased(self) -> set[str]:
        """The digests that any lease keeps."""
        return set[str]().union(*self.content.held.values())

    def has(self, image: Image) -> bool:
        """Whether every blob of the image is there, and kept."""
        return blobs_of(image).items() <= self.content.blobs.items() and blobs_of(image).keys() <= self.leased


async def _here(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


def unreachable() -> RuntimeUnreachable:
    return RuntimeUnreachable("memory://: nobody answers")
