"""Read the time of the API server, against which the times of its objects are compared."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from warmhook.ports import Response


def server_time(answer: Response) -> datetime | None:
    """In whole seconds, from the header of an answer; `None` if it has none that can be read."""
    try:
        return parsedate_to_datetime(answer.headers["date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        return None
