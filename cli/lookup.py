"""Look up in a cluster what an argument names: images or a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from adapters.kubernetes.errors import Refused
from cli.cluster import Cluster
from cli.errors import Failed
from cli.images import NodeState, read_images, read_node
from cli.target import Target, is_node_name
from warmhook.image_status import ImageStatus

_FORBIDDEN: Final = 403


@dataclass(frozen=True, slots=True)
class Found:
    """What an argument names."""

    known: Sequence[ImageStatus]
    """All WarmImages that were read; empty if the argument says that it is a node."""
    images: Sequence[ImageStatus]
    """Those that it names; all of them without an argument, none if it names a node."""
    node: NodeState | None = None


async def look_up(cluster: Cluster, target: Target | None) -> Found:
    """What `target` names. Raises `Unusable`, `Failed` if nothing has the name, and `KubernetesError`."""
    known = [] if target is not None and target.kind == "node" else await read_images(cluster)
    if target is None:
        return Found(known, known)
    if images := target.find(known):
        return Found(known, images)
    try:
        node = await read_node(cluster, target.name) if target.may_be_node and is_node_name(target.name) else None
    except Refused as error:
        if target.kind == "node" or error.status != _FORBIDDEN:
            raise
        # Whoever may see images only has probably not meant a node.
        raise Failed(f"{_not_found(cluster, target).message}; you may not read nodes") from None
    if node is None:
        raise _not_found(cluster, target)
    return Found(known, (), node)


def _not_found(cluster: Cluster, target: Target) -> Failed:
    if target.kind == "node":
        return Failed(f"no node {target.name!r} in {cluster.origin}")
    where = f"namespace {cluster.namespace}; -A looks into all" if cluster.namespace else "any namespace"
    kinds = {None: "no image", "warmimage": "no WarmImage", "image": "no image"}[target.kind]
    if target.may_be_node:
        kinds = "no WarmImage, image or node"
    return Failed(f"{kinds} {target.name!r} in {where}")
