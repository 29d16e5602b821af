"""Bring watching, checking, pulling and reporting together: a task each, around one state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from adapters.clock import Clock
from adapters.kubernetes.client import Kubernetes
from adapters.logs import Log
from adapters.outages import OutageLog
from nodeagent.checks import Checks
from nodeagent.desired import Desired, DesiredStore, follow_desired
from nodeagent.disk import free_percent
from nodeagent.health import Health
from nodeagent.metrics import Metrics
from nodeagent.node_state import NodeState
from nodeagent.image_puller import PullQueue
from nodeagent.reporter import Reporter
from nodeagent.settings import Settings
from nodeagent.state_file import State, StateFile
from warmhook.node_report import LineReport, clean_message
from warmhook.platforms import Platform
from warmhook.ports import Runtime

__all__ = ["Agent"]

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
        log: Log,
        metrics: Metrics,
        platform: Platform,
        offload: Callable[..., Awaitable[Any]] = asyncio.to_thread,
        measure: Callable[[Iterable[str], str], float | None] = free_percent,
    ) -> None:
        """`platform` is the node's; `offload` calls a function that waits for the disk, outside the loop.

        `measure` is `nodeagent.disk.free_percent`.
        """
        self._settings, self._kubernetes = settings, kubernetes
        self._clock, self._log, self._metrics, self._offload = clock, log, metrics, offload
        self._file = StateFile(settings.state_dir, settings.node, log)
        saved = self._file.load()
        self._desired = Desired(saved.resource_version, saved.lines)
        self._state = NodeState(
            clock,
            platform,
            saved.pulled,
            saved.not_runnable,
            min_free_percent=settings.min_free_percent,
            allow_local_registries=settings.allow_local_registries,
        )
        self._state.select_lines(saved.lines)
        self._reporter = Reporter(kubernetes, settings.namespace, settings.node, clock, log)
        self._save_trouble = OutageLog(log, clock, "state-not-written")
        self.health = Health(clock, settings.check_seconds)
        self._checks = Checks(
            settings,
            runtime,
            self._state,
            self.health,
            clock=clock,
            log=log,
            metrics=metrics,
            changed=self._changed,
            offload=offload,
            measure=measure,
        )
        self._pulls = PullQueue(
            settings.parallel_pulls,
            runtime,
            self._state,
            self._checks,
            clock=clock,
            log=log,
            metrics=metrics,
            started=self._say_changed,
            ended=self._changed,
        )
        self._save_wake = asyncio.Event()
        self._saved: State | None = saved
        self.health.lines_known = saved.resource_version > 0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then cancel the pulls, report once more and leave the state on disk."""
        settings = self._settings
        self._log.info(
            "agent-started",
            node=settings.node,
            runtime=settings.runtime_endpoint,
            lines=len(self._state.lines),
            resource_version=self._desired.resource_version,
        )
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._follow_desired(), name="desired"),
                group.create_task(self._checks.run(), name="check"),
                group.create_task(self._pulls.run(), name="pulls"),
                group.create_task(self._reporter.run(self.reports), name="report"),
                group.create_task(self._save_what_changed(), name="state"),
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()
        await self._reporter.write_final(self.reports())
        await self._save()
        self._log.info("agent-stopped", lines=len(self._state.lines))

    def reports(self) -> dict[str, LineReport] | None:
        """What is to be said of every line; `None` before the runtime was first asked what it has.

        Nor before it is known what is wanted: a report without lines would tell everybody that nothing is warm.
        """
        return self._state.reports() if self._state.asked and self.health.lines_known else None

    # --- what is wanted ---

    async def _follow_desired(self) -> None:
        settings, store = self._settings, DesiredStore(self._desired, self._take)
        await follow_desired(self._kubernetes, settings.namespace, settings.node, store, self._clock, self._log)

    def _take(self, desired: Desired) -> None:
        self._desired, self.health.lines_known = desired, True
        changes = self._state.select_lines(desired.data)
        for key, why in changes.malformed.items():
            self._log.warning("malformed-line", key=key, error=clean_message(why))
        if changes.added or changes.changed or changes.removed:
            self._log.info(
                "lines-changed",
                added=changes.added,
                changed=changes.changed,
                removed=changes.removed,
                lines=len(self._state.lines),
                malformed=len(self._state.malformed),
            )
        if changes.added or changes.changed:
            self._checks.wake.set()
        self._reporter.owner_seen(desired.owner_uid)
        self._changed()

    # --- waking the other tasks ---

    def _changed(self) -> None:
        self._pulls.wake.set()
        self._save_wake.set()
        self._say_changed()

    def _say_changed(self) -> None:
        self._reporter.wake.set()
        states = [report.state for report in (self.reports() or {}).values()]
        self._metrics.lines(states, malformed=len(self._state.malformed))

    # --- what outlives the agent ---

    async def _save_what_changed(self) -> None:
        while True:
            await self._clock.wait(self._save_wake, _SAVE_AGAIN_SECONDS)
            await self._save()

    async def _save(self) -> None:
        node, desired = self._state, self._desired
        state = State(desired.resource_version, dict(desired.data), dict(node.pulled), dict(node.not_runnable))
        if state == self._saved:
            return
        try:
            await self._offload(self._file.save, state)
        except OSError as error:
            folder = str(self._settings.state_dir)
            self._save_trouble.failed(folder=folder, error=str(error), hint="a restart may pull again what is there")
        else:
            self._saved = state
            self._save_trouble.recovered()
