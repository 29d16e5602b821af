"""Decide when a line is pulled again after a failed pull, and when it counts as failed.

All times are monotonic seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from warmhook.desired_lines import DesiredLine
from warmhook.node_report import LineReport
from warmhook.pull_failures import LASTING_FAILURES, FailureReason

FIRST_RETRY_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 300.0
"""The longest back-off before a line is failed, and the first retry interval of a failed line."""
LASTING_RETRY_SECONDS: Final = 3600.0
"""The longest retry interval of failures that only a person can fix."""
RETRY_STEP_SECONDS: Final = 60.0
"""Retries of failed lines start at multiples of this, so that they start together."""
EVICTIONS: Final = 3
"""A line that was removed so many times within `EVICTED_SECONDS` waits as long: another program needs the space."""
EVICTED_SECONDS: Final = 3600.0
_NO_ROOM: Final = frozenset({"DiskFull", "Evicted"})


@dataclass(frozen=True, slots=True)
class Attempts:
    """The results of the pulls for one version of a line since it was last warm."""

    failed: int = 0
    due_at: float = 0.0
    """The earliest time of the next pull."""
    reason: FailureReason | Literal[""] = ""
    message: str = ""
    removed_at: tuple[float, ...] = ()
    """When another program was found to have removed the image, within the last hour."""
    slow: bool = False
    """Whether one of the failed pulls timed out, or held its slot for long."""

    def exhausted(self, wanted: DesiredLine) -> bool:
        """Whether the line counts as failed, though it is tried again."""
        return self.reason in _NO_ROOM or self.failed > wanted.line.pull.backoff_limit


NO_ATTEMPTS: Final = Attempts()


def with_failure(
    attempts: Attempts,
    wanted: DesiredLine,
    reason: FailureReason,
    message: str,
    now: float,
    random: float,
    *,
    slow: bool = False,
) -> Attempts:
    """Add one failed pull: wait twice as long, and five minutes after the limit of the line.

    If the registry refuses the image or does not have it, the wait doubles up to an hour; if the disk is full, it is
    an hour at once. `random` (0 to 1) spreads nodes that failed together.
    """
    failed = attempts.failed + 1
    over = failed - wanted.line.pull.backoff_limit
    if reason == "DiskFull":
        seconds = EVICTED_SECONDS
    elif over > 0:
        longest = LASTING_RETRY_SECONDS if reason in LASTING_FAILURES else RETRY_SECONDS
        # Past 2**16 the least of the two is known.
        seconds = min(longest, RETRY_SECONDS * 2.0 ** min(over - 1, 16)) * (0.95 + 0.1 * random)
    else:
        seconds = min(RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failed - 1, 16)) * (0.5 + 0.5 * random)
    due_at = now + seconds
    if over > 0:
        due_at = math.ceil(due_at / RETRY_STEP_SECONDS) * RETRY_STEP_SECONDS
    slow = slow or attempts.slow or reason == "Timeout"
    return Attempts(failed, due_at, reason, message, attempts.removed_at, slow)


def after_removal(attempts: Attempts, now: float, until: str) -> Attempts:
    """Add one removal of a warm image from the runtime: pull it again, unless removals repeat.

    `until` is the time of day, for people, at which a wait that begins now will end.
    """
    removed_at = (*(time for time in attempts.removed_at if now - time < EVICTED_SECONDS), now)
    if len(removed_at) < EVICTIONS:
        return Attempts(removed_at=removed_at)
    message = f"the image was removed {len(removed_at)} times within an hour; it is pulled again at {until}"
    return Attempts(0, now + EVICTED_SECONDS, "Evicted", message, removed_at)


def line_report(wanted: DesiredLine, attempts: Attempts, *, warm: bool, pulling: bool, moved: str) -> LineReport:
    """The report of a line. A failed line stays failed while it is tried again."""
    if warm:
        return LineReport(wanted.version, "warm", moved=moved)
    if attempts.exhausted(wanted):
        return LineReport(wanted.version, "failed", attempts.reason, attempts.failed, attempts.message)
    if pulling:
        return LineReport(wanted.version, "pulling", attempts=attempts.failed)
    return LineReport(wanted.version, "waiting", attempts.reason, attempts.failed, attempts.message)
