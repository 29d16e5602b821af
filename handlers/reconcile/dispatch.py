"""Handle CloudEvents: what happened to pushes, objects and reports, and the periodic sync."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from adapters.kubernetes.client import Kubernetes, KubernetesError, Unavailable
from adapters.logs import get_logger
from handlers.reconcile.coalescing import Coalescer
from handlers.reconcile.node_configmaps import delete_configmaps
from handlers.reconcile.node_events import record_name_too_long
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.pods import PodAdmissions
from handlers.reconcile.policies import Policies
from handlers.reconcile.projection import Projection
from handlers.reconcile.pushes import Pushes
from handlers.reconcile.reader import Reader
from handlers.reconcile.resync import Resync
from handlers.reconcile.statuses import Statuses
from handlers.sources import Configuration
from warmhook.admission_review import Admitted
from warmhook.events import (
    ADMITTED,
    CHANGED,
    PING,
    PUSHED,
    REPORTED,
    SYNC,
    Changed,
    Event,
    NotAnEvent,
    Pushed,
    is_timed,
    read_admitted,
    read_change,
    read_changed,
    read_pushed,
    read_reported,
)
from warmhook.ports import Sleep, Utcnow
from warmhook.warmimages import ObjectKey, PolicyKey

__all__ = ["HANDLED", "Dispatch", "Result"]

_log = get_logger()

HANDLED: Final = frozenset({PUSHED, ADMITTED, CHANGED, REPORTED, SYNC, PING})
# Longer than any part takes that is well; `watch` and the Triggers wait for 30 seconds.
_SECONDS: Final = 27.0
# Rounds at a time, so that a long one holds up nothing that comes later.
_ROUNDS: Final = 4
_REPORT_ROUNDS: Final = 2

Result: TypeAlias = Literal["handled", "denied"]


@dataclass(slots=True)
class _Asked:
    """Where to look, by all events that came together."""

    pushed: list[tuple[Event, str, Pushed]] = field(default_factory=list)
    admitted: list[tuple[Event, Admitted]] = field(default_factory=list)
    policies: dict[PolicyKey, int] = field(default_factory=dict)
    """Like the next ones with the resourceVersion at which it changed; 0 where that is not known."""
    warmimages: dict[ObjectKey, int] = field(default_factory=dict)
    nodes: dict[str, int] = field(default_factory=dict)
    reported: dict[ObjectKey, int] = field(default_factory=dict)
    sync: bool = False

    def add(self, event: Event) -> None:
        """Take in one event. Raises `NotAnEvent`."""
        if event.type == PUSHED:
            self.pushed.append((event, *read_pushed(event)))
        elif event.type == ADMITTED:
            self.admitted.append((event, read_admitted(event)))
        elif event.type == CHANGED:
            self._add_changes(read_changed(event))
        elif event.type == REPORTED:
            self.reported |= {ObjectKey(*name.split("/")): 0 for name in read_reported(event)}
        elif event.type in {SYNC, PING}:
            self.sync = True
        else:
            raise NotAnEvent(f"type {event.type[:100]!r} is not handled here")

    def _add_changes(self, objects: Sequence[object]) -> None:
        """Take in every object that can be read, then raise `NotAnEvent` where one cannot: a newer `watch` may name
        kinds that this process does not know."""
        refused: NotAnEvent | None = None
        for named in objects:
            try:
                self._add_change(read_change(named))
            except NotAnEvent as error:
                refused = error
        if refused is not None:
            raise refused

    def _add_change(self, changed: Changed) -> None:
        version = _version(changed.resource_version)
        match changed.kind:
            case "WarmPolicy":
                policy = PolicyKey(changed.namespace, changed.name)
                self.policies[policy] = max(version, self.policies.get(policy, 0))
            case "WarmImage":
                warmimage = ObjectKey(changed.namespace, changed.name)
                self.warmimages[warmimage] = max(version, self.warmimages.get(warmimage, 0))
            case "Node":
                self.nodes[changed.name] = max(version, self.nodes.get(changed.name, 0))


class Dispatch:
    """Knows what to do about every event; level-triggered, so an event says only where to look."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        cluster: Reader,
        configuration: Configuration,
        pushes: Pushes,
        admissions: PodAdmissions,
        policies: Policies,
        projection: Projection,
        statuses: Statuses,
        sync: Resync,
        namespace: str,
        *,
        now: Utcnow,
        sleep: Sleep,
    ) -> None:
        self._kubernetes = kubernetes
        self._cluster = cluster
        self._configuration = configuration
        self._pushes = pushes
        self._admissions = admissions
        self._policies = policies
        self._projection = projection
        self._statuses = statuses
        self._sync = sync
        self._namespace = namespace
        self._now = now
        self._policy_rounds = Coalescer("policies", self._reconcile, at_once=_ROUNDS, seconds=_SECONDS, sleep=sleep)
        self._image_rounds = Coalescer("WarmImages", self._project, at_once=_ROUNDS, seconds=_SECONDS, sleep=sleep)
        self._node_rounds = Coalescer("Nodes", self._nodes, at_once=_ROUNDS, seconds=_SECONDS, sleep=sleep)
        self._report_rounds = Coalescer(
            "reports", self._reported, at_once=_REPORT_ROUNDS, seconds=_SECONDS, sleep=sleep
        )
        # A sync reads everything there is, so those that come meanwhile share the next one.
        self._sync_rounds = Coalescer("syncs", self._synced, at_once=1, seconds=_SECONDS, sleep=sleep)

    async def handle(self, events: Sequence[Event]) -> Result:
        """Handle events that came together; what concerns the same objects, here or in other requests, is done once.

        `denied` where the API server refused a part for good: a repeat would be refused again, and the next sync looks
        there. Raises `NotAnEvent` for what can never be handled and `Unavailable` for what can be later; all that can
        be handled now is done before.
        """
        asked = _Asked()
        refused: NotAnEvent | None = None
        for event in events:
            try:
                asked.add(event)
            except NotAnEvent as error:
                refused = error
        outcomes = Outcomes()
        try:
            async with asyncio.timeout(_SECONDS):
                await self._work(asked, outcomes)
        except TimeoutError as error:
            raise Unavailable("there was more to do than could be done in time", retry_after_seconds=1) from error
        if outcomes.later is not None:
            raise outcomes.later
        if refused is not None:
            raise refused
        return "denied" if outcomes.refused is not None else "handled"

    async def _work(self, asked: _Asked, outcomes: Outcomes) -> None:
        """Every part to its end, whatever becomes of the others."""
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "pushes": lambda: outcomes.each("push", asked.pushed, self._pushed, name=_event_id),
            "policies": lambda: self._policy_rounds.join(asked.policies),
            "warmimages": lambda: self._image_rounds.join(asked.warmimages),
            "nodes": lambda: self._node_rounds.join(asked.nodes),
            "reports": lambda: self._report_rounds.join(asked.reported),
        }
        if asked.admitted:
            parts["admissions"] = lambda: self._admissions.accept(asked.admitted)
        if asked.sync:
            parts["sync"] = lambda: self._sync_rounds.join({SYNC: 0})

        async def run(name: str, work: Callable[[], Awaitable[None]]) -> None:
            with outcomes.item(name):
                await work()

        ended = await asyncio.gather(*(run(*part) for part in parts.items()), return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _pushed(self, told: tuple[Event, str, Pushed]) -> None:
        event, name, pushed = told
        configured = self._configuration.sources.get(name)
        # The event may have come through a broker that others write to as well.
        if configured is None or not configured.allows(pushed.image.host):
            _log.warning("event-refused", event_id=event.id, reason="host-not-allowed", image=str(pushed.image))
            return
        # Received when the event was made, however long it was on its way.
        pushed = pushed if is_timed(pushed) else replace(pushed, pushed_at=event.time)
        result = await self._pushes.accept(pushed, event.id, event.time)
        _log.info("pushed", event_id=event.id, image=str(pushed.image), result=result)

    async def _reconcile(self, keys: Mapping[PolicyKey, int]) -> dict[PolicyKey, Exception]:
        outcomes = await asyncio.gather(*(self._policies.reconcile(key) for key in keys), return_exceptions=True)
        return {key: outcome for key, outcome in zip(keys, outcomes, strict=True) if isinstance(outcome, Exception)}

    async def _project(self, changed: Mapping[ObjectKey, int]) -> dict[ObjectKey, Exception]:
        keys, newest = changed.keys(), _newest(changed)
        # Settled first: what a push replaces leaves the nodes in the same write that brings the new line, and each
        # write of a node costs etcd the whole object.
        outcomes, soon = Outcomes(), bool(newest)
        try:
            settled = await self._policies.settle(keys, not_older_than=newest)
        except KubernetesError:
            await self._projection.project(keys, outcomes, soon=soon)
            raise
        await self._projection.project({*keys, *settled.deleted}, outcomes, found=settled.found, soon=soon)
        problem = outcomes.problem
        return {**(dict.fromkeys(keys, problem) if problem is not None else {}), **settled.problems}

    async def _reported(self, keys: Mapping[ObjectKey, int]) -> dict[ObjectKey, Exception]:
        outcomes = Outcomes()
        with outcomes.item("statuses"):
            await self._statuses.update(keys.keys())
        with outcomes.item("recount"):
            await self._policies.recount({key.namespace for key in keys})
        outcomes.settle()
        return {}

    async def _synced(self, _asked: Mapping[str, int]) -> dict[str, Exception]:
        await self._sync.run()
        return {}

    async def _nodes(self, names: Mapping[str, int]) -> dict[str, Exception]:
        outcomes = Outcomes()
        found = await self._cluster.nodes_of(names)
        gone = sorted(set(names) - found.keys())
        await outcomes.each("node", gone, lambda name: delete_configmaps(self._kubernetes, self._namespace, name))
        await record_name_too_long(self._kubernetes, found.values(), outcomes, self._now)
        await self._projection.project_nodes(names.keys(), outcomes)
        outcomes.settle()
        return {}


def _event_id(told: tuple[Event, str, Pushed]) -> str:
    return told[0].id


def _version(text: str) -> int:
    """resourceVersions are integers of one etcd."""
    return int(text) if text.isascii() and text.isdigit() else 0


def _newest(versions: Mapping[Any, int]) -> str:
    """The highest resourceVersion among those of one kind; empty where none is known."""
    return str(max(versions.values(), default=0) or "")
