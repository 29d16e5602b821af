"""Decide when a WarmImage with the lifetime `Once` is complete, and when it is deleted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from warmhook.warmimages import WarmImage


@dataclass(frozen=True, slots=True)
class Completion:
    """How far a WarmImage is from its end."""

    reason: Literal["AllWarm", "DeadlineExceeded", "NodesFailed", "Suspended", "Purged", "NotAllWarm"]
    message: str

    @property
    def complete(self) -> bool:
        """Whether it is at its end: its lines leave the nodes, and the images stay."""
        return self.reason in ("AllWarm", "DeadlineExceeded", "NodesFailed")


def completion(
    warmimage: WarmImage, desired: int, warm: int, failed: int, started_at: datetime, now: datetime
) -> Completion | None:
    """Whether it is complete, with so many nodes that should be warm, are warm and failed; `None` if it is not `Once`.

    All nodes must be warm, the unreachable ones too: they are only given up at the deadline, which is counted from the
    start of the present generation. Neither comes while it is suspended or purged.
    """
    once = warmimage.template.once
    if once is None:
        return None
    counted = f"{warm} of {desired} nodes warm"
    if warmimage.purged:
        return Completion("Purged", counted)
    if 0 < warm == desired:
        return Completion("AllWarm", counted)
    if warmimage.template.suspend:
        return Completion("Suspended", counted)
    if once.deadline_seconds is None or now - started_at < timedelta(seconds=once.deadline_seconds):
        return Completion("NotAllWarm", counted)
    given_up = f"{counted} after {once.deadline_seconds} seconds; the others are given up"
    only_failed = failed and warm + failed == desired
    return Completion("NodesFailed" if only_failed else "DeadlineExceeded", given_up)


def is_finished(warmimage: WarmImage, now: datetime) -> bool:
    """Whether it completed longer ago than `ttlSecondsAfterFinished`, and should be deleted.

    One that belongs to a policy stays: it is the record that lets a repeated event change nothing, and an image that
    the policy names would come back at once. It goes by `keep` and `expireAfterSeconds`.
    """
    once, since = warmimage.template.once, warmimage.lifecycle.complete_since
    if once is None or once.ttl_seconds_after_finished is None or since is None or warmimage.policy_label:
        return False
    return now - since >= timedelta(seconds=once.ttl_seconds_after_finished)
