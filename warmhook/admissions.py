"""Decide what a Pod's creation leads to: which WarmImages a policy has for it, and when they are written again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from warmhook.feasible import TooManyTerms
from warmhook.pods import Admitted
from warmhook.policies import Policy, Upsert, narrowed
from warmhook.warmimages import Asked, ObjectKey, WarmImage, asked_name, owner_label, policy_label

__all__ = ["AdmissionRefusal", "asked_for", "decide_admission", "takes_pod"]

AdmissionRefusal: TypeAlias = Literal["duplicate"]

# A WarmImage is written again when so much of its lifetime has passed since its last admission: often enough that it
# outlives the Pods that need it, and seldom enough that a crowd of Pods costs nothing.
_REFRESH_PART: Final = 10
_LONGEST_REFRESH: Final = timedelta(days=1)


def takes_pod(policy: Policy, admitted: Admitted) -> bool:
    """Whether the policy's rule for Pods selects this one; only those of its own namespace."""
    return (
        policy.pods is not None
        and policy.key.namespace == admitted.namespace
        and policy.pods.matches(admitted.labels)
        and "template" not in policy.unread
    )


def asked_for(policy: Policy, admitted: Admitted, moment: datetime, event_id: str) -> Iterator[WarmImage]:
    """The WarmImages of a policy that takes the Pod, one per image.

    None where no node can ever take such a Pod, and where its constraints and the policy's together are too many.
    """
    try:
        constraints = admitted.constraints
    except TooManyTerms:
        return
    labels = tuple(sorted(admitted.labels.items()))
    asked = Asked(owner_label(admitted.namespace, admitted.owner), labels, constraints)
    template = narrowed(policy.template, asked)
    if template is None or template.nodes.affinity == ():
        return
    for image in dict.fromkeys(image.as_run for image in admitted.images):
        yield WarmImage(
            key=ObjectKey(policy.key.namespace, asked_name(policy.key, image, constraints)),
            image=image,
            digest=image.digest,
            pushed_at=moment,
            template=template,
            policy_label=policy_label(policy.key),
            event_id=event_id,
            asked=asked,
        )


def decide_admission(wanted: WarmImage, stored: WarmImage | None) -> Upsert | AdmissionRefusal:
    """What to write where the object of that name is now `stored`.

    Nothing as long as the last admission that was written is recent: one tenth of the lifetime, at most a day.
    """
    if stored is None:
        return Upsert(wanted)
    if stored.template == wanted.template and stored.asked is not None and not _outdated(wanted, stored):
        return "duplicate"
    newest = max(filter(None, (wanted.pushed_at, stored.pushed_at)), default=None)
    return Upsert(replace(wanted, pushed_at=newest), stored)


def _outdated(wanted: WarmImage, stored: WarmImage) -> bool:
    if stored.pushed_at is None or wanted.pushed_at is None:
        return stored.pushed_at is None
    lifetime = wanted.template.expire_after_seconds
    refresh = timedelta(seconds=lifetime / _REFRESH_PART) if lifetime is not None else _LONGEST_REFRESH
    return wanted.pushed_at - stored.pushed_at > min(refresh, _LONGEST_REFRESH)
