"""Check the runtime periodically: list its images, read their configurations, and measure its disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from adapters.clock import Backoff
from adapters.outages import OutageLog
from nodeagent.context import Context
from nodeagent.node_state import NodeState
from nodeagent.probes import Health
from warmhook.disk_space import Space, learn
from warmhook.node_report import clean_message
from warmhook.ports import ImageConfig, RuntimeUnreachable

# A runtime lists its images within milliseconds; one that takes longer does not answer kubelets either.
_ANSWER_SECONDS: Final = 15.0
# A configuration may hang, or have megabytes.
_CONFIGS_AT_ONCE: Final = 4
# The size of all unpacked images changes slowly.
_FILESYSTEMS_SECONDS: Final = 3600.0


class Checks:
    """The checks of one runtime."""

    def __init__(self, context: Context, state: NodeState, health: Health, changed: Callable[[], None]) -> None:
        """`changed` is called after each check."""
        self._context, self._state, self._health, self._changed = context, state, health, changed
        self._settings, self._runtime = context.settings, context.runtime
        self._clock, self._log, self._metrics = context.clock, context.log, context.metrics
        self._runtime_outage = OutageLog(self._log, self._clock, "runtime-unreachable")
        self._disk_outage = OutageLog(self._log, self._clock, "disk-low")
        self._metrics.least_free_space(self._settings.min_free_percent)
        self._image_folders: list[str] = []
        """Where the runtime keeps images, on the host; empty if that is unknown."""
        self._used_bytes = 0
        """Of unpacked images; 0 if that is unknown."""
        self._filesystems_due = float("-inf")
        self._checking = asyncio.Lock()
        self.wake = asyncio.Event()
        """Set to check soon."""

    async def run(self) -> None:
        """Check until cancelled."""
        backoff = Backoff(self._clock, first_seconds=1, longest_seconds=30)
        while True:
            if await self.check(again=True):
                backoff.reset()
                seconds = self._clock.jitter(self._settings.check_seconds)
            else:
                seconds = backoff.seconds()
            await self._clock.wait(self.wake, seconds)

    async def check(self, *, again: bool = False) -> bool:
        """Check now; returns whether the runtime answered.

        One check at a time, so that an older answer never replaces a newer one. `again`: also read the configurations
        that it could not return before, which may take long.
        """
        async with self._checking:
            endpoint = self._settings.runtime_endpoint
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    images = await self._runtime.images()
                    if not self._state.checked:
                        self._log.info("runtime", version=await self._runtime.version(), images=len(images))
                # All of them before the state changes, so that no warm line has another state in between.
                configs = await self._configs(self._state.unread_configs(images, again=again))
            except TimeoutError:
                self._failed(f"{endpoint}: no answer within {_ANSWER_SECONDS:g} s; the runtime may be stopped")
                return False
            except RuntimeUnreachable as error:
                self._failed(str(error))
                return False
            self._runtime_outage.recovered()
            self._health.checked(runtime_up=True)
            self._metrics.checked(self._clock.utcnow().timestamp())
            self._disk_measured(await self._space())
            removed = self._state.replace_images(images, configs)
            self._state.disk.learned = learn(self._state.lines.values(), self._state.images, self._used_bytes)
            self._metrics.evicted(len(removed))
            for image in removed:
                hint = "another program removed the image, as kubelet does if the disk is low"
                self._log.warning("image-removed", image=image, hint=hint)
            self._changed()
            return True

    async def _configs(self, image_ids: Iterable[str]) -> dict[str, ImageConfig | None]:
        """The configuration of each image, `None` if the runtime did not return it in time.

        Those that were not read for want of time come first. Raises `RuntimeUnreachable`.
        """
        waiting, configs = deque(image_ids), dict[str, ImageConfig | None]()
        unreachable: list[RuntimeUnreachable] = []

        async def read() -> None:
            while waiting and not unreachable:
                image_id = waiting.popleft()
                configs[image_id] = None
                try:
                    configs[image_id] = await self._runtime.config(image_id)
                except RuntimeUnreachable as error:
                    unreachable.append(error)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                await asyncio.gather(*(read() for _ in range(_CONFIGS_AT_ONCE)))
        if unreachable:
            raise unreachable[0]
        return dict.fromkeys(waiting) | configs

    def _failed(self, error: str) -> None:
        self._health.checked(runtime_up=False)
        self._metrics.checked(None)
        self._state.runtime_unreachable(clean_message(error))
        self._runtime_outage.failed(
            endpoint=self._settings.runtime_endpoint,
            error=error[:300],
            hint="check that the runtime is up and CONTAINER_RUNTIME_ENDPOINT its socket, mounted into the Pod",
        )
        self._changed()

    async def _space(self) -> Space | None:
        """The space of the disk for images; `None` if it is unknown or there is no minimum."""
        if self._settings.min_free_percent == 0:
            return None
        if self._clock.monotonic() >= self._filesystems_due:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    systems = await self._runtime.filesystems()
                self._image_folders = [system.mountpoint for system in systems]
                self._used_bytes = sum(system.used_bytes for system in systems)
                self._filesystems_due = self._clock.monotonic() + _FILESYSTEMS_SECONDS
            except (TimeoutError, RuntimeUnreachable):
                # CRI-O reads its whole storage to answer; if that takes long, the next checks do not wait for it again.
                self._filesystems_due = float("inf")
        context, folder = self._context, str(self._settings.state_dir)
        space: Space | None = await context.offload(context.measure, self._image_folders, folder)
        return space

    def _disk_measured(self, space: Space | None) -> None:
        percent = space.free_percent if space else None
        self._metrics.free_space(percent)
        self._state.disk.measured(space, self._state.running)
        if self._state.disk.low:
            least = self._settings.min_free_percent
            self._disk_outage.failed(free_percent=percent, hint=f"no pull starts with less than {least} % free")
        else:
            self._disk_outage.recovered()
