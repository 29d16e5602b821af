"""Leave an Event on each Node whose name is too long for the names of its ConfigMaps: it is never warmed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes
from adapters.logs import get_logger
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.recorder import event_object
from warmhook.placement import NODE_NAME_MAX, Node
from warmhook.ports import Utcnow
from warmhook.transitions import Transition

__all__ = ["record_name_too_long"]

_log = get_logger()


async def record_name_too_long(kubernetes: Kubernetes, nodes: Iterable[Node], outcomes: Outcomes, now: Utcnow) -> None:
    """Leave an Event on each Node whose name is too long; its name is the Node's, so there is one at a time."""

    async def record(node: Node) -> None:
        text = f"Warmhook cannot warm this node: its name has {len(node.name)} characters, at most {NODE_NAME_MAX} "
        change = Transition("NodeNameTooLong", text + "leave room for the names of its ConfigMaps", warning=True)
        name = f"warmhook-{hashlib.sha256(node.uid.encode()).hexdigest()[:16]}"
        involved = {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}
        try:
            # Events about objects that have no namespace go into `default`; the API server refuses them elsewhere.
            await kubernetes.create(paths.events("default"), event_object(name, "default", involved, change, now))
        except Conflict:
            return
        _log.warning("node-name-too-long", node=node.name, limit=NODE_NAME_MAX)

    long = [node for node in nodes if len(node.name) > NODE_NAME_MAX]
    await outcomes.each("node-event", long, record, name=lambda node: node.name)
