"""Find nodes that have an image already, for nodes that get it later, and let them know their new children.

A parent refuses a node that is not in its own hint, so each of these nodes costs a write of its own: they are few.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from adapters.kubernetes.errors import KubernetesError
from handlers.reconcile.node_configmaps import NodeChange
from handlers.reconcile.objects import DesiredConfigMap, read_desired
from handlers.reconcile.reader import MAX_GETS, Reader
from warmhook.distribution import ZONE_LABEL
from warmhook.hints import CHILDREN_MAX, Child, Hint, NotAHint, hint_key, read_hint
from warmhook.node_report import Report
from warmhook.placement import Node
from warmhook.ports import Object

NodeHints: TypeAlias = dict[str, Hint | None]
"""The hints of one node that change, by the keys of their lines; `None` removes one."""

SOURCES_MAX: Final = 8
"""Nodes that one projection writes only because they get a new child."""
_PER_IMAGE: Final = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image that nodes get now."""

    version: str
    """Of its line."""
    nodes: frozenset[str]
    """The names of these nodes."""
    under_way: frozenset[str] = frozenset()
    """Those of nodes that have the line with a hint that holds: of the plan that this one goes on with."""

    def held_by(self, nodes: Collection[Node], serving: Mapping[str, Report]) -> list[Node]:
        """Those of `nodes` that have the image already; `serving` are the reports of nodes that serve images."""
        return [node for node in nodes if node.name not in self.nodes and self.version in serving[node.name].warm]


async def find_sources(
    images: Collection[Wanted], nodes: Mapping[str, Node], serving: Mapping[str, Report], reader: Reader
) -> list[Node]:
    """Nodes that have the images already: two for each image, few for all, in the zones of the nodes that get them.

    None for images with a plan under way: its nodes know whom they serve. `nodes` are those that are known, at least
    the ones that get an image. Others are read, a few of them.
    """
    images = [image for image in images if not image.under_way]
    if not images:
        return []
    versions = {image.version for image in images}
    getting = frozenset[str]().union(*(image.nodes for image in images))
    warm = [name for name, report in serving.items() if name not in getting and not report.warm.isdisjoint(versions)]
    # Others for each new node, so that not the same few nodes serve all that join.
    first = min(getting)
    warm.sort(key=lambda name: hashlib.sha256(f"{first}\n{name}".encode()).digest())
    found = [nodes[name] for name in warm if name in nodes]
    if not found and warm:
        read = await reader.nodes_of(warm[:MAX_GETS])
        found = [read[name] for name in warm if name in read]
    zones = {_zone(nodes[name]) for name in getting}
    found.sort(key=lambda node: _zone(node) not in zones)
    chosen = list[Node]()
    for image in images:
        missing = _PER_IMAGE - len(image.held_by(chosen, serving))
        more = [node for node in image.held_by(found, serving) if node not in chosen]
        chosen += more[: max(0, min(missing, SOURCES_MAX - len(chosen)))]
    # A node may say that anything is warm. It serves only what it should have.
    desired = await reader.desired_of([node.name for node in chosen])
    holding = {have.node for have in desired if not versions.isdisjoint(have.lines.values())}
    return [node for node in chosen if node.name in holding]


async def changes_of_sources(hints: Mapping[str, NodeHints], reader: Reader, now: float) -> dict[str, NodeChange]:
    """The changes of nodes that get new children and keep those that they have; `now` in Unix seconds.

    A node that has all of them is left out, and one whose ConfigMap cannot be read: its children ask others.
    """
    objects = await asyncio.gather(*(_desired(reader, name) for name in hints))
    changes = {}
    for (name, new), obj in zip(hints.items(), objects, strict=True):
        have = read_desired(obj["metadata"]) if obj is not None else None
        if obj is not None and have is not None and have.owner_uid:
            merged = {key: _with_children_of(hint, obj, key, now) for key, hint in new.items() if hint is not None}
            if news := {key: hint for key, hint in merged.items() if hint is not None}:
                changes[name] = NodeChange(have.owner_uid, {}, hints=ended_hints(have, (), now) | news)
    return changes


async def know_children(parents: Mapping[str, Hint], key: str, reader: Reader, now: float) -> bool:
    """Whether these nodes list their new children already, as those of a plan that is not written completely yet do.

    A plan has them or has them not, so two are read. `key` is that of the line.
    """
    some = dict(list(parents.items())[:_PER_IMAGE])
    objects = await asyncio.gather(*(_desired(reader, name) for name in some))
    known = zip(some.values(), objects, strict=True)
    return all(obj is not None and _with_children_of(hint, obj, key, now) is None for hint, obj in known)


def ended_hints(have: DesiredConfigMap | None, keys: Collection[str], now: float) -> NodeHints:
    """The removal of the hints of a node that have expired, or belong to these lines."""
    known = have.hints if have is not None else {}
    return {key: None for key, expires_at in known.items() if expires_at <= now or key in keys}


async def _desired(reader: Reader, node: str) -> Object | None:
    try:
        return await reader.desired_object(node)
    except KubernetesError:
        return None


def _with_children_of(hint: Hint, obj: Object, key: str, now: float) -> Hint | None:
    """The hint that a node has in its ConfigMap, with the children of `hint` as well; `None` if it has them."""
    data: Mapping[str, Any] = obj.get("data") or {}
    try:
        known = read_hint(data.get(hint_key(key), ""))
    except NotAHint:
        return hint
    if known.expires_at <= now or known.digest != hint.digest:
        return hint
    if set(hint.children) <= set(known.children):
        return None
    children: dict[str, Child] = {child.node: child for child in (*known.children, *hint.children)}
    expires_at = max(hint.expires_at, known.expires_at)
    return replace(known, children=tuple(children.values())[-CHILDREN_MAX:], expires_at=expires_at)


def _zone(node: Node) -> str:
    return node.labels.get(ZONE_LABEL, "")
