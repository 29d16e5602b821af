"""Keep the state of the node: its lines, the runtime's images, pulls and their results. No waiting, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

from adapters.clock import Clock
from nodeagent.disk import DiskState, time_of_day
from nodeagent.peers.hints import Hints
from nodeagent.registry_limits import RegistryLimits
from nodeagent.removal_state import RemovalState
from nodeagent.runtime_images import RuntimeImages
from nodeagent.settings import Settings
from nodeagent.state_file import State
from warmhook.attempts import EVICTED_SECONDS, NO_ATTEMPTS, Attempts, after_removal, line_report, with_failure
from warmhook.desired_lines import Changes, DesiredLine, compare_lines, select_lines
from warmhook.disk_space import Room, needing_space
from warmhook.images import parse_reference
from warmhook.localhosts import is_local_host
from warmhook.node_lines import Line
from warmhook.node_report import LineReport, clean_message
from warmhook.platforms import Platform
from warmhook.ports import ImageConfig, RuntimeImage
from warmhook.presence import Images, Unusable, is_warm, pulled_digest, replaced_digest
from warmhook.pull_failures import REFUSALS, FailureReason
from warmhook.pull_queue import SLOW_SECONDS, ImagePull, Running, Schedule, image_bytes, next_due, schedule
from warmhook.removals import after_pull
from warmhook.warmimages import ObjectKey

# Lines beyond the limit in a report, which has 1,024 lines at most: others count as waiting.
_SURPLUS_MAX: Final = 512
PROVIDERS: Final = ObjectKey("", "")
"""Stands for the credential providers of the node, among Secrets."""
_NO_SECRETS: Final[Mapping[ObjectKey, tuple[FailureReason, str]]] = {}


class NodeState:
    """The state of one node; every decision of the agent reads it."""

    def __init__(self, clock: Clock, platform: Platform, settings: Settings, saved: State) -> None:
        self._clock, self._allow_local = clock, settings.allow_local_registries
        self.disk = DiskState(clock, settings.min_free_percent)
        self._registries = RegistryLimits(clock)
        self.hints = Hints(clock)
        self.pulled = dict(saved.pulled)
        """Version to the digest that its pull brought; outlives the agent."""
        self.not_runnable = dict(saved.not_runnable)
        """Version to the message of a pull that failed as NotRunnable, until one succeeds; saved on disk."""
        self.refreshed = dict(saved.refreshed)
        """Line key to the refresh that was done last; saved on disk."""
        self.lines: dict[str, DesiredLine] = {}
        self.malformed: Mapping[str, str] = {}
        self.running: dict[str, Running] = {}
        """Image to its running pull."""
        self.checked = False
        """Whether the runtime was checked, successfully or not; before that there is nothing to report."""
        self.removals = RemovalState()
        self._surplus: Mapping[str, DesiredLine] = {}
        self._names: set[str] = set()
        """The images of all lines."""
        self._wanted: set[str] = set()
        """The images of lines that are neither suspended nor purged."""
        self._refused: set[str] = set()
        """Images that are not pulled because of their host."""
        self._postponed: set[str] = set()
        """Images whose pulls have no slot, because their credentials or the nodes that serve them take long."""
        self._attempts: dict[str, Attempts] = {}
        self.notes: dict[str, str] = {}
        """By image of a running pull what people should know about it."""
        self._served: dict[tuple[str, bool], float] = {}
        self._images = RuntimeImages(platform)
        self._unreachable = ""
        self._current = False
        """Whether the runtime was checked after the last line came."""
        self._warm: set[str] = set()
        self._settled: set[str] = set()
        """Warm versions that need no pull for a refresh either."""

    # --- lines ---

    def select_lines(self, data: Mapping[str, str]) -> Changes:
        """Take the data of the ConfigMap; what is known of versions that went is dropped."""
        known = {**self._surplus, **self.lines}
        selection = select_lines(data, known, self._clock.monotonic())
        before, self.lines, self._surplus = self.lines, dict(selection.lines), selection.surplus
        malformed = {key: why for key, why in selection.malformed.items() if self.malformed.get(key) != why}
        self.malformed = selection.malformed
        malformed |= self.hints.select(data, self.lines)
        self._names = {wanted.line.image for wanted in self.lines.values()}
        self._wanted = {wanted.line.image for wanted in self.lines.values() if not wanted.line.idle}
        self._registries.keep(self._names)
        self._refused = {
            name for name in self._names if not self._allow_local and is_local_host(parse_reference(name).host)
        }
        current = {**self._surplus, **self.lines}
        self._keep_results(known, current)
        self._drop_old_versions({wanted.version for wanted in current.values()})
        self.refreshed = {key: refresh for key, refresh in self.refreshed.items() if key in current}
        for wanted in self.lines.values():
            if wanted.version in self.not_runnable and wanted.version not in self._attempts:
                # Known from before the agent's start: failed already, and tried at once.
                failed = wanted.line.pull.backoff_limit + 1
                message = self.not_runnable[wanted.version]
                self._attempts[wanted.version] = Attempts(failed, 0.0, "NotRunnable", message)
        changes = compare_lines(before, self.lines, malformed)
        if changes.added or changes.changed:
            # The last list may be older than the lines: nothing is pulled before the next check.
            self._current = False
        self._update_warm()
        return changes

    def _keep_results(self, known: Mapping[str, DesiredLine], current: Mapping[str, DesiredLine]) -> None:
        """What a pull brought holds for a new version that wants the same content, with other options."""
        for key in known.keys() & current.keys():
            old, new = known[key], current[key]
            if old.version != new.version and old.line.content == new.line.content:
                for results in (self.pulled, self.not_runnable):
                    if old.version in results:
                        results[new.version] = results[old.version]

    def _drop_old_versions(self, versions: set[str]) -> None:
        self.pulled = {version: digest for version, digest in self.pulled.items() if version in versions}
        self.not_runnable = {version: why for version, why in self.not_runnable.items() if version in versions}
        self._attempts = {version: attempts for version, attempts in self._attempts.items() if version in versions}
        namespaces = {wanted.line.warmimage.namespace for wanted in self.lines.values()}
        self._served = {lane: at for lane, at in self._served.items() if lane[0] in namespaces}

    def wants(self, image: str) -> bool:
        """Whether any line names the image, and is neither suspended nor purged."""
        return image in self._wanted

    def lacks(self, image: str) -> bool:
        """Whether the image is still to be pulled for a line."""
        return any(wanted.line.image == image for wanted in self._outstanding_lines())

    def all_lines(self) -> dict[str, Line]:
        """Every line that was read, also those beyond the limit, by key."""
        return {key: wanted.line for key, wanted in (*self._surplus.items(), *self.lines.items())}

    # --- images ---

    def unread_configs(self, images: Iterable[RuntimeImage], *, again: bool) -> list[str]:
        """IDs of the images of lines whose configuration is not known; see `RuntimeImages.unread`."""
        return self._images.unread(images, self._names, again=again)

    def replace_images(self, images: Iterable[RuntimeImage], configs: Mapping[str, ImageConfig | None]) -> list[str]:
        """Take the list of the runtime, and the configurations of `unread_configs`, by ID.

        Returns the warm images that another program removed.
        """
        listed = self._images.replace(images, configs)
        self._unreachable, self.checked, self._current = "", True, True
        now, removed, seldom = self._clock.monotonic(), set[str](), False
        for wanted in self.lines.values():
            # A purged image need not stay, and the agent may be removing this one.
            free = wanted.line.gives_up or self.removals.blocks(wanted.line.image)
            if wanted.version in self._warm and wanted.line.image not in listed and not free:
                attempts = self._attempts_of(wanted)
                seldom = seldom or not any(now - time < EVICTED_SECONDS for time in attempts.removed_at)
                until = time_of_day(self._clock, now + EVICTED_SECONDS)
                self._attempts[wanted.version] = after_removal(attempts, now, until)
                removed.add(wanted.line.image)
        # One image that is removed repeatedly has a wait of its own and shows little about the disk.
        if removed and (seldom or len(removed) > 1 or self.disk.on_probation):
            self.disk.lost_images()
        self._update_warm()
        return sorted(removed)

    def runtime_unreachable(self, message: str) -> None:
        """The runtime does not answer: no image is known to be present."""
        self._images.listed, self._unreachable, self.checked = None, message, True
        self._update_warm()

    @property
    def images(self) -> Images:
        """The last list of the runtime; empty while it does not answer."""
        return self._images.listed or {}

    @property
    def all_images(self) -> tuple[RuntimeImage, ...] | None:
        """The images that the runtime listed last, also those without a name; `None` while it does not answer."""
        return None if self._images.listed is None else self._images.all

    def unusable(self, name: str) -> Unusable | None:
        """See `RuntimeImages.problem`."""
        return self._images.problem(name)

    # --- pulls ---

    def schedule(self, parallel: int) -> Schedule:
        """The pulls to start now, recorded as running, and those to stop, recorded as stopping."""
        now = self._clock.monotonic()
        if self._images.listed is None or not self._current or self.disk.low or self.disk.seconds_until_start() > 0:
            return Schedule([], [])
        room = self.disk.room(self.running.values()).image_bytes
        pullable = self._pullable()
        outstanding = [wanted for wanted in pullable if wanted.version not in self._settled]
        held = self._registries.held(outstanding, self._attempts, self.running)
        lines = [wanted for wanted in pullable if wanted.line.image not in held]
        plan = schedule(lines, self._settled, self._attempts, self.running, now, parallel, self._served, room)
        if self.disk.on_probation:
            plan = Schedule(plan.start[:1], [])
        if plan.start:
            self.disk.pull_started()
        self.running |= {pull.image: Running(pull, now) for pull in plan.start}
        self._served |= {(namespace, pull.slow): now for pull in plan.start for namespace in pull.namespaces}
        self.removals.pulls_began((pull.image for pull in plan.start), now)
        self.running |= {image: replace(self.running[image], stopping=True) for image in plan.stop}
        return plan

    def seconds_until_due(self) -> float | None:
        """When the schedule may change by itself; `None` if it will not."""
        now = self._clock.monotonic()
        if (seconds := self.disk.seconds_until_start()) > 0:
            return seconds
        due = next_due(self._pullable(), self._settled, self._attempts, self.running.values(), now)
        times = [time for time in (due, self._registries.next_end()) if time is not None]
        times += self.hints.later(self._outstanding_lines()).values()
        return min(times) - now if times else None

    def is_stopping(self, image: str) -> bool:
        """Whether the pull of the image gives way to another."""
        return image in self.running and self.running[image].stopping

    def failures(self, pull: ImagePull) -> set[tuple[str, bool]]:
        """Why the lines of the pull are not warm and whether they count as failed; the log shows each change."""
        return {
            (attempts.reason, attempts.exhausted(wanted))
            for wanted in self._lines_of(pull)
            for attempts in [self._attempts_of(wanted)]
        }

    def attempts(self, pull: ImagePull) -> int:
        """How often the lines of the pull have failed, the most of any."""
        return max((self._attempts.get(version, NO_ATTEMPTS).failed for version in pull.versions), default=0)

    def pull_succeeded(self, pull: ImagePull, before: Images) -> list[str]:
        """Record a pull that the runtime reported as successful, after a check; returns the pulled digests.

        A line whose image is still not present has failed: it must not be pulled again at once, for ever.
        """
        digests = {
            wanted.version: pulled_digest(pull.image, before, self.images, wanted.line.digest)
            for wanted in self._lines_of(pull)
        }
        self._registries.answered(pull.image)
        problem = self.unusable(pull.image)
        if pull.image in self.images:
            self.pulled |= digests
            refreshed = (wanted.line for wanted in self._lines_of(pull) if wanted.line.refreshed_at)
            self.refreshed |= {line.key: line.refreshed_at for line in refreshed}
        if problem is None:
            self.not_runnable = {version: why for version, why in self.not_runnable.items() if version not in digests}
        self._update_warm()
        if problem is None:
            problem = Unusable("RuntimeError", "the runtime has pulled the image and does not list it in this version")
        self._count_failure(pull, problem.reason, problem.message)
        return sorted(filter(None, set(digests.values())))

    def record_brought(self, pull: ImagePull, before: Iterable[RuntimeImage], recorded: Collection[str]) -> None:
        """Record what a pull brought, after a check.

        `before` are the images of the runtime when it began, `recorded` the IDs of those that had a record then.
        """
        image, records = self.images.get(pull.image), self.removals.records
        if image is not None:
            lines = [line for line in self.all_lines().values() if line.image == pull.image]
            since = records.keys() - recorded
            self.removals.records = after_pull(records, pull.image, before, image, lines, since)

    def pull_failed(
        self,
        pull: ImagePull,
        reason: FailureReason,
        message: str,
        unusable: Mapping[ObjectKey, tuple[FailureReason, str]] = _NO_SECRETS,
        *,
        retry_after_seconds: float | None = None,
    ) -> None:
        """Record a failed pull; lines that are warm nevertheless stay warm.

        `unusable` are Secrets without credentials: if the registry refused, they are why their own lines failed. Failed
        `PROVIDERS` are why the other lines did.
        `retry_after_seconds`: how long the registry wants to be left alone; `None` if that is not known.
        """
        if reason == "RateLimited":
            self._registries.refused(pull, retry_after_seconds)
        else:
            self._registries.answered(pull.image)
        self._count_failure(pull, reason, message, unusable)
        if reason == "DiskFull":
            self.disk.lost_images()

    def pull_progressed(self, image: str, downloaded_bytes: int) -> None:
        """Record what a running pull has downloaded so far."""
        if image in self.running:
            self.running[image] = replace(self.running[image], downloaded_bytes=downloaded_bytes)

    def pull_ended(self, image: str) -> None:
        """Record the end of a pull, whatever its result: another one of the image may start."""
        self.running.pop(image, None)
        self.notes.pop(image, None)
        self._postponed.discard(image)

    def postpone(self, image: str) -> None:
        """Give up the slot of a pull that waits for something else than its runtime, until `resume` or `pull_ended`."""
        self.running.pop(image, None)
        self._postponed.add(image)

    def resume(self, pull: ImagePull, parallel: int) -> bool:
        """Take a slot again, if a pull of the image may start; no more than twice `parallel` pulls then run."""
        now, fits = self._clock.monotonic(), pull.size_bytes <= self.disk.room(self.running.values()).image_bytes
        if not fits or self.disk.blocked() or self.removals.blocks(pull.image) or len(self.running) >= 2 * parallel:
            return False
        self._postponed.discard(pull.image)
        self.running[pull.image] = Running(pull, now)
        self.removals.pulls_began((pull.image,), now)
        return True

    def outstanding_versions(self, pull: ImagePull) -> list[str]:
        """The lines that the pull is to make warm."""
        return [wanted.version for wanted in self._lines_of(pull) if wanted.version not in self._settled]

    # --- Secrets ---

    def secrets(self) -> set[ObjectKey]:
        """The Secrets of all lines."""
        return {key for wanted in self.lines.values() for key in wanted.secrets}

    def secrets_of(self, pull: ImagePull) -> tuple[ObjectKey, ...]:
        """The Secrets for a pull: of the lines that need it, so that no namespace pulls by the Secret of another.

        Once one of them has brought the image, it is there for all.
        """
        outstanding = [wanted for wanted in self._lines_of(pull) if wanted.version not in self._settled]
        return tuple(dict.fromkeys(key for wanted in outstanding for key in wanted.secrets))

    def refused_secrets(self) -> set[ObjectKey]:
        """The Secrets of lines that a registry refused."""
        return {key for wanted in self._refused_lines() for key in wanted.secrets}

    def retry_lines(self, chosen: Callable[[DesiredLine], bool]) -> None:
        """There may be other credentials: the chosen lines that a registry refused are due now."""
        for wanted in self._refused_lines():
            if chosen(wanted):
                self._attempts[wanted.version] = replace(self._attempts_of(wanted), due_at=0.0)

    def _refused_lines(self) -> list[DesiredLine]:
        return [wanted for wanted in self._outstanding_lines() if self._attempts_of(wanted).reason in REFUSALS]

    # --- reports ---

    def reports(self) -> dict[str, LineReport] | None:
        """The report of every line, by key; `None` while the configuration of a listed image is still to be read."""
        if not self._images.is_read(self._names):
            return None
        room, later = self.disk.room(self.running.values()), self.hints.later(self._outstanding_lines())
        reports = {key: self._report(wanted, room) for key, wanted in self.lines.items()}
        for key, report in reports.items():
            image = self.lines[key].line.image
            if report.state == "waiting" and not report.message and image in later:
                turn = time_of_day(self._clock, later[image])
                reports[key] = replace(report, message=f"other nodes read the registry first; this one does at {turn}")
            elif report.state == "pulling" and image in self.notes:
                reports[key] = replace(report, message=self.notes[image])
        # Without messages: there may be hundreds, and the reason is enough.
        surplus = sorted(self._surplus.items())[:_SURPLUS_MAX]
        return reports | {key: LineReport(wanted.version, "failed", "TooManyLines") for key, wanted in surplus}

    def _report(self, wanted: DesiredLine, room: Room) -> LineReport:
        if self._images.listed is None:
            return LineReport(wanted.version, "waiting", "RuntimeError", message=self._unreachable)
        running = self.running.get(wanted.line.image)
        attempts, warm = self._attempts_of(wanted), wanted.version in self._warm
        pulling = running is not None and wanted.version in running.pull.versions
        if wanted.line.gives_up:
            message = self.removals.purge_message(self.images.get(wanted.line.image))
            return LineReport(wanted.version, "warm" if warm else "waiting", message=message)
        if not warm and wanted.line.image in self._refused:
            message = "the image's host is the node itself or link-local; nodes do not pull from there"
            return LineReport(wanted.version, "failed", "Refused", message=message)
        if not warm and not pulling and not wanted.line.idle and not attempts.exhausted(wanted):
            size_bytes = image_bytes([needing_space(wanted, self.images)])
            reason, message = self.disk.blocked() or ("DiskFull", room.refusal(size_bytes))
            if message:
                return LineReport(wanted.version, "failed", reason, attempts.failed, message)
        reported = line_report(wanted, attempts, warm=warm, pulling=pulling, moved=replaced_digest(wanted, self.pulled))
        limited = self._registries.waiting(wanted.line.image)
        if limited and not warm and not pulling and not wanted.line.idle and reported.reason in ("", "RateLimited"):
            message = f"{limited}: {reported.message}" if reported.message else limited
            return replace(reported, reason="RateLimited", message=clean_message(message))
        return reported

    def _outstanding_lines(self) -> Iterable[DesiredLine]:
        return (
            wanted for wanted in self.lines.values() if wanted.version not in self._settled and not wanted.line.idle
        )

    def _pullable(self) -> list[DesiredLine]:
        without = self._refused | self._postponed | self.hints.later(self._outstanding_lines()).keys()
        return [
            needing_space(wanted, self.images)
            for wanted in self.lines.values()
            if wanted.line.image not in without and not wanted.line.idle and not self.removals.blocks(wanted.line.image)
        ]

    def _update_warm(self) -> None:
        usable = self._images.usable()
        # An image of the same ID may be whole, so the result of the line's own pull outweighs presence.
        self._warm = {
            wanted.version
            for wanted in self.lines.values()
            if wanted.version not in self.not_runnable and is_warm(wanted, self.images, usable, self.pulled)
        }
        self._settled = {
            wanted.version
            for wanted in self.lines.values()
            if wanted.version in self._warm and wanted.line.refreshed_at in ("", self.refreshed.get(wanted.line.key))
        }
        for version in self._settled & self._attempts.keys():
            self._attempts[version] = Attempts(removed_at=self._attempts[version].removed_at)

    def _count_failure(
        self,
        pull: ImagePull,
        reason: FailureReason,
        message: str,
        unusable: Mapping[ObjectKey, tuple[FailureReason, str]] = _NO_SECRETS,
    ) -> None:
        now, random = self._clock.monotonic(), self._clock.random()
        running = self.running.get(pull.image)
        slow = running is not None and now >= running.began + SLOW_SECONDS
        for wanted in self._lines_of(pull):
            if wanted.version not in self._settled:
                sources = (*wanted.secrets, PROVIDERS) if reason in REFUSALS else ()
                own = [unusable[key] for key in sources if key in unusable]
                why = own[0] if own else (reason, message)
                attempts = with_failure(self._attempts_of(wanted), wanted, *why, now, random, slow=slow)
                self._attempts[wanted.version] = attempts
                if reason == "NotRunnable":
                    self.not_runnable[wanted.version] = message

    def _attempts_of(self, wanted: DesiredLine) -> Attempts:
        return self._attempts.get(wanted.version, NO_ATTEMPTS)

    def _lines_of(self, pull: ImagePull) -> list[DesiredLine]:
        """The lines that were wanted when the pull began and still are, in the same version."""
        return [wanted for wanted in self.lines.values() if wanted.version in pull.versions]
