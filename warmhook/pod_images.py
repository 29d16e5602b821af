"""Decide which WarmImages a policy has for Pods, new or existing, and when they are written again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from warmhook.admission_review import Admitted
from warmhook.labels import TooManyTerms
from warmhook.policies import Policy, Upsert, template_for
from warmhook.warmimages import (
    OWNERS_MAX,
    ObjectKey,
    PodOrigin,
    PodOwner,
    WarmImage,
    origin_warmimage_name,
    policy_label,
)

AdmissionRefusal: TypeAlias = Literal["duplicate"]

# A WarmImage is written again after this part of its lifetime since its last admission: often enough to outlive the
# Pods that need it, and seldom enough that many Pods cost nothing.
_REFRESH_PART: Final = 10
_LONGEST_REFRESH: Final = timedelta(days=1)

# Labels that differ between the rollouts and Pods of one owner; their changes are not worth a write.
_OF_ONE_ROLLOUT: Final = frozenset(
    {
        "pod-template-hash",
        "pod-template-generation",
        "controller-revision-hash",
        "controller-uid",
        "job-name",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-name",
        "batch.kubernetes.io/job-completion-index",
        "apps.kubernetes.io/pod-index",
        "statefulset.kubernetes.io/pod-name",
    }
)


def takes_pod(policy: Policy, admitted: Admitted) -> bool:
    """Whether the rule of the policy for Pods selects this Pod; only Pods of its own namespace."""
    return (
        policy.pods is not None
        and policy.key.namespace == admitted.namespace
        and policy.pods.matches(admitted.labels)
        and "template" not in policy.unread
    )


def warmimages_for_pod(policy: Policy, admitted: Admitted, moment: datetime, event_id: str) -> Iterator[WarmImage]:
    """The WarmImages of a policy that selects the Pod, one per image.

    Empty if no node can ever run such a Pod, or if its constraints and those of the policy are too many together. If
    the policy takes existing Pods, the images are wanted on all of its nodes, and no version of an owner is old.
    """
    try:
        origin = PodOrigin((), source="Existing") if policy.pods_existing else PodOrigin((), admitted.constraints)
    except TooManyTerms:
        return
    labels = tuple(sorted(admitted.labels.items()))
    template = template_for(policy.template, origin)
    if template is None or template.nodes.affinity == ():
        return
    # A Pod without an owner has no versions: each may run something else.
    named = () if policy.pods_existing or admitted.owner.startswith("Pod/") else admitted.containers
    for image in dict.fromkeys(image.as_run for image in admitted.images):
        containers = tuple(sorted({name for name, run in named if run.as_run == image}))
        pod_owner = PodOwner(admitted.owner, labels, containers, moment)
        yield WarmImage(
            key=ObjectKey(policy.key.namespace, origin_warmimage_name(policy.key, image, origin)),
            image=image,
            digest=image.digest,
            pushed_at=moment,
            template=template,
            policy_label=policy_label(policy.key),
            policy_name=policy.key.name,
            event_id=event_id,
            pod_origin=replace(origin, owners=(pod_owner,)),
        )


def existing_pod_images(
    policy: Policy, pods: Iterable[Admitted], existing: Collection[WarmImage], now: datetime
) -> list[WarmImage]:
    """The WarmImages for the Pods of a policy that exist now: new ones, and those in `existing` that change."""
    stored = {warmimage.key: warmimage for warmimage in existing}
    wanted = {
        (warmimage.key, pod.owner, tuple(sorted(pod.labels.items()))): warmimage
        for pod in pods
        for warmimage in warmimages_for_pod(policy, pod, now, "")
    }
    # Pods of one owner may differ in their labels: if one of them is known as it is, the others are no change.
    known = {
        (key, owner)
        for (key, owner, _), warmimage in wanted.items()
        if key in stored and decide_admission(warmimage, stored[key]) == "duplicate"
    }
    changed: dict[ObjectKey, WarmImage] = {}
    for (key, owner, _), warmimage in wanted.items():
        before = changed.get(key, stored.get(key))
        decision = "duplicate" if (key, owner) in known else decide_admission(warmimage, before)
        known.add((key, owner))
        if isinstance(decision, Upsert):
            seen = decision.warmimage
            changed[key] = (
                seen if before is None else replace(before, pushed_at=seen.pushed_at, pod_origin=seen.pod_origin)
            )
    return list(changed.values())


def decide_admission(wanted: WarmImage, stored: WarmImage | None) -> Upsert | AdmissionRefusal:
    """The write that `wanted` needs if the object of that name is now `stored`.

    None while the last admission that was written is recent, of the image and of the owner: one tenth of the lifetime,
    at most a day.
    """
    if stored is None or wanted.pod_origin is None:
        return Upsert(wanted, stored)
    if stored.template == wanted.template and stored.pod_origin is not None:
        refresh = _refresh(wanted)
        recent = not _outdated(wanted.pushed_at, stored.pushed_at, refresh)
        if recent and _is_known(wanted.pod_origin.owners[0], stored.pod_origin, refresh):
            return "duplicate"
    newest = max(filter(None, (wanted.pushed_at, stored.pushed_at)), default=None)
    return Upsert(replace(wanted, pushed_at=newest, pod_origin=_together(wanted.pod_origin, stored.pod_origin)), stored)


def _refresh(wanted: WarmImage) -> timedelta:
    lifetime = wanted.template.expire_after_seconds
    return _LONGEST_REFRESH if lifetime is None else min(timedelta(seconds=lifetime / _REFRESH_PART), _LONGEST_REFRESH)


def _outdated(now: datetime | None, before: datetime | None, refresh: timedelta) -> bool:
    return before is None or (now is not None and now - before > refresh)


def _is_known(pod_owner: PodOwner, origin: PodOrigin, refresh: timedelta) -> bool:
    known = next((entry for entry in origin.owners if entry.owner == pod_owner.owner), None)
    if known is None:
        # The first owners represent all others, so that each of a thousand Jobs costs no write.
        return origin.more and len(origin.owners) >= OWNERS_MAX
    same = known.containers == pod_owner.containers and _enduring(known) == _enduring(pod_owner)
    return same and not _outdated(pod_owner.at, known.at, refresh)


def _enduring(pod_owner: PodOwner) -> set[tuple[str, str]]:
    return {(key, value) for key, value in pod_owner.labels if key not in _OF_ONE_ROLLOUT}


def _together(wanted: PodOrigin, stored: PodOrigin | None) -> PodOrigin:
    if stored is None:
        return wanted
    (pod_owner,) = wanted.owners
    known = next((entry for entry in stored.owners if entry.owner == pod_owner.owner), None)
    if known is not None and known.at is not None and pod_owner.at is not None:
        pod_owner = replace(pod_owner, at=max(pod_owner.at, known.at))
    others = [entry for entry in stored.owners if entry.owner != pod_owner.owner]
    more = stored.more or len(others) >= OWNERS_MAX
    return replace(wanted, owners=(pod_owner, *others[: OWNERS_MAX - 1]), more=more)
