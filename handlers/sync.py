"""Compare everything with everything: whatever was missed, lost or left behind is put right here.

ConfigMaps are listed before WarmImages and Nodes, so a line is an orphan only if its WarmImage was absent after the
line was seen; and every owner is read again before anything is removed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

import structlog

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, Refused
from handlers.cluster import Cluster, Desired, PolicyObject
from handlers.longnames import tell_of_long_names
from handlers.nodewrites import NodeChange, delete_configmaps
from handlers.policies import Policies, count_images
from handlers.projection import Projection, Wanted, wanted_lines, whole_node
from handlers.statuses import Statuses, readable
from warmhook.lines import line_key
from warmhook.placement import Node, reads_taints
from warmhook.policies import PolicyChanges, is_expired
from warmhook.ports import Object, Utcnow
from warmhook.reports import Report
from warmhook.warmimages import ObjectKey, WarmImage

__all__ = ["Sync"]

_log = structlog.get_logger()

# After this the rest is left to the sender's repeat, which finds less to do.
_SECONDS: Final = 20.0


class Sync:
    """Repairs every kind of divergence; writes nothing when all is well."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        cluster: Cluster,
        policies: Policies,
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
        self._projection = projection
        self._statuses = statuses
        self._namespace = namespace
        self._now = now
        self._monotonic = monotonic

    async def run(self) -> None:
        """Put everything right, or as much as 20 seconds allow. Raises `Unavailable` for the rest."""
        deadline = self._monotonic() + _SECONDS
        desired, reports, report_owners = await self._cluster.desired_and_reports()
        objects = (await self._kubernetes.list(paths.warmimages())).items
        # After their WarmImages, which are written only over the version that was read: a policy that changes
        # meanwhile is never overruled by what it said before.
        policies = await self._cluster.policy_objects()
        if await self._reconcile(list(_usable(objects)), policies):
            # Their own events bring the rest about; what is judged below must be what there is now.
            objects = (await self._kubernetes.list(paths.warmimages())).items
        warmimages = _usable(objects)
        nodes = await self._cluster.nodes(taints=reads_taints(warmimages))
        unusable = {_line_key(obj) for obj in objects} - {line_key(warmimage.key) for warmimage in warmimages}
        await self._forget_nodes(desired, report_owners, nodes)
        await tell_of_long_names(self._kubernetes, nodes, self._now)
        wanted = await wanted_lines(warmimages, nodes)
        changes = _repairs(desired, nodes, wanted, reports, self._now(), unusable)
        orphans = await self._orphaned(changes, {_line_key(obj) for obj in objects})
        await self._projection.write_whole(_without(changes, orphans), list(warmimages), deadline)
        refused: dict[str, Collection[str]] = {one.node: one.refused for one in desired}
        refused |= {name: change.refused for name, change in changes.items() if change.refused is not None}
        # The reports were read first of all: a status that differs is judged by what they say now.
        judged = list(warmimages.items())
        differing = await self._statuses.judge(judged, nodes, reports, refused, deadline, write=False)
        await self._statuses.update(differing)
        _log.info(
            "sync", nodes=len(nodes), warmimages=len(warmimages), policies=len(policies), repaired_nodes=len(changes)
        )

    async def _reconcile(self, warmimages: Collection[WarmImage], policies: Collection[PolicyObject]) -> bool:
        """Bring WarmImages up to date with their policies; whether anything changed."""
        owned: dict[tuple[str, str], list[WarmImage]] = defaultdict(list)
        for warmimage in warmimages:
            owned[warmimage.policy_label, warmimage.key.namespace].append(warmimage)
        changed = False
        for found in policies:
            mine, changes = owned[found.label, found.key.namespace], PolicyChanges()
            try:
                if found.policy is not None:
                    changes = await self._policies.apply(found.policy, mine)
                await self._policies.tell(found, count_images(mine, changes))
            except (Conflict, Refused) as error:
                # Another handler is at it, or this one cannot be helped; the others are.
                _log.warning("policy-not-applied", policy=str(found.key), problem=str(error))
            changed |= changes != PolicyChanges()
        labels = {one.label for one in policies}
        unowned = [it for it in warmimages if it.policy_label and it.policy_label not in labels]
        if unowned:
            present = {one.label for one in await self._cluster.policy_objects()}
            for warmimage in unowned:
                if warmimage.policy_label not in present:
                    await self._policies.delete(warmimage, "policy-gone")
                    changed = True
        for warmimage in warmimages:
            if not warmimage.policy_label and is_expired(warmimage, self._now()):
                await self._policies.delete(warmimage, "expired")
                changed = True
        return changed

    async def _forget_nodes(
        self, desired: Collection[Desired], report_owners: Mapping[str, str], nodes: Collection[Node]
    ) -> None:
        """Delete the ConfigMaps of Nodes that are gone, where no garbage collector did."""
        present = {node.name for node in nodes}
        gone = ({one.node for one in desired} | report_owners.keys()) - present
        for name in sorted(gone):
            if await self._cluster.node(name) is not None:
                continue
            await delete_configmaps(self._kubernetes, self._namespace, name)
            _log.info("node-forgotten", node=name)

    async def _orphaned(self, changes: Mapping[str, NodeChange], present: Collection[str]) -> set[str]:
        """Of the lines to be removed those whose WarmImage came back since it was found missing."""
        removed = {key for change in changes.values() for key, line in change.lines.items() if line is None}
        doubtful = removed - set(present)
        if not doubtful:
            return set()
        again = (await self._kubernetes.list(paths.warmimages(), metadata_only=True)).items
        return doubtful & {_line_key(obj) for obj in again}


def _repairs(
    desired: Collection[Desired],
    nodes: Collection[Node],
    wanted: Wanted,
    reports: Mapping[str, Report],
    now: datetime,
    unusable: Collection[str],
) -> dict[str, NodeChange]:
    """What must be written per node: lines that differ, and lines of which the node's agent says nothing.

    A line that an agent which is there never mentions may have a label that disagrees with its data: it is sent again,
    which changes nothing where all is well. Lines of WarmImages that cannot be used stay as they are.
    """
    held = {one.node: one for one in desired}
    changes = {}
    for node in nodes:
        have, want, report = held.get(node.name), wanted.get(node.name, {}), reports.get(node.name)
        if have is not None and unusable:
            have = replace(have, lines={key: version for key, version in have.lines.items() if key not in unusable})
        heard = report is not None and report.reachable(now)
        unknown = [key for key, line in want.items() if report and heard and not report.knows(key, line.version)]
        change = whole_node(node, have, want, unknown)
        if have is None and not want and not unusable and report is not None and (report.warm or report.states):
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


def _line_key(obj: Object) -> str:
    return line_key(ObjectKey(obj["metadata"]["namespace"], obj["metadata"]["name"]))


def _usable(objects: Collection[Object]) -> dict[WarmImage, Object]:
    return {warmimage: obj for obj in objects if (warmimage := readable(obj))}
