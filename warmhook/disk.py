"""Decide when the disk of a node has room for another pull.

Three signs count: the free share of the file system that holds images, what a pull would leave of it, and images that
another program removes, which is how a kubelet makes room. All times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

LOSSES: Final = 3
"""So many losses within an hour stop all pulls of the node."""
FIRST_HOLD_SECONDS: Final = 3600.0
LONGEST_HOLD_SECONDS: Final = 4 * 3600.0
SPACED_SECONDS: Final = 300.0
"""Between two pulls in the hour after a hold: as long as a kubelet takes between two image garbage collections."""
_PROBATION_SECONDS: Final = 3600.0
_HYSTERESIS_PERCENT: Final = 1.0


@dataclass(frozen=True, slots=True)
class Hold:
    """The node starts no pulls before this time."""

    losses: tuple[float, ...] = ()
    """Times within the last hour when images were found removed or a pull failed on a full disk."""
    until: float = 0.0
    seconds: float = 0.0
    """The length of the last hold."""
    probation_until: float = 0.0
    """Before this time pulls are spaced, and one more loss starts a hold of twice the length."""

    def next_start(self, last_start: float, now: float) -> float:
        """The earliest time of the next pull."""
        if now < self.probation_until:
            return max(self.until, last_start + SPACED_SECONDS)
        return self.until


EMPTY: Final = Hold()


def after_loss(hold: Hold, now: float) -> Hold:
    """Add one loss: a check that found removed images, whatever their number, or a full disk."""
    if now < hold.until:
        return hold
    losses = (*(time for time in hold.losses if now - time < FIRST_HOLD_SECONDS), now)
    on_probation = now < hold.probation_until
    if len(losses) < LOSSES and not on_probation:
        return replace(hold, losses=losses)
    seconds = min(2 * hold.seconds, LONGEST_HOLD_SECONDS) if on_probation else FIRST_HOLD_SECONDS
    until = now + seconds
    return Hold((), until, seconds, until + _PROBATION_SECONDS)


def is_low(free_percent: float | None, min_free_percent: int, *, was_low: bool) -> bool:
    """Whether too little space is free for a pull; never if the space is unknown or the minimum is 0."""
    if free_percent is None or min_free_percent == 0:
        return False
    return free_percent < min_free_percent + (_HYSTERESIS_PERCENT if was_low else 0)
