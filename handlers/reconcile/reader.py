"""What the cluster holds, read from the API server as the values that decisions are made of."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes, NotFound, Refused
from adapters.kubernetes.nodes import FULL_PAGE, read_node, reduced_node
from adapters.kubernetes.template import InvalidObject
from adapters.kubernetes.warmimage import read_warmimage
from adapters.kubernetes.warmpolicy import read_warmpolicy
from warmhook.api import DROPPED_ANNOTATION, KIND_LABEL, LINE_LABEL, TRUNCATED_LABEL
from warmhook.node_lines import desired_name, desired_node, versions
from warmhook.node_report import Report, read_report
from warmhook.placement import Node
from warmhook.policies import Policy
from warmhook.ports import Object, Utcnow
from warmhook.warmimages import ObjectKey, PolicyKey, WarmImage, policy_label

__all__ = [
    "FROM_CACHE",
    "MAX_GETS",
    "DesiredConfigMap",
    "PolicyObject",
    "Reader",
    "WarmImages",
    "object_key",
    "policy_object",
    "sort_out",
]

FROM_CACHE: Final = "0"
"""`not_older_than` of a read that may be a little behind. kube-apiserver 1.36 answers it in 1 ms from its cache; a
consistent list took 97 ms after a write of another kind (median of 20): the cache seems to wait for etcd's word."""
MAX_GETS: Final = 16
"""Up to so many objects are read one by one; beyond that one list is cheaper."""
_QUERY_MAX: Final = 4000
"""Characters of a label selector that the API server is asked; it takes 1 MiB of URL and headers, proxies less."""


@dataclass(frozen=True, slots=True)
class DesiredConfigMap:
    """The metadata of one node's desired ConfigMap."""

    node: str
    owner_uid: str
    """Of the Node that the ConfigMap belongs to."""
    lines: Mapping[str, str]
    """Line key to version."""
    uid: str
    refused: frozenset[str] = frozenset()
    """Keys of lines for which there was no room."""
    tracked: bool = False
    """Whether the API server still tracks who set which field."""


@dataclass(frozen=True, slots=True)
class PolicyObject:
    """A WarmPolicy and what it says."""

    object: Object
    policy: Policy | None
    """`None` where nothing of it can be used."""
    problem: str = ""
    """What cannot be read of it; empty where all can."""

    @property
    def key(self) -> PolicyKey:
        """Its namespace and name."""
        return object_key(self.object)

    @property
    def label(self) -> str:
        """What its WarmImages carry."""
        return policy_label(self.key)


@dataclass(frozen=True, slots=True)
class WarmImages:
    """WarmImages that exist, as they were read; those that are being deleted are not among them."""

    usable: Mapping[ObjectKey, WarmImage] = field(default_factory=dict)
    unusable: Mapping[ObjectKey, str] = field(default_factory=dict)
    """What is wrong with those that cannot be used: what they led to before stays as it is."""


def object_key(obj: Object) -> ObjectKey:
    """Namespace and name of an object."""
    return ObjectKey(obj["metadata"]["namespace"], obj["metadata"]["name"])


async def sort_out(objects: Iterable[Object]) -> WarmImages:
    """The WarmImages of these objects, usable or not. Others run between two of them: each may be large."""
    usable: dict[ObjectKey, WarmImage] = {}
    unusable: dict[ObjectKey, str] = {}
    for obj in objects:
        if obj["metadata"].get("deletionTimestamp"):
            continue
        key = object_key(obj)
        try:
            usable[key] = read_warmimage(obj)
        except InvalidObject as error:
            unusable[key] = str(error)
        await asyncio.sleep(0)
    return WarmImages(usable, unusable)


def policy_object(obj: Object) -> PolicyObject:
    """A WarmPolicy as it was read, usable or not."""
    try:
        policy = read_warmpolicy(obj)
    except InvalidObject as error:
        return PolicyObject(obj, None, str(error))
    return PolicyObject(obj, policy, "; ".join(policy.problems))


class Reader:
    """Reads, never writes."""

    def __init__(self, kubernetes: Kubernetes, namespace: str, *, now: Utcnow) -> None:
        """`namespace` is that of the node ConfigMaps."""
        self._now = now
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._known: dict[tuple[str, str], PolicyObject] = {}
        """The WarmPolicies of the last list by uid and resourceVersion: reading one compiles its globs."""

    async def policy_objects(self, *, not_older_than: str = "") -> list[PolicyObject]:
        """Every WarmPolicy, usable or not."""
        found = await self._kubernetes.list(paths.warmpolicies(), not_older_than=not_older_than)
        self._known = {_state(obj): self._known.get(_state(obj)) or policy_object(obj) for obj in found.items}
        return list(self._known.values())

    async def policies(self) -> list[Policy]:
        """Every WarmPolicy that can be used."""
        return [one.policy for one in await self.policy_objects() if one.policy is not None]

    async def policies_of(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], Policy]:
        """The usable WarmPolicies with these labels and namespaces as they are now.

        One that was created a moment ago may be missing: what it leads to is its own event's work.
        """
        known = await self.policy_objects(not_older_than=FROM_CACHE)
        keys = [one.key for one in known if (one.label, one.key.namespace) in wanted]
        found = await asyncio.gather(*map(self._policy, keys))
        return {(policy_label(it.key), it.key.namespace): it for it in found if it is not None}

    async def _policy(self, key: PolicyKey) -> Policy | None:
        try:
            obj = await self._kubernetes.get(paths.warmpolicies(key))
        except NotFound:
            return None
        return (self._known.get(_state(obj)) or policy_object(obj)).policy

    async def warmimages(self, labels: str = "", namespace: str = "", *, not_older_than: str = "") -> list[WarmImage]:
        """The usable WarmImages under a label selector; of all namespaces unless one is given."""
        found = await self.every_warmimage(labels, namespace, not_older_than=not_older_than)
        return list(found.usable.values())

    async def every_warmimage(self, labels: str = "", namespace: str = "", *, not_older_than: str = "") -> WarmImages:
        """The WarmImages under a label selector, usable or not; of all namespaces unless one is given."""
        path = paths.warmimages_in(namespace) if namespace else paths.warmimages()
        return await sort_out((await self._kubernetes.list(path, labels=labels, not_older_than=not_older_than)).items)

    async def warmimage(self, key: ObjectKey) -> WarmImage | None:
        """One WarmImage as it is now; `None` where it does not exist, is being deleted or cannot be used."""
        return (await self.warmimages_of((key,))).usable.get(key)

    async def warmimages_of(self, keys: Collection[ObjectKey]) -> WarmImages:
        """Those of these WarmImages that exist, as they are now."""
        return await sort_out(await self.warmimage_objects(keys))

    async def generations(self, keys: Collection[ObjectKey]) -> dict[ObjectKey, tuple[str, int]]:
        """The uids and generations of those of these WarmImages that exist now, from their metadata only."""
        found = await self.warmimage_objects(keys, metadata_only=True)
        return {
            object_key(obj): (obj["metadata"]["uid"], obj["metadata"].get("generation", 0))
            for obj in found
            if not obj["metadata"].get("deletionTimestamp")
        }

    async def warmimage_objects(self, keys: Collection[ObjectKey], *, metadata_only: bool = False) -> list[Object]:
        """The objects of those of these WarmImages that exist, as they are now: few one by one, many in one list."""
        if len(keys) > MAX_GETS:
            found = (await self._kubernetes.list(paths.warmimages(), metadata_only=metadata_only)).items
            return [obj for obj in found if object_key(obj) in keys]
        each = await asyncio.gather(*(self._warmimage_object(key, metadata_only) for key in keys))
        return [obj for obj in each if obj is not None]

    async def _warmimage_object(self, key: ObjectKey, metadata_only: bool) -> Object | None:
        try:
            return await self._kubernetes.get(paths.warmimages(key), metadata_only=metadata_only)
        except NotFound:
            return None

    async def nodes(self, labels: str = "", *, not_older_than: str = "", taints: bool = False) -> list[Node]:
        """The Nodes under a label selector; without `taints` from their metadata only, a fifth of the bytes.

        There may be others among them: a selector that is too long for a URL, or that the API server refuses, is left
        out, since placement compares labels.
        """
        path, labels = paths.NODES, labels if len(labels) <= _QUERY_MAX else ""
        try:
            if taints:
                found = await self._kubernetes.list(
                    path, labels=labels, not_older_than=not_older_than, page=FULL_PAGE, keep=reduced_node
                )
            else:
                found = await self._kubernetes.list(
                    path, labels=labels, metadata_only=True, not_older_than=not_older_than
                )
        except Refused:
            if not labels:
                raise
            return await self.nodes(not_older_than=not_older_than, taints=taints)
        now = self._now()
        return [read_node(node, now) for node in found.items]

    async def nodes_of(self, names: Collection[str]) -> dict[str, Node]:
        """Those of these Nodes that exist, as they are now, by name: few one by one, many from one list."""
        if len(names) > MAX_GETS:
            return {node.name: node for node in await self.nodes() if node.name in names}
        found = await asyncio.gather(*map(self.node, names))
        return {node.name: node for node in found if node is not None}

    async def node(self, name: str) -> Node | None:
        """One Node as it is now; `None` where it does not exist."""
        try:
            return read_node(await self._kubernetes.get(paths.node(name)), self._now())
        except NotFound:
            return None

    async def desired(self, line_key: str = "", *, not_older_than: str = "") -> list[DesiredConfigMap]:
        """The desired ConfigMaps: all of them, or those that have a line."""
        labels = f"{KIND_LABEL}=desired" + (f",{LINE_LABEL}{line_key}" if line_key else "")
        return _all_desired(await self._metadata(labels, not_older_than))

    async def full(self) -> list[DesiredConfigMap]:
        """The desired ConfigMaps that have no room for some of their lines."""
        return _all_desired(await self._metadata(f"{KIND_LABEL}=desired,{TRUNCATED_LABEL}"))

    async def desired_of(self, nodes: Collection[str]) -> list[DesiredConfigMap]:
        """The desired ConfigMaps of a few nodes, where they exist."""
        return list(filter(None, await asyncio.gather(*map(self._desired_of, nodes))))

    async def _desired_of(self, node: str) -> DesiredConfigMap | None:
        path = paths.configmaps(self._namespace, desired_name(node))
        try:
            return _desired((await self._kubernetes.get(path, metadata_only=True))["metadata"])
        except NotFound:
            return None

    async def reports(self) -> dict[str, Report]:
        """Every node's report, by the node's name."""
        found = (read_report(metadata) for metadata in await self._metadata(f"{KIND_LABEL}=report"))
        return {report.node: report for report in found if report.node}

    async def desired_and_reports(self) -> tuple[list[DesiredConfigMap], dict[str, Report], dict[str, str]]:
        """Both kinds of ConfigMaps in one list; and of each report, by its node's name, the uid of its owner."""
        reports, owners = {}, {}
        listed = await self._metadata(f"{KIND_LABEL} in (desired,report)")
        for metadata in listed:
            report = read_report(metadata)
            if report.node:
                reports[report.node], owners[report.node] = report, _owner_uid(metadata)
        return _all_desired(listed), reports, owners

    async def _metadata(self, labels: str, not_older_than: str = "") -> list[dict[str, Any]]:
        path = paths.configmaps(self._namespace)
        found = await self._kubernetes.list(path, labels=labels, metadata_only=True, not_older_than=not_older_than)
        return [obj["metadata"] for obj in found.items]


def _state(obj: Object) -> tuple[str, str]:
    return obj["metadata"]["uid"], obj["metadata"]["resourceVersion"]


def _all_desired(listed: Iterable[Mapping[str, Any]]) -> list[DesiredConfigMap]:
    """Those that are called so: whoever copies a ConfigMap copies its labels and annotations as well."""
    return [_desired(metadata) for metadata in listed if desired_node(metadata["name"])]


def _desired(metadata: Mapping[str, Any]) -> DesiredConfigMap:
    annotations = metadata.get("annotations") or {}
    lines = versions(metadata.get("labels") or {})
    return DesiredConfigMap(
        node=desired_node(metadata["name"]),
        owner_uid=_owner_uid(metadata),
        # Shared: thousands of nodes have the same few hundred lines.
        lines={sys.intern(key): sys.intern(version) for key, version in lines.items()},
        uid=metadata["uid"],
        refused=frozenset(filter(None, annotations.get(DROPPED_ANNOTATION, "").split(","))),
        tracked=bool(metadata.get("managedFields")),
    )


def _owner_uid(metadata: Mapping[str, Any]) -> str:
    return next((owner["uid"] for owner in metadata.get("ownerReferences") or [] if owner["kind"] == "Node"), "")
