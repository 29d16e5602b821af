"""Ask registries about images, and store what they say in the statuses of WarmImages.

Nothing waits for a registry that may not answer: lines are written without its answer, and completed when it comes. An
answer is used only after it is stored, so every handler computes the same lines. What is lost with a process, the next
sync asks again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from adapters.kubernetes.errors import Conflict, KubernetesError, NotFound
from adapters.kubernetes.resolution import resolution_object
from adapters.logs import get_logger
from adapters.outages import OutageLog
from handlers.reconcile.context import Context
from handlers.reconcile.objects import WarmImages
from warmhook.manifests import Resolved
from warmhook.ports import Object
from warmhook.resolutions import Question, Resolution, ResolveProblem, Unresolved, after_answer
from warmhook.warmimages import ObjectKey, WarmImage

_log = get_logger()

Stored: TypeAlias = Callable[[ObjectKey], Awaitable[None]]
"""Handle a WarmImage whose image is known better than before."""

_WAIT_SECONDS: Final = 0.5
"""For so long a projection waits for an answer, if the last one of the registry was good."""
_AT_ONCE: Final = 4
"""Requests at a time for each registry."""
_PENDING_MAX: Final = 1000
"""Images of one registry that are asked about at a time; the next sync begins with the others."""
_SILENT_SECONDS: Final = 30.0
"""For so long a registry that did not answer is not asked about other images."""
_AGAIN_SECONDS: Final = 300.0
_LASTING_AGAIN_SECONDS: Final = 900.0
"""The interval for what a person must change: a missing image, wrong credentials, a manifest that is not read."""
_NOTED_MAX: Final = 10_000
_TRANSIENT: Final[frozenset[ResolveProblem | None]] = frozenset({"Network", "Timeout", "RateLimited"})
"""Problems of the registry, not of the image."""
_ATTEMPTS: Final = 4
"""Of a write, if others write the status as well."""


@dataclass(eq=False, slots=True)
class _Request:
    """A question to a registry."""

    warmimage: WarmImage
    answered: asyncio.Future[Resolution | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """What is stored; `None` if nothing new is."""
    waiters: int = 0
    """Projections that wait for the answer, and will use it."""


class Resolver:
    """Resolves the images of WarmImages, each push of an image once."""

    def __init__(self, context: Context, stored: Stored) -> None:
        """`stored` is called with each WarmImage whose answer came too late for the projection that asked, or changed
        no line."""
        self._context = context
        self._monotonic = context.clock.monotonic
        self._stored = stored
        self._running: dict[ObjectKey, _Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending: Counter[str] = Counter()
        """By host of a registry how many images are asked about."""
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))
        self._good: set[str] = set()
        """Hosts of registries whose last answer was good."""
        self._silent_until: dict[str, float] = {}
        self._not_before: dict[tuple[ObjectKey, Question], float] = {}
        """When the same question is asked again."""
        self._outages: dict[str, OutageLog] = {}

    def resolves(self, warmimage: WarmImage) -> bool:
        """Whether the configuration has the registry of the image, and its namespace may have such images."""
        registries, limits = self._context.registries, warmimage.limits
        if registries is None or not registries.serves(warmimage.image.canonical.host):
            return False
        return limits is None or limits.takes(warmimage.image)

    async def complete(self, found: WarmImages) -> WarmImages:
        """The same WarmImages with what their registries say, as far as that is known soon."""
        requests = {key: request for key, one in found.usable.items() if (request := self._begin(one)) is not None}
        awaited = {key: request for key, request in requests.items() if _host(request.warmimage) in self._good}
        if not awaited:
            return found
        for request in awaited.values():
            request.waiters += 1
        try:
            await asyncio.wait([request.answered for request in awaited.values()], timeout=_WAIT_SECONDS)
        finally:
            for request in awaited.values():
                request.waiters -= 1
        usable = dict(found.usable)
        for key, request in awaited.items():
            if request.answered.done() and (resolution := request.answered.result()) is not None:
                usable[key] = replace(usable[key], resolution=resolution)
        return replace(found, usable=usable)

    def begin(self, warmimages: Iterable[WarmImage]) -> None:
        """Ask in the background about those that are not resolved."""
        for warmimage in warmimages:
            self._begin(warmimage)

    def recheck(self, warmimage: WarmImage) -> None:
        """Ask in the background whether the tag has moved, as nodes report; every five minutes at most."""
        if not self._is_early(warmimage):
            self._begin(warmimage, again=True)

    def finish(self, keys: Iterable[ObjectKey]) -> None:
        """Update the statuses of WarmImages whose answer changed no line, so that no report will."""
        for key in keys:
            self._start(self._finish(key), f"finish {key}")

    async def close(self) -> None:
        """End what runs in the background, before the connections to registries are closed."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def resolve_again(self, warmimage: WarmImage) -> Object | None:
        """Ask now whether the tag has moved, with one HEAD request if it has not: fields for the status, not stored.

        `None` if the registry cannot be asked, or does not answer: then each node may ask by itself. An image that the
        registry no longer has is an answer, which keeps what was known.
        """
        resolution = await self._ask(warmimage) if self.resolves(warmimage) else None
        if resolution is None or resolution.problem not in (None, "NotFound"):
            return None
        return {"resolved": resolution_object(resolution)}

    def _begin(self, warmimage: WarmImage, *, again: bool = False) -> _Request | None:
        """The request for this image, new or under way; `None` if there is none."""
        if not self.resolves(warmimage):
            return None
        running, asked = self._running.get(warmimage.key), warmimage.question
        if running is not None and running.warmimage.question == asked:
            return running
        known = warmimage.resolution
        settled = warmimage.resolved is not None and known is not None and known.problem is None
        if not again and (settled or self._is_early(warmimage)):
            return None
        if self._pending[_host(warmimage)] >= _PENDING_MAX:
            return None
        self._pending[_host(warmimage)] += 1
        request = self._running[warmimage.key] = _Request(warmimage)
        self._start(self._run(request), f"resolve {warmimage.key}")
        return request

    def _is_early(self, warmimage: WarmImage) -> bool:
        return self._monotonic() < self._not_before.get((warmimage.key, warmimage.question), float("-inf"))

    async def _run(self, request: _Request) -> None:
        key, stored, host = request.warmimage.key, None, _host(request.warmimage)
        try:
            stored = await self._resolve(request.warmimage)
        except KubernetesError as error:
            _log.warning("resolution-not-stored", warmimage=str(key), problem=str(error))
        except Exception:
            # A bug, which concerns this image alone.
            _log.exception("failed", what="resolve", warmimage=str(key))
        finally:
            self._pending[host] -= 1
            if self._running.get(key) is request:
                del self._running[key]
            request.answered.set_result(stored)
        if stored is not None and not request.waiters and stored.resolved != request.warmimage.resolved:
            await self._finish(key)

    async def _finish(self, key: ObjectKey) -> None:
        try:
            await self._stored(key)
        except KubernetesError as error:
            _log.warning("resolution-not-projected", warmimage=str(key), problem=str(error))

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve(self, warmimage: WarmImage) -> Resolution | None:
        """Ask the registry, and return what was stored; `None` if there was nothing to store."""
        resolution = await self._ask(warmimage)
        if resolution is None or not resolution.news(warmimage.resolution):
            return None
        return resolution if await self._store(warmimage, resolution) else None

    async def _ask(self, warmimage: WarmImage) -> Resolution | None:
        """What is known after an answer of the registry; `None` if it is not asked now."""
        host, registries = _host(warmimage), self._context.registries
        if registries is None:
            return None
        async with self._turns[host]:
            if self._monotonic() < self._silent_until.get(host, float("-inf")):
                return None
            answer = await registries.resolve(warmimage.image, warmimage.resolved)
        self._note(warmimage, answer)
        return after_answer(warmimage.resolution, warmimage.question, answer, self._context.clock.utcnow())

    def _note(self, warmimage: WarmImage, answer: Resolved | Unresolved) -> None:
        """Note how the registry answers, and when the same question may be asked again."""
        host, now = _host(warmimage), self._monotonic()
        problem = answer.problem if isinstance(answer, Unresolved) else None
        # A tag that was asked about again may have moved once more: replicas of a registry that differ must not move
        # the lines of all nodes with each answer.
        pause = _AGAIN_SECONDS if warmimage.resolved is not None else 0.0
        if isinstance(answer, Unresolved):
            pause = max(_LASTING_AGAIN_SECONDS * (problem not in _TRANSIENT), answer.retry_after_seconds or 0.0)
        if problem in _TRANSIENT:
            self._good.discard(host)
        else:
            self._good.add(host)
        # An answer of 500 may be about this image alone, and must not keep all others from being asked.
        if problem in ("Network", "Timeout") and not (isinstance(answer, Unresolved) and answer.answered):
            self._silent_until[host] = now + _SILENT_SECONDS
        while len(self._not_before) >= _NOTED_MAX:
            del self._not_before[next(iter(self._not_before))]
        asked = warmimage.key, warmimage.question
        self._not_before.pop(asked, None)
        self._not_before[asked] = now + pause
        outage = self._outages.setdefault(host, OutageLog(_log, self._context.clock, "registry-problem"))
        if isinstance(answer, Unresolved) and answer.problem != "NotFound":
            outage.failed(host=host, reason=answer.problem, problem=answer.message)
        else:
            outage.recovered()

    async def _store(self, warmimage: WarmImage, resolution: Resolution) -> bool:
        """Write it to the status; whether the status has it, or a later one, to the same question."""
        version = warmimage.resource_version
        for _ in range(_ATTEMPTS):
            try:
                await self._context.writer.patch_resolution(warmimage.key, version, resolution)
            except NotFound:
                return False
            except Conflict:
                current = await self._context.reader.warmimage(warmimage.key)
                if current is None or current.uid != warmimage.uid or current.question != resolution.question:
                    return False
                known = current.resolution
                later = known is not None and known.checked_at > resolution.checked_at
                if known is not None and known.question == resolution.question and (later or resolution.problem):
                    return True
                version = current.resource_version
            else:
                return True
        return False


def _host(warmimage: WarmImage) -> str:
    """The canonical host of its registry."""
    return warmimage.image.canonical.host
