"""Send CloudEvents to the handlers: within this process, to the `/events` of another process, or to a Broker."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from adapters.cloudevents import STRUCTURED, write_event
from adapters.internal_urls import is_internal
from adapters.kubernetes.errors import KubernetesError, Unavailable
from adapters.logs import get_logger
from handlers.settings import Settings
from warmhook.events import Event, NotAnEvent
from warmhook.timestamps import parse_retry_after

if TYPE_CHECKING:
    import httpx

_log = get_logger()

EVENTS_SECONDS: Final = 30.0
"""How long the sender waits for the handlers: they answer after 27 seconds at most."""
SINK_SECONDS: Final = 270.0
"""The time-out of a post to a sink.

A Knative Broker in memory answers when every subscriber has, repeats and dead letter included. If the connection is
closed before, the repeats end. So this is longer than all of them, which knative/overlays/knative/eventing.yaml sets,
and shorter than the default interval between two syncs.
"""
AT_ONCE: Final = 64
"""Posts of the publisher under way: a Broker answers each when its slowest subscriber has."""
QUEUE_MAX: Final = 1000
"""Events that wait to be published; further ones are dropped."""
QUEUE_BYTES: Final = 8 * 1024 * 1024
"""Of all events that wait to be published."""
_CONNECT_SECONDS: Final = 5.0
_GRACE_SECONDS: Final = 5.0


class RetryLater(Exception):
    """The event was not accepted; a later attempt may succeed."""

    def __init__(self, problem: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(problem)
        self.retry_after_seconds = retry_after_seconds


class Refused(Exception):
    """The event will never be accepted."""


Post: TypeAlias = Callable[[Event], Awaitable[None]]
"""Send one event. Raises `RetryLater` or `Refused`. Callers bound how many are under way."""


@contextlib.asynccontextmanager
async def open_in_process(handle: Callable[[Event], Coroutine[Any, Any, None]]) -> AsyncIterator[Post]:
    """Call the handlers of this process, and raise what `/events` would answer with a status.

    As with a request, a sender that no longer waits ends nothing. In the end handlers that run get a few seconds.
    """
    handling: set[asyncio.Task[None]] = set()

    def ended(task: asyncio.Task[None]) -> None:
        handling.discard(task)
        if not task.cancelled():
            # Read, or asyncio would log the error of a handler whose sender is gone.
            task.exception()

    async def post(event: Event) -> None:
        task = asyncio.create_task(handle(event), name=f"handle {event.type}")
        handling.add(task)
        task.add_done_callback(ended)
        try:
            async with asyncio.timeout(EVENTS_SECONDS):
                await asyncio.shield(task)
        except NotAnEvent as error:
            raise Refused(str(error)) from error
        except TimeoutError as error:
            raise RetryLater(f"not handled within {EVENTS_SECONDS:g} seconds") from error
        except KubernetesError as error:
            raise RetryLater(str(error), retry_after(error)) from error
        except Exception as error:
            # A mistake in a handler must not end the dispatcher; over HTTP it would be a 500.
            _log.exception("event-failed", type=event.type, event_id=event.id)
            raise RetryLater(repr(error)) from error

    try:
        yield post
    finally:
        if handling:
            await asyncio.wait(handling, timeout=_GRACE_SECONDS)
        for task in handling:
            task.cancel()


@contextlib.asynccontextmanager
async def open_event_sink(settings: Settings) -> AsyncIterator[Post | None]:
    """Connections to the sink of the settings, or to the `/events` of another process; `None` if nothing is posted."""
    if not settings.posts_events:
        yield None
        return
    # Imported here: a process that posts nothing needs no HTTP client.
    import httpx

    url, seconds = settings.sink or settings.events_url, SINK_SECONDS if settings.sink else EVENTS_SECONDS
    # User name and password may be in the URL, which is for messages.
    shown = str(httpx.URL(url).copy_with(username=None, password=None))
    # `seconds` bounds a whole request; httpx bounds each read by itself.
    timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=not is_internal(url)) as client:

        async def post(event: Event) -> None:
            headers = {"content-type": STRUCTURED} | _authorization(settings)
            body = write_event(event, settings.sink_extensions if settings.sink else {})
            try:
                async with asyncio.timeout(seconds):
                    answer = await client.post(url, content=body, headers=headers)
            except TimeoutError as error:
                raise RetryLater(f"{shown}: no answer within {seconds:g} seconds") from error
            except httpx.HTTPError as error:
                # The message of a time-out is empty.
                raise RetryLater(f"{shown}: {str(error) or type(error).__name__}") from error
            raise_for_status(answer, shown)

        yield post


def _authorization(settings: Settings) -> dict[str, str]:
    """The token is for Warmhook's handlers, never for a Broker. Raises `RetryLater`."""
    if settings.sink is not None or settings.events_token_file is None:
        return {}
    try:
        header = bearer(settings.events_token_file)
    except (OSError, UnicodeDecodeError) as error:
        raise RetryLater(f"WARMHOOK_EVENTS_TOKEN_FILE: {error}") from error
    return {"authorization": header} if header else {}


def log_missing_token(settings: Settings) -> None:
    """Log which setting is missing if nobody can post to this process, or its own posts carry no token."""
    if settings.events_token_file is not None:
        return
    if "events" in settings.serve and not (settings.watch or settings.events_open):
        _log.warning("events-closed", hint="no client can post to /events without WARMHOOK_EVENTS_TOKEN_FILE")
    elif not settings.serve and settings.sink is None:
        hint = "web answers 401 unless both have WARMHOOK_EVENTS_TOKEN_FILE, or web has WARMHOOK_EVENTS_OPEN"
        _log.warning("no-events-token", hint=hint)


def bearer(file: Path) -> str:
    """The value of `Authorization`; empty if the file is. Raises `OSError` and `UnicodeDecodeError`.

    The file is read for each request, so it may be replaced.
    """
    token = file.read_text(encoding="ascii").strip()
    return f"Bearer {token}" if token else ""


def raise_for_status(answer: httpx.Response, url: str) -> None:
    """Raise `Refused` or `RetryLater` unless the event was taken; `url` is for the message."""
    if answer.status_code < 300:
        return
    problem = f"{url}: {answer.status_code} {answer.text[:200].strip()}".strip()
    if answer.status_code in {400, 413, 415}:
        raise Refused(problem)
    raise RetryLater(problem, parse_retry_after(answer.headers.get("retry-after")))


def retry_after(error: Exception) -> int:
    """The seconds until an event is sent again: those of the API server's answer, or one."""
    wait = error.retry_after_seconds if isinstance(error, Unavailable) else None
    return max(0, math.ceil(wait if wait is not None else 1))


class Publisher:
    """Publishes pushes for other subscribers, in the background and as far as that succeeds.

    Acceptance does not depend on the sink and does not wait for it. An event that cannot be published is counted,
    logged and dropped. If a delivery that was not accepted is repeated, its event is published again with the same id.
    """

    def __init__(self, post: Post, count: Callable[[str], None]) -> None:
        """`count` is called with `published`, `failed` or `dropped` for each event."""
        self._post = post
        self._count = count
        self._queue: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._posting: set[asyncio.Task[None]] = set()
        self._dropping = False

    def publish(self, events: Sequence[Event]) -> None:
        """Queue events, and drop those without room. Never waits."""
        for event in events:
            size = len(write_event(event))
            if len(self._queue) >= QUEUE_MAX or self._bytes + size > QUEUE_BYTES:
                self._drop(event)
                continue
            self._queue.append((event, size))
            self._bytes += size
            self._next()

    async def drain(self, seconds: float) -> None:
        """Wait until everything is published, at most `seconds`, and drop the rest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._posting:
                    await asyncio.wait(self._posting)
        while self._queue:
            self._drop(self._queue.popleft()[0])
        for task in self._posting:
            task.cancel()
        if self._posting:
            await asyncio.wait(self._posting)

    def _next(self) -> None:
        while self._queue and len(self._posting) < AT_ONCE:
            event, size = self._queue.popleft()
            self._bytes -= size
            task = asyncio.create_task(self._publish(event), name="publish")
            self._posting.add(task)
            task.add_done_callback(self._posted)
        if not self._queue:
            self._dropping = False

    def _posted(self, task: asyncio.Task[None]) -> None:
        self._posting.discard(task)
        if not task.cancelled():
            self._next()

    async def _publish(self, event: Event) -> None:
        result = "failed"
        try:
            await self._post(event)
            result = "published"
        except (RetryLater, Refused) as error:
            _log.warning("publish-failed", event_id=event.id, problem=str(error))
        finally:
            self._count(result)

    def _drop(self, event: Event) -> None:
        self._count("dropped")
        if not self._dropping:
            # Log once until there is room again: the metric counts the others.
            _log.warning("publish-dropped", event_id=event.id, waiting=len(self._queue), posting=len(self._posting))
            self._dropping = True
