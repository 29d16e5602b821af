"""Compute all lines that nodes should hold."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from handlers.reconcile.node_configmaps import NodeChange
from handlers.reconcile.objects import DesiredConfigMap, WarmImages
from handlers.reconcile.reader import Reader
from warmhook.limits import Tenancy
from warmhook.node_lines import Line, diff, line_key, line_of, noted_refusals, over_budget
from warmhook.placement import Node, RunningNodes, lacks_platform, place_each, reads_taints
from warmhook.tenancy import permitted
from warmhook.warmimages import ObjectKey, WarmImage

LinesByNode: TypeAlias = Mapping[str, Mapping[str, Line]]
"""By node name, the lines that it should have, by key."""


class FullState:
    """Every line of any node, worked out when the first ConfigMap is found missing."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._once = asyncio.Lock()
        self._nodes: dict[str, Node] | None = None
        self._wanted: LinesByNode = {}
        self._uncertain: frozenset[str] = frozenset()
        self.warmimages: list[WarmImage] = []
        """The WarmImages of the lines; empty until the lines are computed."""

    async def change(self, name: str) -> NodeChange | None:
        """The change that creates the ConfigMap of a node; `None` if the node was deleted or has no line."""
        async with self._once:
            if self._nodes is None:
                found = await self._reader.warmimages()
                running = await self._reader.pods.among_others(found.usable.values())
                placed = found.without(running.unknown)
                self._uncertain = uncertain_lines(placed)
                self.warmimages = list(placed.usable.values())
                nodes = await self._reader.nodes(taints=reads_taints(self.warmimages))
                self._wanted = await wanted_lines(self.warmimages, nodes, running.nodes)
                self._nodes = {node.name: node for node in nodes}
        node = self._nodes.get(name)
        if node is None:
            return None
        return full_change(node, None, self._wanted.get(name, {}), self._reader.tenancy, uncertain=self._uncertain)


async def wanted_lines(
    warmimages: Iterable[WarmImage], nodes: Iterable[Node], running: RunningNodes
) -> dict[str, dict[str, Line]]:
    """The lines that each node should have; `running` as for `place_each`.

    Other requests run between two WarmImages.
    """
    wanted: dict[str, dict[str, Line]] = defaultdict(dict)
    for warmimage, chosen in place_each(map(permitted, warmimages), nodes, running):
        line = line_of(warmimage)
        for node in chosen:
            if not lacks_platform(warmimage.resolved, node):
                wanted[node.name][line.key] = line
        await asyncio.sleep(0)
    return wanted


def untouched(have: DesiredConfigMap, uncertain: frozenset[str], kept: Mapping[str, Line]) -> DesiredConfigMap:
    """The ConfigMap of a node without the lines of `uncertain_lines`, so that these stay unchanged.

    `kept` are those of them that are known, of any node: what a namespace has takes its room, whatever its Pods.
    """
    if uncertain.isdisjoint(have.lines):
        return have
    lines = {key: version for key, version in have.lines.items() if key not in uncertain}
    return replace(have, lines=lines, kept={key: kept[key] for key in have.lines.keys() & kept.keys()})


def uncertain_lines(found: WarmImages) -> frozenset[str]:
    """The keys of the lines of WarmImages that cannot be placed: an existing ConfigMap keeps those that it has.

    A ConfigMap that is created names them, because its node may have had them: what a node lost so is not removed.
    """
    return frozenset(map(line_key, found.unusable))


def kept_lines(found: WarmImages, unknown: Iterable[ObjectKey]) -> dict[str, Line]:
    """The lines of WarmImages whose Pods could not be read, by key."""
    lines = (line_of(permitted(found.usable[key])) for key in unknown)
    return {line.key: line for line in lines}


def full_change(
    node: Node,
    have: DesiredConfigMap | None,
    wanted: Mapping[str, Line],
    tenancy: Tenancy,
    unknown: Collection[str] = (),
    uncertain: frozenset[str] = frozenset(),
) -> NodeChange | None:
    """The change that makes the ConfigMap of a node have exactly `wanted`, within its room; `None` if it does already.

    `unknown` are keys of lines that are sent again although their label is present; `uncertain` as in
    `uncertain_lines`.
    """
    refused = over_budget(wanted.values(), tenancy, have.kept.values() if have else ())
    refused |= uncertain & have.refused if have else uncertain
    want = {key: line for key, line in wanted.items() if key not in refused}
    changes = diff(have.lines if have else {}, want)
    changes |= {key: want[key] for key in unknown if key in want}
    if have is None:
        return NodeChange(node.uid, changes, refused, replace=True) if changes else None
    noted = have.refused == frozenset(noted_refusals(refused))
    as_it_should_be = have.owner_uid == node.uid and noted and not have.tracked
    return None if as_it_should_be and not changes else NodeChange(node.uid, changes, refused)
