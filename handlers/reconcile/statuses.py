"""Keep the status of WarmImages current: what their nodes report, added up and written where it differs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, NotFound, Unavailable
from adapters.logs import get_logger
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.reader import Reader, WarmImages, object_key, sort_out
from handlers.reconcile.recorder import Recorder
from warmhook.node_lines import line_of
from warmhook.node_report import Report, read_detail, report_name
from warmhook.placement import Node, node_selector, place_each, reads_taints
from warmhook.ports import Object, Sleep, Utcnow
from warmhook.status import FAILURES_MAX, Counts, Failure, count, find_condition, invalid_status, status_object
from warmhook.timestamps import parse_time
from warmhook.transitions import transitions
from warmhook.warmimages import ObjectKey, WarmImage

__all__ = ["Judgement", "Statuses", "Unfinished"]

_log = get_logger()

# Between two writes of one status.
_APART_SECONDS: Final = 1.0
# For so long Nodes with their taints are not read again, only for counting; the next sync counts anew.
_FULL_NODES_SECONDS: Final = 5.0
# After this the rest is left to the sender's repeat.
_SECONDS: Final = 20.0
# A generation that began longer after its push than this was made by a changed policy, not by the push.
_OF_THE_PUSH: Final = timedelta(minutes=10)


class Unfinished(Unavailable):
    """There was more to judge than could be in time."""

    def __init__(self, left: Sequence[ObjectKey]) -> None:
        super().__init__(f"{len(left)} WarmImages are left to be judged", retry_after_seconds=1)
        self.left = left


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the status of one WarmImage should be."""

    key: ObjectKey
    object: Object
    """As it was read."""
    warmimage: WarmImage | None
    """`None` where it cannot be used."""
    after: Object

    @property
    def before(self) -> Object:
        """Its status as it was read."""
        status: Object = self.object.get("status") or {}
        return status

    @property
    def differs(self) -> bool:
        """Whether the status is to be written."""
        return self.before != self.after


class Statuses:
    """Writes `WarmImage.status`."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        cluster: Reader,
        recorder: Recorder,
        namespace: str,
        *,
        now: Utcnow,
        monotonic: Callable[[], float],
        sleep: Sleep,
        observe_push_to_warm: Callable[[float], None],
    ) -> None:
        """`observe_push_to_warm` is told the seconds from a push to the moment its last node is seen warm."""
        self._kubernetes = kubernetes
        self._cluster = cluster
        self._recorder = recorder
        self._namespace = namespace
        self._now = now
        self._monotonic = monotonic
        self._sleep = sleep
        self._observe = observe_push_to_warm
        self._written: dict[ObjectKey, float] = {}
        """When a status was written, on the monotonic clock; only of the last second."""
        self._full_nodes: dict[str, tuple[float, list[Node]]] = {}
        """Label selector to when its Nodes were read, and these; only of the last one."""

    async def update(self, keys: Collection[ObjectKey], *, deadline: float | None = None) -> None:
        """Judge these WarmImages anew, in this order, until `deadline` on the monotonic clock or for 20 seconds.

        Raises `Unfinished` when there are more, and as `Outcomes.settle` does.
        """
        deadline = self._monotonic() + _SECONDS if deadline is None else deadline
        outcomes, left = Outcomes(), list(keys)
        while left:
            again = await self._update(left, deadline, outcomes)
            left = [key for key in left if key in again]
            if left and self._monotonic() + _APART_SECONDS > deadline:
                raise Unfinished(left)
            if left:
                await self._sleep(_APART_SECONDS)
        outcomes.settle()

    async def _update(self, keys: Collection[ObjectKey], deadline: float, outcomes: Outcomes) -> set[ObjectKey]:
        """Those that must be looked at again: not judged in time, or written less than a second ago."""
        objects = {object_key(obj): obj for obj in await self._cluster.warmimage_objects(keys)}
        found = await sort_out([objects[key] for key in keys if key in objects])
        if not found.usable and not found.unusable:
            return set()
        reports = await self._cluster.reports()
        refused = {one.node: one.refused for one in await self._cluster.full()}
        selectors = {node_selector(warmimage.template.nodes).query() for warmimage in found.usable.values()}
        taints = reads_taints(found.usable.values())
        nodes = await self._nodes(selectors.pop() if len(selectors) == 1 else "", taints=taints)
        left = {*found.usable, *found.unusable}
        differing: dict[ObjectKey, Judgement] = {}
        order = [key for key in keys if key in left]
        async with aclosing(self.judge(order, found, objects, nodes, reports, refused, outcomes)) as judgements:
            async for judgement in judgements:
                left.discard(judgement.key)
                if judgement.differs:
                    differing[judgement.key] = judgement
                if self._monotonic() > deadline:
                    break

        async def write(judgement: Judgement) -> None:
            if self._monotonic() > deadline or not await self._write(judgement):
                left.add(judgement.key)

        await outcomes.each(
            "status",
            differing.values(),
            write,
            name=lambda it: str(it.key),
            group=lambda it: it.key.namespace,
            seconds=max(0.0, deadline - self._monotonic()),
        )
        return left

    async def _nodes(self, labels: str, *, taints: bool) -> list[Node]:
        """Nodes under a selector. Full ones are large, and while reports come in they are asked for every second."""
        if not taints:
            return await self._cluster.nodes(labels)
        read_at, nodes = self._full_nodes.get(labels, (float("-inf"), []))
        if self._monotonic() - read_at >= _FULL_NODES_SECONDS:
            read_at, nodes = self._monotonic(), await self._cluster.nodes(labels, taints=True)
            self._full_nodes = {labels: (read_at, nodes)}
        return nodes

    async def judge(
        self,
        order: Sequence[ObjectKey],
        found: WarmImages,
        objects: Mapping[ObjectKey, Object],
        nodes: Collection[Node],
        reports: Mapping[str, Report],
        refused: Mapping[str, Collection[str]],
        outcomes: Outcomes,
    ) -> AsyncGenerator[Judgement, None]:
        """What the status of each of the WarmImages in `order` should be, given what the cluster holds.

        `refused` are per node's name the keys of the lines that its ConfigMap has no room for. Lets other requests run
        between two WarmImages.
        """
        details: dict[str, Mapping[str, str]] = {}
        placed = place_each((found.usable[key] for key in order if key in found.usable), nodes)
        for key in order:
            obj = objects[key]
            before: Object = obj.get("status") or {}
            if key in found.unusable:
                generation = obj["metadata"].get("generation", 0)
                after = invalid_status(before, generation, found.unusable[key], self._now())
                yield Judgement(key, obj, None, after)
                continue
            warmimage, wanted = next(placed)
            line = line_of(warmimage)
            full = {name for name, keys in refused.items() if line.key in keys}
            counts = count(line, wanted, reports, self._now(), full)
            failures: list[Failure] | None = None
            with outcomes.item("failures", warmimage=str(key)):
                failures = await self._failures(line.key, counts, full, details)
            if failures is not None:
                after = status_object(before, warmimage.generation, warmimage.digest, counts, failures, self._now())
                yield Judgement(key, obj, warmimage, after)
            await asyncio.sleep(0)

    async def _write(self, judgement: Judgement) -> bool:
        """Whether it was written, or never can be; not where the last write is less than a second old.

        Nor where another handler wrote since the object was read: the reports are read after the object, so whoever
        comes later knows more, and a slow one never overrules it.
        """
        now, key = self._monotonic(), judgement.key
        self._written = {key: moment for key, moment in self._written.items() if now - moment < _APART_SECONDS}
        if key in self._written:
            return False
        self._written[key] = now
        before, metadata = judgement.before, judgement.object["metadata"]
        whole = {**dict.fromkeys(before.keys() - judgement.after.keys()), **judgement.after}
        patch = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": whole}
        try:
            await self._kubernetes.patch(paths.status(paths.warmimages(key)), patch)
        except Conflict:
            return False
        except NotFound:
            return True
        if judgement.warmimage is None:
            problem = find_condition(judgement.after, "Ready")["message"]
            _log.warning("warmimage-invalid", warmimage=str(key), problem=problem)
        else:
            self._measure(judgement.warmimage, before, judgement.after)
        await self._recorder.record("WarmImage", key, metadata["uid"], transitions(before, judgement.after))
        return True

    def _measure(self, warmimage: WarmImage, before: Mapping[str, Any], status: Object) -> None:
        """Observe from push to warm, once per push."""
        again = before.get("observedGeneration") == warmimage.generation and "completedAt" in before
        if "completedAt" not in status or again or warmimage.pushed_at is None or warmimage.pod_origin is not None:
            return
        if parse_time(status["startedAt"]) - warmimage.pushed_at < _OF_THE_PUSH:
            self._observe((self._now() - warmimage.pushed_at).total_seconds())

    async def _failures(
        self, key: str, counts: Counts, refused: Collection[str], details: dict[str, Mapping[str, str]]
    ) -> list[Failure]:
        """The first failing nodes and why; `details` keeps the reports' data that was read."""
        failures = []
        for node in counts.failing:
            if node in refused:
                failures.append(Failure(node, "TooManyLines", "the node's ConfigMap has no room for another line"))
                continue
            if node not in details:
                details[node] = await self._details(node)
            failures.append(Failure(node, *read_detail(details[node].get(key, "{}"))))
        failures += [Failure(node, "NoAgent", "no word from its agent for 10 minutes") for node in counts.silent]
        return failures[:FAILURES_MAX]

    async def _details(self, node: str) -> Mapping[str, str]:
        try:
            report = await self._kubernetes.get(paths.configmaps(self._namespace, report_name(node)))
        except NotFound:
            return {}
        return report.get("data") or {}
