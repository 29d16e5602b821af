"""A runtime in memory that knows for itself which of its images the agent of its node may not remove."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

from tests.support.runtime import MemoryRuntime
from warmhook.ports import Credentials

__all__ = ["NodeRuntime"]

# An agent may look at what uses an image, and remove it so many seconds later.
_LOOK_SECONDS = 30.0


@dataclass(slots=True)
class NodeRuntime(MemoryRuntime):
    """Clients besides the agent bring images, and containers use some."""

    foreign: set[str] = field(default_factory=set)
    """IDs that another client brought, or gave a name of its own."""
    brought: defaultdict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    """Begin and end of each pull of the agent that brought an ID, in the seconds of the loop."""
    removed: list[tuple[float, frozenset[str]]] = field(default_factory=list)
    """When the agent removed images, and the names that each had."""
    wrong: list[str] = field(default_factory=list)
    """The removals that must never happen."""
    used_since: dict[str, float] = field(default_factory=dict)
    named_since: dict[str, float] = field(default_factory=dict)
    """Since when Pods of the node name a reference."""
    pulling_now: Counter[str] = field(default_factory=Counter)

    def bring(self, reference: str) -> None:
        """Another client pulls an image. What it pulls at the same time as the agent may count for either."""
        before = dict(self.listed)
        self.have(reference)
        new = {image_id for name, image_id in self.listed.items() if before.get(name) != image_id}
        if not self.pulling_now[reference]:
            self.foreign |= new

    def use(self, reference: str) -> None:
        """A container of this image runs, or has ended and is still there."""
        if image_id := self.listed.get(reference):
            self.used.add(image_id)
            self.used_since.setdefault(image_id, _now())

    def name(self, references: Collection[str]) -> None:
        """The Pods of the node name these images, and no others."""
        self.named_since = {name: self.named_since.get(name, _now()) for name in references}

    def release(self) -> None:
        """All containers are gone."""
        self.used.clear()
        self.used_since.clear()

    def lose(self, reference: str) -> None:
        gone = self._id_of(reference)
        MemoryRuntime.lose(self, reference)
        self.foreign.discard(gone)
        self.used_since.pop(gone, None)
        self.used.discard(gone)
        self.brought.pop(gone, None)

    async def pull(self, reference: str, *, timeout_seconds: float, credentials: Credentials | None = None) -> str:
        self.pulling_now[reference] += 1
        began = _now()
        try:
            image_id = await MemoryRuntime.pull(
                self, reference, timeout_seconds=timeout_seconds, credentials=credentials
            )
        finally:
            self.pulling_now[reference] -= 1
        self.brought[image_id].append((began, _now()))
        return image_id

    async def remove(self, reference: str) -> None:
        names = frozenset(name for name, image_id in self.listed.items() if image_id == reference)
        before = _now() - _LOOK_SECONDS
        reasons = {
            "another client brought it": reference in self.foreign,
            "a container uses it": self.used_since.get(reference, before) < before,
            "a Pod names it": any(self.named_since.get(name, before) < before for name in names),
        }
        self.wrong += [f"{sorted(names)} was removed although {why}" for why, holds in reasons.items() if holds]
        self.removed.append((_now(), names))
        await MemoryRuntime.remove(self, reference)


def _now() -> float:
    return asyncio.get_running_loop().time()
