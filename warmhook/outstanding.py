"""What is to be pulled next, what waits until when, and what does the report say of each line?

All times are monotonic seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from warmhook.ports import FailureReason
from warmhook.reports import LineReport
from warmhook.wanted import Wanted

__all__ = [
    "EVICTED_SECONDS",
    "FIRST_RETRY_SECONDS",
    "NONE_YET",
    "RETRY_SECONDS",
    "Attempts",
    "ImagePull",
    "after_failure",
    "after_removal",
    "line_report",
    "next_due",
    "next_pulls",
]

FIRST_RETRY_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 300.0
"""The longest back-off, and the interval at which a failed line is tried again."""
EVICTIONS: Final = 3
"""A line found removed so many times within `EVICTED_SECONDS` waits as long: something on the node needs the space."""
EVICTED_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Attempts:
    """How the pulls for one version of a line have gone since it was last warm."""

    failed: int = 0
    due_at: float = 0.0
    """When it may be pulled again."""
    reason: FailureReason | Literal[""] = ""
    message: str = ""
    removed_at: tuple[float, ...] = ()
    """When the image was found removed behind the agent's back, within the last hour."""

    def exhausted(self, wanted: Wanted) -> bool:
        """Whether the line counts as failed, though it is tried again."""
        return self.reason == "Evicted" or self.failed > wanted.line.pull.backoff_limit


NONE_YET: Final = Attempts()


@dataclass(frozen=True, slots=True)
class ImagePull:
    """One pull for all lines of an image."""

    image: str
    versions: frozenset[str]
    """The lines, warm ones too, that are judged by what this pull brings."""
    priority: int
    since: float
    timeout_seconds: int


def next_pulls(
    lines: Collection[Wanted],
    warm: Collection[str],
    attempts: Mapping[str, Attempts],
    running: Collection[str],
    now: float,
    parallel: int,
) -> list[ImagePull]:
    """The pulls to start now: higher priority first, then who failed least, then who waits longest.

    Failures count before age, so that images which hang until their time is over do not take all turns.

    `warm` are versions, `running` images. Never two pulls of one image, at most `parallel` at once; running ones are
    never interrupted.
    """
    due = {
        wanted.line.image
        for wanted in lines
        if wanted.version not in warm and attempts.get(wanted.version, NONE_YET).due_at <= now
    }

    def order(pull: ImagePull) -> tuple[int, int, float, str]:
        failed = max((attempts.get(version, NONE_YET).failed for version in pull.versions), default=0)
        return (-pull.priority, failed, pull.since, pull.image)

    pulls = [pull for pull in _by_image(lines, warm) if pull.image in due and pull.image not in running]
    pulls.sort(key=order)
    return pulls[: max(0, parallel - len(running))]


def next_due(
    lines: Collection[Wanted],
    warm: Collection[str],
    attempts: Mapping[str, Attempts],
    now: float,
) -> float | None:
    """When the next back-off ends; `None` where nothing waits for a time."""
    times = (attempts.get(wanted.version, NONE_YET).due_at for wanted in lines if wanted.version not in warm)
    return min((time for time in times if time > now), default=None)


def after_failure(
    attempts: Attempts, wanted: Wanted, reason: FailureReason, message: str, now: float, random: float
) -> Attempts:
    """One more failed pull: wait twice as long, and five minutes once the line's limit is passed.

    `random` (0 to 1) spreads nodes that failed together.
    """
    failed = attempts.failed + 1
    if failed > wanted.line.pull.backoff_limit:
        seconds = RETRY_SECONDS * (0.95 + 0.1 * random)
    else:
        # Past 2**16 the least of the two is known.
        seconds = min(RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failed - 1, 16)) * (0.5 + 0.5 * random)
    return Attempts(failed, now + seconds, reason, message, attempts.removed_at)


def after_removal(attempts: Attempts, now: float, until: str) -> Attempts:
    """A warm line's image is gone from the runtime: pull it again, unless that keeps happening.

    `until` is the time of day, for people, at which a wait that begins now will end.
    """
    removed_at = (*(time for time in attempts.removed_at if now - time < EVICTED_SECONDS), now)
    if len(removed_at) < EVICTIONS:
        return Attempts(removed_at=removed_at)
    message = f"the image was removed {len(removed_at)} times within an hour; it is pulled again at {until}"
    return Attempts(0, now + EVICTED_SECONDS, "Evicted", message, removed_at)


def line_report(wanted: Wanted, attempts: Attempts, *, warm: bool, pulling: bool, moved: str) -> LineReport:
    """What the agent says of a line."""
    if warm:
        return LineReport(wanted.version, "warm", moved=moved)
    if pulling:
        return LineReport(wanted.version, "pulling", attempts=attempts.failed)
    state: Literal["failed", "waiting"] = "failed" if attempts.exhausted(wanted) else "waiting"
    return LineReport(wanted.version, state, attempts.reason, attempts.failed, attempts.message)


def _by_image(lines: Collection[Wanted], warm: Collection[str]) -> list[ImagePull]:
    """One pull for each image with an outstanding line: the highest priority, the longest timeout, the oldest age."""
    groups: defaultdict[str, list[Wanted]] = defaultdict(list)
    for wanted in lines:
        groups[wanted.line.image].append(wanted)
    pulls = []
    for image, group in groups.items():
        outstanding = [wanted for wanted in group if wanted.version not in warm]
        if not outstanding:
            continue
        pulls.append(
            ImagePull(
                image,
                versions=frozenset(wanted.version for wanted in group),
                priority=max(wanted.line.pull.priority for wanted in outstanding),
                since=min(wanted.since for wanted in outstanding),
                timeout_seconds=max(wanted.line.pull.timeout_seconds for wanted in outstanding),
            )
        )
    return pulls
