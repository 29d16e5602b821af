"""Write and read times in the form of Kubernetes (RFC 3339 in UTC), and read `Retry-After`."""

from __future__ import annotations

from datetime import UTC, datetime


def format_time(moment: datetime) -> str:
    """`2026-01-31T09:30:00Z`, with microseconds only if there are any. Raises `ValueError` for a naive time."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone")
    return moment.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def parse_time(text: str) -> datetime:
    """Read an RFC 3339 time; digits below a microsecond are cut off. Raises `ValueError`."""
    moment = datetime.fromisoformat(_cut_to_microseconds(text))
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:  # the first or last hours that a datetime can hold, in another time zone
        raise ValueError(f"{text!r} is out of range") from error


def parse_retry_after(text: str | None) -> float | None:
    """The seconds of a `Retry-After` (RFC 9110, 10.2.3); `None` for a date, an invalid value, and without one."""
    # `isdigit` alone also takes superscripts, which `float` does not.
    return float(text) if text and len(text) <= 9 and text.isascii() and text.isdigit() else None


def _cut_to_microseconds(text: str) -> str:
    """Cut the nanoseconds of Go programs: `datetime` reads only 3 or 6 digits."""
    head, dot, tail = text.partition(".")
    if not dot:
        return text
    digits = len(tail) - len(tail.lstrip("0123456789"))
    return f"{head}.{tail[:digits][:6]:0<6}{tail[digits:]}"
