"""Check whether one `watch` leads: without a leader no change is seen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from warmhook.checks import Check

_CLOCKS_DIFFER: Final = timedelta(seconds=60)
"""Clocks of nodes and of the API server differ by less."""


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """The Lease of `watch`; its time is from the clock of its holder."""

    holder: str
    renewed: datetime | None
    duration: timedelta


def leader_check(lease: LeaseFacts | None, now: datetime, namespace: str) -> Check:
    """Whether one `watch` is active; `now` is the time of the API server, if that is known."""
    mend = f"kubectl -n {namespace} get pods -l app.kubernetes.io/name=warmhook-handlers"
    if lease is None:
        message = f"no watch has ever led: there is no Lease warmhook-watch in namespace {namespace}"
        return Check("leader", "wrong", message, mend, "NoLeader")
    if not lease.holder or lease.renewed is None:
        return Check("leader", "wrong", "the last leader has stopped, and none has followed", mend, "NoLeader")
    age = now - lease.renewed
    if age < -_CLOCKS_DIFFER:
        message = f"{lease.holder} renewed the Lease {-age.total_seconds():.0f} s in the future: its clock is ahead"
        return Check("leader", "wrong", message, "check NTP on the node of that Pod", "ClockSkew")
    if age > lease.duration + _CLOCKS_DIFFER:
        message = (
            f"{lease.holder} renewed the Lease {age.total_seconds():.0f} s ago, and it lasts {lease.duration.seconds} s"
        )
        return Check("leader", "wrong", message, mend, "NoLeader")
    return Check("leader", "ok", f"{lease.holder} leads")
