"""Handle CloudEvents about pushes, Pods, objects, reports and syncs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from adapters.kubernetes.errors import KubernetesError, Unavailable
from adapters.kubernetes.rate_limit import ByteRateLimiter
from adapters.logs import get_logger
from handlers.reconcile.coalescing import Coalescer
from handlers.reconcile.context import Context
from handlers.reconcile.early_hints import EarlyHints
from handlers.reconcile.node_configmaps import NodeWrites
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.pods import accept_pods
from handlers.reconcile.policies import Policies
from handlers.reconcile.projection import FirstPass, Projection
from handlers.reconcile.pushes import Pushes
from handlers.reconcile.refreshes import Refreshes
from handlers.reconcile.resolver import Resolver
from handlers.reconcile.resync import Resync
from handlers.reconcile.statuses import Statuses
from handlers.reconcile.targets import Targets
from handlers.sources import Sources
from warmhook.events import SYNC, Event, NotAnEvent, Pushed, is_timed
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey, PolicyKey

_log = get_logger()

# Longer than any part takes on a healthy cluster; `watch` and the Triggers wait for 30 seconds.
_SECONDS: Final = 27.0
# Concurrent rounds, so that a long one does not delay later ones.
_ROUNDS: Final = 4
_REPORT_ROUNDS: Final = 2

Result: TypeAlias = Literal["handled", "denied"]


class Dispatch:
    """Handles every type of event. Level-triggered: an event says only where to look."""

    def __init__(
        self,
        context: Context,
        sources: Sources,
        pushes: Pushes,
        budget: ByteRateLimiter,
        observe_push_to_warm: Callable[[float], None],
    ) -> None:
        """`observe_push_to_warm` is called with the seconds from a push to when its last node is seen warm."""
        self._context = context
        self._sources = sources
        self._pushes = pushes
        self._policies = Policies(context)
        self._resolver = resolver = Resolver(context, lambda key: self._resolved_rounds.join({key: 0}))
        writes = NodeWrites(context, budget)
        self._projection = Projection(context, writes, resolver)
        self._early_hints = EarlyHints(context, writes)
        self._refreshes = Refreshes(context, resolver.resolve_again)
        self._statuses = Statuses(context, resolver, self._projection, observe_push_to_warm)
        self._resync = Resync(context, resolver, self._policies, self._refreshes, self._projection, self._statuses)
        self._seen: dict[ObjectKey, Object] = {}
        """WarmImages of local events as they were seen, until they are handled."""
        self._uncounted: set[str] | None = None
        """Namespaces in which WarmImages changed since they were counted; `None` if not all changes are local."""
        sleep = context.clock.sleep
        self._policy_rounds = Coalescer("policies", self._reconcile, at_once=_ROUNDS, seconds=_SECONDS, sleep=sleep)
        self._image_rounds = Coalescer("WarmImages", self._project, at_once=_ROUNDS, seconds=_SECONDS, sleep=sleep)
        self._node_rounds = Coalescer("Nodes", self._nodes, at_once=_ROUNDS, seconds=_SECONDS, sleep=sleep)
        self._report_rounds = Coalescer(
            "reports", self._reported, at_once=_REPORT_ROUNDS, seconds=_SECONDS, sleep=sleep
        )
        self._resolved_rounds = Coalescer("resolutions", self._resolved, at_once=_ROUNDS, seconds=_SECONDS, sleep=sleep)
        # A sync reads everything, so the events that ask for one while it runs share the next.
        self._sync_rounds = Coalescer("syncs", self._synced, at_once=1, seconds=_SECONDS, sleep=sleep)

    async def handle(self, events: Sequence[Event], *, local: bool = False) -> Result:
        """Handle events that arrived together; work on the same object, also for other requests, is done once.

        `local` events come from the watch of this process, all of them, and from nowhere else: the objects that they
        carry are used, and what was seen is not read again.
        Returns `denied` if the API server rejected a part for good: a repeat would be rejected again, and the next sync
        reads it. Raises `NotAnEvent` for events that can never be handled and `Unavailable` if a repeat may help;
        everything that can be handled now is done before.
        """
        targets = Targets()
        refused: NotAnEvent | None = None
        for event in events:
            try:
                targets.add(event)
            except NotAnEvent as error:
                refused = error
        if local:
            self._note(targets)
        outcomes = Outcomes()
        try:
            async with asyncio.timeout(_SECONDS):
                await self._work(targets, outcomes)
        except TimeoutError as error:
            raise Unavailable("there was more to do than could be done in time", retry_after_seconds=1) from error
        if outcomes.later is not None:
            raise outcomes.later
        if refused is not None:
            raise refused
        return "denied" if outcomes.refused is not None else "handled"

    async def close(self) -> None:
        """End what no event waits for."""
        await self._resolver.close()

    def _note(self, targets: Targets) -> None:
        """Note what the watch of this process saw, before anything is read."""
        reader = self._context.reader
        if targets.sync:
            # The first event after the change of a leader, which handled changes that this process dropped.
            reader.forget_changes()
        reader.note_change("WarmPolicy", max(targets.policies.values(), default=0))
        reader.note_change("Node", max(targets.nodes.values(), default=0))
        self._seen |= targets.seen
        self._uncounted = (self._uncounted or set()) | {key.namespace for key in targets.warmimages}

    async def _work(self, targets: Targets, outcomes: Outcomes) -> None:
        """Every part to its end, whatever becomes of the others."""
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "pushes": lambda: outcomes.each("push", targets.pushed, self._pushed, name=lambda received: received[0].id),
            "policies": lambda: self._policy_rounds.join(targets.policies),
            "warmimages": lambda: self._image_rounds.join(targets.warmimages),
            "nodes": lambda: self._node_rounds.join(targets.nodes),
            "reports": lambda: self._report_rounds.join(targets.reported),
        }
        if targets.admitted:
            parts["admissions"] = lambda: accept_pods(self._context, targets.admitted)
        if targets.sync:
            parts["sync"] = lambda: self._sync_rounds.join({SYNC: 0})

        async def run(name: str, work: Callable[[], Awaitable[None]]) -> None:
            with outcomes.item(name):
                await work()

        ended = await asyncio.gather(*(run(*part) for part in parts.items()), return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _pushed(self, received: tuple[Event, str, Pushed]) -> None:
        event, name, pushed = received
        configured = self._sources.get(name)
        # The event may come from a Broker that other programs write to as well.
        if configured is None or not configured.allows(pushed.image.host):
            _log.warning("event-refused", event_id=event.id, reason="host-not-allowed", image=str(pushed.image))
            return
        # The push was received when the event was made, however late the event is.
        pushed = pushed if is_timed(pushed) else replace(pushed, pushed_at=event.time)
        result = await self._pushes.accept(pushed, event.id, event.time)
        _log.info("pushed", event_id=event.id, image=str(pushed.image), result=result)

    async def _reconcile(self, keys: Mapping[PolicyKey, int]) -> dict[PolicyKey, Exception]:
        outcomes = await asyncio.gather(*(self._policies.reconcile(key) for key in keys), return_exceptions=True)
        return {key: outcome for key, outcome in zip(keys, outcomes, strict=True) if isinstance(outcome, Exception)}

    async def _project(self, changed: Mapping[ObjectKey, int]) -> dict[ObjectKey, Exception]:
        keys = changed.keys()
        # The highest resourceVersion; empty if none is known.
        newest = str(max(changed.values(), default=0) or "")
        seen = {key: obj for key in keys if (obj := self._seen.pop(key, None)) is not None}
        first: FirstPass = "noted" if len(seen) == len(keys) else "cached" if newest else "none"
        # Repositories first: what a push replaces leaves the nodes in the same write that brings the new line, and each
        # write of a node costs etcd the whole object.
        outcomes = Outcomes()
        try:
            reconciled = await self._policies.reconcile_repositories(keys, not_older_than=newest, seen=seen)
        except KubernetesError:
            await self._projection.project(keys, outcomes, first="cached" if newest else "none")
            raise
        found = reconciled.found
        # At once: no line waits for the blobs of pushes that last, whoever noted them, and these wait for no line.
        ended = await asyncio.gather(
            self._projection.project({*keys, *reconciled.deleted}, outcomes, found=found, first=first),
            self._early_hints.write(found.usable.values()),
            return_exceptions=True,
        )
        for outcome in ended:
            if isinstance(outcome, BaseException):
                raise outcome
        # Afterwards, because a registry may not answer.
        if refreshed := await self._refreshes.requested(found.usable.values(), outcomes):
            await self._projection.project(refreshed, outcomes)
        problem = outcomes.problem
        return {**(dict.fromkeys(keys, problem) if problem is not None else {}), **reconciled.problems}

    async def _resolved(self, keys: Mapping[ObjectKey, int]) -> dict[ObjectKey, Exception]:
        """Complete the lines of WarmImages that were written before their registries answered."""
        outcomes = Outcomes()
        with outcomes.item("lines"):
            await self._projection.project(keys.keys(), outcomes)
        with outcomes.item("statuses"):
            await self._statuses.update(keys.keys())
        outcomes.raise_problem()
        return {}

    async def _reported(self, keys: Mapping[ObjectKey, int]) -> dict[ObjectKey, Exception]:
        outcomes = Outcomes()
        with outcomes.item("statuses"):
            await self._statuses.update(keys.keys())
        with outcomes.item("counts"):
            await self._update_counts({key.namespace for key in keys})
        outcomes.raise_problem()
        return {}

    async def _update_counts(self, namespaces: set[str]) -> None:
        """Count the WarmImages of these namespaces, as far as their number may have changed."""
        if self._uncounted is None:
            return await self._policies.update_counts(namespaces)
        namespaces &= self._uncounted
        self._uncounted -= namespaces
        try:
            await self._policies.update_counts(namespaces)
        except BaseException:  # also if the round ends because a list got no answer
            self._uncounted |= namespaces
            raise

    async def _synced(self, _targets: Mapping[str, int]) -> dict[str, Exception]:
        await self._resync.run()
        return {}

    async def _nodes(self, names: Mapping[str, int]) -> dict[str, Exception]:
        outcomes = Outcomes()
        found = await self._context.reader.nodes_of(names)
        gone = sorted(set(names) - found.keys())
        await outcomes.each("node", gone, self._context.writer.delete_configmaps)
        await self._context.recorder.record_long_names(found.values(), outcomes)
        await self._projection.project_nodes(names.keys(), outcomes)
        outcomes.raise_problem()
        return {}
