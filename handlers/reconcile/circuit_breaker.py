"""Tell the trouble of one policy from that of the API server: a circuit breaker for each policy.

A webhook of one namespace that fails or hangs looks like an API server that does. It is known by what others get: where
nothing could be written for a policy for a minute, and something for another one meanwhile, the trouble is its own.
"""

from __future__ import annotations

from typing import Final

from adapters.clock import Clock
from warmhook.warmimages import PolicyKey

__all__ = ["CircuitBreakers"]

_AFTER_SECONDS: Final = 60.0
_REMEMBERED: Final = 1000


class CircuitBreakers:
    """Remembers for which policies writes fail; of one process, and only as long as they do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failing: dict[PolicyKey, float] = {}
        """Since when nothing could be written for a policy, on the monotonic clock."""
        self._succeeded = float("-inf")
        """When something was written last, for any policy."""

    def is_open(self, policy: PolicyKey) -> bool:
        """Whether the policy's trouble is its own, so that nobody should wait for it."""
        since = self._failing.get(policy)
        if since is None:
            return False
        return self._clock.monotonic() - since >= _AFTER_SECONDS and self._succeeded >= since

    def succeeded(self, policy: PolicyKey) -> None:
        """Something was written for the policy."""
        self._failing.pop(policy, None)
        self._succeeded = self._clock.monotonic()

    def failed(self, policy: PolicyKey) -> None:
        """The API server did not take a write for the policy, or gave no answer in time."""
        self._failing.setdefault(policy, self._clock.monotonic())
        while len(self._failing) > _REMEMBERED:
            del self._failing[next(iter(self._failing))]
