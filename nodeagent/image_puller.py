"""Start the pulls that are due, stop those that give way or are no longer wanted, and note how each ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from adapters.clock import Clock
from adapters.logs import Log
from nodeagent.checks import Checks
from nodeagent.metrics import Metrics
from nodeagent.node_state import NodeState
from nodeagent.pulls import pull_image
from warmhook.ports import Runtime
from warmhook.pull_queue import ImagePull

__all__ = ["PullQueue"]

_IDLE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a pull ended."""

    result: str
    reason: str = ""
    message: str = ""
    digests: str = ""
    size_bytes: int = 0
    """Of an image that was not there before."""


_CANCELLED: Final = _Outcome("cancelled")


class PullQueue:
    """The pulls of one node."""

    def __init__(
        self,
        parallel: int,
        runtime: Runtime,
        state: NodeState,
        checks: Checks,
        *,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        started: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        """At most twice `parallel` pulls; `started` is called after pulls may have started, `ended` after each."""
        self._parallel, self._runtime, self._state, self._checks = parallel, runtime, state, checks
        self._clock, self._log, self._metrics = clock, log, metrics
        self._started, self._ended = started, ended
        self._pulling: dict[str, asyncio.Task[None]] = {}
        self.wake = asyncio.Event()
        """Set when other pulls than before may be due."""

    async def run(self) -> None:
        """Pull for ever; cancelling cancels the pulls."""
        async with asyncio.TaskGroup() as group:
            while True:
                for image, task in self._pulling.items():
                    if not self._state.wants(image) and not task.cancelling():
                        task.cancel()
                plan = self._state.schedule(self._parallel)
                for image in plan.stop:
                    self._pulling[image].cancel()
                for pull in plan.start:
                    task = group.create_task(self._pull(pull), name=f"pull {pull.image}")
                    self._pulling[pull.image] = task
                    # Not inside the task: one that is cancelled before its first step runs nothing of its own.
                    task.add_done_callback(lambda _task, image=pull.image: self._pull_ended(image))  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
                self._started()
                due = self._state.seconds_until_due()
                await self._clock.wait(self.wake, _IDLE_SECONDS if due is None else min(due, _IDLE_SECONDS))

    async def _pull(self, pull: ImagePull) -> None:
        began, attempts = self._clock.monotonic(), self._state.attempts(pull) + 1
        verdict, outcome = self._state.verdict(pull), _CANCELLED
        try:
            outcome = await self._outcome(pull)
        finally:
            seconds = self._clock.monotonic() - began
            if outcome is _CANCELLED and self._state.gives_way(pull.image):
                message = f"stopped after {seconds:.0f} s because other images had no slot"
                self._state.pull_failed(pull, "Timeout", message)
                outcome = _Outcome("failed", "Timeout", message)
            self._metrics.pull(outcome.result, outcome.reason, seconds, outcome.size_bytes)
            # A failed line is tried for as long as it is wanted; that it fails as before is no news.
            if not outcome.message or self._state.verdict(pull) != verdict:
                self._log_pull(pull, outcome, attempts, seconds)

    async def _outcome(self, pull: ImagePull) -> _Outcome:
        """Pull, ask the runtime what it has and note how it went."""
        before = self._state.images
        failure = await pull_image(self._runtime, pull, self._clock, self._log)
        if failure is not None:
            self._state.pull_failed(pull, failure.reason, failure.message)
            # What could not be unpacked may have taken the name of what could.
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
        new = image.id not in {it.id for it in before.values()}
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
