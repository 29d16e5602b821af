"""Compute the end state of the system from its history: sets and maxima, from the rules and not from the code.

Most of the time there is one answer. Where a push is under way while a policy changes, where a sender gives up, or
where nobody said when an image was pushed, there are several, each of them right: `outcomes` lists them all.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tests.model.history import EPOCH, Attempt, History, Image, Push, Reign, Spec, Where

__all__ = [
    "SKEW",
    "Fact",
    "ModelNode",
    "chosen_nodes",
    "image_name",
    "must_have",
    "outcomes",
    "possible",
    "short",
]

Fact = tuple[Image, str, datetime | None]
"""A WarmImage: its image, its digest (empty: unknown) and when it was pushed (`None`: it was not)."""

_BEFORE_ALL = EPOCH - timedelta(days=1)
# What a request may still do after its sender has given up on it, and how old the policies are that it is judged by.
_LINGERS, _READ_BEFORE = timedelta(seconds=1), timedelta(seconds=0.1)
# Clocks of the programs differ by no more than this.
SKEW = timedelta(seconds=20)
# A push without a time counts as so much newer than the newest push received before it, which may be such a push too.
_TICK = timedelta(microseconds=1)
# A policy that is away for no longer keeps its images: they are marked, and swept one sync interval later.
_GRACE = timedelta(seconds=300) - 2 * SKEW
# Parts of an image go so long before the oldest build that stays.
_PARTS = timedelta(hours=1)
# Near its end of life an image may be there or not.
_UNSURE = timedelta(seconds=150)
_MOST_OUTCOMES = 4096


def short(text: str, digits: int) -> str:
    """Hex digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def image_name(policy: str, image: Image) -> str:
    """The name of the WarmImage that a policy, `namespace/name`, has of an image."""
    readable = image.repository.rpartition("/")[2].replace("_", "-")
    return f"{readable}-{short(policy + chr(10) + str(image), 10)}"


# --- which WarmImages ------------------------------------------------------------------------------------------------


def outcomes(history: History, policy: str, repository: str, end: datetime) -> set[frozenset[Fact]] | None:
    """Every set of WarmImages that a policy may have of a repository at `end`; `None` where there are too many.

    Without those that it has only because nobody can read one of its rules.
    """
    reigns = history.reigns(policy, end)
    spec = reigns[-1].spec
    if spec is None:
        return {frozenset()}
    choices = [_choices(push, reigns, history) for push in history.pushes if push.image.repository == repository]
    choices += [_named_choice(image, spec) for image in _ever_named(reigns) if image.repository == repository]
    relevant = _relevant([choice for choice in choices if choice != [None]], policy, spec.keep(repository), spec, end)
    if math.prod(len(choice) for choice in relevant) > _MOST_OUTCOMES:
        return None
    return {
        outcome
        for chosen in itertools.product(*relevant)
        for outcome in _left_at(end, [fact for fact in chosen if fact], policy, spec)
    }


def possible(history: History, policy: str, end: datetime) -> set[Image]:
    """Every image of which the policy may have had a WarmImage."""
    reigns = history.reigns(policy, end)
    return {it.image for it in history.pushes if _choices(it, reigns, history) != [None]} | _ever_named(reigns)


def must_have(history: History, policy: str, end: datetime) -> set[Image]:
    """Images that a policy wants no more and still has WarmImages of, because one of its rules cannot be read."""
    reigns = history.reigns(policy, end)
    spec = reigns[-1].spec
    if spec is None or not spec.invalid:
        return set()
    life = timedelta.max if spec.expire_seconds is None else timedelta(seconds=spec.expire_seconds)
    return {
        it.image
        for it in history.pushes
        if spec.spares(it.image) and not spec.wants(it.image) and None not in (found := _choices(it, reigns, history))
        if all(fact is not None and fact[2] is not None and end - fact[2] < life - _UNSURE for fact in found)
    }


def _choices(push: Push, reigns: Sequence[Reign], history: History) -> list[Fact | None]:
    """What may have come of a push; without `None` where something must have."""
    around = [(it, [reign for reign in reigns if _overlap(it, reign)]) for it in push.attempts]
    facts: set[Fact] = {
        (push.image, push.digest, moment)
        for attempt, seen in around
        for moment in _moments(push, attempt, history)
        if any(_takes(reign, push.image, push.moment(attempt), attempt.received - _LINGERS - SKEW) for reign in seen)
    }
    sure = any(
        200 <= attempt.status < 300
        and all(_takes(reign, push.image, push.moment(attempt), attempt.received + _LINGERS + SKEW) for reign in seen)
        # A repeat may be a duplicate, and then it is still the moment of an earlier attempt that counts.
        and all(
            _stays(push, push.moment(it), [reign for reign in reigns if reign.ends >= attempt.began], history)
            for it in push.attempts
            if it.began <= attempt.began
        )
        for attempt, seen in around
    )
    return [*([] if sure else [None]), *sorted(facts, key=lambda fact: fact[2] or _BEFORE_ALL)]


def _moments(push: Push, attempt: Attempt, history: History) -> list[datetime]:
    """When the image may count as pushed: a replica whose clock is ahead may have received another push before."""
    moment = push.moment(attempt)
    if push.time is not None:
        return [moment]
    same = [other for other in history.pushes if other.image.repository == push.image.repository]
    # With its own: a repeat may come after another push that came after it.
    received = {other.moment(it) for other in same for it in other.attempts} if len(same) > 1 else set()
    ahead = [it for it in received if moment <= it <= moment + 2 * SKEW]
    longest_chain = sum(len(other.attempts) for other in same if other.time is None)
    return [moment, *(it + _TICK * ticks for it in ahead for ticks in range(1, longest_chain + 1))]


def _overlap(attempt: Attempt, reign: Reign) -> bool:
    ended = attempt.ended if attempt.status else attempt.began + _LINGERS
    return reign.begins <= (ended or attempt.began + _LINGERS) and reign.ends >= attempt.began - _READ_BEFORE


def _takes(reign: Reign, image: Image, moment: datetime, now: datetime) -> bool:
    spec = reign.spec
    if spec is None or not spec.wants(image):
        return False
    return image in spec.named or spec.expire_seconds is None or moment + timedelta(seconds=spec.expire_seconds) >= now


def _stays(push: Push, moment: datetime, reigns: Sequence[Reign], history: History) -> bool:
    """Whether nothing can have taken it away before the end, when the last reign is judged."""
    for reign in reigns:
        spec = reign.spec
        if spec is None:
            if reign.ends - reign.begins < _GRACE:
                continue
            return False
        if reign is not reigns[-1]:
            ends = reign.ends + _LINGERS + SKEW
            expired = spec.expire_seconds is not None and moment + timedelta(seconds=spec.expire_seconds) < ends
            if expired and push.image not in spec.named:
                return False
            if not spec.wants(push.image):
                if spec.spares(push.image):
                    continue
                return False
        if push.image not in spec.named and len(_newer(push, moment, reign, history)) >= spec.keep(
            push.image.repository
        ):
            return False
    return True


def _newer(push: Push, moment: datetime, reign: Reign, history: History) -> set[Image]:
    """What may have taken its place: each may have been a build of its own for a while."""
    spec = reign.spec
    assert spec is not None
    lead = _PARTS if ":" in push.image.tag else timedelta(0)
    return {
        other.image
        for other in history.pushes
        if other.image.repository == push.image.repository and other.image not in (push.image, *spec.named)
        if ":" not in other.image.tag
        if any(it.began <= reign.ends + _LINGERS and other.moment(it) >= moment + lead - SKEW for it in other.attempts)
    }


def _ever_named(reigns: Iterable[Reign]) -> set[Image]:
    return {image for reign in reigns if reign.spec for image in reign.spec.named}


def _named_choice(image: Image, spec: Spec) -> list[Fact | None]:
    fact: Fact = (image, image.tag if ":" in image.tag else "", None)
    return [fact] if image in spec.named else [None, fact]


def _relevant(
    choices: list[list[Fact | None]], policy: str, keep: int, spec: Spec, end: datetime
) -> list[list[Fact | None]]:
    """Without the choices that make no difference: of images nobody wants, or older than what is there for sure."""
    sure: dict[Image, datetime] = {}
    for choice in choices:
        if choice[0] is not None and spec.wants(choice[0][0]):
            image, moment = choice[0][0], choice[0][2] or _BEFORE_ALL
            sure[image] = max(sure.get(image, moment), moment)
    tagged = {image: moment for image, moment in sure.items() if image not in spec.named and ":" not in image.tag}
    counted = sorted(tagged.values(), reverse=True)
    bar = counted[keep - 1] if len(counted) >= keep else None
    if bar is not None and spec.expire_seconds and bar + timedelta(seconds=spec.expire_seconds) < end + _UNSURE:
        bar = None
    seconds = {(fact[0], _second(fact)) for choice in choices for fact in choice if fact and ":" not in fact[0].tag}
    if len({second for _, second in seconds}) < len(seconds):
        bar = None  # tags of one second may be one build, and then there is room for more
    relevant = []
    for choice in choices:
        last = choice[-1]
        assert last is not None
        image, moment = last[0], last[2] or _BEFORE_ALL
        beaten = bar is not None and moment < bar and image not in spec.named and ":" not in image.tag
        if spec.wants(image) and not beaten and not (None in choice and moment < sure.get(image, moment)):
            relevant.append(choice)
    return relevant


def _left_at(end: datetime, facts: Iterable[Fact], policy: str, spec: Spec) -> set[frozenset[Fact]]:
    """What is there at the end, if these are all that came to be."""
    newest: dict[Image, Fact] = {}
    for fact in facts:
        if fact[0] not in newest or _order(fact) > _order(newest[fact[0]]):
            newest[fact[0]] = fact
    named = {fact for image, fact in newest.items() if image in spec.named}
    counted = [fact for fact in newest.values() if fact not in named and spec.wants(fact[0])]
    unsure: list[Fact] = []
    if spec.expire_seconds is not None:
        life = timedelta(seconds=spec.expire_seconds)
        unsure = [it for it in counted if it[2] is None or end - _UNSURE <= it[2] + life <= end]
        counted = [it for it in counted if it not in unsure and it[2] is not None and it[2] + life > end]
    left = set()
    for present in itertools.product((False, True), repeat=len(unsure)):
        there = counted + list(itertools.compress(unsure, present))
        left.add(frozenset(named | _kept(there, policy, spec)))
    return left


def _kept(there: Sequence[Fact], policy: str, spec: Spec) -> set[Fact]:
    """What `keep` leaves: so many builds, and the parts that were pushed for them."""
    builds: list[set[Fact]] = []
    for fact in (it for it in there if ":" not in it[0].tag):
        same = [build for build in builds if any(_one_build(fact, other) for other in build)]
        builds = [build for build in builds if build not in same] + [{fact}.union(*same)]
    builds.sort(key=lambda build: max((_moment(fact), image_name(policy, fact[0])) for fact in build), reverse=True)
    keep = spec.keep(there[0][0].repository) if there else 0
    since = min(map(_moment, builds[keep - 1])) - _PARTS if len(builds) >= keep > 0 else _BEFORE_ALL
    parts = {fact for fact in there if ":" in fact[0].tag and _moment(fact) >= since}
    return parts.union(*builds[:keep])


def _one_build(one: Fact, other: Fact) -> bool:
    same_second = one[2] is not None and other[2] is not None and _second(one) == _second(other)
    return same_second or (bool(one[1]) and one[1] == other[1])


def _second(fact: Fact) -> int:
    return int(_moment(fact).timestamp())


def _moment(fact: Fact) -> datetime:
    return fact[2] or _BEFORE_ALL


def _order(fact: Fact) -> tuple[datetime, str]:
    return (_moment(fact), fact[1])


# --- which lines on which nodes --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelNode:
    """A Node of the cluster."""

    name: str
    labels: Mapping[str, str]


def chosen_nodes(image: str, where: Where, nodes: Iterable[ModelNode]) -> set[str]:
    """The names of the nodes that should hold an image."""
    if where.pool:
        chosen = [node for node in nodes if node.labels.get("pool") == where.pool]
    elif where.names:
        chosen = list(nodes)
    else:
        chosen = [
            node
            for node in nodes
            if node.labels.get("kubernetes.io/os") == "linux" and node.labels.get("type") != "virtual-kubelet"
        ]
    names = [node.name for node in chosen if not where.names or node.name in where.names]
    names.sort(key=lambda name: hashlib.sha256(f"{image}\n{name}".encode()).hexdigest())
    if where.limit is None:
        return set(names)
    if isinstance(where.limit, str):
        return set(names[: math.ceil(len(names) * int(where.limit.rstrip("%")) / 100)])
    return set(names[: where.limit])
