"""Decide whether a command that waits for an image is done, and what it says meanwhile."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from warmhook.image_query import ImageQuery
from warmhook.image_status import ImageStatus
from warmhook.overview import Tally


@dataclass(frozen=True, slots=True)
class WaitState:
    """How far the WarmImages of one image have come."""

    line: str
    """For people, on one line."""
    over: bool = False
    warm: bool = False
    """Whether every reachable node has the image; only if it is over."""


def judge_wait(query: ImageQuery, found: Collection[ImageStatus], where: str) -> WaitState:
    """The state of a wait for the WarmImages that `query` names; `where` says in which namespace they are looked for.

    It is over when every one of them is ready with the digest of the query, or when one of them comes no further
    without help: it is stopped, or all of its reachable nodes are warm or failed, and at least one failed.
    """
    # A digest would push the counts off a terminal.
    name = str(query.reference.without_digest())
    current = [each for each in found if query.names(each) and query.has_digest(each)]
    if (pending := _pending(query, found, current, where)) is not None:
        return WaitState(pending)
    stuck = next((each for each in current if each.state == "stopped"), None)
    if stuck is not None:
        return WaitState(f"{name} is not pulled: {stuck.reason}: {stuck.message}", over=True)
    if all(each.ready for each in current):
        return WaitState(f"{name} is warm: {_counts(current)}", over=True, warm=True)
    ended = all(each.ready or each.complete or _goes_no_further(each.tally) for each in current)
    return WaitState(f"{name}{' is not warm' if ended else ''}: {_counts(current)}", over=ended)


def _pending(
    query: ImageQuery, found: Collection[ImageStatus], current: Collection[ImageStatus], where: str
) -> str | None:
    """What has to happen before the counts of the `current` WarmImages say anything; `None` if nothing has."""
    name, digest = query.reference.without_digest(), query.reference.digest
    matching = [each for each in found if query.names(each)]
    if not matching:
        return f"waiting for a WarmImage of {query.reference} in {where}"
    if not current:
        known = next((each.digest or each.wanted_digest for each in matching), "")
        return f"{name}: waiting for {digest}; {f'it has {known}' if known else 'its digest is not known'} so far"
    for each in current:
        if not each.counted:
            return f"{name}: waiting until the handlers count the nodes of WarmImage {each.key}"
        if digest and each.ready and not each.digest:
            return f"{name}: the tag brought another digest on some nodes of WarmImage {each.key}"
    return None


def _goes_no_further(tally: Tally) -> bool:
    return not (tally.pulling or tally.waiting)


def _counts(found: Collection[ImageStatus]) -> str:
    """`3 of 12 nodes, 4 pulling, 5 waiting`, over all of these WarmImages."""
    sums = {
        name: sum(getattr(each.tally, name) for each in found)
        for name in ("warm", "desired", "pulling", "waiting", "failed", "unreachable")
    }
    of = f" of {len(found)} WarmImages" if len(found) > 1 else ""
    more = (f"{sums[name]} {name}" for name in ("pulling", "waiting", "failed", "unreachable") if sums[name])
    return ", ".join([f"{sums['warm']} of {sums['desired']} nodes{of}", *more])
