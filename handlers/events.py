"""Handle CloudEvents: what happened to pushes, objects and reports, and the periodic sync."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from adapters.kubernetes.client import Conflict, Gone, Kubernetes, KubernetesError, NotFound, Refused, Unavailable
from handlers.admissions import Admissions
from handlers.cluster import Cluster
from handlers.coalescing import Coalescer
from handlers.configuration import Configuration
from handlers.longnames import tell_of_long_names
from handlers.nodewrites import delete_configmaps
from handlers.policies import Policies
from handlers.projection import Projection
from handlers.pushes import Pushes
from handlers.statuses import Statuses
from handlers.sync import Sync
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
    read_admitted,
    read_change,
    read_changed,
    read_pushed,
    read_reported,
)
from warmhook.pods import Admitted
from warmhook.ports import Sleep, Utcnow
from warmhook.warmimages import ObjectKey, PolicyKey

__all__ = ["HANDLED", "Events"]

_log = structlog.get_logger()

HANDLED: Final = frozenset({PUSHED, ADMITTED, CHANGED, REPORTED, SYNC, PING})
# Longer than any part takes that is well; `watch` and the Triggers wait for 30 seconds.
_SECONDS: Final = 27.0
# Rounds at a time, so that a long one holds up nothing that comes later.
_ROUNDS: Final = 4
_REPORT_ROUNDS: Final = 2


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


class Events:
    """Knows what to do about every event; level-triggered, so an event says only where to look."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        cluster: Cluster,
        configuration: Configuration,
        pushes: Pushes,
        admissions: Admissions,
        policies: Policies,
        projection: Projection,
        statuses: Statuses,
        sync: Sync,
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

    async def handle(self, events: Sequence[Event]) -> None:
        """Handle events that came together; what concerns the same objects, here or in other requests, is done once.

        Raises `NotAnEvent` for what can never be handled and `Unavailable` for what can be later; all that can be
        handled now is done before.
        """
        asked = _Asked()
        refused: NotAnEvent | None = None
        for event in events:
            try:
                asked.add(event)
            except NotAnEvent as error:
                refused = error
        try:
            async with asyncio.timeout(_SECONDS):
                await _all(self._work(asked))
        except TimeoutError as error:
            raise Unavailable("there was more to do than could be done in time", retry_after_seconds=1) from error
        if refused is not None:
            raise refused

    def _work(self, asked: _Asked) -> list[Coroutine[Any, Any, None]]:
        work = [self._pushed(*pushed) for pushed in asked.pushed]
        if asked.admitted:
            work.append(self._admissions.accept(asked.admitted))
        work += [
            self._policy_rounds.join(asked.policies),
            self._image_rounds.join(asked.warmimages),
            self._node_rounds.join(asked.nodes),
            self._report_rounds.join(asked.reported),
        ]
        if asked.sync:
            work.append(self._sync.run())
        return work

    async def _pushed(self, event: Event, name: str, pushed: Pushed) -> None:
        configured = self._configuration.sources.get(name)
        # The event may have come through a broker that others write to as well.
        if configured is None or not configured.allows(pushed.image.host):
            _log.warning("event-refused", event_id=event.id, reason="host-not-allowed", image=str(pushed.image))
            return
        result = await self._pushes.accept(pushed, event.id, event.time)
        _log.info("pushed", event_id=event.id, image=str(pushed.image), result=result)

    async def _reconcile(self, keys: Mapping[PolicyKey, int]) -> dict[PolicyKey, Exception]:
        outcomes = await asyncio.gather(*(self._policies.reconcile(key) for key in keys), return_exceptions=True)
        return {key: outcome for key, outcome in zip(keys, outcomes, strict=True) if isinstance(outcome, Exception)}

    async def _project(self, changed: Mapping[ObjectKey, int]) -> dict[ObjectKey, Exception]:
        keys, newest = changed.keys(), _newest(changed)
        # Settled first: what a push replaces leaves the nodes in the same write that brings the new line, and each
        # write of a node costs etcd the whole object.
        try:
            settled = await self._policies.settle(keys, not_older_than=newest)
        except KubernetesError:
            await self._projection.project(keys, not_older_than=newest)
            raise
        await self._projection.project({*keys, *settled.deleted}, found=settled.found, not_older_than=newest)
        return {}

    async def _reported(self, keys: Mapping[ObjectKey, int]) -> dict[ObjectKey, Exception]:
        await self._statuses.update(keys.keys())
        await self._policies.recount({key.namespace for key in keys})
        return {}

    async def _nodes(self, names: Mapping[str, int]) -> dict[str, Exception]:
        found = {name: await self._cluster.node(name) for name in names}
        for name in [name for name, node in found.items() if node is None]:
            await delete_configmaps(self._kubernetes, self._namespace, name)
        await tell_of_long_names(self._kubernetes, filter(None, found.values()), self._now)
        await self._projection.project_nodes(names.keys(), not_older_than=_newest(names))
        return {}


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run everything to its end, then raise the first problem that a repeat may solve.

    What the API server refuses for good is logged: a repeat would be refused again, and the next sync looks there.
    """
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    later: KubernetesError | None = None
    for outcome in outcomes:
        match outcome:
            case NotFound() | Conflict() | Gone():
                later = later or Unavailable(f"another writer came first: {outcome}")
            case Refused():
                _log.error("event-not-handled", problem=str(outcome))
            case Unavailable():
                later = outcome
            case BaseException():
                raise outcome
    if later is not None:
        raise later


def _version(text: str) -> int:
    """resourceVersions are integers of one etcd."""
    return int(text) if text.isascii() and text.isdigit() else 0


def _newest(versions: Mapping[Any, int]) -> str:
    """The highest resourceVersion among those of one kind; empty where none is known."""
    return str(max(versions.values(), default=0) or "")
