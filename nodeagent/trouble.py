"""Log what lasts: once when it begins, every five minutes while it lasts, once when it is over."""

from __future__ import annotations

from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from nodeagent.clock import Clock

__all__ = ["Trouble"]

_AGAIN_SECONDS: Final = 300.0


class Trouble:
    """One kind of trouble: the API server, the runtime, the Node."""

    def __init__(self, log: FilteringBoundLogger, clock: Clock, event: str) -> None:
        self._log, self._clock, self._event = log, clock, event
        self._since: float | None = None
        self._told_at = 0.0

    def lasts(self, **fields: Any) -> None:
        """It did not work."""
        now = self._clock.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._told_at < _AGAIN_SECONDS:
            return
        self._told_at = now
        self._log.warning(self._event, seconds=round(now - self._since), **fields)

    def over(self) -> None:
        """It works."""
        if self._since is not None:
            self._log.info(f"{self._event}-over", seconds=round(self._clock.monotonic() - self._since))
            self._since = None
