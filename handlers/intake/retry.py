"""For how long is a push tried while its sender waits?

Most senders repeat what was not taken, and some give only a second; they get their 503 quickly. A sender that never
repeats, or that gives a notification up for good after a few failures, is not sent away while it would still wait: what
it was refused is lost, and a short outage of the API server, a restart say, need not cost a push.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from adapters.kubernetes.client import Unavailable
from warmhook.ports import Sleep

__all__ = ["retry_until"]

_PAUSE_SECONDS: Final = 0.5
# An answer that does not come must not use up all the time; the next may.
_TRIES: Final = 3

Result = TypeVar("Result")


async def retry_until(
    accept: Callable[[], Awaitable[Result]], *, at_least_seconds: float, seconds: float, sleep: Sleep
) -> Result:
    """What `accept` returns, tried again and again for `seconds`; each try has `at_least_seconds` or more.

    Raises the last `Unavailable`, or `TimeoutError`. When `seconds` are no more than a try needs, there is one.
    """
    last: Unavailable | None = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    async with asyncio.timeout(max(at_least_seconds, seconds / _TRIES)):
                        return await accept()
                except Unavailable as error:
                    if seconds <= at_least_seconds:
                        raise
                    last = error
                except TimeoutError:
                    if seconds <= at_least_seconds:
                        raise
                    last = None
                await sleep(_PAUSE_SECONDS)
    except TimeoutError:
        if last is not None:
            raise last from None
        raise
