"""Read objects of the API server as the values that decisions are made of."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from adapters.kubernetes.spec import InvalidObject
from adapters.kubernetes.warmimage import read_warmimage
from adapters.kubernetes.warmpolicy import read_warmpolicy
from warmhook.api import DROPPED_ANNOTATION, EARLY_HINT_ANNOTATION, HINT_ANNOTATION
from warmhook.limits import Tenancy
from warmhook.manifests import Resolved
from warmhook.node_lines import Line, desired_node, versions
from warmhook.policies import Policy
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey, PolicyKey, WarmImage, policy_label, repository_label

_DIGITS_MAX: Final = 12
"""Of a time in Unix seconds."""


@dataclass(frozen=True, slots=True)
class DesiredConfigMap:
    """The metadata of the desired ConfigMap of one node."""

    node: str
    owner_uid: str
    """The uid of the Node of the ConfigMap; empty if none owns it."""
    lines: Mapping[str, str]
    """Line key to version."""
    uid: str
    refused: frozenset[str] = frozenset()
    """Keys of lines without room."""
    tracked: bool = False
    """Whether the API server still tracks fields."""
    kept: Mapping[str, Line] = field(default_factory=dict)
    """Further lines that stay as they are and take room, about as they are."""
    hints: Mapping[str, int] = field(default_factory=dict)
    """The keys of the lines that have a hint, and when it expires, in Unix seconds."""
    early: Mapping[str, int] = field(default_factory=dict)
    """The same of blobs of pushes that have not ended."""


@dataclass(frozen=True, slots=True)
class PolicyObject:
    """A WarmPolicy with its value."""

    object: Object
    policy: Policy | None
    """`None` if no part of it can be used."""
    problem: str = ""
    """Its unreadable parts; empty if there are none."""

    @property
    def key(self) -> PolicyKey:
        """Its namespace and name."""
        return object_key(self.object)

    @property
    def newer(self) -> bool:
        """Whether it has a field that only a newer version knows."""
        return self.policy is not None and "unknown" in self.policy.unread

    @property
    def label(self) -> str:
        """The label of its WarmImages."""
        return policy_label(self.key)


@dataclass(frozen=True, slots=True)
class WarmImages:
    """Existing WarmImages, as they were read, without those that are being deleted."""

    usable: Mapping[ObjectKey, WarmImage] = field(default_factory=dict)
    unusable: Mapping[ObjectKey, InvalidObject] = field(default_factory=dict)
    """The problems of unusable ones: their earlier effects stay."""

    def without(self, unknown: Mapping[ObjectKey, Exception]) -> WarmImages:
        """The same, but the earlier effects of these stay as well."""
        if not unknown:
            return self
        usable = {key: warmimage for key, warmimage in self.usable.items() if key not in unknown}
        return WarmImages(
            usable, {**self.unusable, **{key: InvalidObject(problem) for key, problem in unknown.items()}}
        )


class Repository(NamedTuple):
    """One repository of one policy, by the labels that its WarmImages carry."""

    policy: str
    namespace: str
    label: str


class WarmImageVersion(NamedTuple):
    """What the lines of a WarmImage are computed from."""

    uid: str
    generation: int
    purged: bool
    resolved: Resolved | None


def object_key(obj: Object) -> ObjectKey:
    """Namespace and name of an object."""
    return ObjectKey(obj["metadata"]["namespace"], obj["metadata"]["name"])


def version_number(resource_version: str) -> int:
    """A resourceVersion as a number, to be compared with others of the same kind; 0 if it is none."""
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else 0


def repository_of(warmimage: WarmImage) -> Repository:
    """The repository of a policy that a WarmImage belongs to."""
    return Repository(warmimage.policy_label, warmimage.key.namespace, repository_label(warmimage.image))


async def read_warmimages(objects: Iterable[Object], tenancy: Tenancy) -> WarmImages:
    """The WarmImages of these objects with the limits of their namespaces, usable or not.

    Other tasks run between two of them: each may be large.
    """
    usable: dict[ObjectKey, WarmImage] = {}
    unusable: dict[ObjectKey, InvalidObject] = {}
    for obj in objects:
        if obj["metadata"].get("deletionTimestamp"):
            continue
        key = object_key(obj)
        try:
            usable[key] = replace(read_warmimage(obj), limits=tenancy.of(key.namespace))
        except InvalidObject as error:
            unusable[key] = error
        await asyncio.sleep(0)
    return WarmImages(usable, unusable)


def read_policy_object(obj: Object) -> PolicyObject:
    """A WarmPolicy as it was read, usable or not."""
    try:
        policy = read_warmpolicy(obj)
    except InvalidObject as error:
        return PolicyObject(obj, None, str(error))
    return PolicyObject(obj, policy, "; ".join(policy.problems))


def read_desired(metadata: Mapping[str, Any]) -> DesiredConfigMap | None:
    """A desired ConfigMap by its name; `None` for another one, which may be a copy with all labels and annotations."""
    node = desired_node(metadata["name"])
    if not node:
        return None
    annotations = metadata.get("annotations") or {}
    lines = versions(metadata.get("labels") or {})
    owners = metadata.get("ownerReferences") or []
    return DesiredConfigMap(
        node=node,
        owner_uid=next((owner["uid"] for owner in owners if owner["kind"] == "Node"), ""),
        # Interned: thousands of nodes have the same few hundred lines.
        lines={sys.intern(key): sys.intern(version) for key, version in lines.items()},
        uid=metadata["uid"],
        refused=frozenset(filter(None, annotations.get(DROPPED_ANNOTATION, "").split(","))),
        tracked=bool(metadata.get("managedFields")),
        hints=_moments(annotations, HINT_ANNOTATION),
        early=_moments(annotations, EARLY_HINT_ANNOTATION),
    )


def _moments(annotations: Mapping[str, str], prefix: str) -> dict[str, int]:
    """By line key when something expires, from the annotations with this prefix."""
    return {key.removeprefix(prefix): _moment(text) for key, text in annotations.items() if key.startswith(prefix)}


def _moment(text: str) -> int:
    """Unix seconds; what is no number is long over."""
    # The length as well: Python refuses to read an integer of thousands of digits.
    return int(text) if len(text) <= _DIGITS_MAX and text.isascii() and text.isdigit() else 0
