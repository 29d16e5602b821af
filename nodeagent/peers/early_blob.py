"""Fetch one blob that was pushed before its manifest, under a lease that ends by itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from nodeagent.peers.exchange import Exchange, Fetched, Order
from nodeagent.peers.layer_transfer import LayerTransfer
from nodeagent.peers.leased_content import LeasedContent
from nodeagent.peers.sources import Piece, Sources
from warmhook.hints import Early, Hint
from warmhook.image_blobs import Blob

EARLY_LEASE: Final = "warmhook-early-"
"""With this begin the names of the leases of such blobs."""
_LEASE_SECONDS: Final = 300
"""Leases end at multiples of this: each blob makes the expiry later, and a lease cannot be made longer."""


@dataclass(frozen=True, slots=True)
class EarlyOrder(Order):
    """Blobs of the repository of a line; their image has no digest yet."""

    @property
    def lease(self) -> str:
        """The name of the lease that keeps them."""
        return f"{EARLY_LEASE}{self.line_key}-{self._end}"

    @property
    def expires_at(self) -> datetime:
        """When the lease ends by itself."""
        return datetime.fromtimestamp(self._end, UTC)

    @property
    def _end(self) -> int:
        return -(-self.hint.expires_at // _LEASE_SECONDS) * _LEASE_SECONDS


def hint_of(early: Early) -> Hint:
    """Where the blobs come from, and where they go."""
    return Hint(early.expires_at, parents=early.parents, children=early.children, seeds=early.seeds)


async def fetch_blob(exchange: Exchange, order: EarlyOrder, digest: str, size_bytes: int, fetched: Fetched) -> None:
    """Have a layer in containerd, and say in `fetched` what came.

    A node with parents does not read the registry: after the push it still can.

    Raises `NoSource`, `NotContainerd`, `RuntimeUnreachable`, and `PullFailed` if the disk is full.
    """
    began = exchange.clock.monotonic()

    async def came(piece: Piece) -> None:
        if piece.sender is None:
            fetched.registry_bytes += len(piece.data)
        else:
            fetched.peer_bytes += len(piece.data)
            fetched.parents.add(piece.sender.node)
        fetched.seconds = exchange.clock.monotonic() - began

    content = LeasedContent(exchange, order, lambda: fetched.peer_bytes + fetched.registry_bytes)
    await content.open()
    if await content.has(digest):
        return
    blob = Blob(digest, size_bytes, f"layer-{digest}")
    async with exchange.open_registry(order.image, order.credentials) as registry:
        reads = None if order.hint.parents else registry
        sources = Sources(order.line_key, order.hint, exchange.peers, reads, exchange.clock)
        serve = bool(order.hint.children)
        await LayerTransfer(exchange, content, sources, blob, serve=serve, came=came).run()
