"""Read and write durations as kubectl has them: `90s`, `10m`, `1h30m`."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_FORM: Final = re.compile(r"(?=.)(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)
_BARE: Final = re.compile(r"\d{1,9}", re.ASCII)
_COARSE: Final = 2
"""From so many of a unit on, the smaller ones are left out."""


def parse_duration(text: str) -> int:
    """Seconds. A number without a unit is in seconds. Raises `ValueError`, whose message has the form."""
    if _BARE.fullmatch(text):
        return int(text)
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration: write it like 90s, 10m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def format_duration(seconds: float) -> str:
    """`45s`, `119s`, `2m`, `5m30s`, `3h`, `2d`: the two largest units, or one where it says enough. Never negative."""
    left = max(0, int(seconds))
    if left < _COARSE * _UNITS["m"]:
        return f"{left}s"
    unit = next(name for name, size in _UNITS.items() if left >= _COARSE * size)
    whole, rest = divmod(left, _UNITS[unit])
    smaller = {"d": "h", "h": "m", "m": "s"}[unit]
    part = rest // _UNITS[smaller]
    return f"{whole}{unit}" + (f"{part}{smaller}" if part and whole < 10 else "")
