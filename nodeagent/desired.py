"""Follow the desired ConfigMap of the node; lines that went count only after a consistent read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from adapters.clock import Backoff
from adapters.kubernetes.errors import KubernetesError, Unavailable
from adapters.kubernetes.paths import configmaps
from adapters.kubernetes.reflector import ListWatch, Reflector
from adapters.outages import OutageLog
from nodeagent.context import Context
from warmhook.node_lines import desired_name
from warmhook.ports import Object

_LONGEST_BACKOFF_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Desired:
    """The node's ConfigMap."""

    resource_version: int
    data: Mapping[str, str] = field(default_factory=dict)
    owner_uid: str = ""
    """The uid of the Node in its owner references; empty if there is none."""


def read_desired(configmap: Object) -> Desired:
    """The fields of the ConfigMap that the agent uses."""
    metadata, data = configmap.get("metadata") or {}, configmap.get("data")
    version = str(metadata.get("resourceVersion") or "")
    owners = [owner for owner in metadata.get("ownerReferences") or [] if owner.get("kind") == "Node"]
    return Desired(
        resource_version=int(version) if version.isdecimal() else 0,
        data=data if isinstance(data, dict) else {},
        owner_uid=owners[0].get("uid", "") if owners else "",
    )


async def follow_desired(context: Context, store: DesiredStore) -> None:
    """Keep the store up to date. Never returns; after an error the lines of the store stay."""
    settings = context.settings
    what: ListWatch[Literal["ConfigMap"]] = ListWatch(
        "ConfigMap",
        configmaps(settings.namespace),
        fields=f"metadata.name={desired_name(settings.node)}",
        keep=lambda configmap: configmap,
    )
    outage = _Outage(OutageLog(context.log, context.clock, "api-server-trouble"))
    reflector = Reflector(context.kubernetes, what, store, context.clock, outage)
    store.relist = reflector.relist
    backoff = Backoff(context.clock, first_seconds=0.5, longest_seconds=_LONGEST_BACKOFF_SECONDS)
    await reflector.run(backoff, refused_seconds=_LONGEST_BACKOFF_SECONDS)


class DesiredStore:
    """The ConfigMap as it was last known.

    A ConfigMap that is missing or deleted changes nothing. A line that went, or a resourceVersion older than the known
    one, counts only after a consistent read confirms it: a watch may be served by an API server that lags behind.
    """

    def __init__(self, known: Desired, changed: Callable[[Desired], None]) -> None:
        self._known, self._changed = known, changed
        self.relist: Callable[[], None] = lambda: None

    def replace(self, _kind: Literal["ConfigMap"], objects: list[Object]) -> None:
        """Take the ConfigMap of a consistent read."""
        if objects:
            found = read_desired(objects[0])
            if not found.resource_version:
                raise Unavailable("the answer to a list of ConfigMaps holds none")
            self._known = found
        self._changed(self._known)

    def update(self, _kind: Literal["ConfigMap"], configmap: Object) -> None:
        """Take new lines at once; lines that went stay until they are confirmed to be gone.

        What belongs to a line (`<key>.hint`) goes at once: without it the line is still there.
        """
        found = read_desired(configmap)
        if found.resource_version < self._known.resource_version:
            self.relist()
            return
        lost = {key: text for key, text in self._known.data.items() if key not in found.data and "." not in key}
        self._known = replace(found, data=lost | dict(found.data)) if lost else found
        self._changed(self._known)
        if lost:
            self.relist()

    def delete(self, _kind: Literal["ConfigMap"], configmap: Object) -> None:
        """Keep the lines: the handlers create a deleted ConfigMap again."""


class _Outage:
    def __init__(self, log: OutageLog) -> None:
        self._log = log

    def failed(self, problem: KubernetesError, *, reached: bool) -> None:  # noqa: ARG002 - of a Reflector's interface
        self._log.failed(error=str(problem)[:300], hint="the agent goes on with the lines it knows")

    def recovered(self) -> None:
        self._log.recovered()
