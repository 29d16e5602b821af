"""Read the WarmImages of a cluster and their lines on nodes, for commands that show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from adapters.kubernetes import paths
from adapters.kubernetes.errors import NotFound, Refused
from cli.cluster import Cluster
from warmhook.api import DROPPED_ANNOTATION
from warmhook.image_status import ImageStatus, read_image_status
from warmhook.line_differences import NodeLine, node_lines
from warmhook.node_lines import desired_name
from warmhook.node_report import Report, read_report, report_name
from warmhook.ports import Object

NODES_PAGE: Final = 250
"""ConfigMaps of nodes per page of a list: with 200 lines each, a page takes 20 MB while it is read."""


async def read_images(cluster: Cluster) -> list[ImageStatus]:
    """The WarmImages of the namespace of the command, or of all, by image and name. Raises `KubernetesError`."""
    path = paths.warmimages_in(cluster.namespace) if cluster.namespace else paths.warmimages()
    found = await cluster.kubernetes.list(path, keep=lambda obj: {"status": read_image_status(obj)})
    return sorted((each["status"] for each in found.items), key=lambda each: (each.key.namespace, each.image, each.key))


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node with its lines."""

    name: str
    report: Report | None
    """`None`: its agent has never reported."""
    lines: tuple[NodeLine, ...]
    """As the last report has them, however old it is."""
    no_room: frozenset[str]
    """Keys of lines that found no room."""


async def read_node(cluster: Cluster, name: str) -> NodeState | None:
    """The lines of a node from its two ConfigMaps; `None` if the cluster has no such node. Raises `KubernetesError`."""
    desired = await _get(cluster, paths.configmaps(cluster.system_namespace, desired_name(name)))
    reported = await _get(cluster, paths.configmaps(cluster.system_namespace, report_name(name)))
    if desired is None and reported is None and not await _exists(cluster, name):
        return None
    report = read_report(reported["metadata"]) if reported is not None else None
    lines = node_lines((desired or {}).get("data") or {}, report or Report(name), (reported or {}).get("data") or {})
    annotations = ((desired or {}).get("metadata") or {}).get("annotations") or {}
    return NodeState(
        name, report, tuple(lines), frozenset(filter(None, annotations.get(DROPPED_ANNOTATION, "").split(",")))
    )


async def _get(cluster: Cluster, path: str) -> Object | None:
    try:
        return await cluster.kubernetes.get(path)
    except NotFound:
        return None


async def _exists(cluster: Cluster, name: str) -> bool:
    try:
        await cluster.kubernetes.get(paths.node(name), metadata_only=True)
    except Refused:
        # Absent, or not to be seen; a name that no object can have is refused as well.
        return False
    return True
