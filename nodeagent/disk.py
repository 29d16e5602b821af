"""Measure the disk that holds images, and decide when the next pull may start."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

from adapters.clock import Clock
from warmhook.disk import EMPTY, after_loss, is_low
from warmhook.pull_failures import FailureReason
from warmhook.timestamps import format_time


def free_percent(folders: Iterable[str], instead: str) -> float | None:
    """The least free share of the file systems of `folders`, in percent, as a kubelet counts it: used by root or not.

    The folders are the host's and are seldom visible in a container. If none is, `instead` counts: the agent's own
    folder on the host, which on most nodes is on the same disk. `None` if that is missing as well.
    """
    shares = [share for share in map(_free_percent, folders) if share is not None]
    return min(shares) if shares else _free_percent(instead)


def _free_percent(folder: str) -> float | None:
    try:
        stat = os.statvfs(folder)
    except OSError:
        return None
    return 100 * stat.f_bavail / stat.f_blocks if stat.f_blocks else None


class DiskState:
    """Whether the disk has room for new pulls."""

    def __init__(self, clock: Clock, min_free_percent: int) -> None:
        self._clock, self._min_free_percent = clock, min_free_percent
        self._hold, self._held_until = EMPTY, ""
        self._started_at = float("-inf")
        self.low = False
        """Whether the free share is below the minimum."""

    def measured(self, percent: float | None) -> None:
        """The free share of the disk; `None` if it is unknown."""
        self.low = is_low(percent, self._min_free_percent, was_low=self.low)

    def lost_images(self) -> None:
        """Another program removed images to free space, or a pull found the disk full."""
        self._hold = after_loss(self._hold, self._clock.monotonic())
        self._held_until = time_of_day(self._clock, self._hold.until)

    def pull_started(self) -> None:
        """Note the start of a pull."""
        self._started_at = self._clock.monotonic()

    @property
    def on_probation(self) -> bool:
        """Whether a hold lasts or ended lately: pulls start one at a time, and every loss counts."""
        return self._clock.monotonic() < self._hold.probation_until

    def seconds_until_start(self) -> float:
        """The wait that holds require before the next pull; 0 or less if it may start."""
        now = self._clock.monotonic()
        return self._hold.next_start(self._started_at, now) - now

    def blocked(self) -> tuple[FailureReason, str] | None:
        """Why no pull starts on this node, with a message; `None` if pulls may start."""
        if self.low:
            return "DiskFull", f"less than {self._min_free_percent} % of the node's disk for images is free"
        if self._clock.monotonic() < self._hold.until:
            return "Evicted", f"images of this node were removed for want of space; pulls wait until {self._held_until}"
        return None


def time_of_day(clock: Clock, monotonic: float) -> str:
    """The time at which the monotonic clock shows `monotonic`, in a form for people."""
    later = timedelta(seconds=monotonic - clock.monotonic())
    return format_time((clock.utcnow() + later).replace(microsecond=0))
