"""Remove images that nobody wants any more from the runtime, after two looks at what uses them that agree."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from adapters.outages import OutageLog
from nodeagent.checks import Checks
from nodeagent.context import Context
from nodeagent.image_use import LOOK_SECONDS, Look, UseUnknown, look_at_cluster, look_at_images, look_at_runtime
from nodeagent.node_state import NodeState
from nodeagent.removal_records import RecordFile
from warmhook.node_lines import Line
from warmhook.node_report import clean_message
from warmhook.ports import RuntimeImage, RuntimeUnreachable
from warmhook.removals import (
    KEPT_BECAUSE,
    TWICE_SECONDS,
    Decisions,
    Demand,
    KeepReason,
    Use,
    after_lines,
    after_list,
    decide,
    repositories,
)

# A WarmImage is deleted for many nodes at once; their agents do not ask the API server at once.
_SPREAD_SECONDS: Final = 30.0
# The interval of looks at images that something keeps.
_AGAIN_SECONDS: Final = 600.0
# A look that began earlier decides about no further removal. The two parts of a look take half as long each at most.
_FRESH_SECONDS: Final = 2 * LOOK_SECONDS
_REMOVE_SECONDS: Final = 150.0
_FAILED_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An image that nothing keeps as far as the agent knows without a look."""

    look_at: float
    """Monotonic seconds."""
    free_since: float | None = None
    """The time of the first look that found nothing; `None` before it."""
    kept: KeepReason | None = None
    """What the last look found."""


class Removals:
    """The removals of one node."""

    def __init__(self, context: Context, state: NodeState, checks: Checks, ended: Callable[[], None]) -> None:
        """`ended` is called after each removal."""
        settings = context.settings
        self._context, self._checks, self._ended = context, checks, ended
        self._state, self._known = state, state.removals
        self._clock, self._log = context.clock, context.log
        self._file = RecordFile(settings.state_dir, settings.node, self._log)
        self._known.records = self._saved = self._file.load()
        self._save_outage = OutageLog(self._log, self._clock, "removals-not-written")
        self._lines: Mapping[str, Line] = {}
        """The last lines, to see which went."""
        self._abandoned: set[str] = set()
        """IDs of images of lines with `Delete` that went."""
        self._candidates: dict[str, _Candidate] = {}
        self._logged: dict[str, KeepReason] = {}
        self._unknown = ""
        self.wake = asyncio.Event()
        """Set if lines, images or pulls changed."""

    async def run(self) -> None:
        """Remove until cancelled."""
        while True:
            try:
                self._update()
                if await self.save():
                    await self._look_at_candidates()
                else:
                    self._postpone()
            except Exception:
                # An error in one of them must not stop the pulls and reports of the others.
                self._log.exception("removal-crashed")
                self._postpone()
            now = self._clock.monotonic()
            due = min((candidate.look_at for candidate in self._candidates.values()), default=now + _AGAIN_SECONDS)
            await self._clock.wait(self.wake, max(due - now, 1.0))

    async def save(self) -> bool:
        """Write the records, if they changed; returns whether they are on disk."""
        records = self._known.records
        if records == self._saved:
            return True
        try:
            await self._context.offload(self._file.save, records)
        except OSError as error:
            hint = "make the folder writable; until then no image is removed"
            self._save_outage.failed(folder=str(self._context.settings.state_dir), error=str(error), hint=hint)
            return False
        self._saved = records
        self._save_outage.recovered()
        return True

    # --- candidates ---

    def _update(self) -> None:
        """Bring records and candidates up to date with the lines and the images that the agent knows."""
        images, lines, now = self._state.all_images, self._state.all_lines(), self._clock.monotonic()
        if images is None:
            self._candidates = {}
            return
        self._known.records = after_lines(after_list(self._known.records, images), lines, images)
        decisions = decide(images, self._known.records, Demand(lines.values(), (), self._state.running.keys()), Use())
        first_look = now + _SPREAD_SECONDS * self._clock.random()
        self._candidates = {
            image_id: self._candidates.get(image_id) or _Candidate(first_look)
            for image_id, reason in decisions.items()
            if reason is None
        }
        self._note_abandoned(lines, decisions)
        self._publish(decisions)

    def _note_abandoned(self, lines: Mapping[str, Line], decisions: Decisions) -> None:
        """Note the images of the lines that said `Delete` and went."""
        went = [line for key, line in self._lines.items() if key not in lines and line.on_removal == "Delete"]
        purged = [line for line in lines.values() if line.gives_up]
        named = [self._state.images.get(line.image) for line in (*went, *purged)]
        recorded = {key for key, record in self._known.records.items() if "Delete" in record.lines.values()}
        abandoned = self._abandoned | recorded | {image.id for image in named if image is not None}
        self._abandoned = {image_id for image_id in abandoned if decisions.get(image_id, "Wanted") != "Wanted"}
        self._lines = lines

    def _publish(self, decisions: Decisions) -> None:
        """Log why images stay whose lines went, once per reason, and keep it for the report."""
        found = {image_id: candidate.kept for image_id, candidate in self._candidates.items()}
        self._known.kept = {**decisions, **found}
        named = {image.id: image for image in self._state.all_images or ()}
        for image_id in sorted(self._abandoned):
            reason = self._known.kept.get(image_id)
            if reason is not None and self._logged.get(image_id) != reason:
                self._log.info(
                    "image-kept", image=_name(named[image_id]), id=image_id, reason=reason, why=KEPT_BECAUSE[reason]
                )
                self._logged[image_id] = reason
        self._logged = {image_id: reason for image_id, reason in self._logged.items() if image_id in self._abandoned}

    # --- looks ---

    async def _look_at_candidates(self) -> None:
        now = self._clock.monotonic()
        if all(candidate.look_at > now for candidate in self._candidates.values()):
            return
        # A look costs the same for any number of images, so those that something keeps have no looks of their own.
        due = {
            image_id
            for image_id, candidate in self._candidates.items()
            if candidate.look_at <= now or candidate.kept is not None
        }
        try:
            found = await look_at_runtime(self._context)
            due -= self._note_kept(found, due)
            if due:
                found = await look_at_cluster(self._context, found)
                due -= self._note_kept(found, due)
        except UseUnknown as error:
            self._look_failed(error)
            return
        self._look_succeeded()
        ended = self._clock.monotonic()
        for image in [image for image in found.images if image.id in due]:
            since = self._candidates[image.id].free_since
            if since is None or self._known.pull_began_since(repositories(image), since):
                self._candidates[image.id] = _Candidate(ended + TWICE_SECONDS, ended)
            elif self._clock.monotonic() - now <= _FRESH_SECONDS:
                await self._remove(image, found)
        self._update()

    def _note_kept(self, found: Look, due: Iterable[str]) -> set[str]:
        """Put off the next look at images that something keeps, or that are gone; returns their IDs."""
        decisions, again = self._decide(found), self._clock.monotonic() + self._clock.jitter(_AGAIN_SECONDS)
        kept = {image_id for image_id in due if decisions.get(image_id, "NotPulledHere") is not None}
        self._candidates |= {image_id: _Candidate(again, None, decisions.get(image_id)) for image_id in kept}
        return kept

    def _decide(self, found: Look) -> Decisions:
        """By what the look found and what the agent knows now: lines may have come since."""
        lines = (*found.demand.lines, *self._state.all_lines().values())
        demand = replace(found.demand, lines=lines, pulling=self._state.running.keys())
        return decide(found.images, self._known.records, demand, found.use)

    def _look_failed(self, error: UseUnknown) -> None:
        self._postpone()
        if error.what != self._unknown:
            self._log.warning("removals-held", reason=error.what, error=clean_message(str(error)), hint=error.hint)
            self._unknown = error.what

    def _postpone(self) -> None:
        again = self._clock.monotonic() + self._clock.jitter(_AGAIN_SECONDS)
        self._candidates = {image_id: _Candidate(again) for image_id in self._candidates}

    def _look_succeeded(self) -> None:
        if self._unknown:
            self._log.info("removals-held-over")
            self._unknown = ""

    # --- removal ---

    async def _remove(self, image: RuntimeImage, found: Look) -> None:
        """Remove one image with all of its names; no image of its repositories is pulled meanwhile."""
        began = self._clock.monotonic()
        self._known.removing = repositories(image)
        try:
            # A pull for another repository may have given it a name since the look.
            if self._decide(await look_at_images(self._context, found)).get(image.id, "NotPulledHere") is not None:
                self._candidates[image.id] = _Candidate(began)
                return
            reason = self._reason(image)
            error = await self._removal_error(image)
        except UseUnknown as unknown:
            self._look_failed(unknown)
            return
        finally:
            self._known.removing = set()
            self._ended()
        result = "failed" if error else "removed"
        (self._log.warning if error else self._log.info)(
            "removal",
            image=_name(image),
            id=image.id,
            result=result,
            reason=reason,
            seconds=round(self._clock.monotonic() - began, 3),
            **({"error": error} if error else {}),
        )
        self._context.metrics.removal(result)
        self._candidates[image.id] = _Candidate(began + self._clock.jitter(_FAILED_SECONDS))

    def _reason(self, image: RuntimeImage) -> str:
        lines = self._state.all_lines()
        present = [lines[key] for key in self._known.records[image.id].lines if key in lines]
        if any(line.gives_up for line in present):
            return "Purged"
        return "TagMoved" if present else "NotWanted"

    async def _removal_error(self, image: RuntimeImage) -> str:
        """Remove the image and look whether it is gone; returns what went wrong, or an empty text."""
        try:
            async with asyncio.timeout(_REMOVE_SECONDS):
                # By its ID: a tag may have another image by now, and every runtime removes all names of an ID.
                await self._context.runtime.remove(image.id)
        except TimeoutError:
            return f"no answer within {_REMOVE_SECONDS:g} s"
        except RuntimeUnreachable as error:
            return clean_message(str(error))
        if not await self._checks.check():
            return "the runtime stopped answering"
        left = any(listed.id == image.id for listed in self._state.all_images or ())
        return "the runtime still lists the image" if left else ""


def _name(image: RuntimeImage) -> str:
    return next(iter((*image.tags, *image.digests)), "")
