"""Where does what admission saw go? To the handlers of this process, or posted to those of another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from adapters.kubernetes.client import Unavailable
from handlers.hints import HandOn
from handlers.settings import Settings
from warmhook.events import Event

__all__ = ["open_hand_on"]


@asynccontextmanager
async def open_hand_on(settings: Settings) -> AsyncIterator[HandOn | None]:
    """`None` where this process handles events itself, or sees none."""
    if "events" in settings.serve or "admission" not in settings.serve:
        yield None
        return
    # Imported here: only a process that does nothing but admission posts.
    from handlers.watch.run import open_post, write_for
    from handlers.watch.telling import Refused, TryLater

    write = write_for(settings)
    async with open_post(settings) as post:

        async def hand_on(events: Sequence[Event]) -> None:
            for content_type, body in write(events):
                try:
                    await post(content_type, body)
                except TryLater as error:
                    raise Unavailable(str(error), retry_after_seconds=error.retry_after_seconds) from error
                except Refused as error:
                    raise ValueError(str(error)) from error

        yield hand_on
