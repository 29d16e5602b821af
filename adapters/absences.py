"""Decide when to ask again for what is not installed: the longer it has been missing, the later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["LONGEST_SECONDS", "Absence"]

LONGEST_SECONDS: Final = 300.0
"""After this time at most, what was installed is noticed."""
_SHARE: Final = 0.1


class Absence:
    """Since when something is missing."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """`monotonic` gives seconds."""
        self._monotonic = monotonic
        self._since: float | None = None

    def over(self) -> None:
        """It is there."""
        self._since = None

    def seconds(self, least: float) -> float:
        """It is missing: when to ask again, which is after `least` or a tenth of the time that it has been missing."""
        now = self._monotonic()
        self._since = now if self._since is None else self._since
        return max(least, min(_SHARE * (now - self._since), LONGEST_SECONDS))
