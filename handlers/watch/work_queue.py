"""Queue what has to be sent, one item per object, however often the object changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from warmhook.events import Changed

Topic: TypeAlias = Literal["changes", "reports", "sync"]
"""The kind of content of an event."""
Key: TypeAlias = tuple[str, ...]
"""Kind, namespace and name of an object that changed, `namespace/name` of a WarmImage with reports, or nothing."""

_SYNC: Final[Key] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The items of one event: by key the latest change, or `None` if the key is enough."""

    topic: Topic
    items: Mapping[Key, Changed | None]

    @property
    def changes(self) -> list[Changed]:
        """The changes; empty for other topics."""
        return [change for change in self.items.values() if change is not None]

    @property
    def warmimages(self) -> list[str]:
        """`namespace/name` of the WarmImages with new reports; empty for other topics."""
        return [key[0] for key in self.items] if self.topic == "reports" else []


@dataclass(slots=True)
class _Keys:
    """The keys of one topic."""

    waiting: dict[Key, Changed | None] = field(default_factory=dict)
    """The latest change by key, oldest key first."""
    held: set[Key] = field(default_factory=set)
    """Sent just now, so not sent again at once."""
    newest: dict[Key, Batch] = field(default_factory=dict)
    """The newest event under way that has the key."""


class WorkQueue:
    """Deduplicates by key. Closed until `open`; a closed queue drops everything, because only the leader sends."""

    def __init__(self) -> None:
        self._keys: dict[Topic, _Keys] = {}
        self._wakeup = asyncio.Event()
        self._open = False
        self.close()

    def open(self) -> None:
        """Queue from now on."""
        self._open = True

    def close(self) -> None:
        """Drop everything, and queue no more."""
        self._open = False
        self._keys = {topic: _Keys() for topic in get_args(Topic)}

    def __len__(self) -> int:
        """The number of keys that wait to be sent."""
        return sum(len(keys.waiting) for keys in self._keys.values())

    def has(self, topic: Topic) -> bool:
        """Whether keys of a topic wait to be sent."""
        return bool(self._keys[topic].waiting)

    def changed(self, change: Changed) -> None:
        """An object was added, changed or deleted."""
        self._add("changes", (change.kind, change.namespace, change.name), change)

    def reported(self, warmimage: str) -> None:
        """Add a WarmImage with a new report."""
        self._add("reports", (warmimage,), None)

    def sync(self) -> None:
        """The handlers have to compare everything."""
        self._add("sync", _SYNC, None)

    def _add(self, topic: Topic, key: Key, change: Changed | None) -> None:
        if self._open:
            self._keys[topic].waiting[key] = change
            self._wakeup.set()

    async def wait(self) -> None:
        """Wait until something was added, or may be sent that could not be sent before."""
        await self._wakeup.wait()
        self._wakeup.clear()

    def wake(self) -> None:
        """End `wait`."""
        self._wakeup.set()

    def get(self, topic: Topic, most: int) -> Batch | None:
        """Up to `most` items to be sent now; `None` if there are none, or all of them were sent just now."""
        keys = self._keys[topic]
        free = [key for key in keys.waiting if key not in keys.held][:most]
        if not free:
            return None
        batch = Batch(topic, {key: keys.waiting.pop(key) for key in free})
        keys.held.update(free)
        keys.newest |= dict.fromkeys(free, batch)
        return batch

    def release(self, batch: Batch) -> None:
        """Let keys that change again be sent again, although this event is under way."""
        keys = self._keys[batch.topic]
        keys.held.difference_update(key for key in batch.items if keys.newest.get(key) is batch)
        self._wakeup.set()

    def done(self, batch: Batch, *, again: bool) -> None:
        """An event ended. With `again` its keys wait once more, but for those that a newer event has or had."""
        keys = self._keys[batch.topic]
        for key, change in batch.items.items():
            if keys.newest.get(key) is batch:
                del keys.newest[key]
                keys.held.discard(key)
                if again and self._open:
                    keys.waiting.setdefault(key, change)
        self._wakeup.set()
