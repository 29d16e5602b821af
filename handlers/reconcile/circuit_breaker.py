"""Distinguish a policy whose writes fail from an API server that fails: a circuit breaker for each policy.

If a webhook of one namespace fails or hangs, the API server seems to. Writes for other policies show the difference: if
nothing could be written for one policy for a minute, and something was written for another, only that policy fails.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from adapters.clock import Clock
from warmhook.warmimages import PolicyKey

_AFTER_SECONDS: Final = 60.0
_REMEMBERED: Final = 1000


@dataclass(eq=False)
class CircuitBreakers:
    """Remembers the policies whose writes fail, for as long as they do, in one process."""

    clock: Clock
    _failing: dict[PolicyKey, float] = field(default_factory=dict)
    """Since when nothing could be written for a policy, on the monotonic clock."""
    _succeeded: float = float("-inf")
    """When something was written last, for any policy."""

    def is_open(self, policy: PolicyKey) -> bool:
        """Whether only this policy fails, so that no request should wait for it."""
        since = self._failing.get(policy)
        if since is None:
            return False
        return self.clock.monotonic() - since >= _AFTER_SECONDS and self._succeeded >= since

    def succeeded(self, policy: PolicyKey) -> None:
        """A write for the policy succeeded."""
        self._failing.pop(policy, None)
        self._succeeded = self.clock.monotonic()

    def failed(self, policy: PolicyKey) -> None:
        """A write for the policy failed, or got no answer in time."""
        self._failing.setdefault(policy, self.clock.monotonic())
        while len(self._failing) > _REMEMBERED:
            del self._failing[next(iter(self._failing))]
