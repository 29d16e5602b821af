"""Send the events of a watch until its time is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from datetime import datetime

from devcluster.apiserver import views
from devcluster.apiserver.errors import StatusError, bad_request, expired, internal_json
from devcluster.apiserver.paths import Target
from devcluster.apiserver.reads import parse_selection, parse_version
from devcluster.apiserver.store import Change, Compacted, Store, Stored
from warmhook.ports import Object

_LONGEST_SECONDS = 1800.0
"""How long a watch lasts if the request names no time."""
_BOOKMARK_SECONDS = 60.0
_LAST_BOOKMARKS_SECONDS = (2.0, 1.0)
"""How long before its end a watch gets its last bookmarks."""


class Watch:
    """A watch that is accepted; its events come from `lines`."""

    def __init__(
        self, store: Store, target: Target, query: Mapping[str, str], view: views.View, now: Callable[[], datetime]
    ) -> None:
        """Raises `StatusError` for a query that cannot be served."""
        self._store = store
        self._target = target
        self._query = query
        self._view = view
        self._now = now
        self._table = store.table(target.resource.table)
        self._selection = parse_selection(target, query)
        self._version = parse_version(query) or 0
        seconds = query.get("timeoutSeconds", "")
        if seconds and not seconds.isdigit():
            raise bad_request(f"invalid timeoutSeconds {seconds!r}")
        self._seconds = float(seconds or 0) or _LONGEST_SECONDS
        self._bookmarks = query.get("allowWatchBookmarks", "") in ("true", "1")
        self._initial_bookmark = query.get("sendInitialEvents") == "true"
        self._first = True

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """The events as JSON, each with its line end, until the time is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        marks = self._marks(loop.time(), end)
        epoch = self._store.epoch
        subscription = self._table.subscribe(self._selection.name)
        try:
            for initial in self._start():
                yield initial
            mark = next(marks)
            while self._store.epoch == epoch and not subscription.overflowed:
                for change in subscription.take():
                    if line := self._event(change):
                        yield line
                now = loop.time()
                if now >= end:
                    return
                if now >= mark:
                    yield self._bookmark(max(self._version, self._store.version))
                    mark = next(marks)
                await subscription.wait(min(mark, end) - now)
        except Compacted as error:
            yield self._failed(expired(f"too old resource version: {self._version} ({error})"))
        finally:
            self._table.unsubscribe(subscription, self._selection.name)

    def _marks(self, now: float, end: float) -> Iterator[float]:
        """When bookmarks are due, by the loop's clock."""
        if self._bookmarks:
            due = now + _BOOKMARK_SECONDS
            while due < end - _LAST_BOOKMARKS_SECONDS[0]:
                yield due
                due += _BOOKMARK_SECONDS
            yield from (end - before for before in _LAST_BOOKMARKS_SECONDS if end - before > now)
        while True:
            yield float("inf")

    def _start(self) -> Iterator[bytes]:
        if self._version == 0 or self._initial_bookmark:
            self._version = self._store.version
            # Taken at once: others may write while the client reads what is sent here.
            keys = self._table.keys(self._selection.namespace)
            initial = [(key, self._table.items[key]) for key in keys]
            for key, stored in initial:
                if self._selection.matches(key, stored):
                    yield self._line(b"ADDED", stored)
            if self._initial_bookmark and self._bookmarks:
                yield self._bookmark(self._version, {"k8s.io/initial-events-end": "true"})
        else:
            for change in self._table.since(self._version):
                self._version = change.version
                if line := self._chosen(change):
                    yield line

    def _event(self, change: Change) -> bytes | None:
        if change.version <= self._version:
            return None
        self._version = change.version
        return self._chosen(change)

    def _chosen(self, change: Change) -> bytes | None:
        matches = self._selection.matches
        before = change.old is not None and matches(change.key, change.old)
        if change.new is not None and matches(change.key, change.new):
            return self._line(b"MODIFIED" if before else b"ADDED", change.new)
        # An object that leaves the selector looks deleted, as it was while it still matched.
        return self._line(b"DELETED", change.farewell()) if before else None

    def _line(self, kind: bytes, stored: Stored) -> bytes:
        body = views.watch_body(self._view, self._target.resource, stored, self._query, self._now(), first=self._first)
        self._first = False
        return b'{"type":"%b","object":%b}\n' % (kind, body)

    def _bookmark(self, version: int, annotations: Mapping[str, str] | None = None) -> bytes:
        resource = self._target.resource
        partial = self._view.startswith("Partial")
        metadata: Object = {"resourceVersion": str(version)}
        if annotations:
            metadata["annotations"] = dict(annotations)
        obj: Object = {
            "kind": "PartialObjectMetadata" if partial else resource.kind,
            "apiVersion": "meta.k8s.io/v1" if partial else resource.api_version,
            "metadata": metadata,
        }
        return internal_json({"type": "BOOKMARK", "object": obj}) + b"\n"

    def _failed(self, error: StatusError) -> bytes:
        return internal_json({"type": "ERROR", "object": error.status()}) + b"\n"
