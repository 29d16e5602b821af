"""Post CloudEvents to the handlers' `/events`, or to the sink that passes them on, one per request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from adapters.cloudevents import STRUCTURED, write_event
from adapters.internal import is_internal
from handlers.events_token import EventsToken
from handlers.settings import Settings
from warmhook.events import Event
from warmhook.timestamps import parse_retry_after

if TYPE_CHECKING:
    import httpx

__all__ = ["EVENTS_SECONDS", "SINK_SECONDS", "Post", "Refused", "RetryLater", "open_post", "raise_for_status"]

EVENTS_SECONDS: Final = 30.0
"""How long a post to `/events` waits for its answer: handlers answer after 27 seconds at most."""
SINK_SECONDS: Final = 270.0
"""How long a post to a sink waits for its answer.

A Knative Broker in memory answers when every subscriber has, repeats and dead letter included, and a connection that is
closed before ends the repeats. So this is longer than all of them, which knative/overlays/knative/eventing.yaml sets,
and shorter than the default interval between two syncs.
"""
_CONNECT_SECONDS: Final = 5.0


class RetryLater(Exception):
    """The event was not taken now."""

    def __init__(self, problem: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(problem)
        self.retry_after_seconds = retry_after_seconds


class Refused(Exception):
    """The event will never be taken."""


Post = Callable[[Event], Awaitable[None]]
"""Post one event. Raises `RetryLater` or `Refused`."""


@asynccontextmanager
async def open_post(settings: Settings, token: EventsToken | None = None) -> AsyncIterator[Post]:
    """A connection to the handlers' `/events`, which want `token`, or to the sink that passes events on to them.

    Callers bound how many posts are under way.
    """
    # Imported here: a receiver without a sink posts nothing.
    import httpx

    url = settings.sink or settings.events_url
    seconds = SINK_SECONDS if settings.sink else EVENTS_SECONDS
    # Without user name and password, which may be in it.
    shown = str(httpx.URL(url).copy_with(username=None, password=None))
    # The sum is bounded below: httpx bounds each read by itself.
    timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=not is_internal(url)) as client:

        async def post(event: Event) -> None:
            headers = {"content-type": STRUCTURED} | _authorization(settings, token)
            body = write_event(event, settings.sink_extensions if settings.sink else {})
            try:
                async with asyncio.timeout(seconds):
                    answer = await client.post(url, content=body, headers=headers)
            except TimeoutError as error:
                raise RetryLater(f"{shown}: no answer within {seconds:g} seconds") from error
            except httpx.HTTPError as error:
                # The text of a time-out is empty.
                raise RetryLater(f"{shown}: {str(error) or type(error).__name__}") from error
            raise_for_status(answer, shown)

        yield post


def _authorization(settings: Settings, token: EventsToken | None) -> dict[str, str]:
    """The token is for our handlers, never for a Broker. Raises `RetryLater`."""
    if token is None or settings.sink is not None:
        return {}
    try:
        header = token.header()
    except (OSError, UnicodeDecodeError) as error:
        raise RetryLater(f"WARMHOOK_EVENTS_TOKEN_FILE: {error}") from error
    return {"authorization": header} if header else {}


def raise_for_status(answer: httpx.Response, url: str) -> None:
    """Nothing where the event was taken, else `Refused` or `RetryLater`; `url` is for the message."""
    if answer.status_code < 300:
        return
    problem = f"{url}: {answer.status_code} {answer.text[:200].strip()}".strip()
    if answer.status_code in {400, 413, 415}:
        raise Refused(problem)
    raise RetryLater(problem, parse_retry_after(answer.headers.get("retry-after")))
