"""Record Kubernetes Events about WarmImages and WarmPolicies, as far as that costs the API server little."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes, KubernetesError
from adapters.logs import get_logger
from warmhook.api import API_VERSION
from warmhook.ports import Object, Utcnow
from warmhook.timestamps import format_time
from warmhook.transitions import Transition
from warmhook.warmimages import ObjectKey

__all__ = ["Recorder", "event_object"]

_log = get_logger()

# What comes beyond is dropped: conditions say the same, and last.
_PER_MINUTE: Final = 60
# An object that goes back and forth gets one Event of each reason within this time.
_APART_SECONDS: Final = 300.0
_REMEMBERED: Final = 1000
_MESSAGE_MAX: Final = 1000


class Recorder:
    """Creates Events in the namespaces of their objects; one that cannot be created is dropped."""

    def __init__(self, kubernetes: Kubernetes, *, now: Utcnow, monotonic: Callable[[], float]) -> None:
        self._kubernetes = kubernetes
        self._now = now
        self._monotonic = monotonic
        self._recent: deque[float] = deque(maxlen=_PER_MINUTE)
        """When the last were created, on the monotonic clock."""
        self._last: dict[tuple[str, str], float] = {}
        """Uid and reason to when such an Event was last created; only of the last few minutes."""

    async def record(self, kind: str, key: ObjectKey, uid: str, changes: Iterable[Transition]) -> None:
        """Create an Event for each of these changes of one object. Raises nothing of the API server's."""
        for change in changes:
            if not self._allowed(uid, change.reason):
                continue
            moment = format_time(self._now())
            name = f"{key.name[:200]}.{hashlib.sha256(f'{uid} {change.reason} {moment}'.encode()).hexdigest()[:16]}"
            involved = {
                "apiVersion": API_VERSION,
                "kind": kind,
                "namespace": key.namespace,
                "name": key.name,
                "uid": uid,
            }
            body = event_object(name, key.namespace, involved, change, self._now)
            try:
                await self._kubernetes.create(paths.events(key.namespace), body)
            except KubernetesError as error:
                _log.warning("event-not-written", object=str(key), problem=str(error))

    def _allowed(self, uid: str, reason: str) -> bool:
        now = self._monotonic()
        if len(self._recent) == _PER_MINUTE and now - self._recent[0] < 60:
            return False
        if now - self._last.get((uid, reason), float("-inf")) < _APART_SECONDS:
            return False
        self._recent.append(now)
        self._last.pop((uid, reason), None)
        self._last[uid, reason] = now
        while len(self._last) > _REMEMBERED:
            del self._last[next(iter(self._last))]
        return True


def event_object(name: str, namespace: str, involved: Object, change: Transition, now: Utcnow) -> Object:
    """An Event (core/v1) that happened once, now."""
    moment = format_time(now().replace(microsecond=0))
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
