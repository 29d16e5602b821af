"""Turn the moments of a push into the steps of a timeline: how long each took, and what nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Literal

from handlers.ui.formats import duration
from warmhook.overview import Moment


@dataclass(frozen=True, slots=True)
class Step:
    """A moment, and the time since the one before."""

    moment: Moment
    state: Literal["done", "unknown", "open"]
    """`unknown`: it has happened, as a later one has, but nobody noted when. `open`: it has not, or nobody knows."""
    after: str
    """Since the last moment that is known, with its sign; empty for the first one."""
    x: float = 0
    """Where the part of the whole time that this step took begins, from 0 to 100."""
    width: float = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """The steps of a push in order."""

    steps: tuple[Step, ...]
    total: str
    """From the first moment that is known to the last; empty if fewer than two are."""
    skewed: bool
    """Whether a moment is before the one that caused it: clocks differ, or only the last of its repeats is known."""


def timeline(moments: Sequence[Moment]) -> Timeline:
    """The steps of these moments, which are in the order of their causes."""
    known = [moment.at for moment in moments if moment.at is not None]
    whole = sum(max(0.0, (later - earlier).total_seconds()) for earlier, later in pairwise(known))
    last = max((number for number, moment in enumerate(moments) if moment.at is not None), default=-1)
    steps: list[Step] = []
    before: datetime | None = None
    x, skewed = 0.0, False
    for number, moment in enumerate(moments):
        if moment.at is None:
            steps.append(Step(moment, "unknown" if number < last else "open", ""))
            continue
        seconds = (moment.at - before).total_seconds() if before else 0.0
        skewed |= seconds < 0
        width = 100 * max(0.0, seconds) / whole if whole else 0.0
        after = f"{'+' if seconds >= 0 else ''}{duration(seconds)}" if before else ""
        steps.append(Step(moment, "done", after, round(x, 2), round(width, 2)))
        x, before = x + width, moment.at
    total = duration((known[-1] - known[0]).total_seconds()) if len(known) > 1 else ""
    return Timeline(tuple(steps), total, skewed)
