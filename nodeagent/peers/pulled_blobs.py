"""Keep the blobs of an image that the runtime pulls by itself, so that other nodes can get them.

containerd may be configured to drop layers once they are unpacked. A lease that names a layer before it comes keeps it.
"""

from __future__ import annotations

from typing import Final

from nodeagent.peers.exchange import Exchange, Order
from nodeagent.peers.leased_content import LeasedContent
from warmhook.image_blobs import Blob, ImageManifest, LeaveToRuntime, read_image
from warmhook.manifests import BODY_MAX

_FIRST_SECONDS: Final = 0.05
_LONGEST_SECONDS: Final = 1.0


async def keep_pulled_blobs(exchange: Exchange, order: Order) -> None:
    """Name every blob in the lease of the order as soon as it is known, while the runtime pulls; then return.

    Runs beside the pull and is cancelled with it. The lease stays, also for an image that is left to the runtime.
    Raises `NotContainerd`, `RuntimeUnreachable` and `PullFailed`.
    """
    content = LeasedContent(exchange, order, lambda: 0)
    await content.open()
    try:
        found = read_image(await _wait_for(content, exchange, order.digest), exchange.platform)
        if isinstance(found, Blob):
            found = read_image(await _wait_for(content, exchange, found.digest), exchange.platform)
    except LeaveToRuntime:
        return
    if isinstance(found, ImageManifest):
        for blob in (found.config, *found.layers):
            await content.has(blob.digest)


async def _wait_for(content: LeasedContent, exchange: Exchange, digest: str) -> bytes:
    """A manifest, once the runtime has it."""
    seconds = _FIRST_SECONDS
    while True:
        if await content.has(digest) and (body := await content.read(digest, BODY_MAX)) is not None:
            return body
        await exchange.clock.sleep(seconds)
        seconds = min(_LONGEST_SECONDS, 1.5 * seconds)
