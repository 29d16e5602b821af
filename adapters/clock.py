"""Provide time and randomness by argument, with back-off, so that tests are instant."""

from __future__ import annotations

import asyncio
import random as chance
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Final

from warmhook.ports import Sleep, Utcnow

LONGEST_ABSENCE_SECONDS: Final = 300.0
"""A later installation is noticed within this time."""
_SHARE: Final = 0.1
_SPREAD: Final = 0.05
_SHORTEST_SECONDS: Final = 0.001


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and randomness."""

    utcnow: Utcnow
    monotonic: Callable[[], float]
    """Seconds that never go back."""
    sleep: Sleep
    random: Callable[[], float]
    """From 0 to below 1."""

    def jitter(self, seconds: float) -> float:
        """`seconds` plus or minus a twentieth, so that agents that started together drift apart."""
        return seconds * (1 + _SPREAD * (2 * self.random() - 1))

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Wait until the event is set, at most `seconds`, at least a millisecond; the event is cleared."""
        heard = asyncio.create_task(event.wait(), name="event")
        # A difference of floats can be too small to move a clock.
        over = asyncio.ensure_future(self.sleep(max(seconds, _SHORTEST_SECONDS)))
        try:
            await asyncio.wait((heard, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            heard.cancel()
            over.cancel()
        event.clear()


def utcnow() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


def real_clock() -> Clock:
    """The clock of the machine."""
    return Clock(utcnow, monotonic, asyncio.sleep, chance.random)


class Backoff:
    """The wait before the next attempt: twice as long each time, with jitter and an upper bound."""

    def __init__(
        self, clock: Clock, *, first_seconds: float, longest_seconds: float, longest_asked_seconds: float | None = None
    ) -> None:
        """A server may request `longest_asked_seconds` at most; `None`: `longest_seconds`."""
        self._clock, self._first, self._longest = clock, first_seconds, longest_seconds
        self._longest_asked = longest_seconds if longest_asked_seconds is None else longest_asked_seconds
        self._next = first_seconds

    def reset(self) -> None:
        """Start again with the shortest wait, after a success."""
        self._next = self._first

    def seconds(self, at_least: float | None = None) -> float:
        """The next wait; at least `at_least`, the request of a server, within the bound."""
        seconds, self._next = self._next, min(self._longest, 2 * self._next)
        return max(seconds * (0.5 + 0.5 * self._clock.random()), min(at_least or 0, self._longest_asked))


class Budget:
    """A limit on an action: `burst` times without a wait, then once every `seconds`."""

    def __init__(self, clock: Clock, burst: int, seconds: float) -> None:
        self._clock, self._burst, self._seconds = clock, burst, seconds
        self._left, self._at = float(burst), clock.monotonic()

    def spend(self) -> float:
        """Count one action; returns the seconds to wait before the next one."""
        self._refill()
        self._left -= 1
        return max(0.0, (1 - self._left) * self._seconds)

    def try_spend(self) -> bool:
        """Whether the action may be done now; only then it counts."""
        self._refill()
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._left, self._at = min(self._burst, self._left + (now - self._at) / self._seconds), now


class Absence:
    """The interval of checks for something that is not installed: it grows with the time of absence."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """`monotonic` returns seconds."""
        self._monotonic = monotonic
        self._since: float | None = None

    def over(self) -> None:
        """It is installed."""
        self._since = None

    def seconds(self, least: float) -> float:
        """The seconds until the next check: `least`, or a tenth of the time that it has been missing."""
        now = self._monotonic()
        self._since = now if self._since is None else self._since
        return max(least, min(_SHARE * (now - self._since), LONGEST_ABSENCE_SECONDS))
