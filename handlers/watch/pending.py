"""What still has to be told: sets of keys, so it is bounded by the number of objects however often they change."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal, TypeAlias

from warmhook.events import Changed

__all__ = ["Batch", "Pending", "What"]

Key: TypeAlias = tuple[str, str, str]
"""Kind, namespace and name."""
What: TypeAlias = Literal["changes", "reports", "sync"]
"""What one request tells of."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What is told in one request."""

    changes: tuple[Changed, ...] = ()
    warmimages: tuple[str, ...] = ()
    """`namespace/name` of those whose nodes said something new."""
    sync: bool = False


class Pending:
    """Collects what has to be told, newest word per object; a key is told by one request at a time.

    It begins closed: who tells nobody collects nothing.
    """

    def __init__(self) -> None:
        self._changes: dict[Key, Changed] = {}
        self._telling: set[Key] = set()
        self._warmimages: set[str] = set()
        self._telling_reports = False
        self._sync = False
        self._telling_sync = False
        self._news = asyncio.Event()
        self._open = False

    def open(self) -> None:
        """Collect from now on."""
        self._open = True

    def close(self) -> None:
        """Forget what is pending, and collect no more."""
        self._open = self._sync = False
        self._changes.clear()
        self._warmimages.clear()

    def __len__(self) -> int:
        """How many keys wait to be told."""
        return len(self._changes) + len(self._warmimages) + self._sync

    @property
    def has_reports(self) -> bool:
        """Whether nodes said something new that was not told yet."""
        return bool(self._warmimages)

    def changed(self, change: Changed) -> None:
        """An object is not what it was."""
        if self._open:
            self._changes[_key(change)] = change
            self._news.set()

    def reported(self, warmimage: str) -> None:
        """A node said something new about a WarmImage."""
        if self._open:
            self._warmimages.add(warmimage)
            self._news.set()

    def sync(self) -> None:
        """Everything has to be compared."""
        self._sync = self._open
        self._news.set()

    async def news(self) -> None:
        """Wait until something was added, or may be told that could not be before."""
        await self._news.wait()
        self._news.clear()

    def look_again(self) -> None:
        """Who waits for news should look."""
        self._news.set()

    def take(self, what: What, most: int) -> Batch | None:
        """Up to `most` keys to be told now; `None` where there is nothing, or only what is being told already."""
        if what == "sync":
            if not self._sync or self._telling_sync:
                return None
            self._sync, self._telling_sync = False, True
            return Batch(sync=True)
        if what == "reports":
            if not self._warmimages or self._telling_reports:
                return None
            names = tuple(sorted(self._warmimages)[:most])
            self._warmimages.difference_update(names)
            self._telling_reports = True
            return Batch(warmimages=names)
        keys = [key for key in self._changes if key not in self._telling][:most]
        if not keys:
            return None
        self._telling.update(keys)
        return Batch(changes=tuple(self._changes.pop(key) for key in keys))

    def told(self, batch: Batch, *, again: bool) -> None:
        """A request ended; with `again` its keys are pending still, unless a newer word came meanwhile."""
        self._telling.difference_update(map(_key, batch.changes))
        self._telling_reports &= not batch.warmimages
        self._telling_sync &= not batch.sync
        if again and self._open:
            for change in batch.changes:
                self._changes.setdefault(_key(change), change)
            self._warmimages.update(batch.warmimages)
            self._sync |= batch.sync
        self._news.set()


def _key(change: Changed) -> Key:
    return (change.kind, change.namespace, change.name)
