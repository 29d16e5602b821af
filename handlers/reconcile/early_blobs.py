"""Note the blobs of pushes that have not ended in WarmImages of their repositories.

Nothing waits for it, and what cannot be noted is dropped: without it nodes fetch the blobs after the push.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

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
"""For the read and the writes of one round."""
_ROUNDS: Final = 4
_REPOSITORIES_MAX: Final = 64
"""Whose blobs wait at a time; they are in the URL of one request."""


class EarlyBlobNotes:
    """Gathers blobs and notes them, in the background of one process."""

    def __init__(self, context: Context, count: Callable[[str, int], None]) -> None:
        """`count` is called with `noted`, `skipped` or `dropped` and a number of blobs."""
        self._context, self._count = context, count
        self._pending: dict[Reference, dict[str, BlobPushed]] = {}
        """By repository and digest."""
        self._tasks: set[asyncio.Task[None]] = set()
        sleep = context.clock.sleep
        seconds = _SECONDS + 2 * _PAUSE_SECONDS
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
                await self._write(pending)
        except (KubernetesError, TimeoutError) as error:
            problem = str(error) or f"no answer within {_SECONDS:g} seconds"
            _log.warning("early-blobs-dropped", repositories=sorted(map(str, pending))[:10], problem=problem)
            self._count("dropped", sum(map(len, pending.values())))
        await self._context.clock.sleep(_PAUSE_SECONDS)
        return {}

    async def _write(self, pending: Mapping[Reference, Mapping[str, BlobPushed]]) -> None:
        labels = set(map(repository_label, pending))
        found = await self._context.reader.warmimages_of_repositories("", labels, not_older_than=FROM_CACHE)
        last = [(one, repository) for one in last_pushes(found) if (repository := _repository(one)) in pending]
        written = await asyncio.gather(
            *(self._write_one(one, pending[repository]) for one, repository in last), return_exceptions=True
        )
        noted = {repository for (_, repository), wrote in zip(last, written, strict=True) if wrote is True}
        for repository, blobs in pending.items():
            self._count("noted" if repository in noted else "skipped", len(blobs))
        for problem in written:
            if isinstance(problem, BaseException):
                raise problem

    async def _write_one(self, warmimage: WarmImage, pushed: Mapping[str, BlobPushed]) -> bool:
        """Whether the WarmImage has more blobs than before."""
        if warmimage.template.suspend or warmimage.purged or warmimage.complete:
            return False
        sizes = {digest: one.size_bytes for digest, one in pushed.items() if not _has_ended(one, warmimage)}
        early = with_blobs(warmimage.early_blobs, sizes, self._context.clock.utcnow().timestamp())
        if early is not None:
            await self._context.writer.patch_early_blobs(warmimage.key, early)
        return early is not None


def _has_ended(pushed: BlobPushed, warmimage: WarmImage) -> bool:
    """Whether the blob came before the last push of the repository, which its note has reached too late."""
    end = warmimage.pushed_at
    return end is not None and pushed.pushed_at is not None and pushed.pushed_at <= end


def _repository(warmimage: WarmImage) -> Reference:
    return replace(warmimage.image.canonical, tag="", digest="")
