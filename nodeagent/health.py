"""Decide what the probes of the agent answer: whether it works, and whether it is ready."""

from __future__ import annotations

from typing import Final

from adapters.clock import Clock

# A check ends within its interval and the runtime's time limit, successfully or not.
_SPARE_SECONDS: Final = 120.0


class Health:
    """The health of one agent."""

    def __init__(self, clock: Clock, check_seconds: float) -> None:
        self._clock, self._longest = clock, 1.05 * check_seconds + _SPARE_SECONDS
        self._checked_at = clock.monotonic()
        self._runtime_up = False
        self.lines_known = False
        """Whether the agent knows the lines of its node, from the API server or from its disk."""

    def checked(self, *, runtime_up: bool) -> None:
        """A check of the runtime ended; `runtime_up` is whether it answered."""
        self._checked_at, self._runtime_up = self._clock.monotonic(), runtime_up

    def sick(self) -> str:
        """Why the agent should be restarted; empty if it works."""
        seconds = self._clock.monotonic() - self._checked_at
        return f"the runtime was last asked {seconds:.0f} s ago" if seconds > self._longest else ""

    def unready(self) -> str:
        """Why the agent cannot do its work; empty if it can."""
        if sick := self.sick():
            return sick
        if not self._runtime_up:
            return "the runtime does not answer"
        return "" if self.lines_known else "it is not known what this node should hold"
