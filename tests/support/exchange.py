"""Fetch images from other nodes in memory: parents and a registry with faults, and a `MemoryContentStore`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
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
from tests.support.content import MemoryContentStore
from tests.support.instant import loop_clock
from tests.support.runtime import MemoryRuntime
from warmhook.hints import Child, Hint, Peer
from warmhook.images import Reference, parse_reference
from warmhook.platforms import Platform
from warmhook.ports import (
    Credentials,
    ImageFilesystem,
    NotHere,
    NotYet,
    Part,
    RegistryBlobs,
    SourceFailed,
    SourceRefuses,
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


# --- the runtime ------------------------------------------------------------------------------------------------------


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
        self.content, self.peers = MemoryContentStore(), Peers()
        self.registry, self.runtime = Registry(), Runtime()
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
