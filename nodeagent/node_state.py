"""Keep what the agent knows at this moment: lines, images, pulls and how they went. No waiting, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from adapters.clock import Clock
from nodeagent.room import Room, time_of_day
from warmhook.attempts import EVICTED_SECONDS, NO_ATTEMPTS, Attempts, after_removal, line_report, with_failure
from warmhook.desired_lines import DesiredLine, select_lines
from warmhook.images import parse_reference
from warmhook.localhosts import is_local_host
from warmhook.node_report import LineReport
from warmhook.platforms import Platform
from warmhook.ports import ImageConfig, RuntimeImage
from warmhook.presence import (
    NO_DIGEST,
    UNTOLD,
    Images,
    Unusable,
    images_by_name,
    is_warm,
    pulled_digest,
    replaced_digest,
    unusable,
)
from warmhook.pull_failures import FailureReason
from warmhook.pull_queue import SLOW_SECONDS, ImagePull, Running, Schedule, next_due, schedule

__all__ = ["Changes", "NodeState"]

# Of lines beyond the limit, in a report, which has 1,024 lines at most: what is not named counts as waiting.
_SURPLUS_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class Changes:
    """How many lines a new ConfigMap added, changed and removed."""

    added: int
    changed: int
    removed: int
    malformed: Mapping[str, str]
    """Key to reason, only what was not malformed in the same way before."""


class NodeState:
    """All that is known; every question about it is answered from here."""

    def __init__(
        self,
        clock: Clock,
        platform: Platform,
        pulled: Mapping[str, str],
        not_runnable: Mapping[str, str],
        *,
        min_free_percent: int = 0,
        allow_local_registries: bool = False,
    ) -> None:
        self._clock, self._platform, self._allow_local = clock, platform, allow_local_registries
        self.room = Room(clock, min_free_percent)
        self.pulled = dict(pulled)
        """Version to the digest its pull brought; outlives the agent."""
        self.not_runnable = dict(not_runnable)
        """Version to the message of a pull that failed as NotRunnable, until one succeeds; outlives the agent."""
        self.lines: dict[str, DesiredLine] = {}
        self.malformed: Mapping[str, str] = {}
        self.running: dict[str, Running] = {}
        """Image to the pull that is under way."""
        self.asked = False
        """Whether the runtime was asked at all, successfully or not; before, there is nothing to report."""
        self._surplus: Mapping[str, DesiredLine] = {}
        self._refused: frozenset[str] = frozenset()
        """Images that are not pulled because of their host."""
        self._attempts: dict[str, Attempts] = {}
        self._served: dict[tuple[str, bool], float] = {}
        self._images: Images | None = None
        self._unusable: dict[str, Unusable | None] = {}
        """By image ID, of listed images that lines name; a configuration never changes under one ID."""
        self._untold: dict[str, None] = {}
        """IDs of the images of which the runtime could not say what they are, in the order to ask of them again."""
        self._unreachable = ""
        self._current = False
        self._warm: set[str] = set()

    # --- what is wanted ---

    def select_lines(self, data: Mapping[str, str]) -> Changes:
        """The ConfigMap's data as it is now; what is known of versions that are gone is forgotten."""
        taken = select_lines(data, {**self._surplus, **self.lines}, self._clock.monotonic())
        before, self.lines, self._surplus = self.lines, dict(taken.lines), taken.surplus
        news = {key: why for key, why in taken.malformed.items() if self.malformed.get(key) != why}
        self.malformed = taken.malformed
        images = {wanted.line.image for wanted in self.lines.values()}
        self._refused = frozenset(
            image for image in images if not self._allow_local and is_local_host(parse_reference(image).host)
        )
        versions = {wanted.version for wanted in (*taken.lines.values(), *taken.surplus.values())}
        self.pulled = {version: digest for version, digest in self.pulled.items() if version in versions}
        self.not_runnable = {version: why for version, why in self.not_runnable.items() if version in versions}
        self._attempts = {version: attempts for version, attempts in self._attempts.items() if version in versions}
        namespaces = {wanted.line.warmimage.namespace for wanted in self.lines.values()}
        self._served = {lane: at for lane, at in self._served.items() if lane[0] in namespaces}
        for wanted in self.lines.values():
            if wanted.version in self.not_runnable and wanted.version not in self._attempts:
                # Known from before the agent's start: failed already, and tried at once.
                failed = wanted.line.pull.backoff_limit + 1
                message = self.not_runnable[wanted.version]
                self._attempts[wanted.version] = Attempts(failed, 0.0, "NotRunnable", message)
        changed = sum(1 for key, it in taken.lines.items() if key in before and before[key].version != it.version)
        changes = Changes(
            len(taken.lines.keys() - before.keys()), changed, len(before.keys() - taken.lines.keys()), news
        )
        if changes.added or changes.changed:
            # What the runtime said last may be older than the lines: nothing is pulled before it is asked again.
            self._current = False
        self._judge()
        return changes

    def wants(self, image: str) -> bool:
        """Whether any line names the image."""
        return any(wanted.line.image == image for wanted in self.lines.values())

    # --- what the runtime has ---

    def unjudged(self, images: Iterable[RuntimeImage], *, again: bool) -> list[str]:
        """IDs of listed images that lines name and whose configuration is not known yet, in the order to ask.

        `again`: also those of which the runtime could not say what they are, after the others.
        """
        ids = self._unjudged(images_by_name(images))
        untold = [image_id for image_id in self._untold if image_id in ids]
        return sorted(ids - self._untold.keys()) + (untold if again else [])

    def take_images(self, images: Iterable[RuntimeImage], configs: Mapping[str, ImageConfig | None]) -> list[str]:
        """What the runtime lists now, and the configurations of those that were `unjudged`, by ID.

        Of those without a configuration the first are asked of first the next time.
        Returns the images that were removed behind the agent's back.
        """
        self._images, self._unreachable, self.asked, self._current = images_by_name(images), "", True, True
        listed = {image.id for image in self._images.values()}
        told = {image_id: config for image_id, config in configs.items() if config is not None}
        judged = self._unusable | {image_id: unusable(config, self._platform) for image_id, config in told.items()}
        self._unusable = {image_id: why for image_id, why in judged.items() if image_id in listed}
        untold = [image_id for image_id in self._untold if image_id not in configs and image_id in listed]
        self._untold = dict.fromkeys(image_id for image_id in (*untold, *configs) if image_id not in told)
        now, removed, seldom = self._clock.monotonic(), [], False
        for wanted in self.lines.values():
            if wanted.version in self._warm and wanted.line.image not in self._images:
                known = self._attempts.get(wanted.version, NO_ATTEMPTS)
                seldom = seldom or not any(now - time < EVICTED_SECONDS for time in known.removed_at)
                until = time_of_day(self._clock, now + EVICTED_SECONDS)
                self._attempts[wanted.version] = after_removal(known, now, until)
                removed.append(wanted.line.image)
        # One image that is removed again and again has a wait of its own and says little about the disk.
        if removed and (seldom or len(set(removed)) > 1 or self.room.on_probation):
            self.room.lose()
        self._judge()
        return sorted(set(removed))

    def runtime_unreachable(self, message: str) -> None:
        """Nobody answers: what was present is no longer known to be."""
        self._images, self._unreachable, self.asked = None, message, True
        self._judge()

    @property
    def images(self) -> Images:
        """What the runtime listed last; nothing while it does not answer."""
        return self._images or {}

    def unusable(self, name: str) -> Unusable | None:
        """Why nothing can run from the image that the runtime lists under this name; `None` where something can."""
        image = self.images.get(name)
        if image is None:
            return None
        if image.id in self._untold:
            return UNTOLD
        return self._unusable.get(image.id) or (None if image.digests else NO_DIGEST)

    # --- pulls ---

    def schedule(self, parallel: int) -> Schedule:
        """The pulls to start now, noted as running, and those to stop, noted as stopping."""
        now = self._clock.monotonic()
        if self._images is None or not self._current or self.room.low or self.room.seconds_until_start() > 0:
            return Schedule([], [])
        plan = schedule(self._pullable(), self._warm, self._attempts, self.running, now, parallel, self._served)
        if self.room.on_probation:
            plan = Schedule(plan.start[:1], [])
        if plan.start:
            self.room.started()
        self.running |= {pull.image: Running(pull, now) for pull in plan.start}
        self._served |= {(namespace, pull.slow): now for pull in plan.start for namespace in pull.namespaces}
        self.running |= {image: replace(self.running[image], stopping=True) for image in plan.stop}
        return plan

    def seconds_until_due(self) -> float | None:
        """When the schedule may change by itself; `None` where time changes nothing."""
        now = self._clock.monotonic()
        if (seconds := self.room.seconds_until_start()) > 0:
            return seconds
        due = next_due(self._pullable(), self._warm, self._attempts, self.running.values(), now)
        return None if due is None else due - now

    def gives_way(self, image: str) -> bool:
        """Whether the image's pull was told to end for others."""
        return image in self.running and self.running[image].stopping

    def verdict(self, pull: ImagePull) -> set[tuple[str, bool]]:
        """Why its lines are not warm and whether they count as failed: what the log tells when it changes."""
        known = [(self._attempts.get(wanted.version, NO_ATTEMPTS), wanted) for wanted in self._of(pull)]
        return {(attempts.reason, attempts.exhausted(wanted)) for attempts, wanted in known}

    def attempts(self, pull: ImagePull) -> int:
        """How often its lines have failed so far, the most of any."""
        return max((self._attempts.get(version, NO_ATTEMPTS).failed for version in pull.versions), default=0)

    def pull_succeeded(self, pull: ImagePull, before: Images) -> list[str]:
        """The runtime says that it pulled, and was asked what it has since. Returns the digests that came.

        A line whose image is still not there has failed: it must not be pulled again at once, for ever.
        """
        of = self._of(pull)
        digests = {it.version: pulled_digest(pull.image, before, self.images, it.line.digest) for it in of}
        why = self.unusable(pull.image)
        if pull.image in self.images:
            self.pulled |= digests
        if why is None:
            self.not_runnable = {version: it for version, it in self.not_runnable.items() if version not in digests}
        self._judge()
        if why is None:
            why = Unusable("RuntimeError", "the runtime has pulled the image and does not list it in this version")
        self._fail(pull, why.reason, why.message)
        return sorted(filter(None, set(digests.values())))

    def pull_failed(self, pull: ImagePull, reason: FailureReason, message: str) -> None:
        """The pull did not work; lines that are warm all the same stay so."""
        self._fail(pull, reason, message)
        if reason == "DiskFull":
            self.room.lose()

    def pull_ended(self, image: str) -> None:
        """However it ended: another pull of the image may begin."""
        self.running.pop(image, None)

    # --- what to say ---

    def reports(self) -> dict[str, LineReport] | None:
        """What is to be said of every line, by key; `None` while a listed image of new lines was not judged yet."""
        if self._unjudged(self.images) - self._untold.keys():
            return None
        said = {key: self._report(wanted) for key, wanted in self.lines.items()}
        # Without words: there may be hundreds, and the reason says it all.
        surplus = sorted(self._surplus.items())[:_SURPLUS_MAX]
        said |= {key: LineReport(wanted.version, "failed", "TooManyLines") for key, wanted in surplus}
        return said

    def _report(self, wanted: DesiredLine) -> LineReport:
        if self._images is None:
            return LineReport(wanted.version, "waiting", "RuntimeError", message=self._unreachable)
        running = self.running.get(wanted.line.image)
        attempts, warm = self._attempts.get(wanted.version, NO_ATTEMPTS), wanted.version in self._warm
        pulling = running is not None and wanted.version in running.pull.versions
        if not warm and wanted.line.image in self._refused:
            message = "the image's host is the node itself or link-local; nodes do not pull from there"
            return LineReport(wanted.version, "failed", "Refused", message=message)
        if not warm and not pulling and not attempts.exhausted(wanted) and (held := self.room.held()):
            reason, message = held
            return LineReport(wanted.version, "failed", reason, attempts.failed, message)
        return line_report(wanted, attempts, warm=warm, pulling=pulling, moved=replaced_digest(wanted, self.pulled))

    def _pullable(self) -> list[DesiredLine]:
        return [wanted for wanted in self.lines.values() if wanted.line.image not in self._refused]

    def _unjudged(self, images: Images) -> set[str]:
        named = {images[wanted.line.image].id for wanted in self.lines.values() if wanted.line.image in images}
        return named - self._unusable.keys()

    def _judge(self) -> None:
        if self._images is None:
            self._warm = set()
            return
        images = self._images
        usable = {image_id for image_id, why in self._unusable.items() if why is None}
        # An image of the same ID may be whole, so presence does not outweigh what the line's own pull said.
        self._warm = {
            it.version
            for it in self.lines.values()
            if it.version not in self.not_runnable and is_warm(it, images, usable, self.pulled)
        }
        for version in self._warm & self._attempts.keys():
            self._attempts[version] = Attempts(removed_at=self._attempts[version].removed_at)

    def _fail(self, pull: ImagePull, reason: FailureReason, message: str) -> None:
        now, random = self._clock.monotonic(), self._clock.random()
        running = self.running.get(pull.image)
        slow = running is not None and now >= running.began + SLOW_SECONDS
        for wanted in self._of(pull):
            if wanted.version not in self._warm:
                known = self._attempts.get(wanted.version, NO_ATTEMPTS)
                self._attempts[wanted.version] = with_failure(known, wanted, reason, message, now, random, slow=slow)
                if reason == "NotRunnable":
                    self.not_runnable[wanted.version] = message

    def _of(self, pull: ImagePull) -> list[DesiredLine]:
        """The lines that were wanted when the pull began and still are, in the same version."""
        return [wanted for wanted in self.lines.values() if wanted.version in pull.versions]
