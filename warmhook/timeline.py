"""Tell when each step of a push happened, from the webhook to the last node.

The times are of four clocks: the registry says when it took the push, a Pod of `web` when it received and accepted the
delivery, the API server when the WarmImage was created (in whole seconds), and handlers all that follows: when they saw
it, about a second after it happened. Steps are in the order of their causes. If the times are not, the clocks differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from warmhook.delivery_records import DeliveryRecord
from warmhook.lenient_fields import as_mapping, as_text, as_time
from warmhook.overview import Moment, Tally

_NOTABLE_SECONDS: Final = 0.1
_LATE: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class PushTimes:
    """What a WarmImage and its status say of its last push; `None`: it has not happened, or nobody noted when."""

    event_id: str = ""
    by_pods: bool = False
    """Whether `pushed_at` is that of a Pod that needs the image."""
    created_at: datetime | None = None
    pushed_at: datetime | None = None
    resolved_at: datetime | None = None
    """The last answer of the registry about this push."""
    started_at: datetime | None = None
    """When nodes were first counted for its generation."""
    first_warm_at: datetime | None = None
    half_warm_at: datetime | None = None
    completed_at: datetime | None = None
    """When all reachable nodes were warm for the first time in its generation."""


def read_push_times(obj: Mapping[str, Any]) -> PushTimes:
    """The times of a WarmImage object. What cannot be read is left out."""
    metadata, spec, status = (as_mapping(obj.get(name)) for name in ("metadata", "spec", "status"))
    resolved, pushed = as_mapping(status.get("resolved")), spec.get("pushedAt")
    by_pods = bool(spec.get("pods"))
    answered = resolved.get("digest") and resolved.get("pushedAt") == (None if by_pods else pushed)
    counted = status if status.get("observedGeneration") == metadata.get("generation") else {}
    started_at = as_time(counted.get("startedAt"))

    def since_start(name: str) -> datetime | None:
        # An earlier time is of an earlier generation: an older version of Warmhook keeps fields that it does not know.
        at = as_time(counted.get(name))
        return at if at and started_at and at >= started_at else None

    return PushTimes(
        event_id=as_text(as_mapping(metadata.get("annotations")).get("warmhook.dev/event-id")),
        by_pods=by_pods,
        created_at=as_time(metadata.get("creationTimestamp")),
        pushed_at=as_time(pushed),
        resolved_at=as_time(resolved.get("checkedAt")) if answered else None,
        started_at=started_at,
        first_warm_at=since_start("firstWarmAt"),
        half_warm_at=since_start("halfWarmAt"),
        completed_at=since_start("completedAt"),
    )


def timeline(times: PushTimes, total: Tally, deliveries: Iterable[DeliveryRecord] | None) -> tuple[Moment, ...]:
    """The steps of the last push, in the order of their causes; `total` counts its nodes now.

    `deliveries` are those that named the image; `None`: they are not known.
    """
    moments = [_origin(times)]
    if times.pushed_at is not None and not times.by_pods and deliveries is not None:
        moments += _delivery(deliveries_of_push(times, deliveries))
    told = [Moment("lines", times.started_at, "nodes were counted, after their lines were written")]
    if times.resolved_at is not None:
        # Lines do not wait for the registry, so either may be first.
        told.append(_resolved(times, times.resolved_at))
        told.sort(key=lambda moment: moment.at or _LATE)
    moments += told
    moments += _nodes(times, total)
    return tuple(_with_differences(moments))


def deliveries_of_push(times: PushTimes, deliveries: Iterable[DeliveryRecord]) -> tuple[DeliveryRecord, ...]:
    """Of the deliveries that named the image those of the last push: a sender repeats one that was not accepted."""
    known = list(deliveries)
    if times.event_id and (found := tuple(record for record in known if record.event_id == times.event_id)):
        return found
    # A delivery of many images has the id of the first one only.
    many = [record for record in known if record.more_images or len(record.images) > 1]
    return tuple(record for record in many if times.pushed_at is not None and record.at >= times.pushed_at)


def _origin(times: PushTimes) -> Moment:
    if times.pushed_at is None:
        return Moment("created", times.created_at, "the WarmImage")
    return Moment("Pod created" if times.by_pods else "pushed", times.pushed_at)


def _delivery(records: Sequence[DeliveryRecord]) -> Iterator[Moment]:
    ordered = sorted(records, key=lambda record: record.at)
    accepted = next((record for record in ordered if record.result == "accepted"), None)
    if not ordered:
        yield Moment("received", None, "its delivery is not among the last ones")
        return
    first = ordered[0]
    repeats = f", {len(ordered)} times" if len(ordered) > 1 else ""
    yield Moment("received", first.at, f"from {first.source}{repeats}")
    if accepted is None:
        yield Moment("accepted", None, f"{ordered[-1].result}: {ordered[-1].reason}".rstrip(": "))
    else:
        yield Moment("accepted", accepted.at + timedelta(seconds=accepted.seconds))


def _resolved(times: PushTimes, at: datetime) -> Moment:
    if times.first_warm_at is not None and at > times.first_warm_at:
        return Moment("resolved", None, f"the registry was asked again at {at:%Y-%m-%d %H:%M:%S} UTC")
    return Moment("resolved", at, "by the registry")


def _nodes(times: PushTimes, total: Tally) -> Iterator[Moment]:
    reachable = total.desired - total.unreachable
    if total.desired > 1:
        at_once = times.first_warm_at is not None and times.first_warm_at == times.started_at
        had_it = "warm when nodes were first counted" if at_once else ""
        yield Moment("first node", times.first_warm_at, had_it or _unnoted(times.first_warm_at, total.warm > 0))
    if total.desired > 2:
        half = 0 < reachable <= 2 * total.warm
        yield Moment("half of the nodes", times.half_warm_at, _unnoted(times.half_warm_at, half))
    left = total.desired - total.warm
    yield Moment("last node", times.completed_at, f"{left} of {total.desired} nodes are not warm" if left else "")


def _unnoted(at: datetime | None, happened: bool) -> str:
    return "nobody noted when" if at is None and happened else ""


def _with_differences(moments: Sequence[Moment]) -> Iterator[Moment]:
    """The moments; one that is before the step before it says by how much the clocks differ."""
    before: datetime | None = None
    for moment in moments:
        if moment.at is None:
            yield moment
            continue
        behind = (before - moment.at).total_seconds() if before else 0.0
        before = moment.at
        differ = [f"its clock is at least {behind:.1f} s behind that of the step before"] * (behind >= _NOTABLE_SECONDS)
        yield replace(moment, detail="; ".join([*filter(None, [moment.detail]), *differ]))
