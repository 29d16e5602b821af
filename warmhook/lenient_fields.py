"""Read fields that anybody may have written: a value of another form counts as absent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from warmhook.timestamps import parse_time


def as_mapping(value: object) -> Mapping[str, Any]:
    """Empty for anything else."""
    return value if isinstance(value, Mapping) else {}


def as_mappings(value: object) -> list[Mapping[str, Any]]:
    """The mappings in a list; empty for anything else."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def as_text(value: object) -> str:
    """Empty for anything else. Control characters are in it still."""
    return value if isinstance(value, str) else ""


def as_count(value: object) -> int:
    """A number that is not negative; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def as_time(value: object) -> datetime | None:
    """`None` for anything else."""
    try:
        return parse_time(value) if isinstance(value, str) else None
    except ValueError:
        return None
