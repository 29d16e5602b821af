"""Ask registries about images, and store what they say in the statuses of WarmImages.

Nothing waits for a registry that may not answer: lines are written without its answer, and completed when it comes. An
answer is used only after it is stored, so every handler computes the same lines. What is lost with a process, the next
sync asks again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from adapters.kubernetes.errors import Conflict, KubernetesError, NotFound
from adapters.logs import get_logger
from adapters.outages import OutageLog
from handlers.reconcile.context import Context
from handlers.reconcile.objects import WarmImages
from warmhook.manifests import Resolved
from warmhook.resolutions import Question, Resolution, Unresolved, after_answer
from warmhook.warmimages import ObjectKey, WarmImage

_log = get_logger()

Stored: TypeAlias = Callable[[ObjectKey], Awaitable[None]]
"""Handle a WarmImage whose image is known better than before."""

_WAIT_SECONDS: Final = 0.5
"""For so long a projection waits for an answer, if the last one of the registry was good."""
_SOON_SECONDS: Final = 0.2
"""An answer within this time is stored before the reports of the change are counted."""
_AT_ONCE: Final = 4
"""Requests at a time for each registry."""
_PENDING_MAX: Final = 1000
"""Images that are asked about at a time; the next sync begins with the others."""
_SILENT_SECONDS: Final = 30.0
"""For so long a registry that did not answer is not asked about other images."""
_AGAIN_SECONDS: Final = 300.0
_LASTING_AGAIN_SECONDS: Final = 900.0
"""The interval for what a person must change: a missing image, wrong credentials, a manifest that is not read."""
_NOTED_MAX: Final = 10_000
_ATTEMPTS: Final = 4
"""Of a write, if others write the status as well."""


@dataclass(eq=False, slots=True)
class _Request:
    """A question to a registry."""

    warmimage: WarmImage
    stamped: bool
    """Whether the time is stored also if nothing is new."""
    began: float
    answered: asyncio.Future[Resolution | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """What is stored; `None` if nothing new is."""
    waiters: int = 0
    """Projections that wait for the answer, and will use it."""

    @property
    def host(self) -> str:
        return self.warmimage.image.canonical.host


class Resolver:
    """Resolves the images of WarmImages, each push of an image once."""

    def __init__(self, context: Context, stored: Stored) -> None:
        """`stored` is called with each WarmImage whose answer came too late for the projection that asked."""
        self._context = context
        self._monotonic = context.clock.monotonic
        self._stored = stored
        self._running: dict[ObjectKey, _Request] = {}
        self._tasks: set[asyncio.Task[None]] = set()
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
        awaited = {key: request for key, request in requests.items() if request.host in self._good}
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
        """Ask in the background whether the tag has moved, as nodes report; every five minutes if it has not."""
        if not self._is_early(warmimage):
            self._begin(warmimage, again=True)

    async def refresh(self, warmimage: WarmImage) -> Resolution | None:
        """Ask now whether the tag has moved: one HEAD request if it has not.

        Returns what is stored, with the time of the answer in `checked_at`; `None` if the registry is not in the
        configuration, the problem is the one that is stored, or the WarmImage changed meanwhile. Lines and status are
        updated by themselves.
        """
        request = self._begin(warmimage, again=True, stamped=True)
        return None if request is None else await asyncio.shield(request.answered)

    def _begin(self, warmimage: WarmImage, *, again: bool = False, stamped: bool = False) -> _Request | None:
        """The request for this image, new or under way; `None` if there is none."""
        if not self.resolves(warmimage):
            return None
        running, asked = self._running.get(warmimage.key), warmimage.question
        if running is not None and running.warmimage.question == asked and (running.stamped or not stamped):
            return running
        known = warmimage.resolution
        settled = known is not None and known.question == asked and known.problem is None
        if not again and (settled or self._is_early(warmimage)):
            return None
        if len(self._tasks) >= _PENDING_MAX:
            return None
        request = self._running[warmimage.key] = _Request(warmimage, stamped, self._monotonic())
        task = asyncio.create_task(self._run(request), name=f"resolve {warmimage.key}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return request

    def _is_early(self, warmimage: WarmImage) -> bool:
        return self._monotonic() < self._not_before.get((warmimage.key, warmimage.question), float("-inf"))

    async def _run(self, request: _Request) -> None:
        key, stored = request.warmimage.key, None
        try:
            stored = await self._ask(request)
        except KubernetesError as error:
            _log.warning("resolution-not-stored", warmimage=str(key), problem=str(error))
        except Exception:
            # A bug, which concerns this image alone.
            _log.exception("failed", what="resolve", warmimage=str(key))
        finally:
            if self._running.get(key) is request:
                del self._running[key]
            request.answered.set_result(stored)
        late = not request.waiters or self._monotonic() - request.began > _SOON_SECONDS
        if stored is None or not late or stored.resolved == request.warmimage.resolved:
            return
        try:
            await self._stored(key)
        except KubernetesError as error:
            _log.warning("resolution-not-projected", warmimage=str(key), problem=str(error))

    async def _ask(self, request: _Request) -> Resolution | None:
        """Ask the registry, and return what was stored; `None` if there was nothing to store."""
        warmimage, registries = request.warmimage, self._context.registries
        if registries is None:
            return None
        async with self._turns[request.host]:
            if self._monotonic() < self._silent_until.get(request.host, float("-inf")) and not request.stamped:
                return None
            answer = await registries.resolve(warmimage.image, warmimage.resolved)
        before, now = warmimage.resolution, self._context.clock.utcnow()
        self._note(request, answer, 0.0 if answer is not warmimage.resolved else _AGAIN_SECONDS)
        resolution = after_answer(before, warmimage.question, answer, now)
        if not resolution.news(before) and not (request.stamped and isinstance(answer, Resolved)):
            return None
        return resolution if await self._store(warmimage, resolution) else None

    def _note(self, request: _Request, answer: Resolved | Unresolved, pause: float) -> None:
        """Note how the registry answers, and when this question may be asked again: after a pause in seconds."""
        host, now = request.host, self._monotonic()
        problem = answer.problem if isinstance(answer, Unresolved) else None
        if problem in ("Network", "Timeout", "RateLimited"):
            self._good.discard(host)
            if problem != "RateLimited":
                self._silent_until[host] = now + _SILENT_SECONDS
        else:
            self._good.add(host)
            pause = _LASTING_AGAIN_SECONDS if problem else pause
        if isinstance(answer, Unresolved):
            pause = max(pause, answer.retry_after_seconds or 0.0)
        while len(self._not_before) >= _NOTED_MAX:
            del self._not_before[next(iter(self._not_before))]
        question = request.warmimage.key, request.warmimage.question
        self._not_before.pop(question, None)
        self._not_before[question] = now + pause
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
