"""The registry of the tests as handlers may ask it: it knows the digest of each tag, and is down at times."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.model.history import HOST
from warmhook.images import Reference
from warmhook.manifests import Resolved
from warmhook.resolutions import Unresolved

__all__ = ["SIZE_BYTES", "ModelRegistries"]

SIZE_BYTES: Final = 1000


@dataclass(slots=True)
class ModelRegistries:
    """`warmhook.ports.Registries`, of one host."""

    tags: Mapping[str, str]
    """Reference to digest."""
    rng: Random
    down: bool = False

    def serves(self, host: str) -> bool:
        return host == HOST

    async def resolve(self, image: Reference, known: Resolved | None = None) -> Resolved | Unresolved:
        await asyncio.sleep(self.rng.random() ** 3)
        if self.down:
            return Unresolved("Network", "refused")
        digest = image.digest or self.tags.get(image.pull_name)
        if not digest:
            return Unresolved("NotFound", "no such tag")
        answer = Resolved(digest, "application/vnd.oci.image.manifest.v1+json", (), SIZE_BYTES)
        return known if known == answer else answer
