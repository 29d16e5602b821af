"""Log, count and keep how each delivery ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

from adapters.logs import get_logger
from handlers.metrics import Metrics
from warmhook.delivery_records import IMAGES_MAX, DeliveryRecord

_log = get_logger()

# A delivery may name thousands of images; its log line names only the first ones.
_IMAGES_LOGGED: Final = 20

Result: TypeAlias = Literal["accepted", "skipped", "unauthorized", "unavailable", "refused"]


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of a delivery."""

    result: Result
    reason: str = ""
    images: tuple[str, ...] = ()
    event_ids: tuple[str, ...] = ()
    detail: str = ""
    """The unexpected value, if the reason alone does not explain it; never a secret."""


@dataclass(frozen=True, slots=True)
class DeliveryLog:
    """Where the results of deliveries go."""

    metrics: Metrics
    keep: Callable[[DeliveryRecord], None]
    """Called with each delivery; never waits."""

    def add(self, source: str, kind: str, ended: Ended, received: datetime, seconds: float) -> None:
        """Add a delivery; `seconds` are those until its answer."""
        self.metrics.deliveries.labels(source, kind, ended.result, ended.reason).inc()
        self.metrics.delivery_seconds.observe(seconds)
        level = _log.info if ended.result in {"accepted", "skipped"} else _log.warning
        level(
            "delivery",
            source=source,
            kind=kind,
            result=ended.result,
            reason=ended.reason,
            images=ended.images[:_IMAGES_LOGGED],
            event_id=",".join(ended.event_ids[:_IMAGES_LOGGED]),
            seconds=round(seconds, 4),
            **({"detail": ended.detail} if ended.detail else {}),
        )
        self.keep(
            DeliveryRecord(
                at=received,
                source=source,
                kind=kind,
                result=ended.result,
                reason=ended.reason,
                images=ended.images[:IMAGES_MAX],
                more_images=max(0, len(ended.images) - IMAGES_MAX),
                detail=ended.detail,
                event_id=next(iter(ended.event_ids), ""),
                seconds=seconds,
            )
        )
