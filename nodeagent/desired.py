"""What is wanted on this node? Follows the node's ConfigMap and tells only what can be believed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from structlog.typing import FilteringBoundLogger

from adapters.clock import Backoff, Clock
from adapters.kubernetes.client import Gone, Kubernetes, KubernetesError, Unavailable
from adapters.kubernetes.paths import configmaps
from adapters.outages import OutageLog
from warmhook.node_lines import desired_name
from warmhook.ports import Object

__all__ = ["Desired", "follow_desired", "read_desired"]

_LONGEST_BACKOFF_SECONDS: Final = 30.0
# A watch that ends sooner was not closed by its time limit.
_SHORT_WATCH_SECONDS: Final = 5.0
_DOUBT_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Desired:
    """The node's ConfigMap."""

    resource_version: int
    data: Mapping[str, str] = field(default_factory=dict)
    owner_uid: str = ""
    """Of the Node that the ConfigMap says it belongs to."""


def read_desired(configmap: Object) -> Desired:
    """The parts of the ConfigMap that the agent uses."""
    metadata, data = configmap.get("metadata") or {}, configmap.get("data")
    version = str(metadata.get("resourceVersion") or "")
    owners = [owner for owner in metadata.get("ownerReferences") or [] if owner.get("kind") == "Node"]
    return Desired(
        resource_version=int(version) if version.isdecimal() else 0,
        data=data if isinstance(data, dict) else {},
        owner_uid=owners[0].get("uid", "") if owners else "",
    )


async def follow_desired(
    kubernetes: Kubernetes, namespace: str, node: str, known: Desired, clock: Clock, log: FilteringBoundLogger
) -> AsyncGenerator[Desired, None]:
    """The ConfigMap as it is and each time it changes, for ever; whatever goes wrong is waited out.

    A ConfigMap that is missing or deleted says nothing. That lines went, or one that is older than what is `known`, is
    believed only when a consistent read says so too: a watch may be served by an API server that lags behind.
    """
    trouble = OutageLog(log, clock, "api-server-trouble")
    backoff = Backoff(clock, first_seconds=0.5, longest_seconds=_LONGEST_BACKOFF_SECONDS)
    following = _Following(kubernetes, configmaps(namespace), f"metadata.name={desired_name(node)}", known)
    while True:
        began, wait = clock.monotonic(), None
        resumed, reads_soon = bool(following.position), False
        try:
            async with aclosing(following.until_the_watch_ends()) as snapshots:
                async for desired in snapshots:
                    trouble.recovered()
                    if desired is not None:
                        yield desired
        except Gone:
            following.position = ""
            # The server answers and does not remember that far, as after its restart: what was waited for is over. One
            # that forgets what it said itself a moment ago is not asked as soon.
            reads_soon = resumed
        except KubernetesError as error:
            wait = error.retry_after_seconds if isinstance(error, Unavailable) else _LONGEST_BACKOFF_SECONDS
            trouble.failed(error=str(error)[:300], hint="the agent goes on with the lines it knows")
        else:
            lasted = clock.monotonic() - began >= _SHORT_WATCH_SECONDS
            if lasted:
                backoff.reset()
            if not following.position:
                # Lines went, or seem to have gone: ask soon, and once for several that go together.
                await clock.sleep(clock.jitter(_DOUBT_SECONDS))
                continue
            if lasted:
                continue
        await clock.sleep(clock.jitter(_DOUBT_SECONDS) if reads_soon else backoff.seconds(wait))


class _Following:
    """Where following has come to, over any number of watches."""

    def __init__(self, kubernetes: Kubernetes, path: str, fields: str, known: Desired) -> None:
        self._kubernetes, self._path, self._fields, self._known = kubernetes, path, fields, known
        self.position = ""
        """The resourceVersion at which the watch continues; empty: read first."""

    async def until_the_watch_ends(self) -> AsyncGenerator[Desired | None, None]:
        """What can be believed, as it comes; `None` where the server answered and nothing is new."""
        if not self.position:
            # A list by name: an object's own resourceVersion is as old as its last change and may be forgotten
            # (410 for ever), while a list's is of this moment. Without a resourceVersion the read is consistent.
            listing = await self._kubernetes.list(self._path, fields=self._fields)
            if listing.items:
                found = read_desired(listing.items[0])
                if not found.resource_version:
                    raise Unavailable(f"GET {self._path}: the answer is no ConfigMap")
                self._known = found
            self.position = listing.resource_version
            # Missing says nothing, but now it is known to be missing.
            yield self._known
        watch = self._kubernetes.watch(self._path, resource_version=self.position, fields=self._fields)
        async with aclosing(watch) as changes:
            async for change in changes:
                if change.type in ("ADDED", "MODIFIED"):
                    told = read_desired(change.object)
                    if told.resource_version < self._known.resource_version:
                        self.position = ""
                        return
                    lost = self._known.data.keys() - told.data.keys()
                    # What came is wanted at once; what went stays until a read says so too.
                    self._known = replace(told, data={**self._known.data, **told.data}) if lost else told
                    yield self._known
                    if lost:
                        self.position = ""
                        return
                self.position = str(change.object["metadata"].get("resourceVersion") or self.position)
                yield None
