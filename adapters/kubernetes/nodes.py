"""Read the fields of a Node that Warmhook needs: a few hundred of its thirteen thousand bytes."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Final

from warmhook.placement import Node, is_away
from warmhook.ports import Object
from warmhook.taints import Taint
from warmhook.timestamps import parse_time

FULL_PAGE: Final = 100
"""Full Nodes per page of a list: reading a page must not delay other requests for long."""


def taints_of(node: Object) -> tuple[Taint, ...]:
    """Its taints, sorted; empty if only its metadata was read."""
    listed = (node.get("spec") or {}).get("taints") or []
    return tuple(
        sorted(Taint(taint.get("key", ""), taint.get("value") or "", taint.get("effect", "")) for taint in listed)
    )


def unschedulable(node: Object) -> bool:
    """Whether it is cordoned."""
    return bool((node.get("spec") or {}).get("unschedulable"))


def not_ready_since(node: Object) -> datetime | None:
    """When its Ready condition changed from True; `None` if it is Ready, or has no such condition."""
    for condition in _ready(node):
        if condition.get("status") != "True":
            try:
                return parse_time(condition["lastTransitionTime"])
            except (KeyError, ValueError, TypeError):
                return None
    return None


def _ready(node: Object) -> list[Object]:
    conditions = (node.get("status") or {}).get("conditions") or []
    return [condition for condition in conditions if condition.get("type") == "Ready"]


def read_node(node: Object, now: datetime | None = None) -> Node:
    """The fields for placement, from a full Node or its metadata. Without `now` no node is away."""
    metadata = node["metadata"]
    # Interned: thousands of nodes have the same few hundred keys and values.
    labels = {sys.intern(key): sys.intern(value) for key, value in (metadata.get("labels") or {}).items()}
    created = metadata.get("creationTimestamp")
    return Node(
        metadata["name"],
        metadata["uid"],
        labels,
        taints_of(node),
        unschedulable(node),
        away=now is not None and is_away(unschedulable(node), not_ready_since(node), now),
        created_at=parse_time(created) if created else None,
    )


def reduced_node(node: Object) -> Object:
    """The Node without its large unread parts, such as most of its status."""
    metadata, spec = node["metadata"], node.get("spec") or {}
    kept = ("name", "uid", "resourceVersion", "labels", "creationTimestamp")
    return {
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": {name: spec[name] for name in ("taints", "unschedulable") if name in spec},
        "status": {"conditions": _ready(node)},
    }
