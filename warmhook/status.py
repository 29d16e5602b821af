"""Compute the status of a WarmImage: the sums over its nodes, and its conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from warmhook.completion import completion
from warmhook.node_lines import Line, line_of
from warmhook.node_report import REACHABLE_FOR, Report, was_seen
from warmhook.peers import Transfer
from warmhook.placement import Node
from warmhook.pull_failures import FailureReason
from warmhook.timestamps import format_time, parse_time
from warmhook.transfers import judge, sum_up
from warmhook.warm_times import WARM_TIMES, warm_times
from warmhook.warmimages import WarmImage

FAILURES_MAX: Final = 10
"""The number of failing nodes that a status names."""
_MESSAGE_MAX: Final = 1000
"""Less than the CRD allows."""
_NOT_RUNNABLE: Final = "the registry has no container image under this name, so no node gets it; look at mediaType"
_KEPT: Final = ("resolved", "refreshedAt", "refreshedBy", "refreshHandled", "policyRefreshHandled")
"""Fields that others write."""
_PASSING: Final = frozenset({"Complete", "Distributed"})
"""Conditions that a status may lose."""
NO_WORD: Final = "no word from its agent for 10 minutes"
"""The message of an unreachable node."""
_NO_NODES: Final = "no node of the cluster is selected; look at spec.nodes and at the labels of the nodes"


@dataclass(frozen=True, slots=True, order=True)
class Failure:
    """Why one node does not have the image."""

    node: str
    reason: FailureReason
    message: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of nodes in each state; `unreachable` nodes count in no other state."""

    warm: int = 0
    pulling: int = 0
    waiting: int = 0
    failed: int = 0
    unreachable: int = 0
    moved: int = 0
    """Warm nodes where the tag brought another digest than the WarmImage has."""
    failing: tuple[str, ...] = ()
    """Names of the failed nodes, sorted, at most `FAILURES_MAX`."""
    silent: tuple[str, ...] = ()
    """Names of the unreachable nodes, sorted, at most `FAILURES_MAX`."""
    runnable: bool = True
    """False if no container can run the image, so that no node should hold it."""
    transfers: tuple[Transfer, ...] = ()
    """What nodes fetched for the line by a plan."""

    @property
    def desired(self) -> int:
        """All nodes that should hold the line."""
        return self.warm + self.pulling + self.waiting + self.failed + self.unreachable

    @property
    def ready(self) -> bool:
        """Whether every reachable node is warm, and there is one."""
        return 0 < self.warm == self.desired - self.unreachable


class SignOfLife(Protocol):
    """A report, or what is kept of it."""

    @property
    def seen(self) -> datetime | None:
        """The last sign of life of the agent."""


def count(
    line: Line,
    wanted: Iterable[Node],
    reports: Mapping[str, Report],
    now: datetime,
    refused: Collection[str] = (),
) -> Counts:
    """Count the states of `line` in `reports` (by node name) on the nodes that should hold it.

    A node whose agent has been silent for 10 minutes is unreachable whatever its report says. A node without a report
    is waiting until it is 10 minutes old. `refused` names nodes whose ConfigMap has no room for the line.
    """
    key, version = line.key, line.version
    states: Counter[str] = Counter()
    failing, silent, moved = [], [], 0
    transfers: list[Transfer] = []
    for node in wanted:
        report = reports.get(node.name)
        if report is not None and version in report.transfers:
            transfers.append(report.transfers[version])
        if is_silent(node.created_at, report, now):
            silent.append(node.name)
            continue
        report = report or Report(node.name)
        state = "failed" if node.name in refused else report.state(key, version)
        states[state] += 1
        moved += state == "warm" and version in report.moved
        if state == "failed":
            failing.append(node.name)
    return Counts(
        warm=states["warm"],
        pulling=states["pulling"],
        waiting=states["waiting"],
        failed=states["failed"],
        unreachable=len(silent),
        moved=moved,
        failing=tuple(sorted(failing)[:FAILURES_MAX]),
        silent=tuple(sorted(silent)[:FAILURES_MAX]),
        transfers=tuple(transfers),
    )


def is_silent(created_at: datetime | None, report: SignOfLife | None, now: datetime) -> bool:
    """Whether a node counts as unreachable: its agent is silent, or wrote nothing since the node was created."""
    if report is not None:
        return not was_seen(report.seen, now)
    return created_at is None or now - created_at >= REACHABLE_FOR


def status_object(
    before: Mapping[str, Any], warmimage: WarmImage, counts: Counts, failures: Iterable[Failure], now: datetime
) -> dict[str, Any]:
    """`WarmImage.status` for these counts; equal to `before` if nothing has changed.

    `digest` is that of the line, and absent if a node reports that the tag brought another one. What the registry says
    is kept: `Resolver` writes it.
    Times are kept from `before` as long as they are still true: for the generation `startedAt`, and `firstWarmAt`,
    `halfWarmAt` and `completedAt` (when one, half and all of its reachable nodes were warm for the first time; a node
    that joins later does not change that), and a condition's `lastTransitionTime` while its status is the same.
    """
    if warmimage.complete:
        return {**before}
    moment, generation = format_time(now), warmimage.generation
    goes_on = _goes_on(before, warmimage)
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "progress": f"{counts.warm}/{counts.desired}",
        "desired": counts.desired,
        "warm": counts.warm,
        "pulling": counts.pulling,
        "waiting": counts.waiting,
        "failed": counts.failed,
        "unreachable": counts.unreachable,
        "failures": [asdict(failure) for failure in failures],
        "startedAt": (goes_on and before.get("startedAt")) or moment,
        **{name: before[name] for name in _KEPT if name in before},
    }
    if (handled := warmimage.template.requests.refresh) and not warmimage.lifecycle.started:
        # The value that the policy had before the WarmImage existed.
        status["policyRefreshHandled"] = handled
    line = line_of(warmimage)
    digest = line.digest
    if digest and not counts.moved:
        status["digest"] = digest
    fetched = digest or (warmimage.resolved.digest if warmimage.resolved is not None else "")
    if (found := sum_up(before, fetched, line.size_bytes, counts.transfers)) is not None:
        status["distribution"] = found
    status |= warm_times(before if goes_on else {}, counts.warm, counts.desired - counts.unreachable, moment)
    status["conditions"] = _conditions(before, status, warmimage, counts, now)
    return status


def _goes_on(before: Mapping[str, Any], warmimage: WarmImage) -> bool:
    """Whether nodes were counted for this generation before. After a purge what is warmed once begins anew."""
    purge_ended = find_condition(before, "Complete").get("reason") == "Purged" and not warmimage.purged
    return before.get("observedGeneration") == warmimage.generation and not purge_ended


def _conditions(
    before: Mapping[str, Any], status: Mapping[str, Any], warmimage: WarmImage, counts: Counts, now: datetime
) -> list[dict[str, Any]]:
    """The conditions of `status`, which has its other fields already."""
    generation = warmimage.generation
    degraded = "NodesFailed" if counts.failed else "NodesUnreachable" if counts.unreachable else "NoneFailed"
    lost = f"{counts.failed} of {counts.desired} nodes failed"
    if counts.unreachable:
        lost += f", {counts.unreachable} unreachable"
    ours = [
        condition(before, "Ready", *_ready(warmimage, counts), now, generation),
        condition(before, "Degraded", counts.failed + counts.unreachable > 0, degraded, lost, now, generation),
    ]
    if (found := status.get("distribution")) is not None:
        ours.append(condition(before, "Distributed", *judge(found, counts.desired), now, generation))
    end = completion(warmimage, counts.desired, counts.warm, counts.failed, parse_time(status["startedAt"]), now)
    if end is not None:
        # Each generation begins anew.
        earlier = before if before.get("observedGeneration") == generation else {}
        ours.append(condition(earlier, "Complete", end.complete, end.reason, end.message, now, generation))
    kinds = {own["type"] for own in ours}
    return [each for each in with_conditions(before, *ours) if each["type"] in kinds or each["type"] not in _PASSING]


def _ready(warmimage: WarmImage, counts: Counts) -> tuple[bool, str, str]:
    """Status, reason and message of the condition `Ready`."""
    message = f"{counts.warm} of {counts.desired} nodes warm" if counts.desired else _NO_NODES
    if counts.unreachable:
        message += f", {counts.unreachable} unreachable"
    if warmimage.purged:
        return False, "Purged", f"not wanted on nodes for now; {counts.warm} of {counts.desired} nodes have the image"
    if counts.ready:
        return True, "ReachableWarm" if counts.unreachable else "AllWarm", message
    if warmimage.template.suspend:
        return False, "Suspended", f"{message}; nodes pull nothing for now"
    if not counts.runnable:
        return False, "NotRunnable", _NOT_RUNNABLE
    return False, "NotAllWarm" if counts.desired else "NoNodes", message


def limited_status(
    before: Mapping[str, Any], status: Mapping[str, Any], problems: Sequence[str], now: datetime
) -> dict[str, Any]:
    """The status with the condition `Allowed`, which is there since the WarmImage first asked for too much."""
    if not problems and not find_condition(before, "Allowed"):
        return dict(status)
    reason, message = ("BeyondLimits", "; ".join(problems)) if problems else ("WithinLimits", "")
    generation = status["observedGeneration"]
    own = [condition(before, "Allowed", not problems, reason, message, now, generation)]
    if problems and not status["desired"]:
        own.append(condition(before, "Ready", False, reason, message, now, generation))
    return {**status, "conditions": with_conditions(status, *own)}


def invalid_status(before: Mapping[str, Any], generation: int, problem: str, now: datetime) -> dict[str, Any]:
    """The status of a WarmImage that cannot be used; its lines stay, and so do the counts."""
    return _uncounted_status(before, generation, "Invalid", problem, now)


def unplaced_status(before: Mapping[str, Any], generation: int, problem: str, now: datetime) -> dict[str, Any]:
    """The status of a WarmImage whose nodes are unknown because Pods cannot be read; lines and counts stay."""
    return _uncounted_status(before, generation, "PodsUnknown", problem, now)


def _uncounted_status(
    before: Mapping[str, Any], generation: int, reason: str, problem: str, now: datetime
) -> dict[str, Any]:
    """The earlier counts with another condition `Ready`. A generation that was not counted has not started."""
    ready = condition(before, "Ready", False, reason, problem, now, generation)
    kept = dict(before)
    if before.get("observedGeneration") != generation:
        for name in ("startedAt", *WARM_TIMES):
            kept.pop(name, None)
    return {**kept, "observedGeneration": generation, "conditions": with_conditions(before, ready)}


def with_conditions(before: Mapping[str, Any], *ours: dict[str, Any]) -> list[dict[str, Any]]:
    """The conditions of a status that was `before`: these, and those of others unchanged."""
    left = {own["type"]: own for own in ours}
    kept = [left.pop(stored.get("type"), stored) for stored in before.get("conditions") or []]
    return [*kept, *left.values()]


def find_condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The condition of that type; empty if there is none."""
    return next((condition for condition in status.get("conditions") or [] if condition.get("type") == kind), {})


def condition(
    before: Mapping[str, Any], kind: str, holds: bool, reason: str, message: str, now: datetime, generation: int
) -> dict[str, Any]:
    """A condition of a status that was `before`; it keeps its transition time as long as its status is the same."""
    status = "True" if holds else "False"
    earlier = find_condition(before, kind)
    since = earlier.get("lastTransitionTime") if earlier.get("status") == status else None
    return {
        "type": kind,
        "status": status,
        "observedGeneration": generation,
        "reason": reason,
        "message": message[:_MESSAGE_MAX],
        "lastTransitionTime": since or format_time(now),
    }
