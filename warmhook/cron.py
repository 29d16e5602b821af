"""Read schedules of cron, and find their last time before another.

Five fields: minute, hour, day of the month, month, day of the week. Each is `*` or a list of values, ranges and steps:
`0,30`, `9-17`, `*/5`, `10-40/10`; `10/20` is `10-59/20`. Months and days of the week may be English names of three
letters; Sunday is 0 and 7. If both days are restricted, either of them suffices (crontab(5)). `?` is `*`.
`@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` and `@annually` are short for such fields.

Times are those of a clock on the wall. A time that the clock skips in spring is as much later: 2:30 is 3:30 then. Of
a time that comes twice in autumn the first one counts, and both if the schedule is for every hour.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final

TEXT_MAX: Final = 256
"""The longest schedule, in characters."""
_NAMED: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_SUNDAY: Final = 7
_LONGEST_MONTHS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ITEM: Final = re.compile(r"(?P<first>\*|[0-9]{1,2}|[a-z]{3})(-(?P<last>[0-9]{1,2}|[a-z]{3}))?(/(?P<step>[0-9]{1,2}))?")
_DAY: Final = timedelta(days=1)
# A WarmImage is judged at each sync, many of them with the same schedule, on the same few days.
_CACHED: Final = 256


class NotASchedule(ValueError):
    """The text is not a schedule; the message quotes it and names the problem."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The times of a day, and the days."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    """Of the month, from 1."""
    months: frozenset[int]
    weekdays: frozenset[int]
    """From 0, Sunday."""
    either_day: bool
    """Whether one of the two days suffices."""

    def has_day(self, day: date) -> bool:
        """Whether the schedule has times on this day."""
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and (of_month or of_week if self.either_day else of_month and of_week)


@lru_cache(_CACHED)
def parse_schedule(text: str) -> Schedule:
    """Read a schedule. Raises `NotASchedule`, also for one that never comes, such as 30 February."""
    if len(text) > TEXT_MAX:
        raise NotASchedule(f"{text[:50]!r}...: a schedule has at most {TEXT_MAX} characters")
    fields = _NAMED.get(text.strip().lower(), text).lower().split()
    if len(fields) != len(_FIELDS):
        raise NotASchedule(
            f"{text!r} must have five fields (minute, hour, day of the month, month, day of the week), such as"
            f" '0 3 * * *', or be one of {', '.join(_NAMED)}"
        )
    minutes, hours, days, months, weekdays = (
        field.parse(given, text) for field, given in zip(_FIELDS, fields, strict=True)
    )
    restricted_day, restricted_weekday = (fields[at] not in ("*", "?") for at in (2, 4))
    if not restricted_weekday and all(min(days) > _LONGEST_MONTHS[month - 1] for month in months):
        raise NotASchedule(f"{text!r} never comes: none of its months has such a day")
    return Schedule(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(weekday % 7 for weekday in weekdays),
        either_day=restricted_day and restricted_weekday,
    )


def last_time(schedule: Schedule, zone: tzinfo, after: datetime, until: datetime) -> datetime | None:
    """The last time of the schedule in `zone` that is later than `after` and not later than `until`, in UTC.

    `None` if there is none. Looks at each day between the two.
    """
    # A clock that is put back around midnight returns to the day before.
    day, earliest = until.astimezone(zone).date() + _DAY, after.astimezone(zone).date() - _DAY
    found: datetime | None = None
    while day >= earliest:
        before, times = found, _times_of(schedule, zone, day)
        at = bisect_right(times, until)
        if at and times[at - 1] > (found or after):
            found = times[at - 1]
        if before is not None:
            return found
        day -= _DAY
    return found


@lru_cache(_CACHED)
def _times_of(schedule: Schedule, zone: tzinfo, day: date) -> tuple[datetime, ...]:
    """The times of the schedule on one day, in UTC, sorted."""
    if not schedule.has_day(day):
        return ()
    folds = (0, 1) if len(schedule.hours) == 24 else (0,)
    times = {
        datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone, fold=fold).astimezone(UTC)
        for hour in schedule.hours
        for minute in schedule.minutes
        for fold in folds
    }
    return tuple(sorted(times))


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    """Of the values from `least` on."""
    is_weekday: bool = False
    """Whether the first value is also the one after the last."""

    def parse(self, given: str, text: str) -> set[int]:
        """The values of the field. Raises `NotASchedule`, which quotes `text`."""
        found: set[int] = set()
        for item in given.replace("?", "*").split(","):
            match = _ITEM.fullmatch(item)
            if match is None or (match["first"] == "*" and match["last"]):
                raise NotASchedule(f"{text!r}: {item!r} is no {self.name}")
            step = 1 if match["step"] is None else int(match["step"])
            first = self.least if match["first"] == "*" else self._value(match["first"], text)
            to_the_end = match["first"] == "*" or match["step"]
            last = self._value(match["last"], text) if match["last"] else self.most if to_the_end else first
            if self.is_weekday and last == 0 and match["last"]:
                last = _SUNDAY
            if first > last or step == 0:
                raise NotASchedule(f"{text!r}: {item!r} has no {self.name}")
            found.update(range(first, last + 1, step))
        return found

    def _value(self, given: str, text: str) -> int:
        value = self.least + self.names.index(given) if given in self.names else int(given) if given.isdigit() else -1
        if not self.least <= value <= self.most + self.is_weekday:
            raise NotASchedule(f"{text!r}: {given!r} is no {self.name}, which are {self.least} to {self.most}")
        return value


_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 6, _WEEKDAYS, is_weekday=True),
)
