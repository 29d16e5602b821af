"""Compare everything with everything, and repair what was missed, lost or left behind.

ConfigMaps are listed before WarmImages and Nodes, so a line is an orphan only if its WarmImage was absent after the
line was seen; and every owner is read again before anything is removed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeVar

from adapters.logs import get_logger
from handlers.reconcile.context import Context
from handlers.reconcile.full_lines import LinesByNode, full_change, kept_lines, uncertain_lines, untouched, wanted_lines
from handlers.reconcile.hints import Scope
from handlers.reconcile.node_configmaps import NodeChange
from handlers.reconcile.objects import DesiredConfigMap, PolicyObject, object_key, read_warmimages
from handlers.reconcile.outcomes import Outcomes, Overtaken
from handlers.reconcile.policies import Policies
from handlers.reconcile.projection import Projection
from handlers.reconcile.refreshes import Refreshes
from handlers.reconcile.resolver import Resolver
from handlers.reconcile.statuses import ClusterState, Statuses, Unfinished
from warmhook.api import POLICY_LABEL
from warmhook.completion import is_finished
from warmhook.limits import Tenancy
from warmhook.node_lines import line_key, versions
from warmhook.node_report import Report
from warmhook.placement import Node, reads_taints
from warmhook.policies import is_expired
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey, WarmImage

_log = get_logger()

Item = TypeVar("Item", WarmImage, PolicyObject)

# Lines are written until this time, then statuses; the repeat of the sender does the rest.
_LINES_SECONDS: Final = 15.0
_SECONDS: Final = 22.0
_AT_LEAST_SECONDS: Final = 2.0
# For the WarmImages and policies of all namespaces: one that hangs must not delay the lines.
_POLICIES_SECONDS: Final = 6.0
# Statuses that are written together, so that a sync with too little time for all writes some.
_STATUSES: Final = 500


@dataclass(frozen=True, slots=True)
class Reports:
    """What agents said, and when this is judged."""

    reports: Mapping[str, Report]
    """By the node's name."""
    now: datetime


class Resync:
    """Repairs every kind of difference; writes nothing if there is none.

    Every object is handled by itself: one that cannot be written keeps no other from being repaired.
    """

    def __init__(
        self,
        context: Context,
        resolver: Resolver,
        policies: Policies,
        refreshes: Refreshes,
        projection: Projection,
        statuses: Statuses,
    ) -> None:
        self._context = context
        self._resolver = resolver
        self._reader = context.reader
        self._policies = policies
        self._refreshes = refreshes
        self._projection = projection
        self._statuses = statuses
        self._turn = 0
        self._next: ObjectKey | None = None
        """The WarmImage at which the next sync continues with statuses, if the last one ran out of time."""

    async def run(self) -> None:
        """Repair everything, or as much as 22 seconds allow.

        Raises `Unavailable` if something is left, with which the next sync begins, and `Refused` for what cannot be
        repaired.
        """
        monotonic = self._context.clock.monotonic
        began, outcomes = monotonic(), Outcomes()
        desired, reports = await self._reader.desired_and_reports()
        listed = await self._reader.warmimage_objects()
        # After their WarmImages, which are written only over the version that was read: an old version of a policy
        # never overwrites the result of a new one.
        policies = await self._reader.policy_objects()
        if await self._reconcile(listed, policies, outcomes):
            # Their own events cause the rest; the statuses below need the current objects.
            listed = await self._reader.warmimage_objects()
        objects = {object_key(obj): obj for obj in listed}
        warmimages = await read_warmimages(listed, self._reader.tenancy)
        self._resolver.begin(warmimages.usable.values())
        running = await self._reader.pods.running(warmimages.usable.values())
        placed = warmimages.without(running.unknown)
        usable = placed.usable.values()
        nodes = await self._reader.nodes(taints=reads_taints(usable))
        gone = ({have.node for have in desired} | reports.keys()) - {node.name for node in nodes}
        await outcomes.each("node", sorted(gone), self._forget_node)
        await self._context.recorder.record_long_names(nodes, outcomes)
        wanted = await wanted_lines(usable, nodes, running.nodes)
        kept, uncertain = kept_lines(warmimages, running.unknown), uncertain_lines(placed)
        held = {have.node: untouched(have, uncertain, kept) for have in desired}
        judged = Reports(reports, self._context.clock.utcnow())
        changes = _repairs(held, nodes, wanted, judged, self._reader.tenancy, uncertain)
        orphans = await self._orphaned(changes, set(map(line_key, objects)))
        repairs = _without(changes, orphans)
        repairs = await self._unlabelled(repairs, desired, nodes, reports, outcomes)
        with outcomes.item("lines"):
            scope = Scope(usable, {node.name: node for node in nodes}, held)
            await self._projection.write_full(repairs, scope, began + _LINES_SECONDS, outcomes)
            # After the lines of all, because a registry may not answer.
            if refreshed := await self._refreshes.run(warmimages.usable.values(), outcomes):
                await self._projection.project(refreshed, outcomes, deadline=began + _LINES_SECONDS)
        refused: dict[str, Collection[str]] = {have.node: have.refused for have in desired}
        refused |= {name: change.refused for name, change in changes.items() if change.refused is not None}
        state = ClusterState(objects, warmimages, nodes, reports, refused)
        await self._judge(state, max(began + _SECONDS, monotonic() + _AT_LEAST_SECONDS), outcomes)
        counts = {"nodes": len(nodes), "warmimages": len(objects), "policies": len(policies)}
        _log.info("sync", **counts, repaired_nodes=len(repairs))
        outcomes.raise_problem()

    async def _judge(self, state: ClusterState, deadline: float, outcomes: Outcomes) -> None:
        """Write the statuses that differ, starting where the last sync stopped."""
        order = sorted({*state.warmimages.usable, *state.warmimages.unusable})
        first = bisect_left(order, self._next) if self._next is not None else 0
        order = order[first:] + order[:first]
        differing, left = await self._statuses.judge(order, state, deadline, outcomes, most=_STATUSES)
        # The reports were read first: a status that differs is computed again from current reports.
        with outcomes.item("statuses"):
            try:
                await self._statuses.update([judgement.key for judgement in differing], deadline=deadline)
            except Unfinished as error:
                left |= set(error.left)
        self._next = next((key for key in order if key in left), None)
        if left:
            outcomes.add_later(Unfinished([key for key in order if key in left]))

    async def _reconcile(
        self, objects: Collection[Object], policies: Sequence[PolicyObject], outcomes: Outcomes
    ) -> bool:
        """Reconcile WarmImages with their policies; returns whether anything changed."""
        found = await read_warmimages(objects, self._reader.tenancy)
        usable = found.usable.values()
        owned: dict[tuple[str, str], list[WarmImage]] = defaultdict(list)
        for warmimage in usable:
            owned[warmimage.policy_label, warmimage.key.namespace].append(warmimage)
        # These count as well, and stay unchanged.
        unusable: dict[tuple[str, str], list[ObjectKey]] = defaultdict(list)
        for obj in objects:
            if object_key(obj) in found.unusable:
                unusable[_owner_label(obj)].append(object_key(obj))
        changed = False

        async def apply(policy: PolicyObject) -> None:
            nonlocal changed
            key = _policy_label(policy)
            applied = await self._policies.apply(policy, owned[key], unusable[key])
            changed |= applied.wrote
            if isinstance(applied.outcomes.later, Overtaken):
                # Another handler writes it, and the next sync compares it again.
                _log.info("policy-not-applied", policy=str(policy.key), problem=str(applied.outcomes.later))
                applied.outcomes.later = None
            applied.outcomes.raise_problem()

        async def delete(warmimage: WarmImage) -> None:
            nonlocal changed
            why = "expired" if is_expired(warmimage, now) else "finished"
            changed |= await self._policies.delete(warmimage, why)

        async def let_go(warmimage: WarmImage) -> None:
            nonlocal changed
            changed |= await self._policies.let_go(warmimage)

        now = self._context.clock.utcnow()
        unowned = [warmimage for warmimage in usable if not warmimage.policy_label]
        expired = [warmimage for warmimage in unowned if is_expired(warmimage, now) or is_finished(warmimage, now)]
        expired_in, unowned_in = _by_namespace(expired), _by_namespace(await self._unowned(usable, policies))
        policies_in = _by_namespace(policies)
        # Each sync begins with another policy, in case there is too little time for all.
        self._turn += 1

        async def reconcile(namespace: str) -> None:
            # Deletes go first, because a quota may need them.
            await outcomes.each("delete", expired_in.get(namespace, ()), delete, name=_name)
            await outcomes.each("let-go", unowned_in.get(namespace, ()), let_go, name=_name)
            mine = policies_in.get(namespace, [])
            first = self._turn % len(mine) if mine else 0
            await outcomes.each("policy", [*mine[first:], *mine[:first]], apply, name=_name)

        namespaces = sorted({*expired_in, *unowned_in, *policies_in})
        await outcomes.each("namespace", namespaces, reconcile, group=str, seconds=_POLICIES_SECONDS)
        return changed

    async def _unowned(self, warmimages: Collection[WarmImage], policies: Collection[PolicyObject]) -> list[WarmImage]:
        """The WarmImages of deleted policies that were not created again."""
        known = set(map(_policy_label, policies))
        unowned = [
            warmimage
            for warmimage in warmimages
            if warmimage.policy_label and (warmimage.policy_label, warmimage.key.namespace) not in known
        ]
        if not unowned:
            return []
        known = set(map(_policy_label, await self._reader.policy_objects()))
        return [warmimage for warmimage in unowned if (warmimage.policy_label, warmimage.key.namespace) not in known]

    async def _forget_node(self, name: str) -> None:
        """Delete the ConfigMaps of a deleted Node that the garbage collector left."""
        if await self._reader.node(name) is None:
            await self._context.writer.delete_configmaps(name)
            _log.info("node-forgotten", node=name)

    async def _unlabelled(
        self,
        changes: Mapping[str, NodeChange],
        desired: Collection[DesiredConfigMap],
        nodes: Collection[Node],
        reports: Mapping[str, Report],
        outcomes: Outcomes,
    ) -> dict[str, NodeChange]:
        """These changes, and the removal of lines that have no label, so that no list shows them.

        Agents act on the data, so a report with more lines than there are labels shows where to look.
        """
        uids = {node.name: node.uid for node in nodes}
        with_removals = dict(changes)

        async def look(name: str) -> None:
            obj = await self._reader.desired_object(name)
            labelled = versions(obj["metadata"].get("labels") or {})
            extra = {key: None for key in obj.get("data") or {} if "." not in key and key not in labelled}
            if extra:
                change = changes.get(name, NodeChange(uids[name], {}))
                with_removals[name] = replace(change, lines={**extra, **change.lines})

        doubtful = [
            have.node for have in desired if have.node in uids and _mentions_more(reports.get(have.node), have.lines)
        ]
        await outcomes.each("unlabelled", sorted(doubtful), look)
        return with_removals

    async def _orphaned(self, changes: Mapping[str, NodeChange], present: Collection[str]) -> set[str]:
        """The lines to be removed whose WarmImage was created again meanwhile."""
        removed = {key for change in changes.values() for key, line in change.lines.items() if line is None}
        doubtful = removed - set(present)
        if not doubtful:
            return set()
        again = await self._reader.warmimage_objects(metadata_only=True)
        return doubtful & {line_key(object_key(obj)) for obj in again}


def _repairs(
    held: Mapping[str, DesiredConfigMap],
    nodes: Collection[Node],
    wanted: LinesByNode,
    judged: Reports,
    tenancy: Tenancy,
    uncertain: frozenset[str],
) -> dict[str, NodeChange]:
    """The changes per node: lines that differ, and lines that are missing from the report of its agent.

    If a reachable agent does not report a line, the label of the line may disagree with its data. The line is sent
    again, which changes nothing if they agree.
    """
    changes = {}
    for node in nodes:
        have, want, report = held.get(node.name), wanted.get(node.name, {}), judged.reports.get(node.name)
        heard = report is not None and report.reachable(judged.now)
        unknown = [key for key, line in want.items() if report and heard and not report.knows(key, line.version)]
        change = full_change(node, have, want, tenancy, unknown, uncertain)
        if have is None and not want and report is not None and (report.warm or report.states):
            # An agent keeps its old lines until it sees a ConfigMap, so it gets an empty one.
            change = NodeChange(node.uid, {}, uncertain or None, replace=True)
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
    """Whether an agent reports lines that are not in the labels of the ConfigMap."""
    if report is None:
        return False
    return not (report.states.keys() <= lines.keys() and report.warm <= set(lines.values()))


def _by_namespace(items: Iterable[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        found[item.key.namespace].append(item)
    return found


def _owner_label(warmimage: Object) -> tuple[str, str]:
    metadata = warmimage["metadata"]
    return (metadata.get("labels") or {}).get(POLICY_LABEL, ""), metadata["namespace"]


def _policy_label(policy: PolicyObject) -> tuple[str, str]:
    return policy.label, policy.key.namespace


def _name(item: WarmImage | PolicyObject) -> str:
    return str(item.key)
