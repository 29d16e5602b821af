"""Decide which WarmImages a policy has for the rollouts of workloads, and which workloads need each.

The newest image of each container is the one that the workload names; the one before it stays for a rollback.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, TypeAlias

from warmhook.images import Reference
from warmhook.labels import Selector
from warmhook.policies import Policy, template_for
from warmhook.warmimages import (
    OWNERS_MAX,
    ObjectKey,
    PodOrigin,
    PodOwner,
    WarmImage,
    origin_warmimage_name,
    policy_label,
)

_NEVER: Final = float("-inf")
_ROLLOUT: Final = PodOrigin((), source="Rollout")


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment, StatefulSet, DaemonSet or CloneSet."""

    owner: str
    """Kind and name: `Deployment/web`."""
    selector: Selector
    """Its Pods."""
    containers: tuple[tuple[str, Reference], ...] = ()
    """As in `Admitted`."""


_Uses: TypeAlias = Mapping[Reference, Mapping[str, tuple[str, ...]]]
"""By image and owner the names of the containers that run it."""


def rollout_images(
    policy: Policy, workloads: Iterable[Workload], existing: Collection[WarmImage], now: datetime
) -> list[WarmImage]:
    """The WarmImages for these rollouts: new ones, and those in `existing` as they should be.

    One without owners is no longer wanted. An image of more workloads than are stored has the first of them.
    """
    stored = {
        warmimage.key: (warmimage, warmimage.pod_origin)
        for warmimage in existing
        if warmimage.pod_origin is not None and warmimage.pod_origin.source == "Rollout"
    }
    known = {workload.owner: workload for workload in workloads}
    newest = _newest((key, origin) for key, (_, origin) in stored.items())
    uses = {_key(policy, image): (image, owners) for image, owners in _uses(known).items()}
    found = []
    for key in stored.keys() | uses.keys():
        image, current = uses.get(key, (None, {}))
        warmimage, before = stored.get(key, (None, _ROLLOUT))
        owners = _owners(key, before, current, known, newest, now)
        origin = replace(before, owners=tuple(owners[:OWNERS_MAX]), more=len(owners) > OWNERS_MAX)
        earlier = warmimage.pushed_at if warmimage is not None else None
        pushed_at = max((owner.at for owner in origin.owners if owner.at is not None), default=earlier or now)
        if warmimage is not None:
            found.append(replace(warmimage, pod_origin=origin, pushed_at=pushed_at))
        elif image is not None and (template := template_for(policy.template, origin)) is not None:
            label, name = policy_label(policy.key), policy.key.name
            found.append(WarmImage(key, image, image.digest, pushed_at, template, label, name, pod_origin=origin))
    return sorted(found, key=lambda warmimage: warmimage.key)


def _owners(
    key: ObjectKey,
    before: PodOrigin,
    current: Mapping[str, tuple[str, ...]],
    known: Mapping[str, Workload],
    newest: Mapping[tuple[str, str], tuple[float, ObjectKey]],
    now: datetime,
) -> list[PodOwner]:
    """The workloads that run the image of this WarmImage, then those that did and still have the container."""
    written = {owner.owner: owner for owner in before.owners}
    owners = []
    for owner, names in sorted(current.items()):
        stored = written.get(owner)
        unchanged = stored is not None and stored.containers == names
        # After a rollback it is the newest again. None is newer than a time in the future, from a clock that was wrong.
        used_last = (newest[owner, name] for name in names)
        same = unchanged and all(last == key or at > now.timestamp() for at, last in used_last)
        owners.append(PodOwner(owner, (), names, stored.at if stored and same else now, known[owner].selector))
    for owner, stored in sorted(written.items()):
        if owner in known and owner not in current:
            has = {name for name, _ in known[owner].containers}
            if names := tuple(name for name in stored.containers if name in has):
                owners.append(replace(stored, containers=names, selector=known[owner].selector))
    return owners


def _uses(known: Mapping[str, Workload]) -> _Uses:
    uses: defaultdict[Reference, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for owner, workload in known.items():
        for name, image in workload.containers:
            names = {*uses[image.as_run].get(owner, ()), name}
            uses[image.as_run][owner] = tuple(sorted(names))
    return uses


def _newest(origins: Iterable[tuple[ObjectKey, PodOrigin]]) -> dict[tuple[str, str], tuple[float, ObjectKey]]:
    """The WarmImage that each container of an owner began to use last, and when."""
    newest: dict[tuple[str, str], tuple[float, ObjectKey]] = {}
    for key, origin in origins:
        for owner in origin.owners:
            at = owner.at.timestamp() if owner.at else _NEVER
            for name in owner.containers:
                newest[owner.owner, name] = max((at, key), newest.get((owner.owner, name), (_NEVER, key)))
    return newest


def _key(policy: Policy, image: Reference) -> ObjectKey:
    return ObjectKey(policy.key.namespace, origin_warmimage_name(policy.key, image, _ROLLOUT))
