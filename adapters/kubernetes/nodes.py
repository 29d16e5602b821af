"""Read the fields of a Node that Warmhook needs: a few hundred of its thirteen thousand bytes."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from typing import Final

from warmhook.placement import Node, is_away
from warmhook.ports import Object
from warmhook.taints import Taint
from warmhook.timestamps import parse_time

FULL_PAGE: Final = 100
"""Full Nodes per page of a list: reading a page must not delay other requests for long."""

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)([kKMGTPE]?i?|m)")
_FACTORS: Final = {"": 1.0, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", start=1)
}


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


def disk_bytes(node: Object) -> int:
    """The size of the file system for ephemeral storage that its kubelet reports; 0: unknown."""
    text = ((node.get("status") or {}).get("capacity") or {}).get("ephemeral-storage")
    found = _QUANTITY.fullmatch(str(text))
    return 0 if found is None else int(float(found[1]) * _FACTORS.get(found[2], 0.0))


def has_disk_pressure(node: Object) -> bool:
    """Whether its kubelet removes images and Pods because its disk is full."""
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(each.get("type") == "DiskPressure" and each.get("status") == "True" for each in conditions)


def listed_images(node: Object) -> list[tuple[list[str], int]]:
    """Names and size in bytes of the images that its kubelet lists, by default its 50 largest."""
    listed = (node.get("status") or {}).get("images") or []
    return [([str(name) for name in image.get("names") or ()], int(image.get("sizeBytes") or 0)) for image in listed]
