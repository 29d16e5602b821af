"""Tell when each step of a push happened: from the objects where they say so, else from what was seen meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from warmhook.delivery_records import DeliveryRecord
from warmhook.inventory import ImageFacts
from warmhook.overview import Moment, Tally
from warmhook.warmimages import ObjectKey

_OF_ONE_PUSH: Final = timedelta(hours=1)
"""Senders repeat a delivery for so long."""
_LATE: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Progress:
    """When so many nodes were first seen warm since the last push; `None`: not yet, or nobody looked in time."""

    push: tuple[datetime | None, datetime | None]
    """Tells pushes of one WarmImage apart."""
    began: bool = False
    """Whether no node was warm when somebody looked, so that the moments are those of this push."""
    first_at: datetime | None = None
    half_at: datetime | None = None
    last_at: datetime | None = None


def follow(
    progress: Mapping[ObjectKey, Progress], counted: Iterable[tuple[ImageFacts, Tally]], now: datetime
) -> dict[ObjectKey, Progress]:
    """The progress of all images after they were counted again."""
    found = {}
    for facts, total in counted:
        push = (facts.pushed_at, facts.created_at)
        before = progress.get(facts.key)
        one = before if before is not None and before.push == push else Progress(push)
        if total.desired and not total.warm and not one.began:
            one = replace(one, began=True)
        if one.began and total.warm and one.last_at is None:
            one = replace(
                one,
                first_at=one.first_at or now,
                half_at=one.half_at or (now if 2 * total.warm >= total.desired else None),
                last_at=now if total.warm == total.desired else None,
            )
        found[facts.key] = one
    return found


def timeline(
    facts: ImageFacts, total: Tally, progress: Progress | None, deliveries: Iterable[DeliveryRecord]
) -> tuple[Moment, ...]:
    """The steps of the last push, in the order of their causes. `deliveries` named the image, newest first."""
    seen = progress or Progress((None, None))
    moments = [Moment("pushed", facts.pushed_at)] if facts.pushed_at else [Moment("created", facts.created_at)]
    if (first := _of_the_push(facts, deliveries)) is not None:
        moments.append(Moment("received", first.at, f"from {first.source}"))
        moments.append(Moment("accepted", first.at + timedelta(seconds=first.seconds)))
    told = [Moment("lines", facts.started_at, "nodes were told")]
    if facts.resolved_at:
        # Lines do not wait for the registry, so either may be first.
        told.append(Moment("resolved", facts.resolved_at, "the last answer of the registry"))
        told.sort(key=lambda moment: moment.at or _LATE)
    moments += told
    if total.desired > 1:
        moments.append(Moment("first node", seen.first_at))
        moments.append(Moment("half of the nodes", seen.half_at, f"{total.warm} of {total.desired} nodes warm"))
    moments.append(Moment("last node", facts.completed_at or seen.last_at, _left(total)))
    return tuple(moments)


def deliveries_of(facts: ImageFacts, deliveries: Iterable[DeliveryRecord]) -> tuple[DeliveryRecord, ...]:
    """The deliveries that named the image, by its tag or by the digest that it has; newest first."""
    return tuple(record for record in deliveries if any(_names(facts, image) for image in record.images))


def _names(facts: ImageFacts, image: str) -> bool:
    name, _, digest = image.partition("@")
    if name == facts.image:
        return True
    return bool(digest) and digest == facts.digest and _repository(name) == _repository(facts.image.partition("@")[0])


def _repository(name: str) -> str:
    """A reference without its tag."""
    host, slash, path = name.rpartition("/")
    return f"{host}{slash}{path.partition(':')[0]}"


def _of_the_push(facts: ImageFacts, deliveries: Iterable[DeliveryRecord]) -> DeliveryRecord | None:
    """The delivery that brought the push; a tag may have been pushed before, and a delivery repeated."""
    pushed = facts.pushed_at
    if pushed is None:
        return None
    near = [each for each in deliveries if each.result == "accepted" and abs(each.at - pushed) < _OF_ONE_PUSH]
    return min(near, key=lambda each: abs(each.at - pushed), default=None)


def _left(total: Tally) -> str:
    left = total.desired - total.warm
    return f"{left} of {total.desired} nodes to go" if left else ""
