"""Measure the disk that holds images, and decide when the next pull may start, and which images fit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta

from adapters.clock import Clock
from warmhook.disk import EMPTY, after_loss, is_low
from warmhook.disk_space import Learned, Room, Space, room
from warmhook.pull_failures import FailureReason
from warmhook.pull_queue import Running
from warmhook.timestamps import format_time


def disk_space(folders: Iterable[str], instead: str) -> Space | None:
    """The space of the file system of `folders` with the least free share.

    The folders are the host's and are seldom visible in a container. If none is, `instead` counts: the agent's own
    folder on the host, which on most nodes is on the same disk. `None` if that is missing as well.
    """
    spaces = [space for space in map(_space, folders) if space is not None]
    return min(spaces, key=lambda space: space.free_percent) if spaces else _space(instead)


def _space(folder: str) -> Space | None:
    try:
        stat = os.statvfs(folder)
    except OSError:
        return None
    return Space(stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize) if stat.f_blocks else None


class DiskState:
    """Whether the disk has room for new pulls, and for which."""

    def __init__(self, clock: Clock, min_free_percent: int) -> None:
        self._clock, self._min_free_percent = clock, min_free_percent
        self._hold, self._held_until = EMPTY, ""
        self._started_at = float("-inf")
        self._space: Space | None = None
        self._downloaded: Mapping[str, int] = {}
        """By image, what running pulls had downloaded when the space was measured."""
        self._filled_bytes = 0
        """Written since the space was measured, beside pulls."""
        self.learned = Learned()
        self.low = False
        """Whether the free share is below the minimum."""

    def measured(self, space: Space | None, running: Mapping[str, Running]) -> None:
        """The space of the disk, `None` if it is unknown, and the pulls that run meanwhile."""
        self._space, self._filled_bytes = space, 0
        self._downloaded = {image: active.downloaded_bytes for image, active in running.items()}
        self.low = is_low(space.free_percent if space else None, self._min_free_percent, was_low=self.low)

    def filled(self, size_bytes: int) -> None:
        """So many bytes were written beside pulls."""
        self._filled_bytes += size_bytes

    def room(self, running: Iterable[Running]) -> Room:
        """The room beside the running pulls."""
        then = [replace(each, downloaded_bytes=self._downloaded.get(each.pull.image, 0)) for each in running]
        space = self._space and replace(self._space, free_bytes=self._space.free_bytes - self._filled_bytes)
        return room(space, self._min_free_percent, self.learned.factor, then)

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
