"""Accept a push: write its WarmImages, which a 2xx promises."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, TypeAlias

from adapters.clock import Clock
from adapters.kubernetes.errors import KubernetesError, Refused, Unavailable
from adapters.logs import get_logger
from handlers.reconcile.context import Context
from handlers.reconcile.objects import PolicyObject, Repository
from handlers.reconcile.policy_statuses import is_degraded, write_refusal
from handlers.reconcile.reader import FROM_CACHE
from handlers.reconcile.singleflight import SingleFlight
from warmhook.events import Pushed, SkipReason, is_timed, push_time
from warmhook.images import Reference
from warmhook.policies import Policy, PushRefusal, Upsert, decide_push
from warmhook.warmimages import ObjectKey, PolicyKey, WarmImage, policy_label, repository_label, warmimage_name

_log = get_logger()

# Requests within this time share one LIST of the policies.
_POLICIES_FOR_SECONDS: Final = 0.1
_POLICY_LISTS: Final = 32
# Lists of WarmImages at a time, for each namespace: with one alone all would wait whenever it is slow.
_LISTS: Final = 4
# A list without an answer must not delay all later ones.
_LIST_SECONDS: Final = 2.5

Accepted: TypeAlias = Literal["accepted"]
# If policies differ, the first of these is the answer.
_REFUSALS: Final[tuple[PushRefusal | Literal["refused"], ...]] = ("refused", "duplicate", "superseded", "expired")
# The sender of the push is waiting.
_NOTE_SECONDS: Final = 0.2
# For a policy whose circuit breaker is open.
_TRIAL_SECONDS: Final = 0.3
_OPEN_AFTER_SECONDS: Final = 60.0
_FAILING_REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class _Push:
    """What is the same of a push for all policies."""

    moment: datetime
    """The time of the push."""
    timed: bool
    """Whether the sender gave the time."""
    event_id: str


class Pushes:
    """Turns pushes into WarmImages."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._policies = {
            not_older_than: SingleFlight(
                self._read_policies, context.clock, at_once=_POLICY_LISTS, shared_seconds=_POLICIES_FOR_SECONDS
            )
            for not_older_than in (FROM_CACHE, "")
        }
        self._repositories: dict[str, SingleFlight[str, dict[str, list[WarmImage]]]] = {}
        """By namespace."""
        self._breakers = CircuitBreakers(context.clock)

    async def accept(self, pushed: Pushed, event_id: str, received: datetime) -> Accepted | SkipReason:
        """Write the WarmImages of every policy that wants the push; `accepted` if anything changed.

        A rejection for good concerns only its policy, whose condition `Degraded` has it. The push is `refused` only if
        no policy took it. Raises `Unavailable` if a write may succeed later: the sender should try again.
        """
        wanting = await self._wanting(pushed, FROM_CACHE)
        if not wanting:
            # The sender does not repeat a push that no policy wants, so this is decided on the policies of this moment.
            wanting = await self._wanting(pushed, "")
        if not wanting:
            return "no-policy"
        # An event from a Broker has its own time of receipt.
        push = _Push(
            push_time(pushed.pushed_at, min(received, self._context.clock.utcnow())), is_timed(pushed), event_id
        )
        outcomes = await asyncio.gather(
            *(self._decide(found, policy, image, push) for found, policy, image in wanting),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        if "accepted" in outcomes:
            return "accepted"
        return next(reason for reason in _REFUSALS if reason in outcomes)

    async def _wanting(self, pushed: Pushed, not_older_than: str) -> list[tuple[PolicyObject, Policy, Reference]]:
        """All policies that want the push, with each name under which they do."""
        return [
            (found, found.policy, image)
            for found in await self._policies[not_older_than].get(not_older_than)
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
        """The result of the push. Raises `Refused`, also if writes for this policy have failed for long."""
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
        """Write the refusal to the policy's condition `Degraded`, if that succeeds in time."""
        try:
            async with asyncio.timeout(_NOTE_SECONDS):
                await write_refusal(self._context, found, refused)
        except (KubernetesError, TimeoutError) as error:
            _log.warning("policy-status-not-written", policy=str(found.key), problem=str(error))

    async def _upsert(self, policy: Policy, image: Reference, push: _Push) -> Accepted | PushRefusal:
        repository = Repository(policy_label(policy.key), policy.key.namespace, repository_label(image))
        reader, now = self._context.reader, self._context.clock.utcnow

        def judge(existing: Iterable[WarmImage]) -> Upsert | PushRefusal:
            return decide_push(policy, image, push.moment, push.event_id, existing, now(), timed=push.timed)

        async def decide(attempt: int) -> Upsert | PushRefusal:
            # First from the API server's cache, in a list that all policies of a namespace share: a write holds only
            # over the version that was read, so one that is based on an older state conflicts. Only what leads to no
            # write must be decided on the present.
            if attempt == 0:
                found = await self._repositories_in(repository.namespace).get(repository.label)
                cached = found.get(repository.label, [])
                decision = judge(warmimage for warmimage in cached if warmimage.policy_label == repository.policy)
                if isinstance(decision, Upsert):
                    return decision
            return judge((await reader.warmimages_of_repository(repository)).usable.values())

        key = ObjectKey(policy.key.namespace, warmimage_name(policy.key, image))
        decision: Upsert | PushRefusal = await self._context.writer.upsert_until_written(key, decide)
        if isinstance(decision, Upsert):
            return "accepted"
        return decision

    async def _read_policies(self, not_older_than: Collection[str]) -> list[PolicyObject]:
        (version,) = not_older_than
        return await self._context.reader.policy_objects(not_older_than=version)

    def _repositories_in(self, namespace: str) -> SingleFlight[str, dict[str, list[WarmImage]]]:
        """The lists of WarmImages of a namespace, by the label of their repository."""

        async def read(labels: Collection[str]) -> dict[str, list[WarmImage]]:
            found: defaultdict[str, list[WarmImage]] = defaultdict(list)
            listed = await self._context.reader.warmimages_of_repositories(namespace, labels, not_older_than=FROM_CACHE)
            for warmimage in listed:
                found[repository_label(warmimage.image)].append(warmimage)
            return found

        if namespace not in self._repositories:
            self._repositories[namespace] = SingleFlight(
                read, self._context.clock, at_once=_LISTS, timeout_seconds=_LIST_SECONDS
            )
        return self._repositories[namespace]


@dataclass(eq=False)
class CircuitBreakers:
    """Distinguishes a policy whose writes fail from an API server that fails, in one process.

    If a webhook of one namespace fails or hangs, the API server seems to. Writes for other policies show the
    difference: if nothing could be written for one policy for a minute, and something was written for another, only
    that policy fails.
    """

    clock: Clock
    _failing: dict[PolicyKey, float] = field(default_factory=dict)
    """Since when all writes for a policy fail, on the monotonic clock."""
    _succeeded: float = float("-inf")
    """The last successful write for any policy."""

    def is_open(self, policy: PolicyKey) -> bool:
        """Whether only this policy fails, so that no request should wait for it."""
        since = self._failing.get(policy)
        if since is None:
            return False
        return self.clock.monotonic() - since >= _OPEN_AFTER_SECONDS and self._succeeded >= since

    def succeeded(self, policy: PolicyKey) -> None:
        """A write for the policy succeeded."""
        self._failing.pop(policy, None)
        self._succeeded = self.clock.monotonic()

    def failed(self, policy: PolicyKey) -> None:
        """A write for the policy failed, or got no answer in time."""
        self._failing.setdefault(policy, self.clock.monotonic())
        while len(self._failing) > _FAILING_REMEMBERED:
            del self._failing[next(iter(self._failing))]
