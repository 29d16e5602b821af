"""Decide when the tag of a WarmImage is resolved again: by request, by interval, and in windows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from typing import Final, Literal, TypeAlias

from warmhook.cron import last_time, parse_schedule
from warmhook.tenancy import permitted
from warmhook.warmimages import WarmImage, Window

Zones: TypeAlias = Callable[[str], tzinfo]
"""A name of the IANA database to the zone."""
RefreshCause: TypeAlias = Literal["requested", "scheduled"]

_JITTER: Final = 0.1
# WarmImages that share a window are spread over this part of it; after that the last ones still have time.
_SPREAD: Final = 0.5


def refresh_cause(warmimage: WarmImage, zones: Zones, now: datetime) -> RefreshCause | None:
    """Why the tag of a WarmImage should be resolved again now; `None` if it should not.

    An image by digest never changes. What is suspended, purged or complete is refreshed when it no longer is.
    """
    warmimage = permitted(warmimage)
    if warmimage.image.digest or warmimage.template.suspend or warmimage.purged or warmimage.complete:
        return None
    if is_refresh_requested(warmimage):
        return "requested"
    return "scheduled" if _is_scheduled(warmimage, zones, now) else None


def is_refresh_requested(warmimage: WarmImage) -> bool:
    """Whether an annotation has a value that was not handled yet.

    A new WarmImage is pulled in any case, so the value that its policy had before it existed counts as handled.
    """
    own, policy, lifecycle = warmimage.requests.refresh, warmimage.template.requests.refresh, warmimage.lifecycle
    by_policy = policy not in ("", lifecycle.policy_refresh_handled) and lifecycle.started
    return by_policy or own not in ("", lifecycle.refresh_handled)


def _is_scheduled(warmimage: WarmImage, zones: Zones, now: datetime) -> bool:
    refresh, last = warmimage.template.refresh, _last_resolved(warmimage, now)
    if last is None or (refresh.interval_seconds is None and not refresh.windows):
        return False
    fraction = _fraction(warmimage)
    if refresh.interval_seconds is not None:
        seconds = refresh.interval_seconds * (1 - _JITTER + 2 * _JITTER * fraction)
        if now - last < timedelta(seconds=seconds):
            return False
    openings = [opened for window in refresh.windows if (opened := _opened(window, fraction, zones, now)) is not None]
    if refresh.interval_seconds is not None:
        return bool(openings) or not refresh.windows
    return any(last < opened for opened in openings)


def _opened(window: Window, fraction: float, zones: Zones, now: datetime) -> datetime | None:
    """When the window opened that is open now for a WarmImage at this place in it; `None` if none is."""
    duration = timedelta(seconds=window.duration_seconds)
    opened = last_time(parse_schedule(window.schedule), zones(window.time_zone), now - duration, now)
    return opened if opened is not None and now >= opened + duration * _SPREAD * fraction else None


def _last_resolved(warmimage: WarmImage, now: datetime) -> datetime | None:
    """The last time at which nodes learned the content of the tag. The last Pod says nothing about it.

    A time in the future, from a clock that was wrong, is ignored: it would put off the next refresh for as long.
    """
    pushed_at = warmimage.pushed_at if warmimage.pod_origin is None else None
    times = (warmimage.lifecycle.refreshed_at, pushed_at or warmimage.created_at)
    return max((at for at in times if at is not None and at <= now), default=None)


def _fraction(warmimage: WarmImage) -> float:
    """From 0 to below 1, always the same for one WarmImage: it spreads those that are due together."""
    return int.from_bytes(hashlib.sha256(f"refresh {warmimage.key}".encode()).digest()[:4]) / 2**32
