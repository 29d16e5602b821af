"""Log an outage once when it begins, every five minutes while it lasts, and once when it is over."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

from adapters.clock import Clock
from adapters.kubernetes.errors import KubernetesError, Refused
from adapters.logs import Log, get_logger

_log = get_logger()

_AGAIN_SECONDS: Final = 300.0
# An outage that returns sooner, such as a watch that opens and breaks in turns, is not logged each time.
_SOON_SECONDS: Final = 30.0


class OutageLog:
    """The outages of one thing, such as the API server. The event `NAME` begins an outage, `NAME-over` ends it."""

    def __init__(self, log: Log, clock: Clock, event: str) -> None:
        self._log, self._clock, self._event = log, clock, event
        self._since: float | None = None
        self._logged_at = 0.0

    def failed(self, **fields: Any) -> None:
        """Log a failed attempt, if it is the first or five minutes after the last line."""
        now = self._clock.monotonic()
        if self._since is None:
            self._since = now
        elif now - self._logged_at < _AGAIN_SECONDS:
            return
        self._logged_at = now
        self._log.warning(self._event, seconds=round(now - self._since), **fields)

    def recovered(self) -> None:
        """Log the end of the outage, if there was one."""
        if self._since is not None:
            self._log.info(f"{self._event}-over", seconds=round(self._clock.monotonic() - self._since))
            self._since = None


class WatchOutages:
    """The outages of all watches of one process: one outage breaks the watches of all kinds at about the same time."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        """Returns seconds."""
        self._interrupted: dict[Hashable, str] = {}
        """By follower what a person must do, or nothing where waiting helps."""
        self._since = 0.0
        self._logged: dict[int, float] = {}
        """When each problem was logged last, by the status of a rejection, which a person must fix; 0 for others."""

    @property
    def seconds(self) -> float:
        """For how long a watch has been interrupted; 0 if none is."""
        return self.monotonic() - self._since if self._interrupted else 0.0

    @property
    def refusal(self) -> str:
        """What the API server refuses to a watch that is interrupted, with what to do; empty if it refuses nothing."""
        return next(filter(None, self._interrupted.values()), "")

    def failed(self, follower: Hashable, kind: str, problem: KubernetesError) -> None:
        """The watch of `follower` broke; `kind` is the kind that it watches."""
        now = self.monotonic()
        if not self._interrupted:
            self._since = now
        is_refused = isinstance(problem, Refused)
        self._interrupted[follower] = f"{kind}: {problem.status}; {_hint(problem.status)}" if is_refused else ""
        about = problem.status if is_refused else 0
        last = self._logged.get(about)
        if last is not None and now - last < (_AGAIN_SECONDS if last >= self._since else _SOON_SECONDS):
            return
        self._logged[about] = now
        _log.warning("watch-interrupted", kind=kind, problem=str(problem), hint=_hint(problem.status))

    def recovered(self, follower: Hashable) -> None:
        """The watch of `follower` works again."""
        if follower not in self._interrupted:
            return
        del self._interrupted[follower]
        if not self._interrupted and max(self._logged.values()) >= self._since:
            _log.info("watch-interrupted-over", seconds=round(self.monotonic() - self._since))


@dataclass(frozen=True, slots=True, eq=False)
class WatchOutage:
    """The outages of one watch."""

    kind: str
    outages: WatchOutages

    def failed(self, problem: KubernetesError, *, reached: bool) -> None:
        """A request failed; `reached` is whether any list succeeded before."""
        # `wait_for_api_server` logs a server that never answered.
        if reached or problem.status:
            self.outages.failed(self, self.kind, problem)

    def recovered(self) -> None:
        """The watch works."""
        self.outages.recovered(self)


def _hint(status: int) -> str:
    return {
        0: "check that the API server is up and that KUBECONFIG names it",
        401: "check the token of the ServiceAccount",
        403: "check the ClusterRole of warmhook",
        404: "install the CRDs: kubectl apply -f knative/base/crds",
    }.get(status, "")
