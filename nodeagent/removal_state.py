"""Keep what a node knows about removals: what the agent brought, what is being removed, and why images stay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from warmhook.ports import RuntimeImage
from warmhook.removals import KEPT_BECAUSE, Decisions, Records, repository

# Far longer than the time between two looks at what uses an image.
_REMEMBERED_SECONDS: Final = 3600.0


class RemovalState:
    """The removals of one node, as its pulls and its report need them."""

    def __init__(self) -> None:
        self.records: Records = {}
        """The images that this agent brought; saved on disk."""
        self.removing: set[str] = set()
        """Repositories of the image that is being removed; none of their images is pulled meanwhile."""
        self.kept: Decisions = {}
        """Why images stay on the node."""
        self._pulls: dict[str, float] = {}
        """Repository to the time at which the last pull of one of its images began."""

    def blocks(self, image: str) -> bool:
        """Whether no pull of the image may start."""
        return bool(self.removing) and repository(image) in self.removing

    def pulls_began(self, images: Iterable[str], now: float) -> None:
        """Note pulls that start at `now`, in monotonic seconds."""
        recent = {name: time for name, time in self._pulls.items() if now - time < _REMEMBERED_SECONDS}
        self._pulls = recent | {repository(image): now for image in images}

    def pull_began_since(self, repositories: Iterable[str], time: float) -> bool:
        """Whether a pull of an image of these repositories began at or after `time`."""
        return any(self._pulls.get(name, -math.inf) >= time for name in repositories)

    def purge_message(self, image: RuntimeImage | None) -> str:
        """What the report says about a purged line whose name the runtime lists as `image`."""
        if image is None:
            return "purged: the image is not on the node"
        if (reason := self.kept.get(image.id)) is None:
            return "purged: the image is to be removed"
        return f"purged: the image stays because {KEPT_BECAUSE[reason]}"
