"""Start the pulls that are due, stop those that give way or are no longer wanted, and record how each ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from nodeagent.checks import Checks
from nodeagent.context import Context
from nodeagent.node_state import NodeState
from nodeagent.pull_attempt import pull_image
from warmhook.pull_queue import ImagePull

_IDLE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of a pull."""

    result: str
    reason: str = ""
    message: str = ""
    digests: str = ""
    size_bytes: int = 0
    """Of an image that was not present before; 0 for others."""


_CANCELLED: Final = _Outcome("cancelled")


class ImagePuller:
    """The pulls of one node."""

    def __init__(
        self,
        context: Context,
        state: NodeState,
        checks: Checks,
        *,
        started: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        """`started` is called after pulls may have started, `ended` after each pull."""
        self._context, self._state, self._checks = context, state, checks
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
        began, attempts = self._clock.monotonic(), self._state.attempts(pull) + 1
        failures, outcome = self._state.failures(pull), _CANCELLED
        try:
            outcome = await self._outcome(pull)
        finally:
            seconds = self._clock.monotonic() - began
            if outcome is _CANCELLED and self._state.is_stopping(pull.image):
                message = f"stopped after {seconds:.0f} s because other images had no slot"
                self._state.pull_failed(pull, "Timeout", message)
                outcome = _Outcome("failed", "Timeout", message)
            self._context.metrics.pull(outcome.result, outcome.reason, seconds, outcome.size_bytes)
            # A failed line is retried for as long as it is wanted; the same failure is logged once.
            if not outcome.message or self._state.failures(pull) != failures:
                self._log_pull(pull, outcome, attempts, seconds)

    async def _outcome(self, pull: ImagePull) -> _Outcome:
        """Pull, check the runtime and record the result."""
        before = self._state.images
        progressed = partial(self._state.pull_progressed, pull.image)
        failure = await pull_image(self._context, pull, progressed)
        if failure is not None:
            self._state.pull_failed(pull, failure.reason, failure.message)
            # An image that could not be unpacked may have taken the name of one that could.
            if failure.unreachable or failure.reason == "NotRunnable":
                self._checks.wake.set()
            return _Outcome("failed", failure.reason, failure.message)
        if not await self._checks.check():
            message = "the runtime stopped answering when it had pulled"
            self._state.pull_failed(pull, "RuntimeError", message)
            return _Outcome("failed", "RuntimeError", message)
        digests = ",".join(self._state.pull_succeeded(pull, before))
        image = self._state.images.get(pull.image)
        if image is None:
            return _Outcome("failed", "RuntimeError", "the runtime has pulled the image and does not list it", digests)
        if (unusable := self._state.unusable(pull.image)) is not None:
            return _Outcome("failed", unusable.reason, unusable.message, digests)
        new = image.id not in {known.id for known in before.values()}
        return _Outcome("pulled", digests=digests, size_bytes=image.size_bytes if new else 0)

    def _log_pull(self, pull: ImagePull, outcome: _Outcome, attempts: int, seconds: float) -> None:
        fields = {"message": outcome.message} if outcome.message else {}
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
