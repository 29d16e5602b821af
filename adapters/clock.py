"""The real clock; everything else is handed one."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["utcnow"]


def utcnow() -> datetime:
    """The present time, aware, in UTC."""
    return datetime.now(UTC)
