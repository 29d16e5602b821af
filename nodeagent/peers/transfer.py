"""Fetch the blobs of one image into containerd, from other nodes and the registry, before the runtime pulls it.

The runtime finds them there: its pull authenticates and unpacks. It fetches by itself what is left to it, and checks
every digest again. A lease keeps the blobs until the pull has used them, and as long as other nodes want them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Final

from nodeagent.peers.exchange import Exchange, Fetched, Order
from nodeagent.peers.layer_transfer import LayerTransfer
from nodeagent.peers.leased_content import LeasedContent
from nodeagent.peers.sources import NoSource, Piece, Sources
from warmhook.hints import Peer
from warmhook.image_blobs import CONFIG_MAX, Blob, ImageManifest, LeaveToRuntime, chain_ids, read_image, root_ref
from warmhook.manifests import BODY_MAX

_LAYERS_AT_ONCE: Final = 3
"""As many as containerd fetches at once."""
_END_SECONDS: Final = 5.0
_SNAPSHOTTER: Final = re.compile(r"/io\.containerd\.snapshotter\.v1\.([a-z0-9_-]+)/?$")


async def fetch_image(exchange: Exchange, order: Order, progressed: Callable[[Fetched], None]) -> Fetched:
    """Fetch what is missing; `progressed` is called with what came so far, which grows on.

    The lease stays for the pull; the caller deletes it when it no longer serves. If this raises, or is cancelled, it is
    gone. Raises `NotContainerd`, `RuntimeUnreachable`, and `PullFailed` if the disk is full.
    """
    transfer = _Transfer(exchange, order, progressed)
    try:
        async with exchange.open_registry(order.image, order.credentials) as registry:
            sources = Sources(order.line_key, order.hint, exchange.peers, registry, exchange.clock)
            await transfer.run(sources)
    except LeaveToRuntime as error:
        transfer.fetched.left = str(error)
    except NoSource:
        transfer.fetched.left = "its manifest has no source"
        transfer.ended({None})
    except BaseException:
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_END_SECONDS):
                await exchange.content.delete_lease(order.lease)
        raise
    return transfer.fetched


class _Transfer:
    """The transfer of one image."""

    def __init__(self, exchange: Exchange, order: Order, progressed: Callable[[Fetched], None]) -> None:
        self._exchange, self._order, self._progressed = exchange, order, progressed
        self._clock = exchange.clock
        self._began = self._clock.monotonic()
        self._layers_began: float | None = None
        self.fetched = Fetched()
        self._content = LeasedContent(exchange, order, lambda: self._bytes)

    @property
    def _bytes(self) -> int:
        return self.fetched.peer_bytes + self.fetched.registry_bytes

    async def run(self, sources: Sources) -> None:
        """Fetch manifests, configuration and layers. Raises `LeaveToRuntime` and `NoSource` without a manifest."""
        await self._content.open()
        manifest = await self._manifest(sources)
        # All of them before the first byte: also what the runtime fetches by itself is kept.
        layers = [blob for blob in dict.fromkeys(manifest.layers) if not await self._content.has(blob.digest)]
        config = await self._small(sources, manifest.config, CONFIG_MAX, manifest=False)
        unpacked = await self._unpacked(chain_ids(config, len(manifest.layers))) if layers else 0
        missing = [blob for blob in layers if blob in manifest.layers[unpacked:]]
        slots = asyncio.Semaphore(_LAYERS_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for blob in missing:
                    group.create_task(self._layer(sources, blob, slots), name=f"layer {blob.digest}")
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _manifest(self, sources: Sources) -> ImageManifest:
        """The manifest for this node, through an index if there is one."""
        body = await self._small(sources, Blob(self._order.digest, 0, ""), BODY_MAX, manifest=True)
        found = read_image(body, self._exchange.platform)
        if isinstance(found, Blob):
            body = await self._small(sources, found, BODY_MAX, manifest=True)
            found = read_image(body, self._exchange.platform)
        if isinstance(found, Blob):
            raise LeaveToRuntime("the index names another index")
        return found

    async def _small(self, sources: Sources, blob: Blob, limit_bytes: int, *, manifest: bool) -> bytes:
        """The content of a small blob, which is in containerd afterwards."""
        if await self._content.has(blob.digest):
            present = await self._content.read(blob.digest, limit_bytes)
            if present is None:
                raise LeaveToRuntime(f"a manifest or configuration of more than {limit_bytes} bytes")
            return present
        body, sender = await sources.read_whole(blob.digest, limit_bytes, manifest=manifest)
        await self._content.write(blob.ref or root_ref(body, blob.digest), blob.digest, body)
        self._came(sender, len(body))
        self.ended({sender})
        return body

    async def _unpacked(self, chain: tuple[str, ...]) -> int:
        """How many of the lowest layers are unpacked."""
        systems = await self._content.surviving(self._exchange.runtime.filesystems)
        found = _SNAPSHOTTER.search(systems[0].mountpoint) if len(systems) == 1 else None
        if found is None:
            return 0
        for number, name in enumerate(chain):

            async def look(name: str = name, snapshotter: str = found[1]) -> bool:
                return await self._exchange.content.has_snapshot(snapshotter, name)

            if not await self._content.surviving(look):
                return number
        return len(chain)

    async def _layer(self, sources: Sources, blob: Blob, slots: asyncio.Semaphore) -> None:
        senders = set[Peer | None]()

        async def came(piece: Piece) -> None:
            senders.add(piece.sender)
            if self._layers_began is None:
                self._layers_began = self._clock.monotonic()
            self._came(piece.sender, len(piece.data))
            self.fetched.layers_seconds = self._clock.monotonic() - self._layers_began

        async with slots:
            serve = bool(self._order.hint.children)
            layer = LayerTransfer(self._exchange, self._content, sources, blob, serve=serve, came=came)
            try:
                await layer.run()
            except NoSource:
                self.fetched.left = "some layers have no source"
                senders.add(None)
        self.ended(senders)

    def _came(self, sender: Peer | None, count: int) -> None:
        """Some bytes came; `None`: from the registry."""
        if sender is None:
            self.fetched.registry_bytes += count
        else:
            self.fetched.peer_bytes += count
            self.fetched.parents.add(sender.node)
        self.fetched.seconds = self._clock.monotonic() - self._began
        self._progressed(self.fetched)

    def ended(self, senders: set[Peer | None]) -> None:
        """A blob is there, or left to the runtime: then `None` is among the senders as well."""
        if None in senders and self._order.hint.parents:
            self.fetched.fallbacks += 1
