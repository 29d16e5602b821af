"""Make the WarmImages of a policy be as the policy says, and tell its author whether it can be used."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import structlog

from adapters.kubernetes import paths
from adapters.kubernetes.client import Conflict, Kubernetes, NotFound
from adapters.kubernetes.warmimage import POLICY_LABEL, REPOSITORY_LABEL
from handlers.cluster import AT_HAND, ONE_BY_ONE, Cluster, PolicyObject, policy_object
from handlers.pushes import write_warmimage
from warmhook.policies import Policy, PolicyChanges, Upsert, policy_changes
from warmhook.ports import Utcnow
from warmhook.status import condition
from warmhook.warmimages import ObjectKey, PolicyKey, WarmImage, policy_label, repository_label

__all__ = ["Policies", "Settled", "count_images"]

_log = structlog.get_logger()

# At a time: what a burst of pushes leaves behind must not stand in the way of the next.
_DELETES: Final = 4
_DELETED_KNOWN: Final = 2000
# A condition's message is bounded by the CRD.
_MESSAGE_MAX = 1000

_Repository: TypeAlias = tuple[str, str, str]
"""Label of the policy, namespace, label of the repository."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of judging WarmImages."""

    found: Mapping[ObjectKey, WarmImage]
    """Those that are left, as they were read; what was written since is newer."""
    deleted: Collection[ObjectKey] = ()
    """They, and others of their repositories."""


class Policies:
    """Reconciles WarmPolicies."""

    def __init__(self, kubernetes: Kubernetes, cluster: Cluster, *, now: Utcnow) -> None:
        self._kubernetes = kubernetes
        self._cluster = cluster
        self._now = now
        self._deletes = asyncio.Semaphore(_DELETES)
        self._deleted: dict[str, None] = {}
        """The uids of the last that were deleted: lists that lag behind go on naming them."""

    async def reconcile(self, key: PolicyKey) -> None:
        """Bring one policy's WarmImages up to date; those of a policy that is gone are deleted.

        Raises `Unavailable`, and `Conflict` where another writer came first: both are worth another try.
        """
        owned = await self._cluster.warmimages(f"{POLICY_LABEL}={policy_label(key)}", key.namespace)
        try:
            found = policy_object(await self._kubernetes.get(paths.warmpolicies(key)))
        except NotFound:
            # Read after its WarmImages: none of them belongs to a policy that came back under the name.
            for warmimage in owned:
                await self.delete(warmimage, "policy-deleted")
            return
        changes = PolicyChanges()
        # What an unusable one led to before stays: a slip of the pen must not take images from the nodes.
        if found.policy is not None:
            changes = await self.apply(found.policy, owned)
        await self.tell(found, count_images(owned, changes))

    async def apply(self, policy: Policy, owned: list[WarmImage]) -> PolicyChanges:
        """Write what differs, and return it."""
        changes = policy_changes(policy, owned, self._now())
        await self._write(changes.upserts, changes.deletes)
        return changes

    async def settle(self, keys: Collection[ObjectKey], *, not_older_than: str = "") -> Settled:
        """Judge WarmImages that changed, and their repositories, by their policies as these are now.

        This is what deletes the pushes that `keep` no longer retains, and what catches up where a policy changed while
        a push was being accepted. `not_older_than` is the newest of the changes: what comes after has its own event.
        Raises as `reconcile` does.
        """
        found, same_repository = await self._same_repository(keys, not_older_than)
        if not same_repository:
            return Settled(found)
        # Read after their WarmImages, which are written only over the version that was read.
        policies = await self._cluster.policies_of({(label, namespace) for label, namespace, _ in same_repository})
        deleted: set[ObjectKey] = set()
        for (label, namespace, _), owned in same_repository.items():
            if policy := policies.get((label, namespace)):
                changes = policy_changes(policy, owned, self._now())
                await self._write([upsert for upsert in changes.upserts if upsert.replaces], changes.deletes)
                deleted |= {warmimage.key for warmimage in changes.deletes}
        return Settled({key: warmimage for key, warmimage in found.items() if key not in deleted}, deleted)

    async def recount(self, namespaces: Collection[str]) -> None:
        """Tell the policies of these namespaces how many WarmImages they have now."""
        known = [
            it for it in await self._cluster.policy_objects(not_older_than=AT_HAND) if it.key.namespace in namespaces
        ]
        for namespace in {found.key.namespace for found in known}:
            listed = await self._kubernetes.list(paths.warmimages_in(namespace), metadata_only=True)
            images = Counter((obj["metadata"].get("labels") or {}).get(POLICY_LABEL, "") for obj in listed.items)
            for found in known:
                if found.key.namespace == namespace:
                    await self.tell(found, images[found.label])

    async def _same_repository(
        self, keys: Collection[ObjectKey], not_older_than: str
    ) -> tuple[dict[ObjectKey, WarmImage], dict[_Repository, list[WarmImage]]]:
        """These WarmImages, and all of the repositories, each of one policy, that they belong to."""
        if len(keys) > ONE_BY_ONE:
            everything = await self._cluster.warmimages(not_older_than=not_older_than)
            found = {warmimage.key: warmimage for warmimage in everything if warmimage.key in keys}
            groups = {_repository(it): list[WarmImage]() for it in found.values() if it.policy_label}
            for warmimage in everything:
                if (group := _repository(warmimage)) in groups:
                    groups[group].append(warmimage)
            return found, groups
        found = await self._cluster.warmimages_of(keys)
        repositories = list({_repository(it) for it in found.values() if it.policy_label})
        lists = await asyncio.gather(
            *(
                self._cluster.warmimages(
                    f"{POLICY_LABEL}={policy},{REPOSITORY_LABEL}={repository}", namespace, not_older_than=not_older_than
                )
                for policy, namespace, repository in repositories
            )
        )
        return found, dict(zip(repositories, lists, strict=True))

    async def _write(self, upserts: Iterable[Upsert], deletes: Iterable[WarmImage]) -> None:
        for upsert in upserts:
            try:
                await write_warmimage(self._kubernetes, upsert)
            except NotFound:
                continue  # deleted meanwhile; its own event follows
        await asyncio.gather(*(self.delete(warmimage, "unwanted") for warmimage in deletes))

    async def delete(self, warmimage: WarmImage, why: str) -> None:
        """Delete a WarmImage as it was read; one that changed meanwhile is judged again by its own event.

        A write of its status alone is no change and has no event, so then it is deleted all the same.
        """
        doomed: WarmImage | None = warmimage
        async with self._deletes:
            while doomed is not None and (doomed.uid, doomed.generation) == (warmimage.uid, warmimage.generation):
                if doomed.uid in self._deleted:
                    return
                try:
                    await self._kubernetes.delete(
                        paths.warmimages(doomed.key), uid=doomed.uid, resource_version=doomed.resource_version
                    )
                except Conflict:
                    doomed = await self._cluster.warmimage(doomed.key)
                else:
                    self._deleted[doomed.uid] = None
                    while len(self._deleted) > _DELETED_KNOWN:
                        del self._deleted[next(iter(self._deleted))]
                    _log.info("warmimage-deleted", warmimage=str(doomed.key), image=str(doomed.image), why=why)
                    return

    async def tell(self, found: PolicyObject, images: int) -> None:
        """Write the policy's status where it differs; `images` is the number of its WarmImages."""
        metadata, before, problem = found.object["metadata"], found.object.get("status") or {}, found.problem
        reason = "Invalid" if problem else "Usable"
        message = problem[:_MESSAGE_MAX] or f"{images} images wanted"
        status: dict[str, Any] = {
            "observedGeneration": metadata.get("generation", 0),
            "images": images,
            "conditions": [condition(before, "Ready", not problem, reason, message, self._now())],
        }
        if status == before:
            return
        if problem:
            _log.warning("policy-invalid", policy=str(found.key), problem=problem)
        try:
            await self._kubernetes.patch(paths.status(paths.warmpolicies(found.key)), {"status": status})
        except NotFound:
            return


def _repository(warmimage: WarmImage) -> _Repository:
    return warmimage.policy_label, warmimage.key.namespace, repository_label(warmimage.image)


def count_images(owned: Collection[WarmImage], changes: PolicyChanges) -> int:
    """How many WarmImages a policy that had these has after the changes."""
    return len(owned) + sum(upsert.replaces is None for upsert in changes.upserts) - len(changes.deletes)
