"""How do watching, checking, pulling and reporting go together? A task each, around one ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from adapters.kubernetes.client import Kubernetes
from nodeagent.clock import Backoff, Clock
from nodeagent.desired import Desired, follow_desired
from nodeagent.ledger import Ledger
from nodeagent.metrics import Metrics
from nodeagent.pulls import Failure, pull_image
from nodeagent.report import Reporter
from nodeagent.settings import Settings
from nodeagent.state import State, StateFile
from nodeagent.trouble import Trouble
from warmhook.outstanding import ImagePull
from warmhook.platforms import Platform
from warmhook.ports import Runtime, RuntimeUnreachable
from warmhook.reports import LineReport, clean_message

__all__ = ["Agent"]

_IDLE_SECONDS: Final = 60.0
_SAVE_AGAIN_SECONDS: Final = 60.0


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
    ) -> None:
        """`platform` is the node's; `offload` calls a function that waits for the disk, outside the loop."""
        self._settings, self._kubernetes, self._runtime = settings, kubernetes, runtime
        self._clock, self._log, self._metrics, self._offload = clock, log, metrics, offload
        self._file = StateFile(settings.state_dir, settings.node, log)
        state = self._file.load()
        self._desired = Desired(state.resource_version, state.lines)
        self._ledger = Ledger(clock, platform, state.pulled, state.not_runnable)
        self._ledger.take_lines(state.lines)
        self._reporter = Reporter(kubernetes, settings.namespace, settings.node, clock, log)
        self._runtime_trouble = Trouble(log, clock, "runtime-unreachable")
        self._check_wake, self._pull_wake, self._save_wake = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._checking = asyncio.Lock()
        self._pulling: dict[str, asyncio.Task[None]] = {}
        self._saved: State | None = state
        self._wants_known = state.resource_version > 0

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
        return self._ledger.reports() if self._ledger.asked and self._wants_known else None

    # --- what is wanted ---

    async def _follow_desired(self) -> None:
        settings = self._settings
        following = follow_desired(
            self._kubernetes, settings.namespace, settings.node, self._desired, self._clock, self._log
        )
        async with aclosing(following) as snapshots:
            async for desired in snapshots:
                self._take(desired)

    def _take(self, desired: Desired) -> None:
        self._desired, self._wants_known = desired, True
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
            if await self._check():
                backoff.reset()
                seconds = self._clock.around(self._settings.check_seconds)
            else:
                seconds = backoff.seconds()
            await self._clock.wait(self._check_wake, seconds)

    async def _check(self) -> bool:
        """Ask the runtime what it has. One question at a time, so that an older answer never replaces a newer one."""
        async with self._checking:
            try:
                images = await self._runtime.images()
                # All of them before any is judged, so that nothing warm is called anything else in between.
                configs = {it: await self._runtime.config(it) for it in sorted(self._ledger.unjudged(images))}
                if not self._ledger.asked:
                    self._log.info("runtime", version=await self._runtime.version(), images=len(images))
            except RuntimeUnreachable as error:
                self._ledger.runtime_unreachable(clean_message(str(error)))
                self._runtime_trouble.lasts(
                    endpoint=self._settings.runtime_endpoint,
                    error=str(error)[:300],
                    hint="is the runtime up, and CONTAINER_RUNTIME_ENDPOINT its socket, mounted into the Pod?",
                )
                self._changed()
                return False
            self._runtime_trouble.over()
            for image in self._ledger.take_images(images, configs):
                self._log.warning(
                    "image-removed", image=image, hint="removed by another program; kubelet when disk is low"
                )
            self._changed()
            return True

    # --- pulls ---

    async def _pull_what_is_due(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                for image, task in self._pulling.items():
                    if not self._ledger.wants(image) and not task.cancelling():
                        task.cancel()
                for pull in self._ledger.pulls_to_start(self._settings.parallel_pulls):
                    task = group.create_task(self._pull(pull), name=f"pull {pull.image}")
                    self._pulling[pull.image] = task
                    # Not inside the task: one that is cancelled before its first step runs nothing of its own.
                    task.add_done_callback(lambda _task, image=pull.image: self._pull_ended(image))  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
                self._say_changed()
                due = self._ledger.seconds_until_due()
                await self._clock.wait(self._pull_wake, _IDLE_SECONDS if due is None else min(due, _IDLE_SECONDS))

    async def _pull(self, pull: ImagePull) -> None:
        before, began = self._ledger.images, self._clock.monotonic()
        attempts = self._ledger.attempts(pull) + 1
        result, reason, message, digests, size_bytes = "cancelled", "", "", "", 0
        try:
            failure = await pull_image(self._runtime, pull, self._clock, self._log)
            if failure is None and not await self._check():
                failure = Failure("RuntimeError", "the runtime stopped answering when it had pulled")
            if failure is None:
                digests = ",".join(self._ledger.pull_succeeded(pull, before))
                image = self._ledger.images.get(pull.image)
                unusable = self._ledger.unusable(pull.image)
                if image is None:
                    failure = Failure("RuntimeError", "the runtime has pulled the image and does not list it")
                elif unusable is not None:
                    failure = Failure(unusable.reason, unusable.message)
                elif image.id not in {it.id for it in before.values()}:
                    size_bytes = image.size_bytes
            else:
                self._ledger.pull_failed(pull, failure.reason, failure.message)
                # What could not be unpacked may have taken the name of what could.
                if failure.unreachable or failure.reason == "NotRunnable":
                    self._check_wake.set()
            result = "failed" if failure else "pulled"
            reason, message = (failure.reason, failure.message) if failure else ("", "")
        finally:
            seconds = self._clock.monotonic() - began
            self._metrics.pull(result, reason, seconds, size_bytes)
            told = {"message": message} if message else {}
            (self._log.warning if message else self._log.info)(
                "pull",
                image=pull.image,
                digest=digests,
                result=result,
                reason=reason,
                attempts=attempts,
                seconds=round(seconds, 3),
                **told,
            )

    def _pull_ended(self, image: str) -> None:
        self._pulling.pop(image, None)
        self._ledger.pull_ended(image)
        self._changed()

    # --- telling the other tasks ---

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
            self._log.warning("state-not-written", folder=str(self._settings.state_dir), error=str(error))
        else:
            self._saved = state
