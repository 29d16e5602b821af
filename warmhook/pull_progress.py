"""Decide whether a pull has made progress, from what the runtime is downloading for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from warmhook.ports import Download


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a pull has downloaded since it began."""

    offsets: Mapping[str, int] = field(default_factory=dict)
    """Digest to the most bytes that were seen of it; a part that has ended stays."""

    @property
    def bytes(self) -> int:
        """All of it. Only this counts as progress, so a part that begins again and again shows none."""
        return sum(self.offsets.values())

    def after(self, downloads: Iterable[Download]) -> Downloaded:
        """Add what is being downloaded now."""
        seen = {each.digest: max(each.offset_bytes, self.offsets.get(each.digest, 0)) for each in downloads}
        return Downloaded({**self.offsets, **seen})
