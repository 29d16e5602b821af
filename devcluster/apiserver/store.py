"""Hold the objects of a cluster in versions, and notify subscribers of changes.

Objects are never changed after they are stored: a write stores a new one that shares all it can with the old one,
and every object is serialised at most once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from warmhook.ports import Object

Key = tuple[str, str]
"""Namespace (empty for cluster-scoped objects) and name."""

FIRST_VERSION = 218
"""Where a fresh cluster's resourceVersion stands: a real one has written its own objects before the first client comes,
so that small versions are expired ones."""

_HISTORY_LENGTH = 5_000
"""Changes of a kind that a watch can go back."""

_PENDING_LIMIT = 20_000
"""Changes that a subscriber may lag behind before it is dropped, as a slow watch is."""


class Compacted(Exception):
    """The history no longer reaches back to that version."""


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


class Stored:
    """An object in one version. Nothing reachable from `object` may be changed."""

    __slots__ = ("_members", "_metadata", "object", "version")

    def __init__(self, obj: Object, version: int) -> None:
        self.object = obj
        self.version = version
        self._members: bytes | None = None
        self._metadata: bytes | None = None

    def metadata(self) -> bytes:
        """The value of `metadata` as JSON."""
        if self._metadata is None:
            self._metadata = _json(self.object["metadata"])
        return self._metadata

    def forget_bytes(self) -> None:
        """Drop the serialised forms: the history keeps the object, but it is seldom read again."""
        self._members = self._metadata = None

    def members(self) -> bytes:
        """The JSON members of the object except `kind` and `apiVersion`, without the outer braces."""
        if self._members is None:
            parts = [b'"metadata":' + self.metadata()]
            skipped = ("kind", "apiVersion", "metadata")
            parts += [_json(name) + b":" + _json(value) for name, value in self.object.items() if name not in skipped]
            self._members = b",".join(parts)
        return self._members


def _at_version(obj: Object, version: int) -> Stored:
    return Stored({**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version)}}, version)


@dataclass(frozen=True, slots=True)
class Change:
    """One write. `old` is `None` for a create, `new` for a delete."""

    version: int
    key: Key
    old: Stored | None
    new: Stored | None

    def farewell(self) -> Stored:
        """The old object as a watcher sees it go: with the version of the write that took it away."""
        if self.old is None:
            raise ValueError("nothing went away in this change")
        return _at_version(self.old.object, self.version)


class Subscription:
    """The changes of one table, or of one object in it, that a subscriber has not taken yet."""

    __slots__ = ("_pending", "_waiter", "overflowed")

    def __init__(self) -> None:
        self._pending: deque[Change] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.overflowed = False
        """The subscriber fell too far behind and has lost changes."""

    def push(self, change: Change) -> None:
        """Remember a change and wake the subscriber."""
        if len(self._pending) >= _PENDING_LIMIT:
            self.overflowed = True
        else:
            self._pending.append(change)
        self.wake()

    def wake(self) -> None:
        """Let a pending `wait` return."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> Iterator[Change]:
        """The pending changes, oldest first."""
        while self._pending:
            yield self._pending.popleft()

    async def wait(self, seconds: float) -> None:
        """Return once there is a change, or that time is over."""
        if self._pending or self.overflowed:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._waiter
        finally:
            self._waiter = None


class Table:
    """All objects of one kind."""

    __slots__ = ("_by_name", "_keys", "_subscribers", "compacted", "history", "items")

    def __init__(self, compacted: int) -> None:
        self.items: dict[Key, Stored] = {}
        self.history: deque[Change] = deque(maxlen=_HISTORY_LENGTH)
        self.compacted = compacted
        """The newest version whose change is no longer in `history`."""
        self._keys: list[Key] = []
        self._subscribers: set[Subscription] = set()
        self._by_name: dict[str, set[Subscription]] = {}

    def keys(self, namespace: str | None) -> list[Key]:
        """The keys in order, of one namespace or of all."""
        if namespace is None:
            return self._keys
        start = bisect_left(self._keys, (namespace, ""))
        return self._keys[start : bisect_left(self._keys, (namespace + "\0", ""))]

    def since(self, version: int) -> list[Change]:
        """What happened after that version, oldest first. Raises `Compacted`."""
        if version < self.compacted:
            raise Compacted(self.compacted)
        if not self.history or self.history[-1].version <= version:
            return []
        found: list[Change] = []
        for change in reversed(self.history):
            if change.version <= version:
                break
            found.append(change)
        found.reverse()
        return found

    def at(self, version: int) -> Mapping[Key, Stored]:
        """The objects as they were at that version. Raises `Compacted`."""
        changes = self.since(version)
        if not changes:
            return self.items
        items = dict(self.items)
        for change in reversed(changes):
            if change.old is None:
                items.pop(change.key, None)
            else:
                items[change.key] = change.old
        return items

    def subscribe(self, name: str | None) -> Subscription:
        """Receive all changes, or only those of objects with that name."""
        subscription = Subscription()
        if name is None:
            self._subscribers.add(subscription)
        else:
            self._by_name.setdefault(name, set()).add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription, name: str | None) -> None:
        """Receive no more changes."""
        if name is None:
            self._subscribers.discard(subscription)
            return
        named = self._by_name.get(name, set())
        named.discard(subscription)
        if not named:
            self._by_name.pop(name, None)

    def subscriptions(self) -> Iterable[Subscription]:
        """All subscriptions."""
        yield from list(self._subscribers)
        for named in list(self._by_name.values()):
            yield from list(named)

    def load(self, key: Key, stored: Stored) -> None:
        """Hold an object without notifying subscribers."""
        if key not in self.items:
            insort(self._keys, key)
        self.items[key] = stored

    def clear(self) -> None:
        """Hold nothing, without notifying subscribers."""
        self.items.clear()
        self._keys.clear()

    def record(self, change: Change) -> None:
        """Record a change and notify subscribers."""
        if change.new is None:
            del self.items[change.key]
            del self._keys[bisect_left(self._keys, change.key)]
        else:
            if change.key not in self.items:
                insort(self._keys, change.key)
            self.items[change.key] = change.new
        if change.old is not None:
            change.old.forget_bytes()
        if len(self.history) == _HISTORY_LENGTH:
            self.compacted = self.history[0].version
        self.history.append(change)
        for subscription in self._subscribers:
            subscription.push(change)
        for subscription in self._by_name.get(change.key[1], ()):
            subscription.push(change)


class Store:
    """Tables of objects under one counter of versions."""

    def __init__(self) -> None:
        self.version = FIRST_VERSION
        self.tables: dict[str, Table] = {}
        self.epoch = 0
        """Streams that began in an earlier epoch end."""
        self.journal: Callable[[str, Change], None] | None = None
        """Called with table and change after each change is recorded."""
        self._compacted = FIRST_VERSION

    def table(self, name: str) -> Table:
        """The objects of one kind, by `Resource.table`."""
        table = self.tables.get(name)
        if table is None:
            table = self.tables[name] = Table(self._compacted)
        return table

    def put(self, table: str, key: Key, obj: Object) -> Stored:
        """Store an object in the next version and return it. `obj` must not be changed afterwards."""
        holder = self.table(table)
        self.version += 1
        new = _at_version(obj, self.version)
        self._record(table, holder, Change(self.version, key, holder.items.get(key), new))
        return new

    def remove(self, table: str, key: Key) -> None:
        """Remove an object."""
        holder = self.table(table)
        self.version += 1
        self._record(table, holder, Change(self.version, key, holder.items[key], None))

    def restore(self, version: int, objects: Iterable[tuple[str, Key, Object]]) -> None:
        """Start from a saved state: no history, and versions go on from there."""
        self.version = max(self.version, version)
        self.compact()
        for name, key, obj in objects:
            self.table(name).load(key, Stored(obj, int(obj["metadata"]["resourceVersion"])))

    def compact(self) -> None:
        """Forget all history, as etcd does every five minutes: watches from older versions expire."""
        self._compacted = self.version
        for table in self.tables.values():
            table.history.clear()
            table.compacted = self.version

    def end_watches(self) -> None:
        """End every stream that is open now, as a stopping server does."""
        self.epoch += 1
        for table in self.tables.values():
            for subscription in table.subscriptions():
                subscription.wake()

    def _record(self, name: str, table: Table, change: Change) -> None:
        table.record(change)
        if self.journal is not None:
            self.journal(name, change)
