"""Write the status of WarmImages: the counts of what their nodes report, if they differ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from adapters.kubernetes.errors import Conflict, KubernetesError, NotFound, Refused, Unavailable
from adapters.kubernetes.spec import InvalidObject, NewerObject
from adapters.kubernetes.warmimage import unknown_status
from adapters.logs import get_logger
from handlers.reconcile.context import Context
from handlers.reconcile.objects import WarmImages, object_key, read_warmimages
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.projection import Projection
from handlers.reconcile.resolver import Resolver
from warmhook.node_lines import line_key, line_of
from warmhook.node_report import Report, read_detail
from warmhook.placement import Node, lacks_platform, node_selector, place_each, reads_taints
from warmhook.ports import Object
from warmhook.secret_access import with_command
from warmhook.status import (
    FAILURES_MAX,
    NO_WORD,
    Counts,
    Failure,
    count,
    find_condition,
    invalid_status,
    limited_status,
    status_object,
    unplaced_status,
)
from warmhook.tenancy import permitted, problems
from warmhook.timestamps import parse_time
from warmhook.transitions import transitions
from warmhook.warmimages import ObjectKey, WarmImage

_log = get_logger()

# The interval between two writes of one status.
_APART_SECONDS: Final = 1.0
# For so long Nodes with their taints, and Pods, are used again: they only decide counts, which the next sync repeats.
_READ_AGAIN_SECONDS: Final = 5.0
# After this the rest is left to the repeat of the event.
_SECONDS: Final = 20.0
# A generation that started later after its push comes from a changed policy, not from the push.
_OF_THE_PUSH: Final = timedelta(minutes=10)


class Unfinished(Unavailable):
    """The time was too short for all statuses."""

    def __init__(self, left: Sequence[ObjectKey]) -> None:
        super().__init__(f"{len(left)} WarmImages are left to be judged", retry_after_seconds=1)
        self.left = left


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The objects from which statuses are computed."""

    objects: Mapping[ObjectKey, Object]
    """The WarmImages as they were read."""
    warmimages: WarmImages
    """The same as values."""
    nodes: Collection[Node]
    reports: Mapping[str, Report]
    """By the node's name."""
    refused: Mapping[str, Collection[str]]
    """Per node's name the keys of the lines that its ConfigMap has no room for."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The new status of one WarmImage."""

    key: ObjectKey
    object: Object
    """As it was read."""
    warmimage: WarmImage | None
    """`None` if it cannot be used."""
    before: Object
    """Its status as it was read."""
    after: Object


class Statuses:
    """Writes `WarmImage.status`."""

    def __init__(
        self,
        context: Context,
        resolver: Resolver,
        projection: Projection,
        observe_push_to_warm: Callable[[float], None],
    ) -> None:
        """`observe_push_to_warm` is called with the seconds from a push to when its last node is seen warm.

        The lines of WarmImages that have completed leave the nodes by `projection`.
        """
        self._context = context
        self._resolver = resolver
        self._projection = projection
        self._completed: set[ObjectKey] = set()
        """Those whose lines are still there."""
        self._monotonic = context.clock.monotonic
        self._observe = observe_push_to_warm
        self._written: dict[ObjectKey, float] = {}
        """The time of each write of a status, on the monotonic clock; only the last second."""
        self._full_nodes: dict[str, tuple[float, list[Node]]] = {}
        """Label selector to when its Nodes were read, and these; only of the last one."""

    async def update(self, keys: Collection[ObjectKey], *, deadline: float | None = None) -> None:
        """Update these statuses in this order, until `deadline` on the monotonic clock or for 20 seconds.

        Raises `Unfinished` when there are more, and as `Outcomes.raise_problem` does.
        """
        deadline = self._monotonic() + _SECONDS if deadline is None else deadline
        outcomes, left = Outcomes(), list(keys)
        while left:
            again = await self._update(left, deadline, outcomes)
            await self._release_completed(outcomes, deadline)
            left = [key for key in left if key in again]
            if left and self._monotonic() + _APART_SECONDS > deadline:
                raise Unfinished(left)
            if left:
                await self._context.clock.sleep(_APART_SECONDS)
        outcomes.raise_problem()

    async def _update(self, keys: Collection[ObjectKey], deadline: float, outcomes: Outcomes) -> set[ObjectKey]:
        """Returns the WarmImages that need another update: no time, or written less than a second ago."""
        reader = self._context.reader
        objects = {object_key(obj): obj for obj in await reader.warmimage_objects(keys)}
        found = await read_warmimages([objects[key] for key in keys if key in objects], reader.tenancy)
        if not found.usable and not found.unusable:
            return set()
        reports = await reader.reports()
        refused = {desired.node: desired.refused for desired in await reader.truncated()}
        selectors = {node_selector(warmimage.template.nodes).query() for warmimage in found.usable.values()}
        taints = reads_taints(found.usable.values())
        nodes = await self._nodes(selectors.pop() if len(selectors) == 1 else "", taints=taints)
        state = ClusterState(objects, found, nodes, reports, refused)
        order = [key for key in keys if key in found.usable or key in found.unusable]
        differing, left = await self.judge(order, state, deadline, outcomes)

        async def write(judgement: Judgement) -> None:
            if self._monotonic() > deadline or not await self._write(judgement):
                left.add(judgement.key)

        await outcomes.each(
            "status",
            differing,
            write,
            name=lambda judgement: str(judgement.key),
            group=lambda judgement: judgement.key.namespace,
            seconds=max(0.0, deadline - self._monotonic()),
        )
        return left

    async def _release_completed(self, outcomes: Outcomes, deadline: float) -> None:
        completed, self._completed = self._completed, set()
        if completed:
            with outcomes.item("lines"):
                await self._projection.project(completed, outcomes, deadline=deadline)

    async def _nodes(self, labels: str, *, taints: bool) -> list[Node]:
        """Nodes under a selector. With taints they are large, and reports make them needed every second."""
        if not taints:
            return await self._context.reader.nodes(labels)
        read_at, nodes = self._full_nodes.get(labels, (float("-inf"), []))
        if self._monotonic() - read_at >= _READ_AGAIN_SECONDS:
            read_at, nodes = self._monotonic(), await self._context.reader.nodes(labels, taints=True)
            self._full_nodes = {labels: (read_at, nodes)}
        return nodes

    async def judge(
        self,
        order: Sequence[ObjectKey],
        state: ClusterState,
        deadline: float,
        outcomes: Outcomes,
        most: float = float("inf"),
    ) -> tuple[list[Judgement], set[ObjectKey]]:
        """Statuses that must be written, and the WarmImages that were not judged.

        Ends at `deadline`, or with `most` such statuses. Other tasks run between two WarmImages.
        """
        now = self._context.clock.utcnow
        usable, unusable = state.warmimages.usable, state.warmimages.unusable
        details: dict[str, Mapping[str, str]] = {}
        differing, left = list[Judgement](), set(order)
        running = await self._context.reader.pods.running(
            [usable[key] for key in order if key in usable], at_most_seconds=_READ_AGAIN_SECONDS
        )
        known = [permitted(usable[key]) for key in order if key in usable and key not in running.unknown]
        placed = place_each(known, state.nodes, running.nodes)
        for key in order:
            obj = state.objects[key]
            before: Object = obj.get("status") or {}
            after: Object | None = None
            if key in unusable:
                after = _unusable_status(obj, before, unusable[key], now())
            elif key in running.unknown:
                after = _unplaced_status(before, usable[key], running.unknown[key], now())
            else:
                warmimage, wanted = next(placed)
                line = line_of(warmimage)
                without = _without_line(warmimage, line.key, wanted, state.refused)
                counts = count(line, wanted, state.reports, now(), without)
                if counts.moved:
                    self._resolver.recheck(warmimage)
                counts = replace(counts, runnable=warmimage.resolved is None or warmimage.resolved.runnable)
                failures: list[Failure] | None = None
                with outcomes.item("failures", warmimage=str(key)):
                    failures = await self._failures(warmimage, counts, without, details)
                if failures is not None:
                    after = status_object(before, warmimage, counts, failures, now())
                    after = unknown_status(before) | limited_status(before, after, list(problems(usable[key])), now())
                await asyncio.sleep(0)
            if after is not None:
                left.discard(key)
                if before != after:
                    differing.append(Judgement(key, obj, usable.get(key), before, after))
                if len(differing) >= most or self._monotonic() > deadline:
                    break
        return differing, left

    async def _write(self, judgement: Judgement) -> bool:
        """Returns whether it was written, or never can be; False if the last write is less than a second old.

        Nor if another handler wrote since the object was read: the reports are read after the object, so the later
        handler has newer reports, and a slow one never overwrites its status.
        """
        now, key = self._monotonic(), judgement.key
        self._written = {key: moment for key, moment in self._written.items() if now - moment < _APART_SECONDS}
        if key in self._written:
            return False
        self._written[key] = now
        before = judgement.before
        try:
            await self._context.writer.replace_warmimage_status(judgement.object, judgement.after)
        except Conflict:
            return False
        except NotFound:
            return True
        if judgement.warmimage is None:
            problem = find_condition(judgement.after, "Ready")["message"]
            _log.warning("warmimage-invalid", warmimage=str(key), problem=problem)
        else:
            self._measure(judgement.warmimage, before, judgement.after)
            if find_condition(judgement.after, "Complete").get("status") == "True":
                self._completed.add(key)
        uid = judgement.object["metadata"]["uid"]
        await self._context.recorder.record("WarmImage", key, uid, transitions(before, judgement.after))
        return True

    def _measure(self, warmimage: WarmImage, before: Mapping[str, Any], status: Object) -> None:
        """Observe the time from push to warm, once per push."""
        again = before.get("observedGeneration") == warmimage.generation and "completedAt" in before
        if "completedAt" not in status or again or warmimage.pushed_at is None or warmimage.pod_origin is not None:
            return
        if parse_time(status["startedAt"]) - warmimage.pushed_at < _OF_THE_PUSH:
            self._observe((self._context.clock.utcnow() - warmimage.pushed_at).total_seconds())

    async def _failures(
        self,
        warmimage: WarmImage,
        counts: Counts,
        without: Mapping[str, Failure],
        details: dict[str, Mapping[str, str]],
    ) -> list[Failure]:
        """The first failing nodes with their reasons; `details` caches the data of reports."""
        failures, key = [], line_key(warmimage.key)
        for node in counts.failing:
            if node in without:
                failures.append(without[node])
                continue
            if node not in details:
                details[node] = await self._context.reader.report_data(node)
            reason, message = read_detail(details[node].get(key, "{}"))
            message = with_command(message, warmimage.key.namespace, warmimage.template.pull.secrets)
            failures.append(Failure(node, reason, message))
        failures += [Failure(node, "NoAgent", NO_WORD) for node in counts.silent]
        return failures[:FAILURES_MAX]


def _unplaced_status(before: Object, warmimage: WarmImage, problem: KubernetesError, now: datetime) -> Object:
    """The status of a WarmImage whose Pods could not be read; unchanged if a repeat may solve that."""
    return unplaced_status(before, warmimage.generation, str(problem), now) if isinstance(problem, Refused) else before


def _without_line(
    warmimage: WarmImage, key: str, wanted: Collection[Node], refused: Mapping[str, Collection[str]]
) -> dict[str, Failure]:
    """The nodes that should hold the image and get no line, by name: no room, or no image for their platform."""
    full = "the node's ConfigMap has no room for another line"
    without = {name: Failure(name, "TooManyLines", full) for name, keys in refused.items() if key in keys}
    resolved = warmimage.resolved
    if resolved is not None and resolved.platforms:
        message = f"the image is for {', '.join(resolved.platforms)} only"
        lacking = (node.name for node in wanted if lacks_platform(resolved, node))
        without |= {name: Failure(name, "PlatformMissing", message) for name in lacking}
    return without


def _unusable_status(obj: Object, before: Object, problem: InvalidObject, now: datetime) -> Object:
    generation = obj["metadata"].get("generation", 0)
    if isinstance(problem, NewerObject) and before.get("observedGeneration") == generation:
        # Of a replica that knows the field.
        return before
    return invalid_status(before, generation, str(problem), now)
