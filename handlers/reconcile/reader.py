"""Read the cluster. Only this module and the writer use the Kubernetes client."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

from adapters.clock import Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.spec import InvalidObject
from adapters.kubernetes.warmimage import read_warmimage
from handlers.reconcile.node_reader import FROM_CACHE, MAX_GETS, NodeReader
from handlers.reconcile.objects import (
    PolicyObject,
    Repository,
    WarmImages,
    WarmImageVersion,
    object_key,
    read_policy_object,
    read_warmimages,
    version_number,
)
from handlers.reconcile.pod_reader import PodReader
from warmhook.api import POLICY_LABEL, REPOSITORY_LABEL
from warmhook.delivery_records import CONFIGMAP, DeliveryRecord, read_delivery_records
from warmhook.limits import NO_RULES, Tenancy
from warmhook.manifests import Resolved
from warmhook.policies import Policy
from warmhook.ports import Object
from warmhook.requests import is_purged
from warmhook.warmimages import ObjectKey, PolicyKey, WarmImage, policy_label

__all__ = ["FROM_CACHE", "MAX_GETS", "PolicyCache", "Reader"]

_CACHED_SECONDS: Final = 1.0
"""For so long a list of the policies that accepted a push serves what follows from it."""


@dataclass(slots=True)
class PolicyCache:
    """The WarmPolicies of the last list."""

    objects: dict[tuple[str, str], PolicyObject] = field(default_factory=dict)
    """By uid and resourceVersion: reading one compiles its globs."""
    version: int = 0
    """The resourceVersion of the list."""
    read_at: float = float("-inf")
    """When it was asked for, on the monotonic clock."""


class Reader(NodeReader):
    """Reads WarmPolicies and WarmImages as well."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        namespace: str,
        clock: Clock,
        cache: PolicyCache | None = None,
        tenancy: Tenancy = NO_RULES,
    ) -> None:
        """`namespace` is that of the node ConfigMaps; readers of one process may share a `cache`."""
        super().__init__(kubernetes, namespace, clock)
        self.pods = PodReader(kubernetes, namespace, clock)
        self._cache = cache or PolicyCache()
        self.tenancy = tenancy

    # --- WarmPolicies ---

    async def policy_objects(self, *, not_older_than: str = "") -> list[PolicyObject]:
        """Every WarmPolicy, usable or not."""
        cache, read_at = self._cache, self._clock.monotonic()
        found = await self._list_noted("WarmPolicy", paths.warmpolicies(), labels="", not_older_than=not_older_than)
        objects = {_state(obj): cache.objects.get(_state(obj)) or read_policy_object(obj) for obj in found.items}
        cache.objects, cache.version, cache.read_at = objects, version_number(found.resource_version), read_at
        return list(objects.values())

    async def policies_as_noted(self) -> dict[tuple[str, str], Policy]:
        """The usable WarmPolicies by label and namespace, none older than `as_noted`.

        Those of the last list, if that is less than a second old.
        """
        cache = self._cache
        recent = self._clock.monotonic() - cache.read_at <= _CACHED_SECONDS
        noted = self.as_noted("WarmPolicy")
        if recent and noted and cache.version >= int(noted):
            return _by_label(cache.objects.values())
        return _by_label(await self.policy_objects(not_older_than=noted))

    async def policies(self) -> list[Policy]:
        """Every WarmPolicy that can be used."""
        return [found.policy for found in await self.policy_objects() if found.policy is not None]

    async def policy_object(self, key: PolicyKey) -> PolicyObject | None:
        """The current WarmPolicy, usable or not; `None` if it does not exist."""
        obj = await self._get(paths.warmpolicies(key))
        return None if obj is None else self._cache.objects.get(_state(obj)) or read_policy_object(obj)

    async def policies_of(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], Policy]:
        """The current usable WarmPolicies with these labels and namespaces.

        One that was created a moment ago may be missing; its own event reconciles it.
        """
        if not wanted:
            return {}
        known = await self.policy_objects(not_older_than=FROM_CACHE)
        keys = [found.key for found in known if (found.label, found.key.namespace) in wanted]
        return _by_label(await asyncio.gather(*map(self.policy_object, keys)))

    # --- WarmImages ---

    async def warmimages(self, *, not_older_than: str = "") -> WarmImages:
        """Every WarmImage."""
        return await self._read(await self._list_warmimages(not_older_than=not_older_than))

    async def warmimages_of_policy(self, key: PolicyKey) -> WarmImages:
        """The WarmImages that carry the policy's label."""
        return await self._read(await self._list_warmimages(f"{POLICY_LABEL}={policy_label(key)}", key.namespace))

    async def warmimages_of_repository(self, repository: Repository, *, not_older_than: str = "") -> WarmImages:
        """The WarmImages of one repository of one policy."""
        labels = f"{POLICY_LABEL}={repository.policy},{REPOSITORY_LABEL}={repository.label}"
        found = await self._list_warmimages(labels, repository.namespace, not_older_than=not_older_than)
        return await self._read(found)

    async def warmimages_of_repositories(
        self, namespace: str, labels: Collection[str], *, not_older_than: str = ""
    ) -> list[WarmImage]:
        """The usable WarmImages of repositories, by the repositories' labels, of all policies of a namespace."""
        selector = f"{REPOSITORY_LABEL} in ({','.join(sorted(labels))})"
        found = await self._list_warmimages(selector, namespace, not_older_than=not_older_than)
        return list((await self._read(found)).usable.values())

    async def warmimage(self, key: ObjectKey) -> WarmImage | None:
        """The current WarmImage; `None` if it does not exist, is being deleted or cannot be used."""
        return (await self.warmimages_of((key,))).usable.get(key)

    async def warmimages_of(self, keys: Collection[ObjectKey]) -> WarmImages:
        """The current state of those that exist."""
        return await self._read(await self.warmimage_objects(keys))

    async def versions(self, keys: Collection[ObjectKey], *, resolved: bool) -> dict[ObjectKey, WarmImageVersion]:
        """The versions of those of these WarmImages that exist now.

        From their metadata only unless `resolved`, which is in the status.
        """
        found = await self.warmimage_objects(keys, metadata_only=not resolved)
        return {
            object_key(obj): WarmImageVersion(
                metadata["uid"],
                metadata.get("generation", 0),
                is_purged(metadata.get("annotations")),
                _resolved(obj) if resolved else None,
            )
            for obj in found
            if not (metadata := obj["metadata"]).get("deletionTimestamp")
        }

    async def warmimage_objects(
        self, keys: Collection[ObjectKey] | None = None, *, metadata_only: bool = False
    ) -> list[Object]:
        """The objects of those of these WarmImages, or of all, that exist now: few one by one, many in one list."""
        if keys is None:
            return await self._list_warmimages(metadata_only=metadata_only)
        if len(keys) > MAX_GETS:
            return [obj for obj in await self._list_warmimages(metadata_only=metadata_only) if object_key(obj) in keys]
        objects = await asyncio.gather(*(self._get(paths.warmimages(key), metadata_only=metadata_only) for key in keys))
        return [obj for obj in objects if obj is not None]

    async def count_by_policy(self, namespace: str) -> Counter[str]:
        """How many WarmImages of a namespace carry the label of each policy."""
        found = await self._list_warmimages(namespace=namespace, metadata_only=True)
        return Counter((obj["metadata"].get("labels") or {}).get(POLICY_LABEL, "") for obj in found)

    # --- deliveries ---

    async def delivery_records(self) -> list[DeliveryRecord]:
        """The last deliveries of all processes, newest first. Raises `NotFound` if nobody keeps them."""
        found = await self._kubernetes.get(paths.configmaps(self._namespace, CONFIGMAP))
        return read_delivery_records(found.get("data") or {})

    async def _read(self, objects: Iterable[Object]) -> WarmImages:
        return await read_warmimages(objects, self.tenancy)

    async def _list_warmimages(
        self, labels: str = "", namespace: str = "", *, metadata_only: bool = False, not_older_than: str = ""
    ) -> list[Object]:
        path = paths.warmimages_in(namespace) if namespace else paths.warmimages()
        found = await self._kubernetes.list(
            path, labels=labels, metadata_only=metadata_only, not_older_than=not_older_than
        )
        return found.items


def _resolved(obj: Object) -> Resolved | None:
    try:
        return read_warmimage(obj).resolved
    except InvalidObject:
        return None


def _state(obj: Object) -> tuple[str, str]:
    return obj["metadata"]["uid"], obj["metadata"]["resourceVersion"]


def _by_label(objects: Iterable[PolicyObject | None]) -> dict[tuple[str, str], Policy]:
    """The usable policies by label and namespace."""
    return {(found.label, found.key.namespace): found.policy for found in objects if found and found.policy}
