"""Hold the keys that have to be sent: their number is bounded by that of the objects, however often these change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from warmhook.events import Changed

__all__ = ["Batch", "Key", "What", "WorkQueue"]

What: TypeAlias = Literal["changes", "reports", "sync"]
"""What one event names."""
Key: TypeAlias = tuple[str, ...]
"""Kind, namespace and name of an object that changed, `namespace/name` of a WarmImage with reports, or nothing."""

_SYNC: Final[Key] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The keys that one event names, each with its newest word: the change, or `None` where the key says it all."""

    what: What
    words: Mapping[Key, Changed | None]

    @property
    def changes(self) -> list[Changed]:
        """The changes, if this is about changes."""
        return [change for change in self.words.values() if change is not None]

    @property
    def warmimages(self) -> list[str]:
        """`namespace/name` of the WarmImages whose nodes reported something new, if this is about reports."""
        return [key[0] for key in self.words] if self.what == "reports" else []


@dataclass(slots=True)
class _Keys:
    """Keys of one kind."""

    waiting: dict[Key, Changed | None] = field(default_factory=dict)
    """The newest word of each, oldest key first."""
    held: set[Key] = field(default_factory=set)
    """Named by an event that was sent just now, so not sent again at once."""
    newest: dict[Key, Batch] = field(default_factory=dict)
    """Of those named by events under way the newest such event."""


class WorkQueue:
    """Collects what has to be sent, newest word per object.

    It begins closed: a process that does not lead sends nothing.
    """

    def __init__(self) -> None:
        self._keys: dict[What, _Keys] = {}
        self._news = asyncio.Event()
        self._open = False
        self.close()

    def open(self) -> None:
        """Collect from now on."""
        self._open = True

    def close(self) -> None:
        """Forget what is pending, and collect no more."""
        self._open = False
        self._keys = {what: _Keys() for what in get_args(What)}

    def __len__(self) -> int:
        """How many keys wait to be sent."""
        return sum(len(keys.waiting) for keys in self._keys.values())

    def waits(self, what: What) -> bool:
        """Whether there are keys to be sent."""
        return bool(self._keys[what].waiting)

    def changed(self, change: Changed) -> None:
        """An object is not what it was."""
        self._add("changes", (change.kind, change.namespace, change.name), change)

    def reported(self, warmimage: str) -> None:
        """A node reported something new about a WarmImage."""
        self._add("reports", (warmimage,), None)

    def sync(self) -> None:
        """Everything has to be compared."""
        self._add("sync", _SYNC, None)

    def _add(self, what: What, key: Key, word: Changed | None) -> None:
        if self._open:
            self._keys[what].waiting[key] = word
            self._news.set()

    async def news(self) -> None:
        """Wait until something was added, or may be sent that could not be before."""
        await self._news.wait()
        self._news.clear()

    def look_again(self) -> None:
        """Wake what waits for news."""
        self._news.set()

    def take(self, what: What, most: int) -> Batch | None:
        """Up to `most` keys to be sent now; `None` if there are none, or only such as were sent just now."""
        keys = self._keys[what]
        free = [key for key in keys.waiting if key not in keys.held][:most]
        if not free:
            return None
        batch = Batch(what, {key: keys.waiting.pop(key) for key in free})
        keys.held.update(free)
        keys.newest |= dict.fromkeys(free, batch)
        return batch

    def release(self, batch: Batch) -> None:
        """What changes again may be named by a newer event, although this one is under way."""
        keys = self._keys[batch.what]
        keys.held.difference_update(key for key in batch.words if keys.newest.get(key) is batch)
        self._news.set()

    def ended(self, batch: Batch, *, again: bool) -> None:
        """An event ended. With `again` its keys wait once more, but for those that a newer event names or named."""
        keys = self._keys[batch.what]
        for key, word in batch.words.items():
            if keys.newest.get(key) is batch:
                del keys.newest[key]
                keys.held.discard(key)
                if again and self._open:
                    keys.waiting.setdefault(key, word)
        self._news.set()
