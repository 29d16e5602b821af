"""Note the blobs of pushes that have not ended in WarmImages of their repositories.

Nothing waits for it, and what cannot be noted is dropped: without it nodes fetch the blobs after the push.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from adapters.kubernetes.errors import KubernetesError, Unavailable
from adapters.logs import get_logger
from handlers.reconcile.coalescing import Coalescer
from handlers.reconcile.context import Context
from handlers.reconcile.reader import FROM_CACHE
from warmhook.builds import last_pushes
from warmhook.early_blobs import with_blobs
from warmhook.events import BlobPushed
from warmhook.hints import BLOBS_MAX
from warmhook.images import Reference
from warmhook.warmimages import WarmImage, repository_label

_log = get_logger()

_PAUSE_SECONDS: Final = 0.5
"""Between two writes of one repository: each rewrites the ConfigMaps of several nodes."""
_SECONDS: Final = 3.0
"""For the read of one round, and for each write."""
_ROUNDS: Final = 4
_REPOSITORIES_MAX: Final = 64
"""Whose blobs wait at a time; they are in the URL of one request."""

_Result: TypeAlias = Literal["noted", "skipped", "dropped"]


class EarlyBlobNotes:
    """Gathers blobs and notes them, in the background of one process."""

    def __init__(self, context: Context, count: Callable[[str, int], None]) -> None:
        """`count` is called with `noted`, `skipped` or `dropped` and a number of blobs."""
        self._context, self._count = context, count
        self._pending: dict[Reference, dict[str, BlobPushed]] = {}
        """By repository and digest."""
        self._tasks: set[asyncio.Task[None]] = set()
        sleep = context.clock.sleep
        seconds = 2 * (_SECONDS + _PAUSE_SECONDS)
        self._rounds = Coalescer("repositories", self._note, at_once=_ROUNDS, seconds=seconds, sleep=sleep)

    def add(self, pushed: Iterable[BlobPushed]) -> None:
        """Note these blobs soon, and drop those without room. Never waits."""
        for one in pushed:
            repository = replace(one.blob, digest="")
            blobs = self._pending.get(repository, {})
            if len(self._pending) + (not blobs) > _REPOSITORIES_MAX or len(blobs) == BLOBS_MAX:
                self._count("dropped", 1)
                continue
            self._pending[repository] = blobs | {one.blob.digest: one}
            if not blobs:
                task = asyncio.create_task(self._join(repository), name=f"note blobs of {repository}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Drop what is not noted yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _join(self, repository: Reference) -> None:
        with contextlib.suppress(Unavailable):
            await self._rounds.join({repository: 0})

    async def _note(self, repositories: Mapping[Reference, int]) -> dict[Reference, Exception]:
        """Note the blobs of these repositories. No problem is left to the caller: nobody repeats it."""
        pending = {repository: self._pending.pop(repository) for repository in repositories}
        try:
            async with asyncio.timeout(_SECONDS):
                last = await self._last_pushes(pending)
        except (KubernetesError, TimeoutError) as error:
            _log.warning("early-blobs-dropped", repositories=sorted(map(str, pending))[:10], problem=_text(error))
            self._count("dropped", sum(map(len, pending.values())))
        else:
            await self._write(pending, last)
        await self._context.clock.sleep(_PAUSE_SECONDS)
        return {}

    async def _last_pushes(self, repositories: Collection[Reference]) -> list[WarmImage]:
        labels = set(map(repository_label, repositories))
        found = await self._context.reader.warmimages_of_repositories("", labels, not_older_than=FROM_CACHE)
        return [one for one in last_pushes(found) if _repository(one) in repositories]

    async def _write(
        self, pending: Mapping[Reference, Mapping[str, BlobPushed]], warmimages: Collection[WarmImage]
    ) -> None:
        """Note them in all of these, whatever becomes of one: each may be in another namespace."""
        results = await asyncio.gather(*(self._write_one(one, pending[_repository(one)]) for one in warmimages))
        of = {repository: set[_Result]() for repository in pending}
        for one, result in zip(warmimages, results, strict=True):
            of[_repository(one)].add(result)
        for repository, blobs in pending.items():
            result = "noted" if "noted" in of[repository] else "dropped" if "dropped" in of[repository] else "skipped"
            self._count(result, len(blobs))

    async def _write_one(self, warmimage: WarmImage, pushed: Mapping[str, BlobPushed]) -> _Result:
        if warmimage.template.suspend or warmimage.purged or warmimage.complete:
            return "skipped"
        sizes = {digest: one.size_bytes for digest, one in pushed.items() if not _has_ended(one, warmimage)}
        early = with_blobs(warmimage.early_blobs, sizes, self._context.clock.utcnow().timestamp())
        if early is None:
            return "skipped"
        try:
            async with asyncio.timeout(_SECONDS):
                await self._context.writer.patch_early_blobs(warmimage.key, early)
        except (KubernetesError, TimeoutError) as error:
            _log.warning("early-blobs-dropped", warmimage=str(warmimage.key), problem=_text(error))
            return "dropped"
        return "noted"


def _text(error: Exception) -> str:
    return str(error) or f"no answer within {_SECONDS:g} seconds"


def _has_ended(pushed: BlobPushed, warmimage: WarmImage) -> bool:
    """Whether the blob came before the last push of the repository, which its note has reached too late."""
    end = warmimage.pushed_at
    return end is not None and pushed.pushed_at is not None and pushed.pushed_at <= end


def _repository(warmimage: WarmImage) -> Reference:
    return replace(warmimage.image.canonical, tag="", digest="")
