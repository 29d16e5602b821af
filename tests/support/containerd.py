"""containerd's own services in memory, on the images of a `MemoryRuntime`.

`tests/contract/test_containerd.py` runs on it too, except for downloads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.runtime import MemoryRuntime
from warmhook.ports import Download, NotContainerd, RuntimeUnreachable, StoredImage


@dataclass(slots=True)
class MemoryContainerd:
    """Labels belong to a name, and a pull of a tag takes its labels away."""

    runtime: MemoryRuntime
    absent: bool = False
    """Whether the runtime is another one than containerd."""
    refuses: set[str] = field(default_factory=set)
    """Names whose labels cannot be written."""
    downloading: dict[str, list[Download]] = field(default_factory=dict)
    """By reference."""
    changed: list[str] = field(default_factory=list)
    """The names whose labels were set, in order."""

    async def images(self) -> list[StoredImage]:
        self._answer()
        return [StoredImage(name, dict(self.runtime.labels[name])) for name in sorted(self._names())]

    async def set_labels(self, name: str, labels: Mapping[str, str]) -> bool:
        self._answer()
        if name in self.refuses:
            raise RuntimeUnreachable(f"memory://: {name} cannot be written")
        if name not in self._names():
            return False
        self.changed.append(name)
        both = {**self.runtime.labels[name], **labels}
        self.runtime.labels[name] = {key: value for key, value in both.items() if value}
        return True

    async def downloads(self, reference: str) -> list[Download]:
        self._answer()
        return self.downloading.get(reference, [])

    def _names(self) -> set[str]:
        """containerd has the ID of an image as a name as well."""
        return {*self.runtime.listed, *self.runtime.listed.values()}

    def _answer(self) -> None:
        if self.absent:
            raise NotContainerd("memory://: not containerd")
        if self.runtime.unreachable:
            raise RuntimeUnreachable("memory://: nobody answers")
