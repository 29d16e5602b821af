"""Accept a push: from the event to WarmImages, the durable intent that a 2xx stands for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

from adapters.kubernetes.client import Kubernetes, KubernetesError, Refused, Unavailable
from adapters.logs import get_logger
from handlers.reconcile.circuit_breaker import CircuitBreakers
from handlers.reconcile.policy_statuses import PolicyStatuses, is_degraded
from handlers.reconcile.reader import FROM_CACHE, PolicyObject, Reader
from handlers.reconcile.singleflight import SharedLists, failed, shared_task
from handlers.reconcile.writer import upsert_warmimage
from warmhook.api import POLICY_LABEL, REPOSITORY_LABEL
from warmhook.events import Pushed, SkipReason, is_timed, push_time
from warmhook.images import Reference
from warmhook.policies import Policy, PushRefusal, Upsert, decide_push
from warmhook.ports import Utcnow
from warmhook.warmimages import policy_label, repository_label

__all__ = ["Accepted", "Pushes"]

_log = get_logger()

# How often an upsert is decided anew because another handler wrote first.
_ATTEMPTS: Final = 8
# Requests within this time share one LIST of the policies.
_POLICIES_FOR_SECONDS: Final = 0.1

Accepted: TypeAlias = Literal["accepted"]
# Where policies differ, the reason that says most about the event wins.
_TELLING: Final[tuple[PushRefusal | Literal["refused"], ...]] = ("refused", "duplicate", "superseded", "expired")
# The sender waits meanwhile.
_NOTE_SECONDS: Final = 0.2
# For a policy of which it is known that its writes fail.
_TRIAL_SECONDS: Final = 0.3


@dataclass(frozen=True, slots=True)
class _Push:
    """What all policies make of a push alike."""

    moment: datetime
    """When the image counts as pushed."""
    timed: bool
    """Whether the sender gave the time."""
    event_id: str


class Pushes:
    """Turns pushes into WarmImages."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        cluster: Reader,
        statuses: PolicyStatuses,
        *,
        now: Utcnow,
        monotonic: Callable[[], float],
    ) -> None:
        self._kubernetes = kubernetes
        self._cluster = cluster
        self._statuses = statuses
        self._lists = SharedLists(cluster)
        self._breakers = CircuitBreakers(monotonic)
        self._now = now
        self._monotonic = monotonic
        self._policies: dict[str, tuple[asyncio.Task[list[PolicyObject]], float]] = {}
        """By how old they may be: the LIST that requests share, and until when on the monotonic clock."""

    async def accept(self, pushed: Pushed, event_id: str, received: datetime) -> Accepted | SkipReason:
        """Write what every policy makes of the push; `accepted` if it changed anything.

        What the API server refuses to one policy for good concerns that policy alone: its condition `Degraded` says so.
        The push is `refused` only where no policy took it. Raises `Unavailable` where a write was not taken that may be
        later: the sender should try again.
        """
        wanting = await self._wanting(pushed, FROM_CACHE)
        if not wanting:
            # What is refused does not come again, so that takes the policies of this moment.
            wanting = await self._wanting(pushed, "")
        if not wanting:
            return "no-policy"
        # An event that came through a Broker names its time of receipt itself.
        push = _Push(push_time(pushed.pushed_at, min(received, self._now())), is_timed(pushed), event_id)
        outcomes = await asyncio.gather(
            *(self._decide(found, policy, image, push) for found, policy, image in wanting),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        if "accepted" in outcomes:
            return "accepted"
        return next(reason for reason in _TELLING if reason in outcomes)

    async def _wanting(self, pushed: Pushed, not_older_than: str) -> list[tuple[PolicyObject, Policy, Reference]]:
        """Every policy that wants the push, with each name under which it does."""
        return [
            (found, found.policy, image)
            for found in await self._shared_policies(not_older_than)
            if found.policy is not None
            for image in found.policy.spellings(pushed.image)
        ]

    async def _decide(
        self, found: PolicyObject, policy: Policy, image: Reference, push: _Push
    ) -> Accepted | PushRefusal | Literal["refused"]:
        try:
            outcome = await self._try(policy, image, push)
        except Refused as error:
            _log.error(
                "push-refused", policy=str(policy.key), event_id=push.event_id, image=str(image), problem=str(error)
            )
            await self._note(found, f"push of {image}: {error}")
            return "refused"
        if outcome == "accepted" and is_degraded(found):
            await self._note(found, "")
        return outcome

    async def _try(self, policy: Policy, image: Reference, push: _Push) -> Accepted | PushRefusal:
        """What becomes of the push. Raises `Refused`, also where nothing could be written for this policy for long."""
        is_open = self._breakers.is_open(policy.key)
        try:
            async with asyncio.timeout(_TRIAL_SECONDS if is_open else None):
                outcome = await self._upsert(policy, image, push)
        except (Unavailable, TimeoutError, asyncio.CancelledError) as error:
            self._breakers.failed(policy.key)
            if not is_open or isinstance(error, asyncio.CancelledError):
                raise
            raise Refused(f"no write was taken for a minute: {error or 'no answer'}") from error
        if outcome == "accepted":
            self._breakers.succeeded(policy.key)
        return outcome

    async def _note(self, found: PolicyObject, refused: str) -> None:
        """Say it in the policy's condition, if that can be written: it decides nothing."""
        try:
            async with asyncio.timeout(_NOTE_SECONDS):
                await self._statuses.note_write(found, refused)
        except (KubernetesError, TimeoutError) as error:
            _log.warning("policy-status-not-written", policy=str(found.key), problem=str(error))

    async def _upsert(self, policy: Policy, image: Reference, push: _Push) -> Accepted | PushRefusal:
        label, repository = policy_label(policy.key), repository_label(image)
        labels = f"{POLICY_LABEL}={label},{REPOSITORY_LABEL}={repository}"
        # First as the API server has them at hand, in a list that all policies of a namespace share: a write holds only
        # over the version that was read, so one that is based on an older state conflicts. Only what leads to no write
        # must be decided on the present.
        at_hand = await self._lists.of_repository(policy.key.namespace, repository)
        existing, present = [it for it in at_hand if it.policy_label == label], False
        for _ in range(_ATTEMPTS):
            decision = decide_push(policy, image, push.moment, push.event_id, existing, self._now(), timed=push.timed)
            if isinstance(decision, Upsert):
                if await upsert_warmimage(self._kubernetes, decision, self._now):
                    return "accepted"
            elif present:
                return decision
            existing, present = await self._cluster.warmimages(labels, policy.key.namespace), True
        raise Unavailable(f"{_ATTEMPTS} other writes of the same WarmImage came first")

    async def _shared_policies(self, not_older_than: str) -> list[PolicyObject]:
        shared, until = self._policies.get(not_older_than, (None, 0.0))
        if shared is None or failed(shared) or self._monotonic() >= until:
            reading = self._cluster.policy_objects(not_older_than=not_older_than)
            shared = shared_task(reading, "policies")
            self._policies[not_older_than] = shared, self._monotonic() + _POLICIES_FOR_SECONDS
        # Shielded: that one sender hangs up must not fail the others.
        return await asyncio.shield(shared)
