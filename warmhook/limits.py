"""Define what the WarmImages of a namespace may ask of nodes, as an administrator says it for each namespace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from warmhook.globs import Globs
from warmhook.images import Reference
from warmhook.labels import Selector
from warmhook.shares import Room

Permission: TypeAlias = Literal["Delete", "Pinned", "SharePrivate"]
PERMISSIONS: Final[frozenset[Permission]] = frozenset(get_args(Permission))

LINES_PER_NODE: Final = 128
"""Half of what a node takes from all namespaces together."""
BYTES_PER_NODE: Final = 48 * 1024
HIGHEST_PRIORITY: Final = 100


@dataclass(frozen=True, slots=True)
class Limits:
    """What the WarmImages of one namespace may ask for."""

    images: tuple[str, ...] = ("**",)
    """Globs over host and repository; one must match."""
    nodes: Selector | None = None
    """Only nodes with these labels; `None`: any node."""
    room: Room = field(default_factory=lambda: Room(LINES_PER_NODE, BYTES_PER_NODE))
    """On each node."""
    highest_priority: int = HIGHEST_PRIORITY
    allow: frozenset[Permission] = frozenset()
    _globs: Globs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_globs", Globs(self.images))

    def takes(self, image: Reference) -> bool:
        """Whether the namespace may have the image on nodes."""
        return bool(self._globs.matching(image.canonical.name))


@dataclass(frozen=True, slots=True)
class Tenancy:
    """The limits of every namespace."""

    rules: Sequence[tuple[str, Limits]] = ()
    """Globs over names of namespaces, each with limits; the first that matches counts."""
    _globs: Globs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_globs", Globs(glob for glob, _ in self.rules))

    def of(self, namespace: str) -> Limits:
        """The limits of a namespace; the default ones if no rule matches."""
        found = self._globs.matching(namespace)
        return self.rules[min(found)][1] if found else _DEFAULT


_DEFAULT: Final = Limits()
NO_RULES: Final = Tenancy()
"""Every namespace has the default limits."""
