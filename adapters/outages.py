"""When is it logged that objects are not followed? Once per outage, every five minutes while it lasts, once at its end.

One outage breaks the watches of all kinds within a moment, so they share an object of this.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

import structlog

from adapters.kubernetes.client import KubernetesError, Refused

__all__ = ["Interruptions"]

_log = structlog.get_logger()

_AGAIN_SECONDS: Final = 300.0
# What comes back sooner, as a watch that opens and breaks by turns, is not told each time.
_SOON_SECONDS: Final = 30.0


class Interruptions:
    """All followers of one process."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        """Seconds."""
        self._interrupted: set[Hashable] = set()
        self._since = 0.0
        self._told: dict[int, float] = {}
        """When which problem was told last: the status of a refusal, which only a person ends; 0 for all others."""

    def lasts(self, follower: Hashable, kind: str, problem: KubernetesError) -> None:
        """`follower` could not go on; `kind` is what it follows."""
        now = self.monotonic()
        if not self._interrupted:
            self._since = now
        self._interrupted.add(follower)
        about = problem.status if isinstance(problem, Refused) else 0
        told = self._told.get(about)
        if told is not None and now - told < (_AGAIN_SECONDS if told >= self._since else _SOON_SECONDS):
            return
        self._told[about] = now
        _log.warning("watch-interrupted", kind=kind, problem=str(problem), hint=_hint(problem.status))

    def over(self, follower: Hashable) -> None:
        """`follower` goes on."""
        if follower not in self._interrupted:
            return
        self._interrupted.remove(follower)
        if not self._interrupted and max(self._told.values()) >= self._since:
            _log.info("watch-interrupted-over", seconds=round(self.monotonic() - self._since))


def _hint(status: int) -> str:
    return {
        0: "is the API server up, and does KUBECONFIG name it?",
        401: "check the token of the ServiceAccount",
        403: "check the ClusterRole of warmhook",
        404: "install the CRDs: kubectl apply -f knative/base/crds",
    }.get(status, "")
