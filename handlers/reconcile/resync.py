"""Compare everything with everything: whatever was missed, lost or left behind is put right here.

ConfigMaps are listed before WarmImages and Nodes, so a line is an orphan only if its WarmImage was absent after the
line was seen; and every owner is read again before anything is removed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeVar

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.logs import get_logger
from handlers.reconcile.node_configmaps import NodeChange, delete_configmaps
from handlers.reconcile.node_events import record_name_too_long
from handlers.reconcile.outcomes import Outcomes, Overtaken
from handlers.reconcile.policies import Applied, Policies
from handlers.reconcile.policy_statuses import PolicyStatuses
from handlers.reconcile.projection import Projection, Wanted, untouched, wanted_lines, whole_node
from handlers.reconcile.reader import DesiredConfigMap, PolicyObject, Reader, WarmImages, object_key, sort_out
from handlers.reconcile.statuses import Statuses, Unfinished
from warmhook.api import POLICY_LABEL
from warmhook.node_lines import desired_name, line_key, versions
from warmhook.node_report import Report
from warmhook.placement import Node, reads_taints
from warmhook.policies import is_expired
from warmhook.ports import Object, Utcnow
from warmhook.warmimages import ObjectKey, WarmImage

__all__ = ["Resync"]

_log = get_logger()

Item = TypeVar("Item", WarmImage, PolicyObject)

# Lines are written for so long and statuses after that: what is left is the sender's repeat's, which finds less to do.
_LINES_SECONDS: Final = 15.0
_SECONDS: Final = 22.0
_AT_LEAST_SECONDS: Final = 2.0
# For the WarmImages and policies of all namespaces: what one of them waits for must not hold up the lines.
_POLICIES_SECONDS: Final = 6.0
# Statuses that are written in one go; so that a sync which has too little time for all still writes some.
_STATUSES: Final = 500


@dataclass(frozen=True, slots=True)
class _Read:
    """What a sync has read."""

    desired: Collection[DesiredConfigMap]
    reports: Mapping[str, Report]
    objects: Mapping[ObjectKey, Object]
    warmimages: WarmImages
    nodes: Collection[Node]


class Resync:
    """Repairs every kind of divergence; writes nothing when all is well.

    Every object is handled by itself: one that cannot be written keeps no other from being put right.
    """

    def __init__(
        self,
        kubernetes: Kubernetes,
        cluster: Reader,
        policies: Policies,
        policy_statuses: PolicyStatuses,
        projection: Projection,
        statuses: Statuses,
        namespace: str,
        *,
        now: Utcnow,
        monotonic: Callable[[], float],
    ) -> None:
        self._kubernetes = kubernetes
        self._cluster = cluster
        self._policies = policies
        self._policy_statuses = policy_statuses
        self._projection = projection
        self._statuses = statuses
        self._namespace = namespace
        self._now = now
        self._monotonic = monotonic
        self._turn = 0
        self._next: ObjectKey | None = None
        """The WarmImage with which the next judging begins, where the last had too little time for all."""

    async def run(self) -> None:
        """Put everything right, or as much as 22 seconds allow.

        Raises `Unavailable` for the rest, which begins where this one stopped, and `Refused` for what never can be.
        """
        began, outcomes = self._monotonic(), Outcomes()
        desired, reports, report_owners = await self._cluster.desired_and_reports()
        listed = (await self._kubernetes.list(paths.warmimages())).items
        # After their WarmImages, which are written only over the version that was read: a policy that changes
        # meanwhile is never overruled by what it said before.
        policies = await self._cluster.policy_objects()
        if await self._reconcile(listed, policies, outcomes):
            # Their own events bring the rest about; what is judged below must be what there is now.
            listed = (await self._kubernetes.list(paths.warmimages())).items
        objects = {object_key(obj): obj for obj in listed}
        warmimages = await sort_out(listed)
        nodes = await self._cluster.nodes(taints=reads_taints(warmimages.usable.values()))
        read = _Read(desired, reports, objects, warmimages, nodes)
        await self._forget_nodes(desired, report_owners, nodes, outcomes)
        await record_name_too_long(self._kubernetes, nodes, outcomes, self._now)
        wanted = await wanted_lines(warmimages.usable.values(), nodes)
        changes = _repairs(desired, nodes, wanted, reports, self._now(), warmimages.unusable)
        orphans = await self._orphaned(changes, set(map(line_key, objects)))
        repairs = await self._unlabelled(read, _without(changes, orphans), outcomes)
        with outcomes.item("lines"):
            usable = warmimages.usable.values()
            await self._projection.write_whole(repairs, usable, began + _LINES_SECONDS, outcomes)
        refused: dict[str, Collection[str]] = {one.node: one.refused for one in desired}
        refused |= {name: change.refused for name, change in changes.items() if change.refused is not None}
        await self._judge(read, refused, max(began + _SECONDS, self._monotonic() + _AT_LEAST_SECONDS), outcomes)
        counts = {"nodes": len(nodes), "warmimages": len(objects), "policies": len(policies)}
        _log.info("sync", **counts, repaired_nodes=len(repairs))
        outcomes.settle()

    async def _judge(
        self, read: _Read, refused: Mapping[str, Collection[str]], deadline: float, outcomes: Outcomes
    ) -> None:
        """Write the statuses that differ, from where the last sync stopped; in the end each has had its turn."""
        found = read.warmimages
        order = sorted({*found.usable, *found.unusable})
        first = bisect_left(order, self._next) if self._next is not None else 0
        order = order[first:] + order[:first]
        left, differing = set(order), list[ObjectKey]()
        judging = self._statuses.judge(order, found, read.objects, read.nodes, read.reports, refused, outcomes)
        async with aclosing(judging) as judgements:
            async for judgement in judgements:
                left.discard(judgement.key)
                if judgement.differs:
                    differing.append(judgement.key)
                if len(differing) >= _STATUSES or self._monotonic() > deadline:
                    break
        # The reports were read first of all: a status that differs is judged by what they say now.
        with outcomes.item("statuses"):
            try:
                await self._statuses.update(differing, deadline=deadline)
            except Unfinished as error:
                left |= set(error.left)
        self._next = next((key for key in order if key in left), None)
        if left:
            outcomes.add_later(Unfinished([key for key in order if key in left]))

    async def _reconcile(
        self, objects: Collection[Object], policies: Sequence[PolicyObject], outcomes: Outcomes
    ) -> bool:
        """Bring WarmImages up to date with their policies; whether anything changed."""
        found = await sort_out(objects)
        usable = found.usable.values()
        owned: dict[tuple[str, str], list[WarmImage]] = defaultdict(list)
        for warmimage in usable:
            owned[warmimage.policy_label, warmimage.key.namespace].append(warmimage)
        # They count, too, and stay as they are.
        unusable = Counter(
            ((obj["metadata"].get("labels") or {}).get(POLICY_LABEL, ""), obj["metadata"]["namespace"])
            for obj in objects
            if object_key(obj) in found.unusable
        )
        changed = False

        async def apply(policy: PolicyObject) -> None:
            nonlocal changed
            key = policy.label, policy.key.namespace
            mine, applied = owned[key], Applied()
            if policy.policy is not None:
                applied = await self._policies.apply(policy.policy, mine)
            changed |= applied.wrote
            with applied.outcomes.item("policy-status", policy=str(policy.key)):
                images = len(mine) + unusable[key] + applied.created - len(applied.deleted)
                await self._policy_statuses.write(policy, images, refused=applied.refused)
            if isinstance(applied.outcomes.later, Overtaken):
                # Another handler is at it, and the next sync looks again.
                _log.info("policy-not-applied", policy=str(policy.key), problem=str(applied.outcomes.later))
                applied.outcomes.later = None
            applied.outcomes.settle()

        async def delete(warmimage: WarmImage) -> None:
            nonlocal changed
            changed |= await self._policies.delete(warmimage, "expired")

        async def let_go(warmimage: WarmImage) -> None:
            nonlocal changed
            changed |= await self._policies.let_go(warmimage)

        expired = [it for it in usable if not it.policy_label and is_expired(it, self._now())]
        expired_in, unowned_in = _by_namespace(expired), _by_namespace(await self._unowned(usable, policies))
        policies_in = _by_namespace(policies)
        # Another one first each time, in case there is too little time for all.
        self._turn += 1

        async def reconcile(namespace: str) -> None:
            # Deletes first: they may be what a quota waits for.
            await outcomes.each("delete", expired_in.get(namespace, ()), delete, name=_name)
            await outcomes.each("let-go", unowned_in.get(namespace, ()), let_go, name=_name)
            mine = policies_in.get(namespace, [])
            first = self._turn % len(mine) if mine else 0
            await outcomes.each("policy", [*mine[first:], *mine[:first]], apply, name=_name)

        namespaces = sorted({*expired_in, *unowned_in, *policies_in})
        await outcomes.each("namespace", namespaces, reconcile, group=str, seconds=_POLICIES_SECONDS)
        return changed

    async def _unowned(self, warmimages: Collection[WarmImage], policies: Collection[PolicyObject]) -> list[WarmImage]:
        """Those of policies that are gone, and that did not come back meanwhile."""
        known = {(one.label, one.key.namespace) for one in policies}
        unowned = [it for it in warmimages if it.policy_label and (it.policy_label, it.key.namespace) not in known]
        if not unowned:
            return []
        known = {(one.label, one.key.namespace) for one in await self._cluster.policy_objects()}
        return [it for it in unowned if (it.policy_label, it.key.namespace) not in known]

    async def _forget_nodes(
        self,
        desired: Collection[DesiredConfigMap],
        report_owners: Mapping[str, str],
        nodes: Collection[Node],
        outcomes: Outcomes,
    ) -> None:
        """Delete the ConfigMaps of Nodes that are gone, where no garbage collector did."""
        present = {node.name for node in nodes}
        gone = ({one.node for one in desired} | report_owners.keys()) - present

        async def forget(name: str) -> None:
            if await self._cluster.node(name) is None:
                await delete_configmaps(self._kubernetes, self._namespace, name)
                _log.info("node-forgotten", node=name)

        await outcomes.each("node", sorted(gone), forget)

    async def _unlabelled(
        self, read: _Read, changes: Mapping[str, NodeChange], outcomes: Outcomes
    ) -> dict[str, NodeChange]:
        """These changes, and the removal of lines that have no label, so that no list shows them.

        Agents act on the data, so a report that tells of more lines than there are labels shows where to look.
        """
        uids = {node.name: node.uid for node in read.nodes}
        with_removals = dict(changes)

        async def look(name: str) -> None:
            obj = await self._kubernetes.get(paths.configmaps(self._namespace, desired_name(name)))
            labelled = versions(obj["metadata"].get("labels") or {})
            extra = {key: None for key in obj.get("data") or {} if "." not in key and key not in labelled}
            if extra:
                change = changes.get(name, NodeChange(uids[name], {}))
                with_removals[name] = replace(change, lines={**extra, **change.lines})

        doubtful = [
            one.node
            for one in read.desired
            if one.node in uids and _mentions_more(read.reports.get(one.node), one.lines)
        ]
        await outcomes.each("unlabelled", sorted(doubtful), look)
        return with_removals

    async def _orphaned(self, changes: Mapping[str, NodeChange], present: Collection[str]) -> set[str]:
        """Of the lines to be removed those whose WarmImage came back since it was found missing."""
        removed = {key for change in changes.values() for key, line in change.lines.items() if line is None}
        doubtful = removed - set(present)
        if not doubtful:
            return set()
        again = (await self._kubernetes.list(paths.warmimages(), metadata_only=True)).items
        return doubtful & {line_key(object_key(obj)) for obj in again}


def _repairs(
    desired: Collection[DesiredConfigMap],
    nodes: Collection[Node],
    wanted: Wanted,
    reports: Mapping[str, Report],
    now: datetime,
    unusable: Collection[ObjectKey],
) -> dict[str, NodeChange]:
    """What must be written per node: lines that differ, and lines of which the node's agent says nothing.

    A line that an agent which is there never mentions may have a label that disagrees with its data: it is sent again,
    which changes nothing where all is well. Lines of WarmImages that cannot be used stay as they are.
    """
    held = {one.node: untouched(one, unusable) for one in desired}
    changes = {}
    for node in nodes:
        have, want, report = held.get(node.name), wanted.get(node.name, {}), reports.get(node.name)
        heard = report is not None and report.reachable(now)
        unknown = [key for key, line in want.items() if report and heard and not report.knows(key, line.version)]
        change = whole_node(node, have, want, unknown)
        if have is None and not want and report is not None and (report.warm or report.states):
            # Absence tells an agent nothing: one that goes on with lines of old is told that there are none.
            change = NodeChange(node.uid, {}, whole=True)
        if change is not None:
            changes[node.name] = change
    return changes


def _without(changes: Mapping[str, NodeChange], keys: Collection[str]) -> dict[str, NodeChange]:
    if not keys:
        return dict(changes)
    return {
        name: replace(change, lines={key: line for key, line in change.lines.items() if key not in keys})
        for name, change in changes.items()
    }


def _mentions_more(report: Report | None, lines: Mapping[str, str]) -> bool:
    """Whether an agent knows lines that the labels of its node's ConfigMap do not name."""
    if report is None:
        return False
    return not (report.states.keys() <= lines.keys() and report.warm <= set(lines.values()))


def _by_namespace(items: Iterable[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = defaultdict(list)
    for it in items:
        found[it.key.namespace].append(it)
    return found


def _name(item: WarmImage | PolicyObject) -> str:
    return str(item.key)
