"""Start the pulls that are due, stop those that give way or are no longer wanted, and record how each ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from nodeagent.checks import Checks
from nodeagent.context import Context
from nodeagent.node_state import NodeState
from nodeagent.peers.fetches import Fetches, Slot
from nodeagent.pull_attempt import Failure, pull_image
from nodeagent.pull_credentials import NOTHING_FOUND, Found, PullCredentials
from warmhook.ports import Credentials, RuntimeImage, RuntimeUnreachable
from warmhook.pull_failures import REFUSALS
from warmhook.pull_queue import ImagePull

_IDLE_SECONDS: Final = 60.0
_LIST_SECONDS: Final = 15.0
# What a server of tokens may answer to some credentials and not to others.
_OF_CREDENTIALS: Final = REFUSALS | {"Network", "RuntimeError"}
# After a failure that is no refusal, other credentials are tried for so long: the network may be down.
_OTHERS_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of a pull."""

    result: str
    reason: str = ""
    message: str = ""
    digests: str = ""
    size_bytes: int = 0
    """Of an image that was not present before; 0 for others."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """More about it for the log."""


_CANCELLED: Final = _Outcome("cancelled")
_WITHOUT_SLOT: Final = _Outcome("postponed")
_WAITING_MAX: Final = 16
"""Pulls that wait for other nodes without a slot; each keeps a few connections."""


class ImagePuller:
    """The pulls of one node."""

    def __init__(
        self,
        context: Context,
        state: NodeState,
        checks: Checks,
        credentials: PullCredentials,
        fetches: Fetches | None,
        *,
        started: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        """`started` is called after pulls may have started, `ended` after each pull.

        `fetches`: `None` if this node gets nothing from others.
        """
        self._context, self._state, self._checks, self._credentials = context, state, checks, credentials
        self._fetches = fetches
        self._clock, self._log = context.clock, context.log
        self._started, self._ended = started, ended
        self._pulling: dict[str, asyncio.Task[None]] = {}
        self.wake = asyncio.Event()
        """Set if other pulls than before may be due."""

    async def run(self) -> None:
        """Pull until cancelled; cancelling cancels the pulls."""
        async with asyncio.TaskGroup() as group:
            while True:
                for image, task in self._pulling.items():
                    if not self._state.wants(image) and not task.cancelling():
                        task.cancel()
                plan = self._state.schedule(self._context.settings.parallel_pulls)
                for image in plan.stop:
                    self._pulling[image].cancel()
                for pull in plan.start:
                    task = group.create_task(self._pull(pull), name=f"pull {pull.image}")
                    self._pulling[pull.image] = task
                    # Not in the task: a task that is cancelled before its first step runs no code.
                    task.add_done_callback(lambda _task, image=pull.image: self._pull_ended(image))  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
                self._started()
                due = self._state.seconds_until_due()
                await self._clock.wait(self.wake, _IDLE_SECONDS if due is None else min(due, _IDLE_SECONDS))

    async def _pull(self, pull: ImagePull) -> None:
        found = await self._find_credentials(pull)
        if found is None:
            return
        began, attempts = self._clock.monotonic(), self._state.attempts(pull) + 1
        failures, outcome = self._state.failures(pull), _CANCELLED
        try:
            outcome = await self._prepare_and_pull(pull, found)
        finally:
            seconds = self._clock.monotonic() - began
            if outcome is _CANCELLED and self._state.is_stopping(pull.image):
                message = f"stopped after {seconds:.0f} s because other images had no slot or no space"
                self._state.pull_failed(pull, "Timeout", message)
                outcome = _Outcome("failed", "Timeout", message)
            # A failed line is retried for as long as it is wanted; the same failure is logged once.
            if outcome is not _WITHOUT_SLOT:
                self._context.metrics.pull(outcome.result, outcome.reason, seconds, outcome.size_bytes)
                if not outcome.message or self._state.failures(pull) != failures:
                    self._log_pull(pull, outcome, attempts, seconds)

    async def _find_credentials(self, pull: ImagePull) -> Found | None:
        """`None` if the pull must wait for them without a slot; it is due again when they are there."""
        give_up_slot = partial(self._give_up_slot, pull.image)
        try:
            return await self._credentials.find(pull.image, self._state.secrets_of(pull), give_up_slot)
        except Exception:
            self._log.exception("credentials-crashed", image=pull.image)
            return NOTHING_FOUND

    async def _prepare_and_pull(self, pull: ImagePull, found: Found) -> _Outcome:
        """Fetch from other nodes what they have, then pull; `_WITHOUT_SLOT` if the pull is to be started again."""
        if self._fetches is None:
            return await self._outcome(pull, found)
        versions = self._state.outstanding_versions(pull)
        prepared = await self._fetches.before_pull(pull, versions, found.credentials, self._slot(pull))
        if prepared is None:
            return _WITHOUT_SLOT
        if prepared.message:
            self._state.notes[pull.image] = prepared.message
        began = self._clock.monotonic()
        async with self._fetches.pulling(prepared):
            outcome = await self._outcome(pull, found)
        seconds = self._clock.monotonic() - began
        if outcome.result == "pulled":
            self._fetches.pulled(prepared, versions, seconds)
        return replace(outcome, fields=prepared.log_fields(seconds))

    def _slot(self, pull: ImagePull) -> Slot:
        def give_up() -> bool:
            if len(self._pulling) - len(self._state.running) >= _WAITING_MAX:
                return False
            self._give_up_slot(pull.image)
            return True

        return Slot(
            give_up,
            take=lambda: self._state.resume(pull, self._context.settings.parallel_pulls),
            progressed=partial(self._state.pull_progressed, pull.image),
        )

    def _give_up_slot(self, image: str) -> None:
        self._state.postpone(image)
        self.wake.set()

    async def _outcome(self, pull: ImagePull, found: Found) -> _Outcome:
        """Pull, check the runtime and record the result."""
        recorded = set(self._state.removals.records)
        before, listed = self._state.images, await self._listed()
        failure = await self._pull_with(pull, found.credentials)
        if failure is not None:
            if failure.reason in REFUSALS:
                self._credentials.refused(pull.image, self._state.secrets_of(pull))
            after = failure.retry_after_seconds
            self._state.pull_failed(pull, failure.reason, failure.message, found.unusable, retry_after_seconds=after)
            # An image that could not be unpacked may have taken the name of one that could.
            if failure.unreachable or failure.reason == "NotRunnable":
                self._checks.wake.set()
            return _Outcome("failed", failure.reason, failure.message)
        if not await self._checks.check():
            message = "the runtime stopped answering when it had pulled"
            self._state.pull_failed(pull, "RuntimeError", message)
            return _Outcome("failed", "RuntimeError", message)
        digests = ",".join(self._state.pull_succeeded(pull, before))
        if listed is not None:
            self._state.record_brought(pull, listed, recorded)
        image = self._state.images.get(pull.image)
        if image is None:
            return _Outcome("failed", "RuntimeError", "the runtime has pulled the image and does not list it", digests)
        if (unusable := self._state.unusable(pull.image)) is not None:
            return _Outcome("failed", unusable.reason, unusable.message, digests)
        new = image.id not in {known.id for known in before.values()}
        return _Outcome("pulled", digests=digests, size_bytes=image.size_bytes if new else 0)

    async def _pull_with(self, pull: ImagePull, found: tuple[Credentials, ...]) -> Failure | None:
        """Pull with each of the credentials, then without any, until one works or none can help.

        Those of one namespace do not keep the others from being tried, whatever their failure is.
        """
        began, last = self._clock.monotonic(), None
        fetched_bytes = self._state.running[pull.image].downloaded_bytes

        def progressed(downloaded_bytes: int) -> None:
            self._state.pull_progressed(pull.image, fetched_bytes + downloaded_bytes)

        for credentials in (*found, None):
            if credentials is None and last is not None and last.reason not in REFUSALS:
                break
            failure = await pull_image(self._context, pull, credentials, progressed)
            if failure is None or failure.unreachable or failure.reason not in _OF_CREDENTIALS:
                return failure
            if credentials is not None or last is None:
                last = failure
            limit_seconds = pull.timeout_seconds if failure.reason in REFUSALS else _OTHERS_SECONDS
            if self._clock.monotonic() - began >= limit_seconds:
                break
        return last

    async def _listed(self) -> list[RuntimeImage] | None:
        """The images of the runtime now; `None` if it does not answer. The last check may be a minute old."""
        try:
            async with asyncio.timeout(_LIST_SECONDS):
                return await self._context.runtime.images()
        except (TimeoutError, RuntimeUnreachable):
            return None

    def _log_pull(self, pull: ImagePull, outcome: _Outcome, attempts: int, seconds: float) -> None:
        fields = {"message": outcome.message, **outcome.fields} if outcome.message else outcome.fields
        (self._log.warning if outcome.message else self._log.info)(
            "pull",
            image=pull.image,
            digest=outcome.digests,
            result=outcome.result,
            reason=outcome.reason,
            attempts=attempts,
            seconds=round(seconds, 3),
            **fields,
        )

    def _pull_ended(self, image: str) -> None:
        self._pulling.pop(image, None)
        self._state.pull_ended(image)
        self._ended()
