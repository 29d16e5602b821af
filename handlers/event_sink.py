"""Publish pushes for other subscribers: post each to `K_SINK`, in the background.

Acceptance does not depend on the sink, and its answer waits for nothing here: what cannot be published is counted,
logged and forgotten. When a delivery that was not accepted is repeated, the same event is published again, with the
same id.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import structlog

from adapters.cloudevents import write_event
from handlers.posting import Post, Refused, RetryLater, open_post
from handlers.settings import Settings
from warmhook.events import Event

__all__ = ["AT_ONCE", "QUEUE_BYTES", "QUEUE_MAX", "Publisher", "open_publisher"]

_log = structlog.get_logger()

AT_ONCE: Final = 64
"""Posts under way: a Broker answers each when its slowest subscriber has."""
QUEUE_MAX: Final = 1000
"""Events that wait; what comes when there are so many is dropped."""
QUEUE_BYTES: Final = 8 * 1024 * 1024
"""Of all events that wait."""
# For what is under way when the process ends.
_GRACE_SECONDS: Final = 3.0


class Publisher:
    """Publishes events, as far as that succeeds."""

    def __init__(self, post: Post, count: Callable[[str], None]) -> None:
        """`count` is told `published`, `failed` or `dropped` for each event."""
        self._post = post
        self._count = count
        self._queue: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._posting: set[asyncio.Task[None]] = set()
        self._dropping = False

    def publish(self, events: Sequence[Event]) -> None:
        """Queue events, and drop those for which there is no room. Waits for nothing."""
        for event in events:
            size = len(write_event(event))
            if len(self._queue) >= QUEUE_MAX or self._bytes + size > QUEUE_BYTES:
                self._drop(event)
                continue
            self._queue.append((event, size))
            self._bytes += size
            self._next()

    async def drain(self, seconds: float) -> None:
        """Wait until everything is published, for so long at most, and drop the rest."""
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
            task = asyncio.create_task(self._one(event), name="publish")
            self._posting.add(task)
            task.add_done_callback(self._posted)
        if not self._queue:
            self._dropping = False

    def _posted(self, task: asyncio.Task[None]) -> None:
        self._posting.discard(task)
        if not task.cancelled():
            self._next()

    async def _one(self, event: Event) -> None:
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
            # Once, until there is room again: the metric counts the others.
            _log.warning("publish-dropped", event_id=event.id, waiting=len(self._queue), posting=len(self._posting))
            self._dropping = True


@contextlib.asynccontextmanager
async def open_publisher(settings: Settings, count: Callable[[str], None]) -> AsyncIterator[Publisher | None]:
    """Connections to the sink; `None` if there is no sink, or nothing to publish."""
    if settings.sink is None or "webhooks" not in settings.serve:
        yield None
        return
    async with open_post(settings) as post:
        publisher = Publisher(post, count)
        try:
            yield publisher
        finally:
            await publisher.drain(_GRACE_SECONDS)
