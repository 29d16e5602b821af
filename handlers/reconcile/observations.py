"""Read the Pods and workloads that a policy depends on, and decide which WarmImages they want.

If they cannot be read, the WarmImages that they wanted before stay, and a condition of the policy says why.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

from adapters.kubernetes.errors import KubernetesError, Refused
from handlers.reconcile.reader import Reader
from warmhook.pod_images import existing_pod_images
from warmhook.policies import OBSERVED_MAX, Policy, within_bound
from warmhook.warmimages import WarmImage
from warmhook.workload_images import rollout_images

# A sync also reads the Pods for lines and statuses.
_AT_MOST_SECONDS: Final = 5.0

Reason: TypeAlias = Literal["Read", "Forbidden", "Unavailable", "TooManyImages"]


@dataclass(frozen=True, slots=True)
class Observation:
    """What Pods and workloads want of a policy."""

    images: Collection[WarmImage] = ()
    """New WarmImages, and existing ones as they should be."""
    pods_known: bool = False
    """Whether existing Pods were read."""
    problem: KubernetesError | None = None
    """Of the first read that failed."""
    left_out: int = 0
    """Images beyond the bound of a policy."""

    @property
    def reason(self) -> Reason:
        """The reason of the condition `Observed`."""
        if self.problem is not None:
            return "Forbidden" if isinstance(self.problem, Refused) else "Unavailable"
        return "TooManyImages" if self.left_out else "Read"

    @property
    def message(self) -> str:
        """What the condition says; empty if all is well."""
        if self.problem is not None:
            return str(self.problem)
        if not self.left_out:
            return ""
        return (
            f"{self.left_out} images are not kept: {OBSERVED_MAX} images of Pods and rollouts at most, use a selector"
        )


async def observe(reader: Reader, now: datetime, policy: Policy, owned: Collection[WarmImage]) -> Observation | None:
    """What is there now; `owned` are the WarmImages of the policy. `None` if the policy depends on no Pods."""
    namespace, pods = policy.key.namespace, reader.pods
    depends, pods_known, problem = False, False, None
    images: list[WarmImage] = []
    if "template" not in policy.unread:
        if policy.pods is not None and policy.pods_existing:
            depends = True
            try:
                found = await pods.existing(namespace, policy.pods)
                images += existing_pod_images(policy, found, owned, now)
                pods_known = True
            except KubernetesError as error:
                problem = error
        if policy.rollouts is not None:
            depends = True
            try:
                images += rollout_images(policy, await pods.workloads(namespace, policy.rollouts), owned, now)
            except KubernetesError as error:
                problem = problem or error
        running = await pods.running(owned, at_most_seconds=_AT_MOST_SECONDS)
        problem = problem or next(iter(running.unknown.values()), None)
        depends = depends or policy.template.nodes.running_pods is not None
    bounded, left_out = within_bound(images, owned)
    return Observation(bounded, pods_known, problem, left_out) if depends else None
