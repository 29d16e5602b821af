"""Read a blob of an image from its parents, one after the other at any byte, and then from the registry."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, TypeAlias

from adapters.clock import Clock
from nodeagent.peers.parents import SLOW_BYTES, SLOW_SECONDS, Parents, Search
from warmhook.hints import Hint, Peer
from warmhook.ports import NotHere, NotYet, Part, PeerBlobs, RegistryBlobs, SourceFailed, SourceRefuses

_IN_TIME_SHARE: Final = 0.5
"""A parent is too slow if a blob would take more of the time that its hint has left."""
_REGISTRY_FAILURES_MAX: Final = 3
"""Of one blob, since an answer with `SLOW_BYTES`."""
_REGISTRY_PAUSE_SECONDS: Final = 1.0


class NoSource(Exception):
    """Neither a parent nor the registry gives the blob: the runtime has to pull it."""


class _TooSlow(SourceFailed):
    """The bytes of the source come too slowly."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a blob, after those of the piece before; after a new start from its first byte on."""

    offset: int
    data: bytes
    sender: Peer | None
    """`None`: the registry."""
    first: bool
    """Of an answer: those that follow are of the same one."""


Keep: TypeAlias = Callable[[Piece], Awaitable[None]]


class Sources:
    """The sources of one image."""

    def __init__(
        self, line_key: str, hint: Hint, peers: PeerBlobs, registry: RegistryBlobs | None, clock: Clock
    ) -> None:
        """`registry`: `None` if the agent does not read it."""
        self._line_key, self._peers, self._registry, self._clock = line_key, peers, registry, clock
        self._parents = Parents(hint.parents, clock)
        self._ends_at = clock.monotonic() + hint.expires_at - clock.utcnow().timestamp()

    def distrust(self, senders: Iterable[Peer | None]) -> None:
        """They sent a blob that has another digest: ask them no more; the registry only if it sent all of it."""
        parents = [sender for sender in senders if sender is not None]
        for parent in parents:
            self._parents.drop(parent)
        if not parents:
            self._registry = None

    async def read_whole(self, digest: str, limit_bytes: int, *, manifest: bool) -> tuple[bytes, Peer | None]:
        """A small blob with this digest, and who sent it. Raises `NoSource`."""
        body, senders = bytearray(), set[Peer | None]()

        async def keep(piece: Piece) -> None:
            del body[piece.offset :]
            body.extend(piece.data)
            senders.clear()
            senders.add(piece.sender)

        while True:
            await self._receive(_Wanted(digest, limit_bytes, whole=True, manifest=manifest), keep)
            if f"sha256:{hashlib.sha256(body).hexdigest()}" == digest:
                return bytes(body), next(iter(senders), None)
            self.distrust(senders)

    async def receive(self, digest: str, size_bytes: int, offset: int, keep: Keep) -> None:
        """Have the bytes of a layer from `offset` on kept, in order. Raises `NoSource`, and what `keep` raises."""
        await self._receive(_Wanted(digest, size_bytes, offset), keep)

    async def _receive(self, wanted: _Wanted, keep: Keep) -> None:
        await self._from_parents(wanted, keep)
        await self._from_registry(wanted, keep)
        if not wanted.complete:
            raise NoSource(wanted.digest)

    async def _from_parents(self, wanted: _Wanted, keep: Keep) -> None:
        search = Search(self._parents)
        while not wanted.complete and not search.over:
            peer = search.next()
            if peer is None:
                await self._clock.sleep(self._clock.jitter(search.next_round()))
                continue
            before = wanted.received_bytes
            try:
                source = self._peers.read(peer, self._line_key, wanted.digest, wanted.next_offset)
                await self._read(source, wanted, peer, keep)
            except NotYet:
                search.not_yet(peer)
            except NotHere:
                search.not_here(peer)
            except _TooSlow:
                self._parents.too_slow(peer)
            except SourceFailed:
                self._parents.failed(peer)
            search.came(wanted.received_bytes - before)

    async def _from_registry(self, wanted: _Wanted, keep: Keep) -> None:
        failures = 0
        while not wanted.complete and self._registry is not None and failures < _REGISTRY_FAILURES_MAX:
            before = wanted.received_bytes
            try:
                await self._read(self._registry_part(self._registry, wanted), wanted, None, keep)
            except SourceRefuses:
                self._registry = None
            except SourceFailed:
                failures = 1 if wanted.received_bytes - before >= SLOW_BYTES else failures + 1
                await self._clock.sleep(self._clock.jitter(failures * _REGISTRY_PAUSE_SECONDS))

    def _registry_part(self, registry: RegistryBlobs, wanted: _Wanted) -> AbstractAsyncContextManager[Part]:
        if wanted.manifest:
            return registry.manifest(wanted.digest)
        return registry.blob(wanted.digest, wanted.next_offset)

    async def _read(
        self, source: AbstractAsyncContextManager[Part], wanted: _Wanted, sender: Peer | None, keep: Keep
    ) -> None:
        """Keep the bytes of one source. Raises `SourceFailed` also if it is slow, or has a blob of another size."""
        async with source as part:
            wanted.begin(part.size_bytes)
            mark, first = self._mark(wanted, sender), True
            async for data in part.data:
                piece, first = Piece(wanted.offset, data, sender, first), False
                wanted.add(len(data))
                if sender is not None:
                    self._parents.gave(sender, len(data))
                await keep(piece)
                if self._clock.monotonic() >= mark.at + SLOW_SECONDS:
                    mark = self._check_speed(mark, wanted, sender)
            if not wanted.complete:
                raise SourceFailed("ended too early")

    def _mark(self, wanted: _Wanted, sender: Peer | None) -> _Mark:
        given = 0 if sender is None else self._parents.given[sender]
        return _Mark(self._clock.monotonic(), wanted.received_bytes, given)

    def _check_speed(self, mark: _Mark, wanted: _Wanted, sender: Peer | None) -> _Mark:
        """Raises `_TooSlow`."""
        now = self._mark(wanted, sender)
        if now.received_bytes - mark.received_bytes < SLOW_BYTES:
            raise _TooSlow
        if sender is not None:
            # It may give several blobs at once. What comes after the end of the hint is lost with the lease, and a
            # kubelet that wants the image waits until then.
            rate = (now.given_bytes - mark.given_bytes) / (now.at - mark.at)
            if wanted.missing_bytes > rate * _IN_TIME_SHARE * (self._ends_at - now.at):
                raise _TooSlow
        return now


@dataclass(frozen=True, slots=True)
class _Mark:
    """How much has come at a time."""

    at: float
    """In monotonic seconds."""
    received_bytes: int
    """Of the blob."""
    given_bytes: int
    """By the parent, of all blobs."""


class _Wanted:
    """A blob, and how much of it has come."""

    def __init__(
        self, digest: str, size_bytes: int, offset: int = 0, *, whole: bool = False, manifest: bool = False
    ) -> None:
        """`whole`: its size is at most `size_bytes` and not 0, and each source begins with its first byte."""
        self.digest, self.offset, self.manifest = digest, offset, manifest
        self._whole, self._limit = whole, size_bytes
        self._size: int | None = None if whole else size_bytes
        self.received_bytes = 0
        """From all sources, also if some of them came twice."""

    @property
    def complete(self) -> bool:
        """Whether all has come."""
        return self.offset == self._size

    @property
    def missing_bytes(self) -> int:
        """What has not come yet."""
        return (self._size or 0) - self.offset

    @property
    def next_offset(self) -> int:
        """Where the next source begins."""
        return 0 if self._whole else self.offset

    def begin(self, size_bytes: int) -> None:
        """A source begins, and says how large the blob is. Raises `SourceFailed` if that cannot be."""
        if self._whole and 0 < size_bytes <= self._limit:
            self._size, self.offset = size_bytes, 0
        elif size_bytes != self._size:
            raise SourceFailed("has a blob of another size")

    def add(self, count: int) -> None:
        """So many bytes came. Raises `SourceFailed` if they are too many."""
        if self._size is None or self.offset + count > self._size:
            raise SourceFailed("sends more than it announced")
        self.offset += count
        self.received_bytes += count
