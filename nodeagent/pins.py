"""Pin the images of lines that want it, and remove the pins of others, after each check of the runtime.

Nothing is pinned before one image has shown that the runtime lists it as pinned then: old containerd ignores the
label, and other runtimes have none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from adapters.outages import OutageLog
from nodeagent.context import Context
from nodeagent.node_state import NodeState
from nodeagent.probes import Health
from warmhook.pins import PINNED, UNPINNED, pin_changes, pinned_names
from warmhook.ports import NotContainerd, RuntimeUnreachable

_IDLE_SECONDS: Final = 3600.0
_LIMIT_SECONDS: Final = 60.0
# containerd 1.7 to 2.4 list a label within 0.1 s.
_CANARY_SECONDS: Final = 5.0
_CANARY_STEP_SECONDS: Final = 0.25
_CANARY_AGAIN_SECONDS: Final = 3600.0
_NOT_HONOURED: Final = (
    "this runtime keeps no image for a label, so the kubelet may remove it: use containerd 1.6.22, 1.7.3 or "
    "later, or in CRI-O name the images in pinned_images"
)


class Pins:
    """The pins of one node. containerd's labels are their only record."""

    def __init__(self, context: Context, state: NodeState, health: Health) -> None:
        self._state, self._health = state, health
        self._runtime, self._containerd, self._clock = context.runtime, context.containerd, context.clock
        self._log, self._metrics = context.log, context.metrics
        self._honoured: bool | None = None
        """Whether the runtime lists labelled images as pinned; `None` until one was tried."""
        self._canary_at = float("-inf")
        self._wanted: set[str] = set()
        self._none = False
        """Whether no name has a pin of Warmhook."""
        self._logged = False
        """Whether the log says that pins are not honoured."""
        self._problem = ""
        """Why labels could not be read or written last."""
        self._outage = OutageLog(self._log, self._clock, "pins-not-written")
        self.wake = asyncio.Event()
        """Set after a check, and when the lines have changed."""

    async def run(self) -> None:
        """Keep the pins right until cancelled."""
        while True:
            await self._clock.wait(self.wake, _IDLE_SECONDS)
            self._problem = ""
            try:
                async with asyncio.timeout(_LIMIT_SECONDS):
                    await self._reconcile()
            except NotContainerd:
                self._honoured, self._none = False, True
            except (RuntimeUnreachable, TimeoutError) as error:
                self._problem = str(error) or f"no answer within {_LIMIT_SECONDS:g} s"
            except Exception:
                # An error in one of them must not stop the pulls and reports of the others.
                self._log.exception("pins-crashed")
            if self._problem:
                self._outage.failed(error=self._problem[:300])
            else:
                self._outage.recovered()
            self._log_honoured()

    async def _reconcile(self) -> None:
        """Bring the labels in line with the lines. Raises `NotContainerd`, `RuntimeUnreachable`."""
        images = self._state.images
        self._wanted = pinned_names((wanted.line for wanted in self._state.lines.values()), images)
        pinned = {images[name].id for name in self._wanted if name in images and images[name].pinned}
        self._metrics.pinned(len(pinned))
        if not images:
            # Another version of the runtime may answer next.
            self._honoured, self._canary_at = None, float("-inf")
            return
        if self._none and not self._wanted:
            return
        changes = pin_changes(self._wanted, await self._containerd.images())
        # The image of a line that is not known, or cannot be read, may have to stay.
        unpin = changes.unpin if self._health.lines_known and not self._state.malformed else []
        unpinned = [name for name in unpin if await self._write(name, UNPINNED)]
        added = [name for name in changes.pin if await self._pin(name)]
        self._none = not self._wanted and unpinned == changes.unpin
        if added or unpinned:
            self._log.info("pins-changed", pinned=len(added), unpinned=len(unpinned))

    async def _pin(self, name: str) -> bool:
        """Pin a name; the first one shows whether the runtime honours pins, and is unpinned if it does not."""
        now = self._clock.monotonic()
        if not self._honoured and now < self._canary_at + _CANARY_AGAIN_SECONDS:
            return False
        if not await self._write(name, PINNED):
            return False
        if not self._honoured:
            self._honoured = await self._listed_as_pinned(name)
            if not self._honoured:
                self._canary_at = now
                await self._write(name, UNPINNED)
        return self._honoured

    async def _write(self, name: str, labels: Mapping[str, str]) -> bool:
        """Set the labels; false if the name is gone or cannot be written, which must not hold up the others."""
        try:
            return await self._containerd.set_labels(name, labels)
        except RuntimeUnreachable as error:
            self._problem = str(error)
            return False

    async def _listed_as_pinned(self, name: str) -> bool:
        until = self._clock.monotonic() + _CANARY_SECONDS
        while self._clock.monotonic() < until:
            images = await self._runtime.images()
            if any(image.pinned for image in images if name in (*image.tags, *image.digests)):
                return True
            await self._clock.sleep(_CANARY_STEP_SECONDS)
        return False

    def _log_honoured(self) -> None:
        if self._honoured is False and self._wanted and not self._logged:
            self._log.warning("pins-not-honoured", names=len(self._wanted), hint=_NOT_HONOURED)
            self._logged = True
        elif self._honoured:
            self._logged = False
