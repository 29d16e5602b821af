"""Decide when a line is pulled again after a failed pull, and when it counts as failed.

All times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from warmhook.desired_lines import DesiredLine
from warmhook.node_report import LineReport
from warmhook.pull_failures import FailureReason

RETRY_STEP_SECONDS: Final = 60.0
"""Retries of failed lines start at multiples of this, so that they start together."""
EVICTIONS: Final = 3
"""A line that was removed so many times within `EVICTED_SECONDS` waits as long: another program needs the space."""
EVICTED_SECONDS: Final = 3600.0
_NO_ROOM: Final = frozenset({"DiskFull", "Evicted"})


@dataclass(frozen=True, slots=True)
class RetryRule:
    """How long a line waits after each failure; the waits double."""

    first_seconds: float = 5.0
    failed_seconds: float = 300.0
    """The longest wait before the line counts as failed, and the first one after that."""
    longest_seconds: float = 300.0

    @property
    def fixed(self) -> bool:
        """Whether all waits are equal."""
        return self.first_seconds == self.longest_seconds

    def seconds(self, failed: int, over: int, random: float) -> float:
        """The wait after so many failures, `over` of them beyond the limit of the line; `random` is 0 to 1."""
        if self.fixed:
            return self.first_seconds
        # Past 2**16 the least of the two is known.
        if over > 0:
            return min(self.longest_seconds, self.failed_seconds * 2.0 ** min(over - 1, 16)) * (0.95 + 0.1 * random)
        return min(self.failed_seconds, self.first_seconds * 2.0 ** min(failed - 1, 16)) * (0.5 + 0.5 * random)


TRANSIENT: Final = RetryRule()
"""For what passes by itself."""
PERMANENT: Final = RetryRule(longest_seconds=86_400.0)
"""For what stays until the line, its credentials or the content of the registry change.

A change of the first two makes the line due at once. No node hears of the third, so it asks once a day in the end.
"""
RETRY_RULES: Final[Mapping[FailureReason, RetryRule]] = {
    "Network": TRANSIENT,
    "Timeout": TRANSIENT,
    "RuntimeError": TRANSIENT,
    "NotFound": PERMANENT,
    "Unauthorized": PERMANENT,
    "Refused": PERMANENT,
    "NotRunnable": PERMANENT,
    "PlatformMissing": PERMANENT,
    # Its registry waits, with all its lines: `warmhook/rate_limits.py`.
    "RateLimited": RetryRule(0.0, 0.0, 0.0),
    # Each try downloads layers only to throw them away.
    "DiskFull": RetryRule(EVICTED_SECONDS, EVICTED_SECONDS, EVICTED_SECONDS),
}
"""By the reason of a failed pull."""


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
    """Add one failed pull: wait by the rule of the reason. `random` (0 to 1) spreads nodes that failed together."""
    failed = attempts.failed + 1
    over = failed - wanted.line.pull.backoff_limit
    rule = RETRY_RULES.get(reason, TRANSIENT)
    due_at = now + rule.seconds(failed, over, random)
    if over > 0 and not rule.fixed:
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
