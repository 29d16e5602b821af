"""Ask the runtime what it has, again and again, and its disk for room."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from adapters.clock import Backoff, Clock
from adapters.logs import Log
from adapters.outages import OutageLog
from nodeagent.disk import free_percent
from nodeagent.health import Health
from nodeagent.metrics import Metrics
from nodeagent.node_state import NodeState
from nodeagent.settings import Settings
from warmhook.node_report import clean_message
from warmhook.ports import ImageConfig, Runtime, RuntimeUnreachable

__all__ = ["Checks"]

# A runtime lists its images within milliseconds; one that takes longer does not answer Pods either.
_ANSWER_SECONDS: Final = 15.0
# A configuration may hang, or have megabytes.
_CONFIGS_AT_ONCE: Final = 4


class Checks:
    """What the runtime has, as often as it is worth to ask."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        state: NodeState,
        health: Health,
        *,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        changed: Callable[[], None],
        offload: Callable[..., Awaitable[Any]] = asyncio.to_thread,
        measure: Callable[[Iterable[str], str], float | None] = free_percent,
    ) -> None:
        """`changed` is called after each check; `offload` and `measure` are as in `nodeagent.agent.Agent`."""
        self._settings, self._runtime, self._state, self._health = settings, runtime, state, health
        self._clock, self._log, self._metrics = clock, log, metrics
        self._changed, self._offload, self._measure = changed, offload, measure
        self._runtime_trouble = OutageLog(log, clock, "runtime-unreachable")
        self._disk_trouble = OutageLog(log, clock, "disk-low")
        self._image_folders: list[str] | None = None
        """Where the runtime keeps images, on the host; `None` before it was asked."""
        self._checking = asyncio.Lock()
        self.wake = asyncio.Event()
        """Set when the runtime should be asked soon."""

    async def run(self) -> None:
        """Ask for ever."""
        backoff = Backoff(self._clock, first_seconds=1, longest_seconds=30)
        while True:
            if await self.check(again=True):
                backoff.reset()
                seconds = self._clock.jitter(self._settings.check_seconds)
            else:
                seconds = backoff.seconds()
            await self._clock.wait(self.wake, seconds)

    async def check(self, *, again: bool = False) -> bool:
        """Ask the runtime what it has. One question at a time, so that an older answer never replaces a newer one.

        Returns whether it answered. `again`: also what kind of image those are of which it could not say that before,
        which may take long.
        """
        async with self._checking:
            endpoint = self._settings.runtime_endpoint
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    images = await self._runtime.images()
                    if not self._state.asked:
                        self._log.info("runtime", version=await self._runtime.version(), images=len(images))
                # All of them before any is judged, so that nothing warm is called anything else in between.
                configs = await self._configs(self._state.unjudged(images, again=again))
            except TimeoutError:
                self._no_answer(f"{endpoint}: no answer within {_ANSWER_SECONDS:g} s; the runtime may be stopped")
                return False
            except RuntimeUnreachable as error:
                self._no_answer(str(error))
                return False
            self._runtime_trouble.recovered()
            self._health.checked(runtime_up=True)
            self._metrics.checked(self._clock.utcnow().timestamp())
            self._take_free(await self._free_percent())
            removed = self._state.take_images(images, configs)
            self._metrics.evicted(len(removed))
            for image in removed:
                self._log.warning(
                    "image-removed", image=image, hint="removed by another program; kubelet when disk is low"
                )
            self._changed()
            return True

    async def _configs(self, image_ids: Iterable[str]) -> dict[str, ImageConfig | None]:
        """What the runtime says of each, as far as it does so in time; whose turn did not come is first.

        Raises `RuntimeUnreachable`.
        """
        waiting, said = deque(image_ids), dict[str, ImageConfig | None]()
        unreachable: list[RuntimeUnreachable] = []

        async def ask() -> None:
            while waiting and not unreachable:
                image_id = waiting.popleft()
                said[image_id] = None
                try:
                    said[image_id] = await self._runtime.config(image_id)
                except RuntimeUnreachable as error:
                    unreachable.append(error)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                await asyncio.gather(*(ask() for _ in range(_CONFIGS_AT_ONCE)))
        if unreachable:
            raise unreachable[0]
        return dict.fromkeys(waiting) | said

    def _no_answer(self, error: str) -> None:
        self._health.checked(runtime_up=False)
        self._metrics.checked(None)
        self._state.runtime_unreachable(clean_message(error))
        self._runtime_trouble.failed(
            endpoint=self._settings.runtime_endpoint,
            error=error[:300],
            hint="is the runtime up, and CONTAINER_RUNTIME_ENDPOINT its socket, mounted into the Pod?",
        )
        self._changed()

    async def _free_percent(self) -> float | None:
        """The free share of the disk for images; `None` where it cannot be seen or does not matter."""
        if self._settings.min_free_percent == 0:
            return None
        if self._image_folders is None:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    self._image_folders = [each.mountpoint for each in await self._runtime.filesystems()]
            except (TimeoutError, RuntimeUnreachable):
                # CRI-O reads its whole storage to answer; where that takes long it is asked once.
                self._image_folders = []
        percent: float | None = await self._offload(self._measure, self._image_folders, str(self._settings.state_dir))
        return percent

    def _take_free(self, percent: float | None) -> None:
        self._metrics.free_space(percent)
        self._state.room.take_free_space(percent)
        if self._state.room.low:
            least = self._settings.min_free_percent
            self._disk_trouble.failed(free_percent=percent, hint=f"no pull starts with less than {least} % free")
        else:
            self._disk_trouble.recovered()
