"""Run the agent of a node: follow the lines, check the runtime, pull, remove and report, each in a task of its own."""

from __future__ import annotations

import asyncio
from typing import Final

from adapters.outages import OutageLog
from nodeagent.checks import Checks
from nodeagent.context import Context
from nodeagent.desired import Desired, DesiredStore, follow_desired
from nodeagent.image_puller import ImagePuller
from nodeagent.node_state import NodeState
from nodeagent.peers.annotations import PeerAnnotations
from nodeagent.peers.fetches import Fetches, Peers
from nodeagent.peers.hints import Hints
from nodeagent.peers.node_exchange import NodeExchange
from nodeagent.peers.results import Results
from nodeagent.pins import Pins
from nodeagent.probes import Health
from nodeagent.pull_credentials import PullCredentials
from nodeagent.removals import Removals
from nodeagent.reporter import Reporter
from nodeagent.state_file import State, StateFile
from warmhook.node_lines import unknown_fields
from warmhook.node_report import LineReport, clean_message

_SAVE_AGAIN_SECONDS: Final = 60.0
_FIELDS_LOGGED: Final = 10


class Agent:
    """The agent of one node."""

    def __init__(self, context: Context, peers: Peers | None = None) -> None:
        """`peers`: instead of those that the settings and the content store of the runtime give."""
        settings, clock, log = context.settings, context.clock, context.log
        self._context, self._clock, self._log = context, clock, log
        self._file = StateFile(settings.state_dir, settings.node, log)
        saved = self._file.load()
        self._saved: State | None = saved
        self._desired = Desired(saved.resource_version, saved.lines)
        self._state = NodeState(clock, context.platform, settings, saved)
        self._state.select_lines(saved.lines)
        self.health = Health(clock, settings.check_seconds)
        self.health.lines_known = saved.resource_version > 0
        self.peers = PeerAnnotations(clock)
        self._reporter = Reporter(context.kubernetes, settings.namespace, settings.node, clock, log, self.peers)
        self._checks = Checks(context, self._state, self.health, self._changed)
        self._credentials = PullCredentials(context, self._state, self._changed)
        self._removals = Removals(context, self._state, self._checks, self._changed)
        self._exchange = self._new_exchange()
        self._fetches = self._new_fetches(peers or self._exchange)
        self._puller = ImagePuller(
            context,
            self._state,
            self._checks,
            self._credentials,
            self._fetches,
            started=self.reports_changed,
            ended=self._changed,
        )
        self._pins = Pins(context, self._state, self.health)
        self._unknown_fields: frozenset[str] = frozenset()
        """Those of lines of a newer handler, which are logged once."""
        self._save_wake = asyncio.Event()
        self._save_outage = OutageLog(log, clock, "state-not-written")

    def _new_exchange(self) -> NodeExchange | None:
        context, state = self._context, self._state
        if context.content is None or not context.settings.peers.endpoint:
            return None
        return NodeExchange(
            context, context.content, state, self._credentials.find, self.peers, changed=self.reports_changed
        )

    def _new_fetches(self, peers: Peers | None) -> Fetches | None:
        results = Results(self._context, self.peers, self.reports_changed)
        return None if peers is None else Fetches(self._context, peers, self._state.hints, results)

    @property
    def hints(self) -> Hints:
        """Of the lines of this node."""
        return self._state.hints

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then cancel the pulls, report once more and save the state."""
        settings = self._context.settings
        self._log.info(
            "agent-started",
            node=settings.node,
            runtime=settings.runtime_endpoint,
            lines=len(self._state.lines),
            resource_version=self._desired.resource_version,
        )
        desired = follow_desired(self._context, DesiredStore(self._desired, self._desired_changed))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(desired, name="desired"),
                group.create_task(self._checks.run(), name="check"),
                group.create_task(self._puller.run(), name="pulls"),
                group.create_task(self._credentials.run(), name="secrets"),
                group.create_task(self._removals.run(), name="removals"),
                group.create_task(self._reporter.run(self.reports), name="report"),
                group.create_task(self._pins.run(), name="pins"),
                group.create_task(self._save_changes(), name="state"),
            ]
            if self._exchange is not None:
                tasks.append(group.create_task(self._exchange.run(), name="peers"))
            await stop.wait()
            for task in tasks:
                task.cancel()
        await self._reporter.write_final(self.reports())
        await self._save()
        await self._removals.save()
        self._log.info("agent-stopped", lines=len(self._state.lines))

    def reports(self) -> dict[str, LineReport] | None:
        """The report of every line; `None` before the first check of the runtime, and before the lines are known.

        A report without lines would mean that nothing is warm.
        """
        return self._state.reports() if self._state.checked and self.health.lines_known else None

    def _desired_changed(self, desired: Desired) -> None:
        self._desired, self.health.lines_known = desired, True
        changes = self._state.select_lines(desired.data)
        early = self._exchange.early.select(desired.data, self._state.lines) if self._exchange is not None else {}
        if news := unknown_fields(desired.data) - self._unknown_fields:
            self._unknown_fields |= news
            fields = [clean_message(name) for name in sorted(news)[:_FIELDS_LOGGED]]
            self._log.warning("newer-lines", fields=fields, hint="the handlers are newer than this agent: update it")
        for key, why in {**changes.malformed, **early}.items():
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
        if self._fetches is not None:
            self._fetches.keep({wanted.line.image for wanted in self._state.lines.values()})
        if self._exchange is not None:
            self._exchange.leases.wake.set()
        self._reporter.owner_seen(desired.owner_uid)
        self._changed()

    def _changed(self) -> None:
        self._puller.wake.set()
        self._pins.wake.set()
        self._removals.wake.set()
        self._save_wake.set()
        if self._exchange is not None:
            self._exchange.early.wake.set()
        self.reports_changed()

    def reports_changed(self) -> None:
        """The report may differ from the written one."""
        self._reporter.wake.set()
        states = [report.state for report in (self.reports() or {}).values()]
        self._context.metrics.lines(states, malformed=len(self._state.malformed))

    async def _save_changes(self) -> None:
        while True:
            await self._clock.wait(self._save_wake, _SAVE_AGAIN_SECONDS)
            await self._save()

    async def _save(self) -> None:
        node, desired = self._state, self._desired
        state = State(
            desired.resource_version,
            dict(desired.data),
            dict(node.pulled),
            dict(node.not_runnable),
            dict(node.refreshed),
        )
        if state == self._saved:
            return
        try:
            await self._context.offload(self._file.save, state)
        except OSError as error:
            folder = str(self._context.settings.state_dir)
            hint = "make the folder writable; until then a restart may pull again what is present"
            self._save_outage.failed(folder=folder, error=str(error), hint=hint)
        else:
            self._saved = state
            self._save_outage.recovered()
