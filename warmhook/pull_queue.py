"""Decide which pulls start now, and which running one gives way to another.

Not every runtime shows the progress of a pull, so time decides. A pull is *slow* from its 60th second on, and from its
start if the image was slow before. A node runs at most `parallel` pulls that are not slow and as many again that
are, so an image that has not been slow finds a slot although others hang. If all running pulls are of one registry, an
image of another registry finds one more slot. Each namespace chooses its own priorities, so a namespace that has waited
for a minute goes before priority, once. All times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from warmhook.attempts import NO_ATTEMPTS, Attempts
from warmhook.desired_lines import DesiredLine
from warmhook.warmimages import LONGEST_TIMEOUT_SECONDS

SLOW_SECONDS: Final = 60.0
GIVE_WAY_SECONDS: Final = 600.0
"""After this time a pull is stopped if a new image finds no slot, or one of another namespace no space."""
NEGLECTED_SECONDS: Final = 60.0
"""A namespace that has waited for so long, without a started pull, goes before priority."""

_LARGEST_BYTES: Final = 2**50
"""More than any disk of a node; registries may say anything."""

Served: TypeAlias = Mapping[tuple[str, bool], float]
"""By namespace and whether the image was slow before: the last start of a pull of the namespace."""


@dataclass(frozen=True, slots=True)
class ImagePull:
    """One pull for all lines of an image."""

    image: str
    versions: frozenset[str]
    """The lines, also warm ones, that the result of this pull decides."""
    namespaces: frozenset[str]
    """The namespaces of the lines that are not warm."""
    priority: int
    since: float
    timeout_seconds: int
    size_bytes: int = 0
    """Compressed; 0: unknown."""
    failed: int = 0
    """The most failures of any line."""
    slow: bool = False
    """Whether one of its lines was slow before."""
    due_since: float = 0.0


@dataclass(frozen=True, slots=True)
class Running:
    """A running pull."""

    pull: ImagePull
    began: float
    stopping: bool = False
    """Whether it is giving way; it holds its slot until it has ended."""
    downloaded_bytes: int = 0
    """So far, if that can be seen."""

    def slow(self, now: float) -> bool:
        """Whether it holds its slot for long, or is expected to."""
        return self.pull.slow or now >= self.began + SLOW_SECONDS


@dataclass(frozen=True, slots=True)
class Schedule:
    """The pulls to start and to stop now."""

    start: list[ImagePull]
    stop: list[str]
    """Images whose pulls give way; the pulls that wait for their slots start when they have ended."""


def schedule(
    lines: Collection[DesiredLine],
    warm: Collection[str],
    attempts: Mapping[str, Attempts],
    running: Mapping[str, Running],
    now: float,
    parallel: int,
    served: Served,
    room_bytes: float = math.inf,
) -> Schedule:
    """The pulls to start: not slow ones first, then by fewest slow pulls of the namespace, priority, failures, age.

    Neglected namespaces go before priority, the one that was served longest ago first. `warm` are versions; `running`
    is by image. Never two pulls of one image, at most `parallel` that are not slow, at most twice as many in all, one
    more only if all others are of another registry, and
    at most half of `parallel`, but one, that were slow before. Their compressed sizes together are at most
    `room_bytes`; an image that does not fit leaves its slot to a smaller one, and what is kept for a long pull of
    another namespace is not kept for ever.
    """
    due = {
        wanted.line.image
        for wanted in lines
        if wanted.version not in warm and attempts.get(wanted.version, NO_ATTEMPTS).due_at <= now
    }
    pulls = [pull for pull in _by_image(lines, warm, attempts) if pull.image in due and pull.image not in running]
    stopped = _making_room(pulls, running, room_bytes, now)
    running = {
        image: replace(active, stopping=active.stopping or image in stopped) for image, active in running.items()
    }
    pulls = [pull for pull in pulls if pull.size_bytes <= room_bytes]
    slots = _Slots(running.values(), now, parallel, _turns(pulls, served, now))
    pulls.sort(key=slots.order)
    plan = Schedule([], stopped)
    while pulls:
        pull = pulls.pop(0)
        if slots.has_room(pull):
            slots.take(pull)
            plan.start.append(pull)
            room_bytes -= pull.size_bytes
            pulls = sorted((pull for pull in pulls if pull.size_bytes <= room_bytes), key=slots.order)
        elif (image := slots.give_way(pull)) is not None:
            plan.stop.append(image)
    return plan


def image_bytes(lines: Iterable[DesiredLine]) -> int:
    """The compressed size of the image of these lines; 0 if it is unknown."""
    return min(max(0, *(wanted.line.size_bytes for wanted in lines)), _LARGEST_BYTES)


def next_due(
    lines: Collection[DesiredLine],
    warm: Collection[str],
    attempts: Mapping[str, Attempts],
    running: Iterable[Running],
    now: float,
) -> float | None:
    """When the schedule may change by itself: a back-off ends or a pull becomes slow; `None` if neither will."""
    times = [attempts.get(wanted.version, NO_ATTEMPTS).due_at for wanted in lines if wanted.version not in warm]
    times += [pull.began + seconds for pull in running for seconds in (SLOW_SECONDS, GIVE_WAY_SECONDS)]
    return min((time for time in times if time > now), default=None)


def _making_room(
    pulls: Iterable[ImagePull], running: Mapping[str, Running], room_bytes: float, now: float
) -> list[str]:
    """The images whose pulls give way because an image of another namespace would fit without them.

    The size of an image is what its registry says, and a pull keeps space for all of it until it ends. One of which
    half has come goes on.
    """
    stopped: list[str] = []
    for pull in pulls:
        freed = sum(active.pull.size_bytes for image, active in running.items() if active.stopping or image in stopped)
        lacking = pull.size_bytes - room_bytes - freed
        if pull.slow or lacking <= 0:
            continue
        enough = [
            image
            for image, active in running.items()
            if active.pull.size_bytes >= lacking
            and now >= active.began + GIVE_WAY_SECONDS
            and 2 * active.downloaded_bytes < active.pull.size_bytes
            and active.pull.namespaces.isdisjoint(pull.namespaces)
            and not active.stopping
            and image not in stopped
        ]
        stopped += enough[:1]
    return stopped


def _turns(pulls: Iterable[ImagePull], served: Served, now: float) -> dict[tuple[str, bool], float]:
    """Since when each neglected namespace has been served or, before that, has waited; the others have no turn."""
    waiting: dict[tuple[str, bool], float] = {}
    for pull in pulls:
        for namespace in pull.namespaces:
            lane = (namespace, pull.slow)
            waiting[lane] = min(waiting.get(lane, math.inf), pull.due_since)
    turns = {lane: max(since, served.get(lane, since)) for lane, since in waiting.items()}
    return {lane: since for lane, since in turns.items() if now >= since + NEGLECTED_SECONDS}


class _Slots:
    """The slots of a node while pulls are chosen."""

    def __init__(
        self, running: Iterable[Running], now: float, parallel: int, turns: dict[tuple[str, bool], float]
    ) -> None:
        self._now, self._parallel, self._turns = now, parallel, turns
        self._running = {active.pull.image: active for active in running}
        self._promised = sum(1 for active in self._running.values() if active.stopping)

    def order(self, pull: ImagePull) -> tuple[bool, int, float, int, int, float, str]:
        turn = min(self._turns.get((namespace, pull.slow), math.inf) for namespace in pull.namespaces)
        return (pull.slow, self._slow_of(pull), turn, -pull.priority, pull.failed, pull.since, pull.image)

    def has_room(self, pull: ImagePull) -> bool:
        if not pull.slow and len(self._hosts) == 1 and _host(pull.image) not in self._hosts:
            return True
        if len(self._running) >= 2 * self._parallel:
            return False
        if pull.slow:
            were_slow = sum(1 for active in self._running.values() if active.pull.slow)
            return were_slow < max(1, self._parallel // 2)
        return self._not_slow() < self._parallel

    def take(self, pull: ImagePull) -> None:
        self._running[pull.image] = Running(pull, self._now)
        for namespace in pull.namespaces:
            self._turns.pop((namespace, pull.slow), None)

    def give_way(self, pull: ImagePull) -> str | None:
        """The image whose pull must end for this one; `None` if nothing gives way, or a pull is ending already."""
        if pull.slow:
            return None
        if self._promised:
            self._promised -= 1
            return None
        stopping = sum(1 for active in self._running.values() if active.stopping)
        if self._not_slow() + stopping >= self._parallel:
            return None
        alone = self._slow_of(pull) == 0
        candidates = [
            active
            for active in self._running.values()
            if not active.stopping
            and active.slow(self._now)
            and (
                active.pull.slow
                or self._now >= active.began + GIVE_WAY_SECONDS
                or (alone and self._slow_of(active.pull) > 1)  # no namespace holds several slots while another has none
            )
        ]
        if not candidates:
            return None
        chosen = max(candidates, key=self._burden)
        self._running[chosen.pull.image] = replace(chosen, stopping=True)
        return chosen.pull.image

    def _burden(self, running: Running) -> tuple[bool, int, int, float, str]:
        pull = running.pull
        return (pull.slow, self._slow_of(pull), -pull.priority, -running.began, pull.image)

    @property
    def _hosts(self) -> set[str]:
        return {_host(image) for image in self._running}

    def _not_slow(self) -> int:
        return sum(1 for active in self._running.values() if not active.slow(self._now))

    def _slow_of(self, pull: ImagePull) -> int:
        """The number of slow pulls of its namespace; the least if lines of several namespaces share the image."""
        slow = [active for active in self._running.values() if active.slow(self._now) and not active.stopping]
        return min(sum(1 for active in slow if namespace in active.pull.namespaces) for namespace in pull.namespaces)


def _host(image: str) -> str:
    return image.partition("/")[0]


def _by_image(
    lines: Collection[DesiredLine], warm: Collection[str], attempts: Mapping[str, Attempts]
) -> list[ImagePull]:
    """One pull for each image with an outstanding line: the highest priority, the longest timeout, the oldest age."""
    groups: defaultdict[str, list[DesiredLine]] = defaultdict(list)
    for wanted in lines:
        groups[wanted.line.image].append(wanted)
    pulls = []
    for image, group in groups.items():
        outstanding = [wanted for wanted in group if wanted.version not in warm]
        if not outstanding:
            continue
        tried = [attempts.get(wanted.version, NO_ATTEMPTS) for wanted in outstanding]
        longest = max(wanted.line.pull.timeout_seconds for wanted in outstanding)
        pulls.append(
            ImagePull(
                image,
                versions=frozenset(wanted.version for wanted in group),
                namespaces=frozenset(wanted.line.warmimage.namespace for wanted in outstanding),
                priority=max(wanted.line.pull.priority for wanted in outstanding),
                since=min(wanted.since for wanted in outstanding),
                timeout_seconds=min(longest, LONGEST_TIMEOUT_SECONDS),
                size_bytes=image_bytes(group),
                failed=max(attempt.failed for attempt in tried),
                slow=any(attempt.slow for attempt in tried),
                due_since=min(max(wanted.since, last.due_at) for wanted, last in zip(outstanding, tried, strict=True)),
            )
        )
    return pulls
