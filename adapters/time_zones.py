"""Find time zones by name in the IANA database of the system."""

from __future__ import annotations

from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo


class NotAZone(ValueError):
    """The system knows no time zone of this name; the message quotes it."""


def find_zone(name: str) -> tzinfo:
    """The time zone, such as `Europe/Paris`. Raises `NotAZone`.

    The system has the database, in `/usr/share/zoneinfo`; a name never leads out of it. Zones that were found once
    are kept in memory.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # OSError: a folder of the database, such as Europe
        raise NotAZone(f"{name!r} is no time zone of the IANA database, such as UTC or Europe/Paris") from error
