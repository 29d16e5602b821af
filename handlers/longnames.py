"""Tell of Nodes whose names are too long for the ConfigMaps that Warmhook would need: they are never warmed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import structlog

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, Refused
from warmhook.placement import NODE_NAME_MAX, Node
from warmhook.ports import Object, Utcnow
from warmhook.times import format_time

__all__ = ["tell_of_long_names"]

_log = structlog.get_logger()


async def tell_of_long_names(kubernetes: Kubernetes, nodes: Iterable[Node], now: Utcnow) -> None:
    """Leave an Event on each Node whose name is too long; its name is the Node's, so there is one at a time."""
    for node in nodes:
        if len(node.name) <= NODE_NAME_MAX:
            continue
        try:
            # Events about objects that have no namespace go into `default`; the API server refuses them elsewhere.
            await kubernetes.create(paths.events("default"), _event(node, format_time(now().replace(microsecond=0))))
        except Conflict:
            continue
        except Refused as error:
            _log.error("event-not-written", node=node.name, problem=str(error))
        _log.warning("node-name-too-long", node=node.name, limit=NODE_NAME_MAX)


def _event(node: Node, moment: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"warmhook-{hashlib.sha256(node.uid.encode()).hexdigest()[:16]}", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid},
        "type": "Warning",
        "reason": "NodeNameTooLong",
        "message": f"Warmhook cannot warm this node: its name has {len(node.name)} characters, at most {NODE_NAME_MAX} "
        "leave room for the names of its ConfigMaps",
        "source": {"component": "warmhook"},
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
    }
