"""Keep a store equal to the objects of the API server: list, watch, and after an error resume or list again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from adapters.clock import Absence, Backoff, Clock
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Gone, KubernetesError, NotServed, Unavailable
from adapters.kubernetes.nodes import FULL_PAGE
from adapters.outages import WatchOutage, WatchOutages
from warmhook.ports import Object

# A watch that ends sooner was not closed by its time limit or because of silence.
_SHORT_WATCH_SECONDS: Final = 5.0
_RELIST_SECONDS: Final = 0.2
_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 10.0
_LONGEST_ASKED_SECONDS: Final = 60.0

_Kind = TypeVar("_Kind", bound=str)
_Kind_contra = TypeVar("_Kind_contra", bound=str, contravariant=True)


@dataclass(frozen=True, slots=True)
class ListWatch(Generic[_Kind]):
    """A kind of object to list and watch."""

    kind: _Kind
    path: str
    labels: str = ""
    fields: str = ""
    keep: Callable[[Object], Object] | None = None
    """Reduces each object to the parts to keep. `None`: only metadata is read."""
    keep_metadata: Callable[[Object], Object] | None = None
    """Reduces each object of which only the metadata was read, page by page, where all of them are large."""

    @property
    def reduce(self) -> Callable[[Object], Object] | None:
        """What an object goes through before it is kept; `None`: nothing."""
        return self.keep or self.keep_metadata


class Store(Protocol[_Kind_contra]):
    """A store that a Reflector keeps equal to the API server."""

    def replace(self, kind: _Kind_contra, objects: list[Object]) -> None:
        """Replace all objects of the kind by those of a list."""

    def update(self, kind: _Kind_contra, obj: Object) -> None:
        """Take an object that was added or modified."""

    def delete(self, kind: _Kind_contra, obj: Object) -> None:
        """Drop an object that was deleted."""


class Outage(Protocol):
    """Receives the failures of a Reflector."""

    def failed(self, problem: KubernetesError, *, reached: bool) -> None:
        """A request failed; `reached` is whether any list succeeded before."""

    def recovered(self) -> None:
        """A watch is open."""


class Reflector(Generic[_Kind]):
    """Keeps a store equal to the objects of one kind."""

    def __init__(
        self, kubernetes: Kubernetes, what: ListWatch[_Kind], store: Store[_Kind], clock: Clock, outage: Outage
    ) -> None:
        self._kubernetes, self._what, self._store, self._clock, self._outage = kubernetes, what, store, clock, outage
        self._version = ""
        """The resourceVersion at which the watch resumes; empty: list first."""
        self._relist, self._reached = False, False
        self._opened_at: float | None = None
        """When the watch opened; `None` while none is open."""

    def relist(self) -> None:
        """List again soon: what the watch delivered may come from an API server that lags behind."""
        self._relist = True

    async def run(self, backoff: Backoff, *, refused_seconds: float = 0.0) -> None:
        """Never return. A refused request is repeated after `refused_seconds` at the earliest."""
        absence = Absence(self._clock.monotonic)
        while True:
            resumed, version = bool(self._version), self._version
            self._opened_at = None
            problem: KubernetesError | None = None
            try:
                if not resumed:
                    await self._list()
                    absence.over()
                    version = self._version
                await self._watch()
            except KubernetesError as error:
                problem = error
            worked = self._version != version or self._lasted()
            if worked:
                backoff.reset()
            if self._relist:
                # One list answers several doubts that come together.
                self._relist, self._version = False, ""
                await self._clock.sleep(self._clock.jitter(_RELIST_SECONDS))
            elif problem is not None:
                await self._clock.sleep(self._wait(problem, resumed, backoff, absence, refused_seconds))
            elif not worked:
                # A watch that ends at once without a change may do so again.
                await self._clock.sleep(backoff.seconds())

    def _lasted(self) -> bool:
        # Lists, and watches that do not open, may also take long to fail; that is no success.
        return self._opened_at is not None and self._clock.monotonic() - self._opened_at >= _SHORT_WATCH_SECONDS

    def _opened(self) -> None:
        self._opened_at = self._clock.monotonic()
        self._outage.recovered()

    def _wait(
        self, problem: KubernetesError, resumed: bool, backoff: Backoff, absence: Absence, refused_seconds: float
    ) -> float:
        """Seconds until the next request after one that failed."""
        if isinstance(problem, Gone):
            self._version = ""
            if resumed:
                # The server answers and does not remember that far, as after its restart: there is nothing to wait for.
                backoff.reset()
            return backoff.seconds()
        self._outage.failed(problem, reached=self._reached)
        if isinstance(problem, NotServed):
            return absence.seconds(backoff.seconds(refused_seconds))
        return backoff.seconds(problem.retry_after_seconds if isinstance(problem, Unavailable) else refused_seconds)

    async def _list(self) -> None:
        what = self._what
        # Without a resourceVersion the read is consistent. The resourceVersion of a list is of this moment; that of an
        # object is as old as its last change, and a watch from there may be answered with 410 for ever.
        if what.reduce is None:
            listing = await self._kubernetes.list(what.path, labels=what.labels, fields=what.fields, metadata_only=True)
        else:
            listing = await self._kubernetes.list(
                what.path,
                labels=what.labels,
                fields=what.fields,
                metadata_only=what.keep is None,
                page=FULL_PAGE,
                keep=what.reduce,
            )
        self._store.replace(what.kind, listing.items)
        self._version, self._reached = listing.resource_version, True

    async def _watch(self) -> None:
        what = self._what
        changes = self._kubernetes.watch(
            what.path,
            resource_version=self._version,
            labels=what.labels,
            fields=what.fields,
            metadata_only=what.keep is None,
            opened=self._opened,
        )
        keep = what.reduce or (lambda obj: obj)
        async with aclosing(changes):
            async for change in changes:
                if change.type == "DELETED":
                    self._store.delete(what.kind, change.object)
                elif change.type != "BOOKMARK":
                    self._store.update(what.kind, keep(change.object))
                # Without one the watch resumes where it would have.
                self._version = change.object["metadata"].get("resourceVersion") or self._version
                if self._relist:
                    return


async def reflect(
    kubernetes: Kubernetes, kinds: Sequence[ListWatch[_Kind]], store: Store[_Kind], clock: Clock, outages: WatchOutages
) -> None:
    """Keep a store equal to the objects of several kinds until this is cancelled."""
    async with asyncio.TaskGroup() as group:
        for what in kinds:
            backoff = Backoff(
                clock,
                first_seconds=_FIRST_WAIT_SECONDS,
                longest_seconds=_LONGEST_WAIT_SECONDS,
                longest_asked_seconds=_LONGEST_ASKED_SECONDS,
            )
            reflector = Reflector(kubernetes, what, store, clock, WatchOutage(what.kind, outages))
            group.create_task(reflector.run(backoff), name=f"follow {what.kind}")
