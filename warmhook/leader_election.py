"""Who of several may act? Decide it from a Lease that all of them read and write, without comparing their clocks.

A candidate measures on its own monotonic clock for how long it has seen the same version of the Lease. Only where that
is longer than the Lease lasts it may take it over. The holder counts from *before* it sent its last successful write,
which every other can only have seen later, and stops a margin earlier; so there are never two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

__all__ = ["LEASE_SECONDS", "POLL_SECONDS", "RENEW_SECONDS", "ElectionState", "Lease"]

LEASE_SECONDS: Final = 15
RENEW_SECONDS: Final = 5.0
"""Between two writes of the holder."""
POLL_SECONDS: Final = 3.0
"""Between two looks of everybody else."""
_MARGIN_SECONDS: Final = 3.0
"""For stopping what is under way, and for clocks that do not run equally fast."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A `coordination.k8s.io/v1` Lease as it was read."""

    holder: str
    """Empty where its last holder gave it back."""
    resource_version: str
    duration_seconds: int = LEASE_SECONDS
    acquired: str = ""
    """`spec.acquireTime`, for people; nobody compares it."""
    transitions: int = 0
    """How often it went from one holder to another."""


@dataclass(frozen=True, slots=True)
class ElectionState:
    """What one candidate knows. All moments are seconds of its own monotonic clock."""

    identity: str
    lease: Lease | None = None
    """`None`: not read yet, or there is none."""
    seen_at: float = math.inf
    """When this version of the Lease was first seen."""
    renewed_at: float = -math.inf
    """Before the last successful write was sent."""

    def observed(self, lease: Lease | None, now: float) -> ElectionState:
        """The Lease was read."""
        if lease is not None and self.lease is not None and lease.resource_version == self.lease.resource_version:
            return self
        mine = lease is not None and lease.holder == self.identity
        return replace(self, lease=lease, seen_at=now, renewed_at=self.renewed_at if mine else -math.inf)

    def wrote(self, lease: Lease, began: float, now: float) -> ElectionState:
        """A write of this candidate, begun at `began`, succeeded; the Lease is now so."""
        return replace(self, lease=lease, seen_at=now, renewed_at=began)

    def overruled(self) -> ElectionState:
        """A write was refused because the Lease is no longer as it was seen: whoever wrote it may act now."""
        return ElectionState(self.identity)

    def may_write(self, now: float) -> bool:
        """Whether the Lease is free, its own, or abandoned."""
        lease = self.lease
        return lease is None or lease.holder in {"", self.identity} or now - self.seen_at >= lease.duration_seconds

    def leads_until(self) -> float:
        """Until when this candidate may act; long past where it may not."""
        return self.renewed_at + LEASE_SECONDS - _MARGIN_SECONDS

    def leads(self, now: float) -> bool:
        """Whether this candidate may act."""
        return now < self.leads_until()
