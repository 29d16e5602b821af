"""Keep the status of WarmImages current: what their nodes report, added up and written where it differs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, Final

import structlog

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, NotFound, Refused, Unavailable
from adapters.kubernetes.template import InvalidObject
from adapters.kubernetes.warmimage import read_warmimage
from handlers.cluster import Cluster
from warmhook.lines import line_of
from warmhook.placement import Node, node_selector, place_each, reads_taints
from warmhook.ports import Object, Sleep, Utcnow
from warmhook.reports import Report, read_detail, report_name
from warmhook.status import FAILURES_MAX, Counts, Failure, count, status_object
from warmhook.times import parse_time
from warmhook.warmimages import ObjectKey, WarmImage

__all__ = ["Statuses", "readable"]

_log = structlog.get_logger()

# Between two writes of one status.
_APART_SECONDS: Final = 1.0
# For so long Nodes with their taints are not read again, only for counting; the next sync counts anew.
_FULL_NODES_SECONDS: Final = 5.0
# After this the rest is left to the sender's repeat.
_SECONDS: Final = 20.0
# A generation that began longer after its push than this was made by a changed policy, not by the push.
_OF_THE_PUSH: Final = timedelta(minutes=10)


class Statuses:
    """Writes `WarmImage.status`."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        cluster: Cluster,
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
        self._namespace = namespace
        self._now = now
        self._monotonic = monotonic
        self._sleep = sleep
        self._observe = observe_push_to_warm
        self._written: dict[ObjectKey, float] = {}
        """When a status was written, on the monotonic clock; only of the last second."""
        self._full_nodes: dict[str, tuple[float, list[Node]]] = {}
        """Label selector to when its Nodes were read, and these; only of the last one."""

    async def update(self, keys: Collection[ObjectKey]) -> None:
        """Judge these WarmImages anew. Raises `Unavailable` when that took 20 seconds and there are more."""
        deadline = self._monotonic() + _SECONDS
        while keys:
            keys = await self._update(keys, deadline)
            if keys:
                await self._sleep(_APART_SECONDS)

    async def _update(self, keys: Collection[ObjectKey], deadline: float) -> set[ObjectKey]:
        found = await self._cluster.warmimage_objects(keys)
        objects = [(warmimage, obj) for obj in found if (warmimage := readable(obj))]
        if not objects:
            return set()
        reports = await self._cluster.reports()
        refused = {one.node: one.refused for one in await self._cluster.full()}
        selectors = {node_selector(warmimage.template.nodes).query() for warmimage, _ in objects}
        taints = reads_taints(warmimage for warmimage, _ in objects)
        nodes = await self._nodes(selectors.pop() if len(selectors) == 1 else "", taints=taints)
        return await self.judge(objects, nodes, reports, refused, deadline)

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
        objects: Collection[tuple[WarmImage, Object]],
        nodes: Collection[Node],
        reports: Mapping[str, Report],
        refused: Mapping[str, Collection[str]],
        deadline: float,
        *,
        write: bool = True,
    ) -> set[ObjectKey]:
        """Write the statuses that differ, given what the cluster holds; those to be judged again a second later.

        `refused` are per node's name the keys of the lines that its ConfigMap has no room for. Without `write`, which
        is for reports that may be older than the objects, all that differ are to be judged again.
        """
        before = {warmimage.key: obj.get("status") or {} for warmimage, obj in objects}
        details: dict[str, Mapping[str, str]] = {}
        early = set()
        for warmimage, wanted in place_each((warmimage for warmimage, _ in objects), nodes):
            line = line_of(warmimage)
            full = {name for name, keys in refused.items() if line.key in keys}
            counts = count(line, wanted, reports, self._now(), full)
            failures = await self._failures(line.key, counts, full, details)
            old = before[warmimage.key]
            status = status_object(old, warmimage.generation, warmimage.digest, counts, failures, self._now())
            if status != old and not (write and await self._write(warmimage, old, status)):
                early.add(warmimage.key)
            if self._monotonic() > deadline:
                raise Unavailable("there was more to judge than could be in time", retry_after_seconds=1)
            await asyncio.sleep(0)
        return early

    async def _write(self, warmimage: WarmImage, before: Mapping[str, Any], status: Object) -> bool:
        """Whether it was written, or never can be; not where the last write is less than a second old.

        Nor where another handler wrote since the object was read: the reports are read after the object, so whoever
        comes later knows more, and a slow one never overrules it.
        """
        now = self._monotonic()
        self._written = {key: moment for key, moment in self._written.items() if now - moment < _APART_SECONDS}
        if warmimage.key in self._written:
            return False
        self._written[warmimage.key] = now
        whole = {**dict.fromkeys(before.keys() - status.keys()), **status}
        patch = {"metadata": {"resourceVersion": warmimage.resource_version}, "status": whole}
        try:
            await self._kubernetes.patch(paths.status(paths.warmimages(warmimage.key)), patch)
        except Conflict:
            return False
        except NotFound:
            return True
        except Refused as error:
            _log.error("status-refused", warmimage=str(warmimage.key), problem=str(error))
            return True
        self._measure(warmimage, before, status)
        return True

    def _measure(self, warmimage: WarmImage, before: Mapping[str, Any], status: Object) -> None:
        """Observe from push to warm, once per push."""
        again = before.get("observedGeneration") == warmimage.generation and "completedAt" in before
        if "completedAt" not in status or again or warmimage.pushed_at is None or warmimage.asked is not None:
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


def readable(obj: Object) -> WarmImage | None:
    """The WarmImage of an object; `None` for one that cannot be used or is being deleted."""
    try:
        return None if obj["metadata"].get("deletionTimestamp") else read_warmimage(obj)
    except InvalidObject:
        return None
