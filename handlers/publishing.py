"""Let others hear of pushes as well: post them to where Knative says, one structured CloudEvent per request.

Acceptance does not depend on the Broker, so nothing here fails: what cannot be published in time is counted, logged
and forgotten. When a delivery that was not accepted is repeated, the same event is published again, with the same id.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from adapters.cloudevents import STRUCTURED, write_event
from handlers.settings import Settings
from warmhook.events import Event

__all__ = ["NotPublished", "Post", "Publisher", "open_publisher", "write_singly"]

_log = structlog.get_logger()

# As long as acceptance itself may take: the sender waits for both at once.
_SECONDS: Final = 0.8
_AT_ONCE: Final = 16

Post = Callable[[bytes], Awaitable[None]]
"""Post one structured event. Raises `NotPublished`."""


class NotPublished(Exception):
    """The sink did not take an event."""


class Publisher:
    """Publishes events, as far as that succeeds."""

    def __init__(self, post: Post, extensions: Mapping[str, str], count: Callable[[str], None]) -> None:
        """`count` is told `published` or `failed` for each event."""
        self._post = post
        self._extensions = extensions
        self._count = count
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def publish(self, events: Sequence[Event]) -> None:
        """Publish all within 0.8 seconds, and give up on the others."""
        problems = [problem for problem in await asyncio.gather(*map(self._one, events)) if problem]
        if problems:
            _log.warning("publish-failed", failed=len(problems), events=len(events), problem=problems[0])

    async def _one(self, event: Event) -> str:
        """What went wrong, if anything did."""
        problem = ""
        try:
            async with asyncio.timeout(_SECONDS), self._turns:
                await self._post(write_event(event, self._extensions))
        except TimeoutError:
            problem = f"no answer within {_SECONDS} seconds"
        except NotPublished as error:
            problem = str(error)
        self._count("failed" if problem else "published")
        return problem


def write_singly(events: Sequence[Event], extensions: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """Content type and body of the requests that tell a sink of events: a Broker takes no batches."""
    return [(STRUCTURED, write_event(event, extensions)) for event in events]


@contextlib.asynccontextmanager
async def open_publisher(settings: Settings, count: Callable[[str], None]) -> AsyncIterator[Publisher | None]:
    """Connections to the sink; `None` where there is no sink."""
    if settings.sink is None:
        yield None
        return
    # Only programs with a sink pay for importing an HTTP client.
    import httpx

    url = settings.sink
    limits = httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=_AT_ONCE)
    async with httpx.AsyncClient(timeout=_SECONDS, limits=limits, follow_redirects=False) as client:

        async def post(body: bytes) -> None:
            try:
                answer = await client.post(url, content=body, headers={"content-type": STRUCTURED})
            except httpx.HTTPError as error:
                raise NotPublished(f"K_SINK: {type(error).__name__}") from error
            if not answer.is_success:
                raise NotPublished(f"K_SINK: {answer.status_code}")

        yield Publisher(post, settings.sink_extensions, count)
