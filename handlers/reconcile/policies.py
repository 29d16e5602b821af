"""Make the WarmImages of a policy be as the policy says."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, NotFound, Unavailable
from adapters.logs import get_logger
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.policy_statuses import PolicyStatuses
from handlers.reconcile.reader import FROM_CACHE, MAX_GETS, Reader, WarmImages, policy_object
from handlers.reconcile.writer import upsert_warmimage
from warmhook.api import POLICY_LABEL, REPOSITORY_LABEL
from warmhook.policies import Policy, PolicyChanges, Upsert, decide_orphan, policy_changes
from warmhook.ports import Utcnow
from warmhook.warmimages import ObjectKey, PolicyKey, WarmImage, policy_label, repository_label

__all__ = ["Applied", "Policies", "Settled"]

_log = get_logger()

# Of a namespace at a time: what a burst of pushes leaves behind must not stand in the way of the next.
_DELETES: Final = 4
_DELETED_KNOWN: Final = 2000
_SETTLE_SECONDS: Final = 5.0
# How often a WarmImage is deleted anew because its status was written meanwhile.
_ATTEMPTS: Final = 5

_Repository: TypeAlias = tuple[str, str, str]
"""Label of the policy, namespace, label of the repository."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of judging WarmImages."""

    found: WarmImages
    """Those that are left, as they were read; what was written since is newer."""
    deleted: Collection[ObjectKey] = ()
    """They, and others of their repositories."""
    problems: Mapping[ObjectKey, Exception] = field(default_factory=dict)
    """Of those whose repositories could not be written."""


@dataclass(slots=True)
class Applied:
    """What came of writing a policy's changes, each by itself."""

    outcomes: Outcomes = field(default_factory=Outcomes)
    created: int = 0
    changed: int = 0
    deleted: set[ObjectKey] = field(default_factory=set)

    @property
    def wrote(self) -> bool:
        """Whether anything was written."""
        return bool(self.created or self.changed or self.deleted)

    @property
    def refused(self) -> str | None:
        """What the API server refused, empty where it took all; `None` where nothing tells."""
        if self.outcomes.refused is not None:
            return str(self.outcomes.refused)
        return "" if self.wrote and self.outcomes.later is None else None


class Policies:
    """Reconciles WarmPolicies."""

    def __init__(
        self, kubernetes: Kubernetes, cluster: Reader, statuses: PolicyStatuses, *, now: Utcnow, grace: timedelta
    ) -> None:
        """`grace` is for how long a policy must be missing before its WarmImages go; one sync interval."""
        self._kubernetes = kubernetes
        self._cluster = cluster
        self._statuses = statuses
        self._now = now
        self._grace = grace
        self._deletes: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """By namespace, one of which may hang."""
        self._deleted: dict[str, None] = {}
        """The uids of the last that were deleted: lists that lag behind go on naming them."""

    async def reconcile(self, key: PolicyKey) -> None:
        """Bring one policy's WarmImages up to date; those of a policy that is gone are marked, and deleted later.

        What one of them cannot get keeps the others from nothing. Raises `Unavailable` where another try may help, and
        `Refused` where something was refused for good, which the policy's condition `Degraded` says as well.
        """
        labelled = await self._cluster.every_warmimage(f"{POLICY_LABEL}={policy_label(key)}", key.namespace)
        owned = list(labelled.usable.values())
        try:
            found = policy_object(await self._kubernetes.get(paths.warmpolicies(key)))
        except NotFound:
            # Read after its WarmImages: none of them belongs to a policy that came back under the name.
            outcomes = Outcomes()
            await outcomes.each("let-go", owned, self.let_go, name=_name)
            outcomes.settle()
            return
        applied = Applied()
        # What an unusable one led to before stays: a slip of the pen must not take images from the nodes.
        if found.policy is not None:
            applied = await self.apply(found.policy, owned)
        with applied.outcomes.item("policy-status", policy=str(key)):
            images = len(owned) + len(labelled.unusable) + applied.created - len(applied.deleted)
            await self._statuses.write(found, images, refused=applied.refused)
        applied.outcomes.settle()

    async def apply(self, policy: Policy, owned: list[WarmImage]) -> Applied:
        """Write what differs, each WarmImage by itself. Raises nothing of the API server's: it is in the outcomes."""
        applied = Applied()
        await self._write(policy_changes(policy, owned, self._now()), applied)
        return applied

    async def settle(self, keys: Collection[ObjectKey], *, not_older_than: str = "") -> Settled:
        """Judge WarmImages that changed, and their repositories, by their policies as these are now.

        This is what deletes the pushes that `keep` no longer retains, and what catches up where a policy changed while
        a push was being accepted. `not_older_than` is the newest version of these WarmImages that is known: what comes
        after has its own event.
        """
        found, same_repository = await self._same_repository(keys, not_older_than)
        if not same_repository:
            return Settled(found)
        # Read after their WarmImages, which are written only over the version that was read.
        policies = await self._cluster.policies_of({(label, namespace) for label, namespace, _ in same_repository})
        late = Unavailable("its repository could not be written in time", retry_after_seconds=1)
        problems: dict[_Repository, Exception | None] = dict.fromkeys(same_repository, late)
        deleted: set[ObjectKey] = set()

        async def settle(repository: _Repository) -> None:
            applied = Applied(deleted=deleted)
            if policy := policies.get(repository[:2]):
                changes = policy_changes(policy, same_repository[repository], self._now())
                updates = tuple(upsert for upsert in changes.upserts if upsert.replaces)
                await self._write(PolicyChanges(updates, changes.deletes), applied)
            problems[repository] = applied.outcomes.problem

        # What one namespace cannot get in time must not hold up the lines of all.
        await Outcomes().each(
            "settle", same_repository, settle, name=" ".join, group=lambda it: it[1], seconds=_SETTLE_SECONDS
        )
        left = {key: warmimage for key, warmimage in found.usable.items() if key not in deleted}
        of_keys = {key: problems.get(_repository(warmimage)) for key, warmimage in found.usable.items()}
        return Settled(
            WarmImages(left, found.unusable),
            deleted,
            {key: problem for key, problem in of_keys.items() if problem is not None},
        )

    async def recount(self, namespaces: Collection[str]) -> None:
        """Tell the policies of these namespaces how many WarmImages they have now."""
        known = [
            it for it in await self._cluster.policy_objects(not_older_than=FROM_CACHE) if it.key.namespace in namespaces
        ]
        outcomes = Outcomes()

        async def count(namespace: str) -> None:
            listed = await self._kubernetes.list(paths.warmimages_in(namespace), metadata_only=True)
            images = Counter((obj["metadata"].get("labels") or {}).get(POLICY_LABEL, "") for obj in listed.items)
            here = [found for found in known if found.key.namespace == namespace]
            await outcomes.each(
                "policy-status",
                here,
                lambda found: self._statuses.write(found, images[found.label]),
                name=lambda found: str(found.key),
            )

        await outcomes.each("recount", {found.key.namespace for found in known}, count)
        outcomes.settle()

    async def _same_repository(
        self, keys: Collection[ObjectKey], not_older_than: str
    ) -> tuple[WarmImages, dict[_Repository, list[WarmImage]]]:
        """These WarmImages, and all of the repositories, each of one policy, that they belong to."""
        if len(keys) > MAX_GETS:
            everything = await self._cluster.every_warmimage(not_older_than=not_older_than)
            found = WarmImages(
                {key: warmimage for key, warmimage in everything.usable.items() if key in keys},
                {key: problem for key, problem in everything.unusable.items() if key in keys},
            )
            groups = {_repository(it): list[WarmImage]() for it in found.usable.values() if it.policy_label}
            for warmimage in everything.usable.values():
                if (group := _repository(warmimage)) in groups:
                    groups[group].append(warmimage)
            return found, groups
        found = await self._cluster.warmimages_of(keys)
        repositories = list({_repository(it) for it in found.usable.values() if it.policy_label})
        lists = await asyncio.gather(
            *(
                self._cluster.warmimages(
                    f"{POLICY_LABEL}={policy},{REPOSITORY_LABEL}={repository}", namespace, not_older_than=not_older_than
                )
                for policy, namespace, repository in repositories
            )
        )
        return found, dict(zip(repositories, lists, strict=True))

    async def _write(self, changes: PolicyChanges, applied: Applied) -> None:
        """Deletes first: they may be what a quota waits for."""

        async def delete(warmimage: WarmImage) -> None:
            if await self.delete(warmimage, "unwanted"):
                applied.deleted.add(warmimage.key)

        async def upsert(change: Upsert) -> None:
            await self._upsert(change, applied)

        await applied.outcomes.each("delete", changes.deletes, delete, name=_name)
        await applied.outcomes.each("write", changes.upserts, upsert, name=lambda it: str(it.warmimage.key))

    async def _upsert(self, upsert: Upsert, applied: Applied) -> None:
        if not await upsert_warmimage(self._kubernetes, upsert, self._now):
            raise Conflict(f"{upsert.warmimage.key} changed meanwhile")
        if upsert.replaces is None:
            applied.created += 1
        else:
            applied.changed += 1

    async def let_go(self, warmimage: WarmImage) -> bool:
        """Mark a WarmImage whose policy is missing, or delete it where the mark is old; whether anything changed.

        Raises `Conflict` where another writer came first.
        """
        decision = decide_orphan(warmimage, self._now(), self._grace)
        if isinstance(decision, Upsert):
            await self._upsert(decision, Applied())
            return True
        return decision == "delete" and await self.delete(warmimage, "policy-gone")

    async def delete(self, warmimage: WarmImage, why: str) -> bool:
        """Delete a WarmImage as it was read, and say whether it is gone.

        One that changed meanwhile, or cannot be used any more, is judged again by its own event. A write of its status
        alone is no change and has no event, so then it is deleted all the same. Raises `Conflict` where the API server
        goes on answering so.
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
                    await self._kubernetes.delete(
                        paths.warmimages(doomed.key), uid=doomed.uid, resource_version=doomed.resource_version
                    )
                except Conflict:
                    version, found = doomed.resource_version, await self._cluster.warmimages_of((doomed.key,))
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


def _repository(warmimage: WarmImage) -> _Repository:
    return warmimage.policy_label, warmimage.key.namespace, repository_label(warmimage.image)
