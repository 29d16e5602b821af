"""Decide which of several candidates leads, from a Lease that all of them read and write, without comparing clocks.

A candidate measures on its own monotonic clock how long it has seen the same version of the Lease. It may take over the
Lease only if that time is longer than the duration of the Lease. The holder counts from *before* it sent its last
successful write, which every other candidate can only have seen later, and stops a margin earlier. So two never lead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

LEASE_NAME: Final = "warmhook-watch"
LEASE_SECONDS: Final = 15
RENEW_SECONDS: Final = 5.0
"""The interval between two writes of the holder."""
POLL_SECONDS: Final = 3.0
"""The interval between two reads of the other candidates."""
_MARGIN_SECONDS: Final = 3.0
"""The time to stop work in progress, and for clocks of different speed."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A `coordination.k8s.io/v1` Lease as it was read."""

    holder: str
    """Empty if its last holder released it."""
    resource_version: str
    duration_seconds: int = LEASE_SECONDS
    acquired: str = ""
    """`spec.acquireTime`, for people; it is never compared."""
    transitions: int = 0
    """How often it went from one holder to another."""


@dataclass(frozen=True, slots=True)
class ElectionState:
    """The knowledge of one candidate. All times are seconds of its own monotonic clock."""

    identity: str
    lease: Lease | None = None
    """`None`: not read yet, or absent."""
    seen_at: float = math.inf
    """When this version of the Lease was first seen."""
    renewed_at: float = -math.inf
    """Before the last successful write was sent."""

    def observed(self, lease: Lease | None, now: float) -> ElectionState:
        """The state after the Lease was read."""
        if lease is not None and self.lease is not None and lease.resource_version == self.lease.resource_version:
            return self
        mine = lease is not None and lease.holder == self.identity
        return replace(self, lease=lease, seen_at=now, renewed_at=self.renewed_at if mine else -math.inf)

    def wrote(self, lease: Lease, began: float, now: float) -> ElectionState:
        """The state after a successful write of this candidate that started at `began`."""
        return replace(self, lease=lease, seen_at=now, renewed_at=began)

    def overruled(self) -> ElectionState:
        """The state after a conflict: another candidate has written the Lease and may lead now."""
        return ElectionState(self.identity)

    def may_write(self, now: float) -> bool:
        """Whether the Lease is free, held by this candidate, or expired."""
        lease = self.lease
        return lease is None or lease.holder in {"", self.identity} or now - self.seen_at >= lease.duration_seconds

    def leads_until(self) -> float:
        """This candidate may act until this time; long past if it may not."""
        return self.renewed_at + LEASE_SECONDS - _MARGIN_SECONDS

    def leads(self, now: float) -> bool:
        """Whether this candidate may act."""
        return now < self.leads_until()
