"""Decide which WarmImages a policy has: images that it names, images from pushes, and those to delete."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from warmhook.builds import beyond, old_versions
from warmhook.images import Reference
from warmhook.labels import Selector, TooManyTerms
from warmhook.node_affinity import intersect
from warmhook.rules import PushRule, PushRules
from warmhook.warmimages import (
    ObjectKey,
    PodOrigin,
    PolicyKey,
    Template,
    WarmImage,
    origin_warmimage_name,
    policy_label,
    warmimage_name,
)

POD_LIFETIME_SECONDS: Final = 7 * 86400
"""The time that an image stays after its last Pod if the policy has no `expireAfterSeconds`."""


OBSERVED_MAX: Final = 200
"""The WarmImages that one policy has for existing Pods and rollouts; a node has 256 lines for all namespaces."""

Part: TypeAlias = Literal["images", "pods", "rollouts", "template", "unknown"]
"""`unknown`: a field that only a newer version knows."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A WarmPolicy."""

    key: PolicyKey
    images: tuple[Reference, ...] = ()
    """Wanted as long as the policy exists."""
    push: tuple[PushRule, ...] = ()
    pods: Selector | None = None
    """Pods of the policy's namespace whose images are wanted on all nodes for such Pods; `None`: none."""
    pods_existing: bool = False
    """Whether the images of Pods that exist already are wanted as well."""
    rollouts: Selector | None = None
    """Workloads of the policy's namespace whose new images are wanted on the nodes of their Pods; `None`: none."""
    prefer_warm: bool = False
    """Pods of this policy prefer nodes that have their images."""
    template: Template = field(default_factory=Template)
    """If it cannot be read: no node, for new images."""
    problems: tuple[str, ...] = ()
    """Its unreadable parts, each beginning with the field; the rest of the policy works."""
    unread: frozenset[Part] = frozenset()
    """Unreadable parts other than the rules for pushes; their earlier effects stay."""
    _rules: PushRules = field(init=False, repr=False, compare=False)
    _named: frozenset[Reference] = field(init=False, repr=False, compare=False)
    _written: Mapping[Reference, tuple[Reference, ...]] = field(init=False, repr=False, compare=False)
    """Canonical name to the spellings in `spec.images`."""

    def __post_init__(self) -> None:
        written: dict[Reference, tuple[Reference, ...]] = {}
        for image in self.images:
            canonical = image.as_run.canonical
            written[canonical] = (*written.get(canonical, ()), image)
        object.__setattr__(self, "_rules", PushRules(self.push))
        object.__setattr__(self, "_named", frozenset(image.as_run for image in self.images))
        object.__setattr__(self, "_written", written)

    def names(self, image: Reference) -> bool:
        """Whether `spec.images` names the image: by its tag, whatever its digest, or by the digest that is there."""
        return image.without_digest() in self._named

    def spellings(self, pushed: Reference) -> tuple[Reference, ...]:
        """The names under which this policy wants a push: those in `spec.images`, and its own if a rule matches.

        Empty if it does not want the push.
        """
        written = [pushed.written_as(reference) for reference in self._written.get(pushed.without_digest(), ())]
        own = [pushed] if self._takes(pushed) else []
        return tuple(dict.fromkeys(written + own))

    def wants(self, image: Reference) -> bool:
        """Whether a WarmImage of this policy may exist for `image`."""
        return self.names(image) or self._takes(image)

    def _takes(self, image: Reference) -> bool:
        return any(not rule.unread for rule in self._rules.matching(image))

    def may_have_wanted(self, image: Reference) -> bool:
        """Whether an unreadable part of the policy may have created a WarmImage for `image`."""
        return "images" in self.unread or any(rule.unread for rule in self._rules.matching(image))

    def keep(self, image: Reference) -> int:
        """The number of builds of the image's repository to keep.

        The largest of all rules for the *repository*, whatever their tags. If it depended on the tags that exist, the
        result would depend on the order of pushes.
        """
        return max((rule.keep for rule in self._rules.of_repository(image)), default=1)


# --- a push ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Upsert:
    """Write this WarmImage: create it, or change the existing one that it replaces."""

    warmimage: WarmImage
    replaces: WarmImage | None = None
    """The object as it was read; the write must fail if it has changed."""


PushRefusal: TypeAlias = Literal["superseded", "expired", "duplicate"]

# Difference of the clocks of replicas; without a bound one wrong clock would move all later pushes.
_CLOCKS_DIFFER: Final = timedelta(minutes=1)


def decide_push(
    policy: Policy,
    image: Reference,
    pushed_at: datetime,
    event_id: str,
    existing: Iterable[WarmImage],
    now: datetime,
    *,
    timed: bool = True,
) -> Upsert | PushRefusal:
    """The write for a push that `policy` wants, given its WarmImages of the same repository.

    WarmImages for Pods have other names and do not count. If the push is not `timed`, `pushed_at` is when a replica
    received it, and an earlier push at a replica whose clock is ahead counts as older.

    A repeated, late or replayed event changes nothing: the greater `(pushed_at, digest)` of one image wins, and a push
    older than all that `keep` retains does not come back.
    """
    existing = [warmimage for warmimage in existing if warmimage.pod_origin is None]
    if not timed:
        pushed_at = _after_those_received(pushed_at, existing)
    wanted = WarmImage(
        key=ObjectKey(policy.key.namespace, warmimage_name(policy.key, image)),
        image=image.without_digest(),
        digest=image.digest,
        pushed_at=pushed_at,
        template=policy.template,
        policy_label=policy_label(policy.key),
        policy_name=policy.key.name,
        event_id=event_id,
    )
    stored = next((warmimage for warmimage in existing if warmimage.key == wanted.key), None)
    if stored is not None:
        if "template" in policy.unread:
            wanted = replace(wanted, template=_as_wanted(policy, stored).template)
        if stored.event_id == event_id or _push_order(stored) == _push_order(wanted):
            return "duplicate"
        if _push_order(stored) > _push_order(wanted):
            return "superseded"
    if not policy.names(image):
        if is_expired(wanted, now):
            return "expired"
        others = [other for other in existing if other.key != wanted.key and policy.wants(other.image)]
        # A stored one has an outdated digest of its tag, so it is replaced whether or not it may stay.
        if stored is None and wanted in surplus(policy, [*others, wanted]):
            return "superseded"
    return Upsert(wanted, stored)


def _after_those_received(received: datetime, existing: Iterable[WarmImage]) -> datetime:
    """The receipt, or just after earlier receipts by a clock that is ahead, within the difference of clocks."""
    moments = [
        warmimage.pushed_at
        for warmimage in existing
        if warmimage.pushed_at is not None and warmimage.pushed_at - received < _CLOCKS_DIFFER
    ]
    return max([received, *(moment + timedelta(microseconds=1) for moment in moments)])


def _push_order(warmimage: WarmImage) -> tuple[float, str]:
    return (warmimage.pushed_at.timestamp() if warmimage.pushed_at else float("-inf"), warmimage.digest)


def surplus(policy: Policy, same_repository: Collection[WarmImage]) -> list[WarmImage]:
    """The WarmImages of one policy and one repository beyond `keep`: a pure function of the set.

    Images in `spec.images` and images for Pods are neither counted nor removed.
    """
    pushed = [
        warmimage for warmimage in same_repository if warmimage.pod_origin is None and not policy.names(warmimage.image)
    ]
    if not pushed:
        return []
    return beyond(policy.keep(pushed[0].image), pushed)


def is_expired(warmimage: WarmImage, now: datetime) -> bool:
    """Whether the WarmImage's own lifetime is over."""
    end = warmimage.expires_at()
    return end is not None and end < now.timestamp()


# --- a policy --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PolicyChanges:
    """The changes that make the WarmImages of a policy match it."""

    upserts: tuple[Upsert, ...] = ()
    deletes: tuple[WarmImage, ...] = ()


def policy_changes(
    policy: Policy,
    existing: Collection[WarmImage],
    now: datetime,
    observed: Iterable[WarmImage] = (),
    *,
    pods_known: bool = False,
) -> PolicyChanges:
    """The changes among the WarmImages that carry the policy's label.

    `observed` are those that Pods and workloads want now, new or in the place of existing ones. Images of existing Pods
    expire only if it is known which Pods exist. None is deleted if the policy has a field that only a newer version
    knows: it may want it.
    """
    present = {warmimage.key: warmimage for warmimage in existing}
    newer = "unknown" in policy.unread
    current = present | {each.key: each for each in observed if not (newer and _is_ownerless(each))}
    unwanted = [] if newer else _unwanted(policy, current.values(), now, pods_known=pods_known)
    gone = {warmimage.key for warmimage in unwanted}
    creates = [Upsert(named) for named in _named(policy) if named.key not in present]
    creates += [Upsert(seen) for key, seen in current.items() if key not in present and key not in gone]
    updates = [
        Upsert(wanted, present[key])
        for key, warmimage in current.items()
        if key in present and key not in gone and (wanted := _as_wanted(policy, warmimage)) != present[key]
    ]
    return PolicyChanges(tuple(creates + updates), tuple(present[key] for key in sorted(gone & present.keys())))


def _is_ownerless(warmimage: WarmImage) -> bool:
    return warmimage.pod_origin is not None and not warmimage.pod_origin.owners


def within_bound(observed: Iterable[WarmImage], existing: Iterable[WarmImage]) -> tuple[list[WarmImage], int]:
    """The WarmImages of `observed` that the policy may have, and the number of others; existing ones come first."""
    stored = {
        warmimage.key
        for warmimage in existing
        if warmimage.pod_origin is not None and warmimage.pod_origin.source != "Admission"
    }
    kept, new = list[WarmImage](), list[WarmImage]()
    for warmimage in observed:
        (kept if warmimage.key in stored else new).append(warmimage)
    new.sort(key=lambda warmimage: warmimage.key)
    room = max(0, OBSERVED_MAX - len(stored))
    return kept + new[:room], len(new[room:])


def _unwanted(policy: Policy, existing: Collection[WarmImage], now: datetime, *, pods_known: bool) -> list[WarmImage]:
    unwanted = old_versions(existing)
    old = {warmimage.key for warmimage in unwanted}
    repositories: dict[str, list[WarmImage]] = {}
    for warmimage in existing:
        if (origin := warmimage.pod_origin) is not None:
            expires = origin.source == "Admission" or (origin.source == "Existing" and pods_known)
            needed = warmimage.key in old or _still_needed(policy, warmimage, origin, now if expires else None)
            if not needed:
                unwanted.append(warmimage)
            continue
        over = not policy.names(warmimage.image) and is_expired(_as_wanted(policy, warmimage), now)
        misnamed = warmimage.key.name != warmimage_name(policy.key, warmimage.image)
        wanted = policy.wants(warmimage.image)
        if over or misnamed or not (wanted or policy.may_have_wanted(warmimage.image)):
            unwanted.append(warmimage)
        elif wanted:
            repositories.setdefault(warmimage.image.canonical.name, []).append(warmimage)
    for same_repository in repositories.values():
        unwanted += surplus(policy, same_repository)
    return unwanted


def _named(policy: Policy) -> list[WarmImage]:
    """The WarmImages of `spec.images` before any push."""
    return [
        WarmImage(
            key=ObjectKey(policy.key.namespace, warmimage_name(policy.key, image)),
            image=image,
            digest=image.digest,
            template=policy.template,
            policy_label=policy_label(policy.key),
            policy_name=policy.key.name,
        )
        for image in dict.fromkeys(image.as_run for image in policy.images)
    ]


def _still_needed(policy: Policy, warmimage: WarmImage, origin: PodOrigin, now: datetime | None) -> bool:
    """Whether the policy still selects such Pods or workloads, and one of the Pods was created or seen lately.

    Without `now` it does not expire.
    """
    if origin.source == "Rollout":
        # `old_versions` has those that no workload uses any more.
        selected, part = policy.rollouts is not None, "rollouts"
    else:
        pods, part = policy.pods, "pods"
        selected = pods is not None and (
            origin.more or any(pods.matches(dict(owner.labels)) for owner in origin.owners)
        )
        selected = selected and policy.pods_existing == (origin.source == "Existing")
    if not selected and part not in policy.unread:
        return False
    if "template" in policy.unread:
        return now is None or not is_expired(warmimage, now)
    if warmimage.key.name != origin_warmimage_name(policy.key, warmimage.image, origin):
        return False
    template = template_for(policy.template, origin)
    return template is not None and (now is None or not is_expired(replace(warmimage, template=template), now))


def template_for(template: Template, origin: PodOrigin) -> Template | None:
    """The policy's template for images of such Pods; `None` if their constraints are too many.

    For new Pods it is restricted to nodes for such Pods, and the tolerations are those of the Pod: those of the policy
    are for its pushes. No event reports that an image is no longer used, so it expires some days after the last Pod
    unless the policy sets a lifetime. A workload says itself how long it uses an image.
    """
    if origin.source == "Rollout":
        return replace(template, expire_after_seconds=None)
    life = template.expire_after_seconds
    template = replace(template, expire_after_seconds=POD_LIFETIME_SECONDS if life is None else life)
    if origin.source == "Existing":
        return template
    try:
        affinity = intersect(template.nodes.affinity, origin.constraints.affinity)
    except TooManyTerms:
        return None
    nodes = replace(template.nodes, affinity=affinity, tolerations=origin.constraints.tolerations)
    return replace(template, nodes=nodes)


def decide_orphan(warmimage: WarmImage, now: datetime, grace: timedelta) -> Upsert | Literal["wait", "delete"]:
    """Decide about a WarmImage whose policy is missing: it is marked, and deleted `grace` later.

    A tool may delete a policy and create it again, and a backup may restore WarmImages before their policies. A mark in
    the future, from a wrong clock or a person, is ignored: it would keep the WarmImage for as long.
    """
    if warmimage.policy_gone_since is None or warmimage.policy_gone_since > now:
        return Upsert(replace(warmimage, policy_gone_since=now), warmimage)
    return "delete" if now - warmimage.policy_gone_since >= grace else "wait"


def _as_wanted(policy: Policy, warmimage: WarmImage) -> WarmImage:
    """The WarmImage with the current template of the policy."""
    warmimage = replace(warmimage, policy_name=policy.key.name, policy_gone_since=None)
    if "template" in policy.unread:
        # To stop works although the template has an error.
        mine, stored = policy.template, warmimage.template
        return replace(warmimage, template=replace(stored, suspend=mine.suspend, requests=mine.requests))
    if warmimage.pod_origin is not None:
        template = template_for(policy.template, warmimage.pod_origin)
        return replace(warmimage, template=template or warmimage.template)
    return replace(warmimage, template=policy.template)
