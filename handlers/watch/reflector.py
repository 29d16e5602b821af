"""Follow one kind of object: list, watch, and after any error begin again where that is possible."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from adapters.clock import Absence
from adapters.kubernetes import paths
from adapters.kubernetes.client import Gone, Kubernetes, KubernetesError, NotServed, Unavailable
from adapters.kubernetes.nodes import FULL_PAGE, reduced_node
from adapters.outages import WatchOutages
from handlers.watch.change_filter import Kind
from warmhook.api import KIND_LABEL
from warmhook.ports import Object, Sleep

__all__ = ["Followed", "Follower", "follow", "followed_kinds"]

_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 10.0
_LONGEST_ASKED_SECONDS: Final = 60.0
# A watch that ends sooner was not closed by its time limit, nor given up because it was silent.
_SHORT_WATCH_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Followed:
    """What is listed and watched."""

    kind: Kind
    path: str
    labels: str = ""
    keep: Callable[[Object], Object] | None = None
    """Given: the whole object is read, and of it this is kept. `None`: only its metadata."""


def followed_kinds(namespace: str) -> list[Followed]:
    """Everything `watch` follows; `namespace` is that of the node ConfigMaps."""
    return [
        Followed("WarmPolicy", paths.warmpolicies()),
        Followed("WarmImage", paths.warmimages()),
        # Taints are no metadata, and decide where Pods can land.
        Followed("Node", paths.NODES, keep=reduced_node),
        Followed("ConfigMap", paths.configmaps(namespace), f"{KIND_LABEL} in (desired,report)"),
    ]


class Follower(Protocol):
    """What is kept true."""

    def replace(self, kind: Kind, objects: list[Object]) -> None:
        """Take a list for the truth: what is missing from it is gone."""
        ...

    def seen(self, kind: Kind, obj: Object) -> None:
        """An object was added or modified."""
        ...

    def deleted(self, kind: Kind, obj: Object) -> None:
        """An object is gone."""
        ...


async def follow(
    kubernetes: Kubernetes,
    followed: Followed,
    cache: Follower,
    *,
    sleep: Sleep,
    rng: random.Random,
    listed: Callable[[], None],
    outages: WatchOutages,
) -> None:
    """Keep the cache true for ever. `listed` is called after each successful list."""
    version, failures, reached = "", 0, False
    absence = Absence(outages.monotonic)
    follower = (id(cache), followed.kind)

    def goes_on() -> None:
        outages.recovered(follower)

    while True:
        problem: KubernetesError | None = None
        resumed = bool(version)
        try:
            if not version:
                version = await _list(kubernetes, followed, cache)
                reached = True
                absence.over()
                listed()
            before, began = version, outages.monotonic()
            version, problem = await _watch(kubernetes, followed, cache, version, goes_on)
            if version != before or outages.monotonic() - began >= _SHORT_WATCH_SECONDS:
                failures = 0
        except KubernetesError as error:
            version, problem = "", error
        if isinstance(problem, Gone):
            version = ""
            if resumed:
                # The server answers and does not remember that far, as after its restart: nothing to wait for.
                failures = 0
        # A watch that ends without having said anything may do so again at once, so that is waited for as well.
        failures += 1
        if failures > 1 or problem is not None:
            # Of a server that was never reached `until_reached` tells; that it has forgotten is an everyday thing.
            if problem is not None and not isinstance(problem, Gone) and (reached or problem.status):
                outages.failed(follower, followed.kind, problem)
            wait = _seconds(problem, failures, rng)
            await sleep(absence.seconds(wait) if isinstance(problem, NotServed) else wait)


async def _list(kubernetes: Kubernetes, followed: Followed, cache: Follower) -> str:
    if followed.keep is None:
        listing = await kubernetes.list(followed.path, labels=followed.labels, metadata_only=True)
    else:
        listing = await kubernetes.list(followed.path, labels=followed.labels, page=FULL_PAGE, keep=followed.keep)
    cache.replace(followed.kind, listing.items)
    return listing.resource_version


async def _watch(
    kubernetes: Kubernetes, followed: Followed, cache: Follower, version: str, opened: Callable[[], None]
) -> tuple[str, KubernetesError | None]:
    """Until the watch ends: where the next one continues, and what went wrong."""
    changes = kubernetes.watch(
        followed.path,
        resource_version=version,
        labels=followed.labels,
        metadata_only=followed.keep is None,
        opened=opened,
    )
    keep = followed.keep or (lambda obj: obj)
    try:
        async with aclosing(changes):
            async for change in changes:
                if change.type == "DELETED":
                    cache.deleted(followed.kind, change.object)
                elif change.type != "BOOKMARK":
                    cache.seen(followed.kind, keep(change.object))
                version = change.object["metadata"]["resourceVersion"]
    except KubernetesError as error:
        return version, error
    return version, None


def _seconds(problem: KubernetesError | None, failures: int, rng: random.Random) -> float:
    """How long to wait: as long as the server asked, or a little longer than last time."""
    asked = problem.retry_after_seconds if isinstance(problem, Unavailable) else None
    wait = min(_FIRST_WAIT_SECONDS * 2.0 ** min(failures - 1, 8), _LONGEST_WAIT_SECONDS)
    return max(min(asked or 0.0, _LONGEST_ASKED_SECONDS), wait * rng.uniform(0.5, 1.0))
