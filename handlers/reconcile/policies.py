"""Reconcile the WarmImages of policies."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from adapters.kubernetes.errors import Conflict, Unavailable
from adapters.logs import get_logger
from handlers.reconcile.context import Context
from handlers.reconcile.objects import PolicyObject, Repository, WarmImages, repository_of
from handlers.reconcile.observations import Observation, observe
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.policy_statuses import write_observation, write_status
from handlers.reconcile.reader import FROM_CACHE
from handlers.reconcile.repositories import read_repositories
from warmhook.policies import Policy, PolicyChanges, Upsert, decide_orphan, policy_changes
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey, PolicyKey, WarmImage

_log = get_logger()

# At a time in each namespace: the deletes after a burst of pushes must not delay the next burst.
_DELETES: Final = 4
_DELETED_KNOWN: Final = 2000
_REPOSITORIES_SECONDS: Final = 5.0
# How often a delete is repeated because the status was written meanwhile.
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The result of reconciling the repositories of WarmImages."""

    found: WarmImages
    """The remaining ones, as they were read; later writes are newer."""
    deleted: Collection[ObjectKey] = ()
    """These, and others of their repositories."""
    problems: Mapping[ObjectKey, Exception] = field(default_factory=dict)
    """The problems of those whose repositories could not be written."""


@dataclass(slots=True)
class Applied:
    """The results of the changes of a policy, each by itself."""

    outcomes: Outcomes = field(default_factory=Outcomes)
    created: set[ObjectKey] = field(default_factory=set)
    changed: int = 0
    deleted: set[ObjectKey] = field(default_factory=set)
    unobserved: Unavailable | None = None
    """Why Pods or workloads could not be read, if a repeat may help."""

    @property
    def wrote(self) -> bool:
        """Whether anything was written."""
        return bool(self.created or self.changed or self.deleted)

    @property
    def refused(self) -> str | None:
        """The rejection of the API server; empty if it accepted all, `None` if nothing was written."""
        if self.outcomes.refused is not None:
            return str(self.outcomes.refused)
        return "" if self.wrote and self.outcomes.later is None else None


@dataclass(eq=False)
class Policies:
    """Reconciles WarmPolicies."""

    context: Context
    _deletes: WeakValueDictionary[str, asyncio.Semaphore] = field(default_factory=WeakValueDictionary)
    """By namespace, one of which may hang."""
    _deleted: dict[str, None] = field(default_factory=dict)
    """The uids of the last WarmImages that were deleted, which lists from a cache may still show."""

    async def reconcile(self, key: PolicyKey) -> None:
        """Update the WarmImages of one policy; those of a deleted policy are marked, and deleted later.

        One that fails does not keep the others from being written. Raises `Unavailable` if another try may help, and
        `Refused` if something was refused for good, which the policy's condition `Degraded` says as well.
        """
        labelled = await self.context.reader.warmimages_of_policy(key)
        owned = list(labelled.usable.values())
        found = await self.context.reader.policy_object(key)
        if found is None:
            # Read after its WarmImages: none of them belongs to a new policy with this name.
            outcomes = Outcomes()
            await outcomes.each("let-go", owned, self.let_go, name=_name)
            outcomes.raise_problem()
            return
        applied = await self.apply(found, owned, labelled.unusable)
        applied.outcomes.raise_problem()
        if applied.unobserved is not None:
            raise applied.unobserved

    async def apply(self, found: PolicyObject, owned: list[WarmImage], unusable: Iterable[ObjectKey]) -> Applied:
        """Write what differs, each WarmImage by itself, and the policy's status. What is refused is in the outcomes.

        `owned` are its WarmImages; `unusable` are those that cannot be used, which count and stay.
        """
        applied = Applied()
        # The earlier effects of an unusable policy stay: a typo must not evict images from nodes.
        observation: Observation | None = None
        if found.policy is not None:
            now = self.context.clock.utcnow()
            observation = await observe(self.context.reader, now, found.policy, owned)
            seen = observation or Observation()
            changes = policy_changes(found.policy, owned, now, seen.images, pods_known=seen.pods_known)
            await self._write(changes, applied)
            applied.unobserved = seen.problem if isinstance(seen.problem, Unavailable) else None
        with applied.outcomes.item("policy-status", policy=str(found.key)):
            images = {warmimage.key for warmimage in owned}.union(unusable, applied.created) - applied.deleted
            await write_status(self.context, found, len(images), applied.refused)
            if found.policy is not None:
                await write_observation(self.context, found, observation)
        return applied

    async def reconcile_repositories(
        self, keys: Collection[ObjectKey], *, not_older_than: str = "", seen: Mapping[ObjectKey, Object] | None = None
    ) -> Reconciled:
        """Reconcile changed WarmImages and their repositories with the current policies.

        This deletes the pushes beyond `keep`, and repairs the result if a policy changed while a push was being
        accepted. `not_older_than` is the newest known version of these WarmImages: later changes have their own
        events. `seen` are the WarmImages as the watch of this process saw them: where all were seen,
        policies are read anew only for a repository in which those that are known would change something.
        """
        found, repositories = await read_repositories(self.context.reader, keys, not_older_than, seen or {})
        if not repositories:
            return Reconciled(found)
        doubtful = repositories
        if seen is not None and seen.keys() >= set(keys):
            known = await self.context.reader.policies_as_noted()
            doubtful = {
                repository: warmimages
                for repository, warmimages in repositories.items()
                if (policy := known.get(repository[:2])) is None or self._changes(policy, warmimages) != PolicyChanges()
            }
        # Read after their WarmImages, which are written only over the version that was read.
        policies = await self.context.reader.policies_of({repository[:2] for repository in doubtful})
        late = Unavailable("its repository could not be written in time", retry_after_seconds=1)
        problems: dict[Repository, Exception | None] = dict.fromkeys(repositories, late)
        deleted: set[ObjectKey] = set()

        async def reconcile(repository: Repository) -> None:
            applied = Applied(deleted=deleted)
            if policy := policies.get(repository[:2]):
                await self._write(self._changes(policy, repositories[repository]), applied)
            problems[repository] = applied.outcomes.problem

        # A namespace that hangs must not delay the lines of all.
        await Outcomes().each(
            "repository",
            repositories,
            reconcile,
            name=" ".join,
            group=lambda repository: repository.namespace,
            seconds=_REPOSITORIES_SECONDS,
        )
        left = {key: warmimage for key, warmimage in found.usable.items() if key not in deleted}
        of_keys = {key: problems.get(repository_of(warmimage)) for key, warmimage in found.usable.items()}
        return Reconciled(
            WarmImages(left, found.unusable),
            deleted,
            {key: problem for key, problem in of_keys.items() if problem is not None},
        )

    async def update_counts(self, namespaces: Collection[str]) -> None:
        """Write how many WarmImages the policies of these namespaces have now."""
        if not namespaces:
            return
        known = await self.context.reader.policy_objects(not_older_than=FROM_CACHE)
        outcomes = Outcomes()

        async def update(namespace: str) -> None:
            images = await self.context.reader.count_by_policy(namespace)
            await outcomes.each(
                "policy-status",
                [found for found in known if found.key.namespace == namespace],
                lambda found: write_status(self.context, found, images[found.label]),
                name=lambda found: str(found.key),
            )

        await outcomes.each("counts", {found.key.namespace for found in known} & set(namespaces), update)
        outcomes.raise_problem()

    def _changes(self, policy: Policy, same_repository: Collection[WarmImage]) -> PolicyChanges:
        """The changes in a repository, without images of `spec.images` in other repositories."""
        changes = policy_changes(policy, same_repository, self.context.clock.utcnow())
        return PolicyChanges(tuple(upsert for upsert in changes.upserts if upsert.replaces), changes.deletes)

    async def _write(self, changes: PolicyChanges, applied: Applied) -> None:
        """Deletes go first, because a quota may need them."""

        async def delete(warmimage: WarmImage) -> None:
            if await self.delete(warmimage, "unwanted"):
                applied.deleted.add(warmimage.key)

        async def upsert(change: Upsert) -> None:
            await self._upsert(change, applied)

        await applied.outcomes.each("delete", changes.deletes, delete, name=_name)
        await applied.outcomes.each("write", changes.upserts, upsert, name=lambda change: str(change.warmimage.key))

    async def _upsert(self, upsert: Upsert, applied: Applied) -> None:
        if not await self.context.writer.upsert(upsert):
            raise Conflict(f"{upsert.warmimage.key} changed meanwhile")
        if upsert.replaces is None:
            applied.created.add(upsert.warmimage.key)
        else:
            applied.changed += 1

    async def let_go(self, warmimage: WarmImage) -> bool:
        """Mark a WarmImage whose policy is missing, or delete it if the mark is old; returns whether anything changed.

        Raises `Conflict` if another writer was faster.
        """
        decision = decide_orphan(warmimage, self.context.clock.utcnow(), self.context.grace)
        if isinstance(decision, Upsert):
            await self._upsert(decision, Applied())
            return True
        return decision == "delete" and await self.delete(warmimage, "policy-gone")

    async def delete(self, warmimage: WarmImage, why: str) -> bool:
        """Delete a WarmImage as it was read; returns whether it is gone.

        One that changed meanwhile, or cannot be used any more, is judged again by its own event. A write of its status
        alone is no change and has no event, so it is deleted nevertheless. Raises `Conflict` if the API server goes on
        answering so.
        """
        doomed: WarmImage | None = warmimage
        turns = self._deletes.setdefault(warmimage.key.namespace, asyncio.Semaphore(_DELETES))
        async with turns:
            for attempt in range(_ATTEMPTS):
                if doomed is None:
                    return True
                if (doomed.uid, doomed.generation) != (warmimage.uid, warmimage.generation):
                    return False
                if doomed.uid in self._deleted:
                    return True
                try:
                    await self.context.writer.delete_warmimage(doomed)
                except Conflict:
                    version, found = doomed.resource_version, await self.context.reader.warmimages_of((doomed.key,))
                    if found.unusable:
                        return False
                    doomed = found.usable.get(doomed.key)
                    if attempt == _ATTEMPTS - 1 or (doomed is not None and doomed.resource_version == version):
                        raise
                else:
                    self._deleted[doomed.uid] = None
                    while len(self._deleted) > _DELETED_KNOWN:
                        del self._deleted[next(iter(self._deleted))]
                    _log.info("warmimage-deleted", warmimage=str(doomed.key), image=str(doomed.image), why=why)
                    return True
        return False


def _name(warmimage: WarmImage) -> str:
    return str(warmimage.key)
