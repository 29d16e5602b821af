"""Accept a push: from the event to WarmImages, the durable intent that a 2xx stands for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, Literal, TypeAlias

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, NotFound, Unavailable
from adapters.kubernetes.warmimage import POLICY_LABEL, REPOSITORY_LABEL, warmimage_object, warmimage_patch
from handlers.cluster import AT_HAND, Cluster
from handlers.sharing import SharedLists, failed, shared_task
from warmhook.events import Pushed, SkipReason, push_time
from warmhook.images import Reference
from warmhook.policies import Policy, PushRefusal, Upsert, decide_push
from warmhook.ports import Utcnow
from warmhook.warmimages import policy_label, repository_label

__all__ = ["Accepted", "Pushes", "write_warmimage"]

# How often an upsert is decided anew because another handler wrote first.
_ATTEMPTS: Final = 8
# Requests within this time share one LIST of the policies.
_POLICIES_FOR_SECONDS: Final = 0.1

Accepted: TypeAlias = Literal["accepted"]
# Where policies differ, the reason that says most about the event wins.
_TELLING: Final[tuple[PushRefusal, ...]] = ("duplicate", "superseded", "expired")


class Pushes:
    """Turns pushes into WarmImages."""

    def __init__(
        self, kubernetes: Kubernetes, cluster: Cluster, *, now: Utcnow, monotonic: Callable[[], float]
    ) -> None:
        self._kubernetes = kubernetes
        self._cluster = cluster
        self._lists = SharedLists(cluster)
        self._now = now
        self._monotonic = monotonic
        self._policies: dict[str, tuple[asyncio.Task[list[Policy]], float]] = {}
        """By how old they may be: the LIST that requests share, and until when on the monotonic clock."""

    async def accept(self, pushed: Pushed, event_id: str, received: datetime) -> Accepted | SkipReason:
        """Write what every policy makes of the push; `accepted` if it changed anything.

        Raises `Unavailable` where the API server did not take a write: the sender should try again.
        """
        wanting = _wanting(await self._shared_policies(AT_HAND), pushed.image)
        if not wanting:
            # What is refused does not come again, so that takes the policies of this moment.
            wanting = _wanting(await self._shared_policies(""), pushed.image)
        if not wanting:
            return "no-policy"
        moment = push_time(pushed.pushed_at, received)
        outcomes = await asyncio.gather(
            *(self._upsert(policy, image, moment, event_id) for policy, image in wanting), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        if "accepted" in outcomes:
            return "accepted"
        return next(reason for reason in _TELLING if reason in outcomes)

    async def _upsert(
        self, policy: Policy, image: Reference, moment: datetime, event_id: str
    ) -> Accepted | PushRefusal:
        label, repository = policy_label(policy.key), repository_label(image)
        labels = f"{POLICY_LABEL}={label},{REPOSITORY_LABEL}={repository}"
        # First as the API server has them at hand, in a list that all policies of a namespace share: a write holds only
        # over the version that was read, so one that is based on an older state conflicts. Only what leads to no write
        # must be decided on the present.
        at_hand = await self._lists.of_repository(policy.key.namespace, repository)
        existing, present = [it for it in at_hand if it.policy_label == label], False
        for _ in range(_ATTEMPTS):
            decision = decide_push(policy, image, moment, event_id, existing, self._now())
            if isinstance(decision, Upsert):
                try:
                    await write_warmimage(self._kubernetes, decision)
                except (Conflict, NotFound):
                    pass
                else:
                    return "accepted"
            elif present:
                return decision
            existing, present = await self._cluster.warmimages(labels, policy.key.namespace), True
        raise Unavailable(f"{_ATTEMPTS} other writes of the same WarmImage came first")

    async def _shared_policies(self, not_older_than: str) -> list[Policy]:
        shared, until = self._policies.get(not_older_than, (None, 0.0))
        if shared is None or failed(shared) or self._monotonic() >= until:
            reading = self._cluster.policies(not_older_than=not_older_than)
            shared = shared_task(reading, "policies")
            self._policies[not_older_than] = shared, self._monotonic() + _POLICIES_FOR_SECONDS
        # Shielded: that one sender hangs up must not fail the others.
        return await asyncio.shield(shared)


def _wanting(policies: Iterable[Policy], pushed: Reference) -> list[tuple[Policy, Reference]]:
    """Every policy that wants the push, with each name under which it does."""
    return [(policy, image) for policy in policies for image in policy.spellings(pushed)]


async def write_warmimage(kubernetes: Kubernetes, upsert: Upsert) -> None:
    """Create or change a WarmImage. Raises `Conflict` or `NotFound` where it is no longer as it was read."""
    wanted, replaced = upsert.warmimage, upsert.replaces
    if replaced is None:
        await kubernetes.create(paths.warmimages_in(wanted.key.namespace), warmimage_object(wanted))
    else:
        await kubernetes.patch(paths.warmimages(wanted.key), warmimage_patch(wanted, replaced.resource_version))
