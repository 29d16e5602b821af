"""Pass what admission saw to the handlers of another process, or to the sink."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from adapters.kubernetes.client import Unavailable
from handlers.admission.queue import Handle
from handlers.events_token import EventsToken
from handlers.posting import Refused, RetryLater, open_post
from handlers.settings import Settings
from warmhook.events import Event

__all__ = ["open_forwarder"]


@asynccontextmanager
async def open_forwarder(settings: Settings, token: EventsToken) -> AsyncIterator[Handle | None]:
    """`None` where this process handles events itself, or sees none."""
    if "events" in settings.serve or "admission" not in settings.serve:
        yield None
        return
    async with open_post(settings, token) as post:

        async def hand_on(events: Sequence[Event]) -> None:
            for event in events:
                try:
                    await post(event)
                except RetryLater as error:
                    raise Unavailable(str(error), retry_after_seconds=error.retry_after_seconds) from error
                except Refused as error:
                    raise ValueError(str(error)) from error

        yield hand_on
