"""Keep the last deliveries of each source: what operators ask for first when an image is not there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One delivery that `web` answered, as its log line has it; nothing of it is secret."""

    at: datetime
    """When its last byte was there."""
    source: str
    kind: str
    result: str
    """`accepted`, `skipped`, `unauthorized`, `unavailable` or `refused`."""
    reason: str = ""
    images: tuple[str, ...] = ()
    """References with tag or digest, at most three."""
    detail: str = ""
    event_id: str = ""
    seconds: float = 0.0
    """Until the answer."""
