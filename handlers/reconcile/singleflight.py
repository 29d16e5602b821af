"""Read the WarmImages of repositories for many pushes at once: who asks while a few lists run shares the next.

The API server looks at every WarmImage of a namespace for each list, whatever its selector, so that pushes that come
together would cost it more by their lists than by their writes. One that comes alone waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from adapters.kubernetes.client import Unavailable
from handlers.reconcile.reader import FROM_CACHE, Reader
from warmhook.api import REPOSITORY_LABEL
from warmhook.warmimages import WarmImage, repository_label

__all__ = ["SharedLists", "failed", "shared_task"]

Result = TypeVar("Result")

# Per namespace. One alone would make all wait whenever it is slow.
_AT_ONCE: Final = 4
# Their labels are part of a URL.
_MOST_REPOSITORIES: Final = 100
# One list that gets no answer must not hold up all that come after it.
_SECONDS: Final = 2.5

_Found = dict[str, list[WarmImage]]
"""By the label of the repository."""


def shared_task(reading: Coroutine[Any, Any, Result], name: str) -> asyncio.Task[Result]:
    """A task whose outcome is looked at even where everybody who waited for it has given up."""
    task = asyncio.create_task(reading, name=name)
    task.add_done_callback(failed)
    return task


def failed(task: asyncio.Task[Result]) -> bool:
    """Whether it ended without a result."""
    return task.done() and (task.cancelled() or task.exception() is not None)


@dataclass(slots=True)
class _Asked:
    """A list that has not begun."""

    labels: set[str] = field(default_factory=set)
    reading: asyncio.Task[_Found] | None = None


class SharedLists:
    """Lists of WarmImages as the API server has them at hand, a few at a time for each namespace."""

    def __init__(self, cluster: Reader) -> None:
        self._cluster = cluster
        self._next: dict[str, _Asked] = {}
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))

    async def of_repository(self, namespace: str, label: str) -> list[WarmImage]:
        """The WarmImages of a repository, by its label, as they are after this is called or a little before.

        Raises as `Cluster.warmimages` does, and `Unavailable` where that takes more than 2.5 seconds.
        """
        asked = self._next.get(namespace)
        if asked is None or len(asked.labels) >= _MOST_REPOSITORIES:
            asked = self._next[namespace] = _Asked()
        asked.labels.add(label)
        if asked.reading is None:
            asked.reading = shared_task(self._read(namespace, asked), f"list of {namespace}")
        # Shielded: that one sender hangs up must not fail the others.
        found = await asyncio.shield(asked.reading)
        return found.get(label, [])

    async def _read(self, namespace: str, asked: _Asked) -> _Found:
        async with self._turns[namespace]:
            if self._next.get(namespace) is asked:
                del self._next[namespace]
            labels = f"{REPOSITORY_LABEL} in ({','.join(sorted(asked.labels))})"
            try:
                async with asyncio.timeout(_SECONDS):
                    warmimages = await self._cluster.warmimages(labels, namespace, not_older_than=FROM_CACHE)
            except TimeoutError as error:
                raise Unavailable(f"no list of WarmImages within {_SECONDS:g} seconds") from error
        found: _Found = defaultdict(list)
        for warmimage in warmimages:
            found[repository_label(warmimage.image)].append(warmimage)
        return found
