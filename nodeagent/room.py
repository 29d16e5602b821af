"""Hold what the agent knows about the node's disk, and when the next pull may start."""

from __future__ import annotations

from datetime import timedelta

from adapters.clock import Clock
from warmhook.disk import EMPTY, after_loss, is_low
from warmhook.pull_failures import FailureReason
from warmhook.timestamps import format_time

__all__ = ["Room", "time_of_day"]


class Room:
    """Whether the disk has room for new pulls."""

    def __init__(self, clock: Clock, min_free_percent: int) -> None:
        self._clock, self._min_free_percent = clock, min_free_percent
        self._hold, self._held_until = EMPTY, ""
        self._started_at = float("-inf")
        self.low = False
        """Whether less than the wanted share is free."""

    def take_free_space(self, percent: float | None) -> None:
        """The free share of the disk; `None` where it cannot be seen."""
        self.low = is_low(percent, self._min_free_percent, was_low=self.low)

    def lose(self) -> None:
        """Images were removed for want of space, or a pull found the disk full."""
        self._hold = after_loss(self._hold, self._clock.monotonic())
        self._held_until = time_of_day(self._clock, self._hold.until)

    def started(self) -> None:
        """A pull has started."""
        self._started_at = self._clock.monotonic()

    @property
    def on_probation(self) -> bool:
        """Whether a hold lasts or was over lately: pulls start one at a time, and every loss counts."""
        return self._clock.monotonic() < self._hold.probation_until

    def seconds_until_start(self) -> float:
        """0 or less: a pull may start, as far as holds go."""
        now = self._clock.monotonic()
        return self._hold.next_start(self._started_at, now) - now

    def held(self) -> tuple[FailureReason, str] | None:
        """Why no pull starts on this node, with a message; `None` where one may."""
        if self.low:
            return "DiskFull", f"less than {self._min_free_percent} % of the node's disk for images is free"
        if self._clock.monotonic() < self._hold.until:
            return "Evicted", f"images of this node were removed for want of space; pulls wait until {self._held_until}"
        return None


def time_of_day(clock: Clock, monotonic: float) -> str:
    """The time at which the monotonic clock shows so many seconds, for people."""
    later = timedelta(seconds=monotonic - clock.monotonic())
    return format_time((clock.utcnow() + later).replace(microsecond=0))
