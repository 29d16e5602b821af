"""Tags are resolved again when a person asks, when the interval is over, and in windows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.images import parse_reference
from warmhook.refreshes import RefreshCause, refresh_cause
from warmhook.requests import Requests
from warmhook.warmimages import Lifecycle, ObjectKey, Once, PodOrigin, PodOwner, Refresh, Template, WarmImage, Window

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
WEB = WarmImage(ObjectKey("shop", "web"), parse_reference("ghcr.io/a/b:1"), created_at=NOW - 30 * DAY)
NIGHT = Window("0 2 * * *", 7200)


def with_refresh(*windows: Window, interval: int | None = None, **changes: Any) -> WarmImage:
    return replace(WEB, template=Template(refresh=Refresh(interval, windows)), **changes)


def cause(warmimage: WarmImage, now: datetime = NOW) -> RefreshCause | None:
    return refresh_cause(warmimage, ZoneInfo, now)


def refreshed(at: datetime) -> Lifecycle:
    return Lifecycle(started=True, refreshed_at=at)


def due_times(warmimage: WarmImage, hours: int = 24) -> list[datetime]:
    """When it is refreshed, if it is judged every five minutes."""
    found = []
    for number in range(hours * 12):
        now = NOW + number * timedelta(minutes=5)
        if cause(warmimage, now):
            found.append(now)
            warmimage = replace(warmimage, lifecycle=refreshed(now))
    return found


def test_without_an_interval_windows_or_a_request_nothing_is_refreshed() -> None:
    assert cause(WEB) is None


# --- requests --------------------------------------------------------------------------------------------------------


def test_each_new_value_refreshes_once() -> None:
    asked = replace(WEB, requests=Requests("one"))
    assert cause(asked) == "requested"
    assert cause(replace(asked, lifecycle=Lifecycle(started=True, refresh_handled="one"))) is None
    assert cause(replace(asked, lifecycle=Lifecycle(started=True, refresh_handled="two"))) == "requested"
    assert cause(replace(WEB, lifecycle=Lifecycle(started=True, refresh_handled="one"))) is None


def test_a_new_value_of_the_policy_refreshes_once() -> None:
    asked = replace(WEB, template=Template(requests=Requests("one")), lifecycle=Lifecycle(started=True))
    assert cause(asked) == "requested"
    assert cause(replace(asked, lifecycle=Lifecycle(started=True, policy_refresh_handled="one"))) is None


def test_the_value_that_a_policy_had_before_the_warmimage_counts_as_handled() -> None:
    assert cause(replace(WEB, template=Template(requests=Requests("one")))) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"image": parse_reference("ghcr.io/a/b@sha256:" + "a" * 64)},
        {"template": Template(suspend=True)},
        {"template": Template(requests=Requests(purge=True))},
        {"requests": Requests("one", purge=True)},
        {"template": Template(once=Once()), "lifecycle": Lifecycle(complete_since=NOW)},
    ],
)
def test_images_by_digest_and_what_nodes_do_not_pull_are_not_refreshed(changes: dict[str, Any]) -> None:
    warmimage = replace(WEB, requests=Requests("one"))
    assert cause(warmimage) == "requested"
    assert cause(replace(warmimage, **changes)) is None
    if "template" not in changes:
        assert cause(replace(with_refresh(interval=300, requests=Requests("one")), **changes)) is None


# --- intervals -------------------------------------------------------------------------------------------------------


@given(st.text(max_size=10), st.integers(300, 10**6))
def test_an_interval_is_kept_within_a_tenth(name: str, seconds: int) -> None:
    warmimage = with_refresh(interval=seconds, lifecycle=refreshed(NOW), key=ObjectKey("shop", name))
    assert cause(warmimage, NOW + timedelta(seconds=0.9 * seconds - 1)) is None
    assert cause(warmimage, NOW + timedelta(seconds=1.1 * seconds)) == "scheduled"


def test_a_thousand_images_with_one_interval_are_spread() -> None:
    images = [with_refresh(interval=86400, lifecycle=refreshed(NOW), key=ObjectKey("s", f"n{i}")) for i in range(1000)]
    due = [sum(cause(it, NOW + share * DAY) is not None for it in images) for share in (0.9, 0.95, 1, 1.05, 1.1)]
    assert due[0] < 10
    assert due[-1] == 1000
    assert all(200 < later - earlier < 300 for earlier, later in pairwise(due))


def test_a_push_counts_as_a_refresh_and_a_pod_does_not() -> None:
    pushed = with_refresh(interval=86400, pushed_at=NOW - HOUR)
    assert cause(pushed) is None
    assert cause(replace(pushed, pod_origin=PodOrigin((PodOwner("0" * 16),)))) == "scheduled"


def test_the_interval_begins_with_the_object_if_nothing_else_is_known() -> None:
    assert cause(with_refresh(interval=86400)) == "scheduled"
    assert cause(with_refresh(interval=86400, created_at=NOW - HOUR)) is None
    assert cause(with_refresh(interval=86400, created_at=None)) is None


def test_a_refresh_in_the_future_by_a_clock_that_was_wrong_puts_nothing_off() -> None:
    ahead = with_refresh(interval=86400, lifecycle=refreshed(NOW + 365 * DAY))
    assert cause(ahead) == "scheduled"
    assert cause(replace(ahead, lifecycle=refreshed(NOW))) is None
    assert cause(replace(ahead, created_at=NOW + HOUR)) is None


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_window_without_an_interval_refreshes_once_in_its_first_half() -> None:
    for name in ("web", "db", "cache", "queue"):
        times = due_times(with_refresh(NIGHT, key=ObjectKey("shop", name)), 72)
        assert [time.date().day for time in times] == [5, 6, 7]
        assert all(time.hour == 2 for time in times)


def test_an_interval_waits_for_a_window() -> None:
    assert cause(with_refresh(NIGHT, interval=3600)) is None
    times = due_times(with_refresh(NIGHT, interval=36 * 3600), 24 * 8)
    assert all(time.hour in (2, 3) for time in times)
    assert len(times) == 4


def test_a_missed_window_is_made_up_in_the_next_one_only() -> None:
    missed = with_refresh(NIGHT, lifecycle=refreshed(NOW - 5 * DAY))
    assert cause(missed, NOW) is None
    assert cause(missed, datetime(2026, 3, 5, 3, 59, tzinfo=UTC)) == "scheduled"


def test_windows_follow_the_clock_of_their_zone() -> None:
    tokyo = with_refresh(replace(NIGHT, time_zone="Asia/Tokyo"))
    (time,) = due_times(tokyo)
    assert (time.hour, time.date().day) == (17, 4)


def test_what_was_made_in_a_window_is_not_refreshed_in_it() -> None:
    opened = datetime(2026, 3, 5, 2, tzinfo=UTC)
    new = with_refresh(NIGHT, created_at=opened + timedelta(minutes=1))
    assert cause(new, opened + timedelta(minutes=119)) is None
    assert cause(new, opened + DAY + timedelta(minutes=119)) == "scheduled"


def test_a_thousand_images_in_one_window_are_spread_over_its_first_half() -> None:
    opened = datetime(2026, 3, 5, 2, tzinfo=UTC)
    images = [with_refresh(NIGHT, key=ObjectKey("shop", f"n{i}")) for i in range(1000)]
    due = [
        sum(cause(it, opened + minutes * timedelta(minutes=1)) is not None for it in images) for minutes in (0, 30, 60)
    ]
    assert due[0] < 10
    assert 400 < due[1] < 600
    assert due[2] == 1000
