"""Bring watching, checking, pulling and reporting together: a task each, around one ledger."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from adapters.kubernetes.client import Kubernetes
from nodeagent.clock import Backoff, Clock
from nodeagent.desired import Desired, follow_desired
from nodeagent.disk import free_percent
from nodeagent.health import Health
from nodeagent.ledger import Ledger
from nodeagent.metrics import Metrics
from nodeagent.pulls import pull_image
from nodeagent.report import Reporter
from nodeagent.settings import Settings
from nodeagent.state import State, StateFile
from nodeagent.trouble import Trouble
from warmhook.outstanding import ImagePull
from warmhook.platforms import Platform
from warmhook.ports import ImageConfig, Runtime, RuntimeUnreachable
from warmhook.reports import LineReport, clean_message

__all__ = ["Agent"]

_IDLE_SECONDS: Final = 60.0
_SAVE_AGAIN_SECONDS: Final = 60.0
# A runtime lists its images within milliseconds; one that takes longer does not answer Pods either.
_ANSWER_SECONDS: Final = 15.0
# A configuration may hang, or have megabytes.
_CONFIGS_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a pull ended."""

    result: str
    reason: str = ""
    message: str = ""
    digests: str = ""
    size_bytes: int = 0
    """Of an image that was not there before."""


_CANCELLED: Final = _Outcome("cancelled")


class Agent:
    """The agent of one node."""

    def __init__(
        self,
        settings: Settings,
        kubernetes: Kubernetes,
        runtime: Runtime,
        *,
        clock: Clock,
        log: FilteringBoundLogger,
        metrics: Metrics,
        platform: Platform,
        offload: Callable[..., Awaitable[Any]] = asyncio.to_thread,
        measure: Callable[[Iterable[str], str], float | None] = free_percent,
    ) -> None:
        """`platform` is the node's; `offload` calls a function that waits for the disk, outside the loop.

        `measure` is `nodeagent.disk.free_percent`.
        """
        self._settings, self._kubernetes, self._runtime = settings, kubernetes, runtime
        self._clock, self._log, self._metrics, self._offload = clock, log, metrics, offload
        self._measure = measure
        self._file = StateFile(settings.state_dir, settings.node, log)
        state = self._file.load()
        self._desired = Desired(state.resource_version, state.lines)
        self._ledger = Ledger(
            clock,
            platform,
            state.pulled,
            state.not_runnable,
            min_free_percent=settings.min_free_percent,
            allow_local_registries=settings.allow_local_registries,
        )
        self._ledger.take_lines(state.lines)
        self._reporter = Reporter(kubernetes, settings.namespace, settings.node, clock, log)
        self._runtime_trouble = Trouble(log, clock, "runtime-unreachable")
        self._disk_trouble = Trouble(log, clock, "disk-low")
        self._save_trouble = Trouble(log, clock, "state-not-written")
        self._image_folders: list[str] | None = None
        """Where the runtime keeps images, on the host; `None` before it was asked."""
        self.health = Health(clock, settings.check_seconds)
        self._check_wake, self._pull_wake, self._save_wake = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._checking = asyncio.Lock()
        self._pulling: dict[str, asyncio.Task[None]] = {}
        self._saved: State | None = state
        self.health.lines_known = state.resource_version > 0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then cancel the pulls, report once more and leave the state on disk."""
        settings = self._settings
        self._log.info(
            "agent-started",
            node=settings.node,
            runtime=settings.runtime_endpoint,
            lines=len(self._ledger.lines),
            resource_version=self._desired.resource_version,
        )
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._follow_desired(), name="desired"),
                group.create_task(self._check_again_and_again(), name="check"),
                group.create_task(self._pull_what_is_due(), name="pulls"),
                group.create_task(self._reporter.run(self.reports), name="report"),
                group.create_task(self._save_what_changed(), name="state"),
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()
        await self._reporter.say_last(self.reports())
        await self._save()
        self._log.info("agent-stopped", lines=len(self._ledger.lines))

    def reports(self) -> dict[str, LineReport] | None:
        """What is to be said of every line; `None` before the runtime was first asked what it has.

        Nor before it is known what is wanted: a report without lines would tell everybody that nothing is warm.
        """
        return self._ledger.reports() if self._ledger.asked and self.health.lines_known else None

    # --- what is wanted ---

    async def _follow_desired(self) -> None:
        settings = self._settings
        following = follow_desired(
            self._kubernetes, settings.namespace, settings.node, self._desired, self._clock, self._log
        )
        async with contextlib.aclosing(following) as snapshots:
            async for desired in snapshots:
                self._take(desired)

    def _take(self, desired: Desired) -> None:
        self._desired, self.health.lines_known = desired, True
        changes = self._ledger.take_lines(desired.data)
        for key, why in changes.malformed.items():
            self._log.warning("malformed-line", key=key, error=clean_message(why))
        if changes.added or changes.changed or changes.removed:
            self._log.info(
                "lines-changed",
                added=changes.added,
                changed=changes.changed,
                removed=changes.removed,
                lines=len(self._ledger.lines),
                malformed=len(self._ledger.malformed),
            )
        if changes.added or changes.changed:
            self._check_wake.set()
        self._reporter.owner_seen(desired.owner_uid)
        self._changed()

    # --- what the runtime has ---

    async def _check_again_and_again(self) -> None:
        backoff = Backoff(self._clock, first_seconds=1, longest_seconds=30)
        while True:
            if await self._check(again=True):
                backoff.reset()
                seconds = self._clock.around(self._settings.check_seconds)
            else:
                seconds = backoff.seconds()
            await self._clock.wait(self._check_wake, seconds)

    async def _check(self, *, again: bool = False) -> bool:
        """Ask the runtime what it has. One question at a time, so that an older answer never replaces a newer one.

        `again`: also what kind of image those are of which it could not say that before, which may take long.
        """
        async with self._checking:
            endpoint = self._settings.runtime_endpoint
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    images = await self._runtime.images()
                    if not self._ledger.asked:
                        self._log.info("runtime", version=await self._runtime.version(), images=len(images))
                # All of them before any is judged, so that nothing warm is called anything else in between.
                configs = await self._configs(self._ledger.unjudged(images, again=again))
            except TimeoutError:
                self._no_answer(f"{endpoint}: no answer within {_ANSWER_SECONDS:g} s; the runtime may be stopped")
                return False
            except RuntimeUnreachable as error:
                self._no_answer(str(error))
                return False
            self._runtime_trouble.over()
            self.health.checked(runtime_up=True)
            self._metrics.checked(self._clock.utcnow().timestamp())
            self._take_free(await self._free_percent())
            removed = self._ledger.take_images(images, configs)
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
        self.health.checked(runtime_up=False)
        self._metrics.checked(None)
        self._ledger.runtime_unreachable(clean_message(error))
        self._runtime_trouble.lasts(
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
        self._ledger.room.take_free_space(percent)
        if self._ledger.room.low:
            least = self._settings.min_free_percent
            self._disk_trouble.lasts(free_percent=percent, hint=f"no pull starts with less than {least} % free")
        else:
            self._disk_trouble.over()

    # --- pulls ---

    async def _pull_what_is_due(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                for image, task in self._pulling.items():
                    if not self._ledger.wants(image) and not task.cancelling():
                        task.cancel()
                plan = self._ledger.schedule(self._settings.parallel_pulls)
                for image in plan.stop:
                    self._pulling[image].cancel()
                for pull in plan.start:
                    task = group.create_task(self._pull(pull), name=f"pull {pull.image}")
                    self._pulling[pull.image] = task
                    # Not inside the task: one that is cancelled before its first step runs nothing of its own.
                    task.add_done_callback(lambda _task, image=pull.image: self._pull_ended(image))  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
                self._say_changed()
                due = self._ledger.seconds_until_due()
                await self._clock.wait(self._pull_wake, _IDLE_SECONDS if due is None else min(due, _IDLE_SECONDS))

    async def _pull(self, pull: ImagePull) -> None:
        began, attempts = self._clock.monotonic(), self._ledger.attempts(pull) + 1
        verdict, outcome = self._ledger.verdict(pull), _CANCELLED
        try:
            outcome = await self._outcome(pull)
        finally:
            seconds = self._clock.monotonic() - began
            if outcome is _CANCELLED and self._ledger.gives_way(pull.image):
                message = f"stopped after {seconds:.0f} s because other images had no slot"
                self._ledger.pull_failed(pull, "Timeout", message)
                outcome = _Outcome("failed", "Timeout", message)
            self._metrics.pull(outcome.result, outcome.reason, seconds, outcome.size_bytes)
            # A failed line is tried for as long as it is wanted; that it fails as before is no news.
            if not outcome.message or self._ledger.verdict(pull) != verdict:
                self._log_pull(pull, outcome, attempts, seconds)

    async def _outcome(self, pull: ImagePull) -> _Outcome:
        """Pull, ask the runtime what it has and note how it went."""
        before = self._ledger.images
        failure = await pull_image(self._runtime, pull, self._clock, self._log)
        if failure is not None:
            self._ledger.pull_failed(pull, failure.reason, failure.message)
            # What could not be unpacked may have taken the name of what could.
            if failure.unreachable or failure.reason == "NotRunnable":
                self._check_wake.set()
            return _Outcome("failed", failure.reason, failure.message)
        if not await self._check():
            message = "the runtime stopped answering when it had pulled"
            self._ledger.pull_failed(pull, "RuntimeError", message)
            return _Outcome("failed", "RuntimeError", message)
        digests = ",".join(self._ledger.pull_succeeded(pull, before))
        image = self._ledger.images.get(pull.image)
        if image is None:
            return _Outcome("failed", "RuntimeError", "the runtime has pulled the image and does not list it", digests)
        if (unusable := self._ledger.unusable(pull.image)) is not None:
            return _Outcome("failed", unusable.reason, unusable.message, digests)
        new = image.id not in {it.id for it in before.values()}
        return _Outcome("pulled", digests=digests, size_bytes=image.size_bytes if new else 0)

    def _log_pull(self, pull: ImagePull, outcome: _Outcome, attempts: int, seconds: float) -> None:
        fields = {"message": outcome.message} if outcome.message else {}
        (self._log.warning if outcome.message else self._log.info)(
            "pull",
            image=pull.image,
            digest=outcome.digests,
            result=outcome.result,
            reason=outcome.reason,
            attempts=attempts,
            seconds=round(seconds, 3),
            **fields,
        )

    def _pull_ended(self, image: str) -> None:
        self._pulling.pop(image, None)
        self._ledger.pull_ended(image)
        self._changed()

    # --- waking the other tasks ---

    def _changed(self) -> None:
        self._pull_wake.set()
        self._save_wake.set()
        self._say_changed()

    def _say_changed(self) -> None:
        self._reporter.wake.set()
        states = [report.state for report in (self.reports() or {}).values()]
        self._metrics.lines(states, malformed=len(self._ledger.malformed))

    # --- what outlives the agent ---

    async def _save_what_changed(self) -> None:
        while True:
            await self._clock.wait(self._save_wake, _SAVE_AGAIN_SECONDS)
            await self._save()

    async def _save(self) -> None:
        ledger, desired = self._ledger, self._desired
        state = State(desired.resource_version, dict(desired.data), dict(ledger.pulled), dict(ledger.not_runnable))
        if state == self._saved:
            return
        try:
            await self._offload(self._file.save, state)
        except OSError as error:
            folder = str(self._settings.state_dir)
            self._save_trouble.lasts(folder=folder, error=str(error), hint="a restart may pull again what is there")
        else:
            self._saved = state
            self._save_trouble.over()
