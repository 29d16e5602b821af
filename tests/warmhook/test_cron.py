"""Schedules of cron are read as written, and their times are found on any clock on a wall."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.cron import NotASchedule, last_time, parse_schedule

WEEK = timedelta(days=7)
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def last(schedule: str, until: str, zone: str = "UTC", within: timedelta = WEEK) -> str | None:
    moment = at(until)
    found = last_time(parse_schedule(schedule), ZoneInfo(zone), moment - within, moment)
    return None if found is None else f"{found:%Y-%m-%d %H:%M}"


# 2026-03-01 is a Sunday.
@pytest.mark.parametrize(
    ("schedule", "until", "expected"),
    [
        ("0 3 * * *", "2026-03-04 02:59", "2026-03-03 03:00"),
        ("0 3 * * *", "2026-03-04 03:00", "2026-03-04 03:00"),
        ("*/20 9-17 * * mon-fri", "2026-03-04 12:50", "2026-03-04 12:40"),
        ("*/20 9-17 * * MON-FRI", "2026-03-08 12:00", "2026-03-06 17:40"),
        ("5,50 1/6 * * ?", "2026-03-04 19:30", "2026-03-04 19:05"),
        ("10-40/15 * * * *", "2026-03-04 19:39", "2026-03-04 19:25"),
        ("0 0 * * 7", "2026-03-04 00:00", "2026-03-01 00:00"),
        ("0 0 * * fri-sun", "2026-03-02 00:00", "2026-03-01 00:00"),
        ("0 0 * * 5-7", "2026-03-01 00:00", "2026-03-01 00:00"),
        ("0 0 13 * fri", "2026-03-14 00:00", "2026-03-13 00:00"),
        ("0 0 10 * fri", "2026-03-11 00:00", "2026-03-10 00:00"),
        ("0 0 10 * fri", "2026-03-08 00:00", "2026-03-06 00:00"),
        ("0 0 1 jan *", "2026-01-05 00:00", "2026-01-01 00:00"),
        ("0 0 29 2 *", "2028-03-01 00:00", "2028-02-29 00:00"),
        ("@daily", "2026-03-04 12:00", "2026-03-04 00:00"),
        ("@Hourly", "2026-03-04 12:30", "2026-03-04 12:00"),
        ("@weekly", "2026-03-04 12:00", "2026-03-01 00:00"),
        ("@monthly", "2026-03-04 12:00", "2026-03-01 00:00"),
        ("@yearly", "2026-03-04 12:00", None),
        ("0 0 29 2 *", "2026-03-01 00:00", None),
    ],
)
def test_the_last_time_of_a_schedule_is_found(schedule: str, until: str, expected: str | None) -> None:
    assert last(schedule, until) == expected


@pytest.mark.parametrize(
    ("schedule", "until", "zone", "expected"),
    [
        ("0 3 * * *", "2026-01-10 12:00", "Europe/Berlin", "2026-01-10 02:00"),
        ("0 3 * * *", "2026-07-10 12:00", "Europe/Berlin", "2026-07-10 01:00"),
        # 2:30 does not exist on 29 March 2026: the clock goes from 2:00 to 3:00, which is 1:00 UTC.
        ("30 2 * * *", "2026-03-29 12:00", "Europe/Berlin", "2026-03-29 01:30"),
        ("10 2,3 * * *", "2026-03-29 01:05", "Europe/Berlin", "2026-03-28 02:10"),
        # 2:30 comes twice on 25 October 2026: at 0:30 and at 1:30 UTC.
        ("30 2 * * *", "2026-10-25 12:00", "Europe/Berlin", "2026-10-25 00:30"),
        ("30 * * * *", "2026-10-25 01:45", "Europe/Berlin", "2026-10-25 01:30"),
        # Midnight does not exist on 26 April 2024 in Cairo.
        ("@daily", "2024-04-26 12:00", "Africa/Cairo", "2024-04-25 22:00"),
        # The day of the zone, not that of UTC.
        ("0 23 * * sun", "2026-03-02 12:00", "America/Los_Angeles", "2026-03-02 07:00"),
        ("0 1 * * mon", "2026-03-02 12:00", "Pacific/Kiritimati", "2026-03-01 11:00"),
    ],
)
def test_times_are_those_of_the_zone(schedule: str, until: str, zone: str, expected: str) -> None:
    assert last(schedule, until, zone) == expected


def test_a_time_that_is_not_later_than_the_bound_does_not_count() -> None:
    assert last("0 3 * * *", "2026-03-04 04:00", within=timedelta(hours=1)) is None
    assert last("0 3 * * *", "2026-03-04 04:00", within=timedelta(hours=1, seconds=1)) == "2026-03-04 03:00"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * 0 *",
        "* * * * 8",
        "* * * foo *",
        "mon * * * *",
        "5-1 * * * *",
        "*/0 * * * *",
        "*-5 * * * *",
        "1,,2 * * * *",
        "-1 * * * *",
        "1.5 * * * *",
        "٣ * * * *",
        "CRON_TZ=UTC 0 3 * * *",
        "@every 1h",
        "@reboot",
        "0 0 30 2 *",
        "0 0 31 2,4,6,9,11 *",
        "*," * 200,
    ],
)
def test_what_is_no_schedule_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(NotASchedule) as refused:
        parse_schedule(text)
    assert repr(text[:50])[:-1] in str(refused.value)


def test_a_day_that_no_month_has_is_possible_if_a_day_of_the_week_is_given_too() -> None:
    assert last("0 0 30 2 mon", "2026-02-24 00:00") == "2026-02-23 00:00"


number = st.integers(0, 59)
fields = st.one_of(
    st.just("*"),
    number.map(str),
    st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"),
    st.integers(1, 40).map(lambda step: f"*/{step}"),
)
moments = st.integers(0, 2 * 365 * 86400).map(
    lambda seconds: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
)
schedules = st.tuples(fields, fields, fields, fields, fields).map(" ".join)


@given(schedules, moments, st.integers(1, 3 * 1440))
def test_the_last_time_is_the_last_minute_whose_fields_match(text: str, until: datetime, minutes: int) -> None:
    try:
        schedule = parse_schedule(text)
    except NotASchedule:
        return
    moment, after = until.replace(second=0, microsecond=0), until - timedelta(minutes=minutes)
    while moment > after and not (
        moment.minute in schedule.minutes and moment.hour in schedule.hours and schedule.has_day(moment.date())
    ):
        moment -= timedelta(minutes=1)
    assert last_time(schedule, UTC, after, until) == (moment if moment > after else None)


@given(schedules, moments)
def test_a_time_in_any_zone_is_within_its_bounds_and_the_last(text: str, until: datetime) -> None:
    try:
        schedule = parse_schedule(text)
    except NotASchedule:
        return
    found = last_time(schedule, BERLIN, until - WEEK, until)
    if found is not None:
        assert until - WEEK < found <= until
        assert last_time(schedule, BERLIN, found, until) is None


@given(st.text(max_size=300))
def test_any_text_is_a_schedule_or_is_refused(text: str) -> None:
    try:
        schedule = parse_schedule(text)
    except NotASchedule:
        return
    assert schedule.minutes
    assert schedule.hours
