"""Know which blobs belong to an image: what its manifests name, as far as this node has them.

Manifests are read from the content store of the node only, where their digests are verified. So they become known one
after the other while the image arrives.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from adapters.clock import Clock
from warmhook.manifests import BODY_MAX, named_digests
from warmhook.ports import ContentStore

_IMAGES_MAX: Final = 32
"""Images whose digests are remembered."""
_NAMES_MAX: Final = 2048
"""Digests of one image: a runtime takes 128 layers at most. Whoever wrote a manifest with more gets no more served."""
_MANIFESTS_MAX: Final = 64
"""Manifests that are read for one image: an index names one for each platform, and attestations."""
_AGAIN_SECONDS: Final = 0.1
"""Children that wait for a blob ask as often."""
_LOOK_SECONDS: Final = 0.01
"""For each manifest that is missing: of an index with hundreds most never come."""


@dataclass(slots=True)
class _Image:
    names: set[str]
    unread: list[str]
    """Manifests that the content store did not have yet."""
    read: int = 0
    next_at: float = float("-inf")
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class ImageDigests:
    """The digests of the images that this node serves."""

    def __init__(self, content: ContentStore, clock: Clock) -> None:
        self._content, self._clock = content, clock
        self._images: dict[str, _Image] = {}

    async def belongs(self, digest: str, root: str) -> bool:
        """Whether the blob belongs to the image with the digest `root`, as far as is known.

        Raises `NotContainerd` and `RuntimeUnreachable`.
        """
        image = self._images.get(root)
        if image is None:
            if len(self._images) >= _IMAGES_MAX:
                del self._images[next(iter(self._images))]
            image = self._images[root] = _Image({root}, [root])
        if digest not in image.names:
            async with image.reading:
                now = self._clock.monotonic()
                if digest not in image.names and image.unread and now >= image.next_at:
                    image.next_at = now + _AGAIN_SECONDS
                    await self._read(image)
                    image.next_at = now + max(_AGAIN_SECONDS, _LOOK_SECONDS * len(image.unread))
        return digest in image.names

    def all_known(self, root: str) -> bool:
        """Whether every manifest of the image was read, so that nothing else belongs to it."""
        image = self._images.get(root)
        return image is not None and not image.unread

    async def _read(self, image: _Image) -> None:
        """Read the manifests that have come since."""
        waiting, image.unread = image.unread, []
        try:
            while waiting and image.read < _MANIFESTS_MAX:
                found = await self._content.info(waiting[0])
                if found is None:
                    image.unread.append(waiting.pop(0))
                    continue
                if found.size_bytes <= BODY_MAX:
                    body = b"".join([part async for part in self._content.read(found.digest, 0, found.size_bytes)])
                    named = named_digests(body)
                    new = [digest for digest in dict.fromkeys(named.manifests) if digest not in image.names]
                    if len(image.names) + len(new) + len(named.blobs) <= _NAMES_MAX:
                        image.names.update(new, named.blobs)
                        waiting.extend(new)
                image.read += 1
                waiting.pop(0)
        finally:
            image.unread += waiting
