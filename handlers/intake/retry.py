"""Retry the acceptance of a push while its sender waits.

Most senders repeat a delivery that was not accepted, and some wait for only a second: they get their 503 quickly. Some
senders never repeat, or disable a notification after a few failures. Those are answered as late as they allow, so that
a short outage of the API server, a restart for example, does not cost a push.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from adapters.kubernetes.errors import Unavailable
from warmhook.ports import Sleep

_PAUSE_SECONDS: Final = 0.5
# A try without an answer must leave time for the next one.
_TRIES: Final = 3

Result = TypeVar("Result")


async def retry_until(
    accept: Callable[[], Awaitable[Result]], *, at_least_seconds: float, seconds: float, sleep: Sleep
) -> Result:
    """The result of `accept`, which is retried for `seconds`; each try has `at_least_seconds` or more.

    Raises the last `Unavailable`, or `TimeoutError`. If `seconds` are no more than a try needs, there is one try.
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
