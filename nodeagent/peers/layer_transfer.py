"""Fetch one layer into containerd, and let other nodes have its bytes while they come."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final

from nodeagent.peers.exchange import Exchange
from nodeagent.peers.incoming import Incoming
from nodeagent.peers.leased_content import LeasedContent, is_disk_full
from nodeagent.peers.sources import Keep, Piece, Sources
from warmhook.hints import Peer
from warmhook.image_blobs import Blob
from warmhook.ports import AlreadyThere, Busy, RuntimeUnreachable, Writer, WrongDigest

_DROP_SECONDS: Final = 5.0
_BLAMELESS_MAX: Final = 2


class LayerTransfer:
    """The transfer of one layer."""

    def __init__(
        self, exchange: Exchange, content: LeasedContent, sources: Sources, blob: Blob, *, serve: bool, came: Keep
    ) -> None:
        """`serve`: other nodes want it. `came` is called with each piece."""
        self._exchange, self._content, self._sources = exchange, content, sources
        self._blob, self._serve, self._came = blob, serve, came
        self._senders: set[Peer | None] = set()
        """Who sent the bytes that containerd has now; `None`: the registry."""
        self._answers = 0
        """In how many answers they came; 2 if a former attempt left some of them."""
        self._blameless = 0
        """How often the digest was wrong and nobody is known to have sent wrong bytes."""
        self._incoming: Incoming | None = None

    async def run(self) -> None:
        """Have the layer in containerd. Raises `NoSource`, `RuntimeUnreachable`, and `PullFailed` for a full disk.

        Bytes of other nodes stay in containerd only with the right digest: the runtime would go on from them.
        """
        there = False
        while not there:
            # After a wrong digest what others got was wrong, too: they begin again as well.
            async with AsyncExitStack() as serving:
                self._senders, self._answers, self._incoming = set(), 0, None
                there = await self._content.surviving(lambda serving=serving: self._attempt(serving))  # type: ignore[misc]  # mypy cannot infer defaults of lambdas

    async def _attempt(self, serving: AsyncExitStack) -> bool:
        """Whether the layer is there; false if it came with another digest."""
        digest, fetching = self._blob.digest, self._exchange.fetching
        if await self._content.has(digest):
            return True
        if digest in fetching:
            raise Busy
        fetching.add(digest)
        try:
            async with self._open_writer() as writer:
                offset = writer.offset
            await self._fill(offset, serving)
        except AlreadyThere:
            return True
        except WrongDigest:
            self._blame()
            return False
        finally:
            fetching.discard(digest)
        return True

    def _open_writer(self) -> AbstractAsyncContextManager[Writer]:
        blob, content = self._blob, self._content
        return content.store.open_writer(blob.ref, blob.digest, blob.size_bytes, content.lease)

    async def _begin(self, offset: int, serving: AsyncExitStack) -> None:
        """containerd has so many bytes."""
        if offset and not self._senders:
            self._answers = 2
        if self._incoming is not None and self._incoming.received_bytes < offset:
            self._incoming.end()
        if self._incoming is None and not offset:
            self._incoming = await self._show(serving)

    async def _fill(self, offset: int, serving: AsyncExitStack) -> None:
        """Fetch the rest. A pull of the kubelet waits for the writer, so it is opened when there is something to write.

        Raises `Busy` if another client has written meanwhile.
        """
        async with AsyncExitStack() as writing:
            writer: Writer | None = None

            async def keep(piece: Piece) -> None:
                nonlocal writer
                if writer is None:
                    writer = await writing.enter_async_context(self._open_writer())
                    if writer.offset != offset:
                        raise Busy
                    await self._begin(offset, serving)
                await self._keep(piece, writer)

            try:
                await self._sources.receive(self._blob.digest, self._blob.size_bytes, offset, keep)
                if writer is None:
                    writer = await writing.enter_async_context(self._open_writer())
                await writer.commit({})
            except (AlreadyThere, WrongDigest):
                raise
            except BaseException as error:
                if writer is not None and (not isinstance(error, RuntimeUnreachable) or is_disk_full(error)):
                    await self._drop(writer)
                raise

    async def _keep(self, piece: Piece, writer: Writer) -> None:
        self._senders.add(piece.sender)
        self._answers += piece.first
        if self._incoming is not None and not self._incoming.ended:
            try:
                await self._incoming.receive(piece.offset, piece.data)
            except OSError as error:
                self._not_shown(error)
                self._incoming.end()
        await writer.write(piece.data)
        await self._came(piece)

    def _blame(self) -> None:
        """A parent completes an answer only with what it has verified. One that breaks off may itself have been sent
        wrong bytes, and gives other ones afterwards.
        """
        self._blameless += 1
        if self._answers == 1 or self._senders == {None} or self._blameless > _BLAMELESS_MAX:
            self._sources.distrust(self._senders)

    async def _show(self, serving: AsyncExitStack) -> Incoming | None:
        """Let other nodes read what comes; `None` if they get it later."""
        if not self._serve or self._exchange.incoming.get(self._blob.digest) is not None:
            return None
        try:
            return await serving.enter_async_context(
                self._exchange.incoming.receiving(self._blob.digest, self._blob.size_bytes)
            )
        except OSError as error:
            self._not_shown(error)
            return None

    def _not_shown(self, error: OSError) -> None:
        self._exchange.log.warning(
            "not-served-while-received",
            digest=self._blob.digest,
            error=str(error),
            hint="other nodes get this layer when it is complete; free space in the state folder",
        )

    async def _drop(self, writer: Writer) -> None:
        """Drop what peers sent, also while the transfer is being cancelled.

        The writer does it while it excludes others: later it would take what a kubelet writes under this name.
        """
        if self._senders - {None}:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_DROP_SECONDS):
                    try:
                        await writer.restart()
                    except RuntimeUnreachable:
                        # containerd has ended the write.
                        await self._content.store.abort(self._blob.ref)
