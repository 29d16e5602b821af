"""Record Kubernetes Events, as far as that costs the API server little."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from adapters.clock import Clock
from adapters.kubernetes.errors import Conflict, KubernetesError
from adapters.logs import get_logger
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.writer import Writer
from warmhook.api import API_VERSION
from warmhook.placement import NODE_NAME_MAX, Node
from warmhook.ports import Object
from warmhook.timestamps import format_time
from warmhook.transitions import Transition
from warmhook.warmimages import ObjectKey

_log = get_logger()

# More are dropped: conditions say the same, and stay.
_PER_MINUTE: Final = 60
_PER_NAMESPACE: Final = 20
"""Of these, so that one that has many leaves room for others."""
# A flapping object gets one Event of each reason within this time.
_APART_SECONDS: Final = 300.0
_REMEMBERED: Final = 1000
_MESSAGE_MAX: Final = 1000


@dataclass(eq=False)
class Recorder:
    """Creates Events about WarmImages and WarmPolicies in their namespaces, and about Nodes in `default`."""

    writer: Writer
    clock: Clock
    _recent: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=_PER_MINUTE))
    """When the last were created, on the monotonic clock, and in which namespace."""
    _last: dict[tuple[str, str], float] = field(default_factory=dict)
    """Uid and reason to when such an Event was last created; only of the last few minutes."""

    async def record(self, kind: str, key: ObjectKey, uid: str, changes: Iterable[Transition]) -> None:
        """Create an Event for each of these changes of one object; one that cannot be created is dropped."""
        for change in changes:
            if not self._allowed(key.namespace, uid, change.reason):
                continue
            moment = format_time(self.clock.utcnow())
            name = f"{key.name[:200]}.{_digest(f'{uid} {change.reason} {moment}')}"
            involved = {
                "apiVersion": API_VERSION,
                "kind": kind,
                "namespace": key.namespace,
                "name": key.name,
                "uid": uid,
            }
            try:
                await self.writer.create_event(self._event(name, key.namespace, involved, change))
            except KubernetesError as error:
                _log.warning("event-not-written", object=str(key), problem=str(error))

    async def record_long_names(self, nodes: Iterable[Node], outcomes: Outcomes) -> None:
        """Record an Event on each Node whose name is too long for the names of its ConfigMaps."""
        long = [node for node in nodes if len(node.name) > NODE_NAME_MAX]
        await outcomes.each("node-event", long, self._record_long_name, name=lambda node: node.name)

    async def _record_long_name(self, node: Node) -> None:
        text = f"Warmhook cannot warm this node: its name has {len(node.name)} characters, at most {NODE_NAME_MAX} "
        change = Transition("NodeNameTooLong", text + "leave room for the names of its ConfigMaps", warning=True)
        involved = {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}
        # The name is the Node's, so there is one at a time.
        name = f"warmhook-{_digest(node.uid)}"
        try:
            # Events about objects without a namespace go into `default`; the API server rejects them elsewhere.
            await self.writer.create_event(self._event(name, "default", involved, change))
        except Conflict:
            return
        _log.warning("node-name-too-long", node=node.name, limit=NODE_NAME_MAX)

    def _allowed(self, namespace: str, uid: str, reason: str) -> bool:
        now = self.clock.monotonic()
        recent = [where for at, where in self._recent if now - at < 60]
        if len(recent) == _PER_MINUTE or recent.count(namespace) >= _PER_NAMESPACE:
            return False
        if now - self._last.get((uid, reason), float("-inf")) < _APART_SECONDS:
            return False
        self._recent.append((now, namespace))
        self._last.pop((uid, reason), None)
        self._last[uid, reason] = now
        while len(self._last) > _REMEMBERED:
            del self._last[next(iter(self._last))]
        return True

    def _event(self, name: str, namespace: str, involved: Object, change: Transition) -> Object:
        """An Event (core/v1) with count 1 and the current time."""
        moment = format_time(self.clock.utcnow().replace(microsecond=0))
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved,
            "type": "Warning" if change.warning else "Normal",
            "reason": change.reason,
            "message": change.message[:_MESSAGE_MAX],
            "source": {"component": "warmhook"},
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
        }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
