"""Decide which changes of an object's conditions are worth a Kubernetes Event."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from warmhook.status import find_condition

# Reason of a condition to reason of the Event.
_WARNINGS: Final = {
    "Invalid": "Invalid",
    "NodesFailed": "Failed",
    "NotRunnable": "NotRunnable",
    "DeadlineExceeded": "DeadlineExceeded",
    "FellBack": "FellBack",
    "WriteRefused": "WriteRefused",
    "BeyondLimits": "NotAllowed",
    "Forbidden": "Forbidden",
    "TooManyImages": "TooManyImages",
}
_WARM: Final = frozenset({"AllWarm", "ReachableWarm"})
# Of a policy; news only after a warning.
_WELL_AGAIN: Final = frozenset({"Usable", "WritesTaken"})
_TAKEN: Final = "the API server takes its WarmImages again"


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of a condition that a person would want to see in `kubectl describe`."""

    reason: str
    message: str
    warning: bool


def transitions(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Transition]:
    """The changes from one status to the next: an image became warm, failed or invalid, a policy is served or not."""
    for now in after.get("conditions") or []:
        earlier = find_condition(before, now["type"])
        if now["type"] == "Ready" and now["reason"] in _WARM and earlier.get("status") != "True":
            yield Transition("Warm", now["message"], warning=False)
        elif now["reason"] in _WELL_AGAIN and earlier.get("reason") in _WARNINGS:
            yield Transition(now["reason"], now["message"] or _TAKEN, warning=False)
        elif now["reason"] in _WARNINGS and now["reason"] != earlier.get("reason"):
            yield Transition(
                _WARNINGS[now["reason"]], now["message"] + _first_failure(after, now["reason"]), warning=True
            )


def _first_failure(status: Mapping[str, Any], reason: str) -> str:
    failures = status.get("failures") or []
    if reason != "NodesFailed" or not failures:
        return ""
    first = failures[0]
    return f"; {first['node']}: {first['reason']}" + (f": {first['message']}" if first["message"] else "")
