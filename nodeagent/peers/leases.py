"""Keep the blobs of an image in containerd as long as this node or one of its children needs them, and no longer.

A lease ends by itself with the hint that it was made for. It is deleted before, as soon as this node has the image and
every child has said that it is done.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final

from adapters.clock import Clock
from adapters.logs import Log
from adapters.outages import OutageLog
from nodeagent.peers.hints import Hints, LineHint
from warmhook.ports import ContentStore, NotContainerd, RuntimeUnreachable

_LEASE: Final = re.compile(r"warmhook-([0-9a-f]{16})-([0-9]+)")
_AGAIN_SECONDS: Final = 60.0
_SETTLED_SECONDS: Final = 1.0


class Leases:
    """The leases of one node."""

    def __init__(
        self, content: ContentStore, hints: Hints, wants: Callable[[str], bool], clock: Clock, log: Log
    ) -> None:
        """`wants`: whether an image is still to be pulled here."""
        self._content, self._hints, self._wants, self._clock = content, hints, wants, clock
        self._outage = OutageLog(log, clock, "leases-not-ended")
        self._done: dict[tuple[str, str], set[str]] = {}
        """By line key and digest the children that have the image."""
        self.wake = asyncio.Event()
        """Set if a lease may no longer be needed."""

    def done(self, line_key: str, node: str) -> None:
        """A child has the image, and will not ask for it again."""
        found = self._hints.of_line(line_key)
        if found is not None:
            self._done.setdefault((line_key, found.digest), set()).add(node)
            self.wake.set()

    async def run(self) -> None:
        """Delete what is no longer needed, until it is cancelled."""
        while True:
            try:
                await self._release()
            except (NotContainerd, RuntimeUnreachable) as error:
                self._outage.failed(error=str(error)[:200], hint="check the runtime; leases end with their hints")
            else:
                self._outage.recovered()
            expiry = self._hints.next_expiry()
            await self._clock.wait(self.wake, _AGAIN_SECONDS if expiry is None else min(expiry, _AGAIN_SECONDS))
            # Several changes at once.
            await self._clock.sleep(_SETTLED_SECONDS)

    async def _release(self) -> None:
        self._done = {known: nodes for known, nodes in self._done.items() if self._is_current(*known)}
        for lease in await self._content.leases():
            named = _LEASE.fullmatch(lease)
            if named is not None and not self._is_needed(named[1], int(named[2])):
                await self._content.delete_lease(lease)

    def _is_current(self, line_key: str, digest: str) -> bool:
        found = self._hints.of_line(line_key)
        return found is not None and found.digest == digest

    def _is_needed(self, line_key: str, expires_at: int) -> bool:
        if expires_at <= self._clock.utcnow().timestamp():
            return False
        if (found := self._hints.of_line(line_key)) is None:
            return False
        # Children may know the image by another of its lines.
        image = found.line.image
        return self._wants(image) or any(map(self._has_children, self._hints.all_of_image(image)))

    def _has_children(self, found: LineHint) -> bool:
        done = self._done.get((found.key, found.digest), set())
        return any(child.node not in done for child in found.hint.children)
