"""Read how far one WarmImage has come, from its object: what commands show of an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from warmhook.images import NotAReference, Reference, parse_reference
from warmhook.lenient_fields import as_count, as_mapping, as_mappings, as_time
from warmhook.overview import STATES, Failing, Tally
from warmhook.status import find_condition
from warmhook.timestamps import format_time
from warmhook.warmimages import ObjectKey

State: TypeAlias = Literal["warm", "pulling", "waiting", "failing", "unreachable", "uncounted", "stopped", "complete"]
"""`uncounted`: the handlers have not counted its nodes since it was made or changed. `stopped`: the reason says why no
node pulls it. `complete`: it was to be warmed once, and that is over."""
UNUSABLE: Final = frozenset({"Invalid", "NoNodes", "NotRunnable", "BeyondLimits", "PodsUnknown"})
"""Reasons of the condition `Ready` for which no node gets the image."""
STOPPED: Final = UNUSABLE | {"Suspended", "Purged"}
"""Reasons of the condition `Ready` for which waiting alone does not help."""


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """One WarmImage as its object says."""

    key: ObjectKey
    image: str
    """As the spec has it."""
    tally: Tally
    ready: bool
    reason: str
    """Of the condition `Ready`; empty if there is none."""
    message: str
    counted: bool
    """Whether the status is about the present spec."""
    complete: bool = False
    """Whether it was to be warmed once, and that is over."""
    policy: str = ""
    digest: str = ""
    """Of the image on all of its nodes; empty if that is unknown, or differs between them."""
    wanted_digest: str = ""
    """What a push or a person gave; empty if neither did."""
    failing: tuple[Failing, ...] = ()
    """By reason, from the first ten nodes that the status names."""
    distribution: Mapping[str, Any] = field(default_factory=dict)
    """`status.distribution`; empty if there is none."""
    created_at: datetime | None = None
    pushed_at: datetime | None = None
    completed_at: datetime | None = None
    """When all nodes were warm for the first time."""

    @property
    def reference(self) -> Reference | None:
        """The image; `None` if the spec has no valid one."""
        try:
            return parse_reference(self.image, default_tag="latest")
        except NotAReference:
            return None

    @property
    def state(self) -> State:
        """The one word that says most."""
        words: dict[State, bool] = {
            "uncounted": not self.counted,
            "complete": self.complete,
            "warm": self.ready,
            "stopped": self.reason in STOPPED,
            "failing": self.tally.failed > 0,
            "pulling": self.tally.pulling > 0,
            "waiting": self.tally.waiting > 0,
        }
        return next((word for word, holds in words.items() if holds), "unreachable")

    def as_object(self) -> dict[str, Any]:
        """For JSON and YAML, in the names of the API; what is unknown is absent."""
        tally, times = self.tally, {"createdAt": self.created_at, "pushedAt": self.pushed_at}
        found: dict[str, Any] = {
            "namespace": self.key.namespace,
            "name": self.key.name,
            "image": self.image,
            "state": self.state,
            "reason": self.reason,
            "message": self.message,
            "policyName": self.policy,
            "digest": self.digest or self.wanted_digest,
            "desired": tally.desired,
            "warm": tally.warm,
            "pulling": tally.pulling,
            "waiting": tally.waiting,
            "failed": tally.failed,
            "unreachable": tally.unreachable,
            "failures": [failing_object(each) for each in self.failing],
            "distribution": dict(self.distribution),
        }
        found |= {
            name: format_time(moment)
            for name, moment in {**times, "completedAt": self.completed_at}.items()
            if moment is not None
        }
        return {name: value for name, value in found.items() if value not in ("", {})}


def failing_object(failing: Failing) -> dict[str, Any]:
    """For JSON and YAML."""
    return {
        "reason": failing.reason,
        "message": failing.message,
        "count": failing.count,
        "nodes": list(failing.nodes),
    }


def read_image_status(obj: Mapping[str, Any]) -> ImageStatus:
    """From a WarmImage object. What cannot be read counts as absent: a newer version, or a person, may have written it.

    Namespace and name are there in every object of an API server.
    """
    metadata, spec, status = (as_mapping(obj.get(part)) for part in ("metadata", "spec", "status"))
    key, image = ObjectKey(metadata["namespace"], metadata["name"]), str(spec.get("image", ""))
    conditions = {"conditions": as_mappings(status.get("conditions"))}
    ready, complete = find_condition(conditions, "Ready"), find_condition(conditions, "Complete")
    generation = metadata.get("generation")
    counted = bool(ready) and status.get("observedGeneration") == generation
    ended = complete.get("status") == "True" and complete.get("observedGeneration") == generation
    return ImageStatus(
        key=key,
        image=image,
        tally=read_tally(status),
        ready=ready.get("status") == "True",
        reason=str(ready.get("reason", "")),
        message=str(ready.get("message", "")),
        counted=counted,
        complete=ended,
        policy=str(spec.get("policyName", "")),
        digest=str(status.get("digest", "")),
        wanted_digest=str(spec.get("digest", "")),
        failing=_failing(key, image, status),
        distribution=as_mapping(status.get("distribution")),
        created_at=as_time(metadata.get("creationTimestamp")),
        pushed_at=as_time(spec.get("pushedAt")),
        completed_at=as_time(status.get("completedAt")),
    )


def read_tally(status: Mapping[str, Any]) -> Tally:
    """The counts of a status."""
    return Tally(*(as_count(status.get(name)) for name in STATES))


def _failing(key: ObjectKey, image: str, status: Mapping[str, Any]) -> tuple[Failing, ...]:
    """The failures of a status by reason and message, those of most nodes first."""
    grouped: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for failure in as_mappings(status.get("failures")):
        grouped[str(failure.get("reason", "")), str(failure.get("message", ""))].append(str(failure.get("node", "")))
    found = [
        Failing(key, image, reason, tuple(sorted(nodes)), len(nodes), message)
        for (reason, message), nodes in grouped.items()
    ]
    return tuple(sorted(found, key=lambda each: (-each.count, each.reason, each.message)))
