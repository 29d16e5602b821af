"""Decide which changes in the cluster matter to the handlers, by what was seen of each object before."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, field
from typing import Final, Literal, TypeAlias, get_args

from adapters.kubernetes.nodes import taints_of, unschedulable
from handlers.watch.rollouts import RolloutPolicies
from handlers.watch.work_queue import WorkQueue
from warmhook.api import GROUP, KIND_LABEL
from warmhook.events import Changed
from warmhook.node_lines import desired_node, line_key, versions
from warmhook.node_report import Report, read_report, report_node
from warmhook.ports import Object
from warmhook.taints import blocking_taints
from warmhook.warmimages import ObjectKey

Kind: TypeAlias = Literal["WarmPolicy", "WarmImage", "Node", "ConfigMap"]

_PROGRESS_SECONDS: Final = 10.0
"""The interval between two events about one WarmImage of which nodes only fetched more bytes."""


@dataclass(slots=True)
class ChangeFilter:
    """Queues changes that matter. Of each object it holds only what decides that."""

    queue: WorkQueue
    monotonic: Callable[[], float]
    rollouts: RolloutPolicies = field(default_factory=RolloutPolicies)
    """The policies with `rollouts` that were seen."""
    _objects: dict[Kind, dict[tuple[str, str], tuple[object, ...]]] = field(
        default_factory=lambda: {"WarmPolicy": {}, "WarmImage": {}, "Node": {}}
    )
    _warmimages: dict[str, str] = field(default_factory=dict)
    """Line key to `namespace/name`."""
    _desired: dict[str, dict[str, str]] = field(default_factory=dict)
    """Node to its lines: version to line key."""
    _owners: dict[str, str] = field(default_factory=dict)
    """Node to the uid that owns its desired ConfigMap."""
    _reports: dict[str, Report] = field(default_factory=dict)
    _progressed: dict[str, float] = field(default_factory=dict)
    """Line key to when nodes were last seen to have fetched more bytes, on the monotonic clock."""
    _listed: set[Kind] = field(default_factory=set)
    complete: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when every kind was listed."""

    def replace(self, kind: Kind, objects: list[Object]) -> None:
        """Replace all objects of a kind by those of a list; the others are gone.

        The first list of a kind queues nothing, because the sync after it compares everything.
        """
        if kind == "ConfigMap":
            present = {(_role(obj), _node_of(obj)) for obj in objects}
            for node in [node for node in self._desired if ("desired", node) not in present]:
                self._forget_desired(node)
            for node in [node for node in self._reports if ("report", node) not in present]:
                self._report_gone(node)
        else:
            if kind == "WarmPolicy":
                self.rollouts.replace(objects)
            names = {_name(obj) for obj in objects}
            for namespace, name in self._objects[kind].keys() - names:
                self._gone(kind, namespace, name, "")
        for obj in objects:
            self.update(kind, obj)
        self._listed.add(kind)
        if len(self._listed) == len(get_args(Kind)):
            self.complete.set()

    def update(self, kind: Kind, obj: Object) -> None:
        """An object was listed, added or modified."""
        if kind == "ConfigMap":
            if not _node_of(obj):
                return  # a copy under another name
            if _role(obj) == "desired":
                self._desired_seen(obj)
            else:
                report = read_report(obj["metadata"])
                before = self._reports.get(report.node)
                self._reports[report.node] = report
                self._compare(report.node, before, report)
            return
        if kind == "WarmPolicy":
            self.rollouts.update(obj)
        key, fingerprint = _name(obj), _fingerprint(kind, obj)
        if self._objects[kind].get(key) == fingerprint:
            return
        self._objects[kind][key] = fingerprint
        metadata = obj["metadata"]
        if kind == "WarmImage":
            name = f"{key[0]}/{key[1]}"
            self._warmimages[line_key(ObjectKey(*key))] = name
            if kind in self._listed:
                self.queue.reported(name)
        version, uid = metadata.get("resourceVersion", ""), metadata.get("uid", "")
        seen = _labelled(metadata) if kind == "WarmImage" else None
        self._changed(kind, Changed(kind, *key, False, version, uid, seen))

    def delete(self, kind: Kind, obj: Object) -> None:
        """An object was deleted."""
        if kind == "WarmPolicy":
            self.rollouts.delete(obj)
        if kind != "ConfigMap":
            self._gone(kind, *_name(obj), obj["metadata"].get("resourceVersion", ""))
        elif not _node_of(obj):
            return
        elif _role(obj) == "desired":
            self._forget_desired(_node_of(obj))
        else:
            self._report_gone(_node_of(obj))

    def _gone(self, kind: Kind, namespace: str, name: str, resource_version: str) -> None:
        if kind == "ConfigMap" or (known := self._objects[kind].pop((namespace, name), None)) is None:
            return
        if kind == "WarmImage":
            key = line_key(ObjectKey(namespace, name))
            self._warmimages.pop(key, None)
            self._progressed.pop(key, None)
        self._changed(kind, Changed(kind, namespace, name, True, resource_version, str(known[0])))

    def _desired_seen(self, obj: Object) -> None:
        node, metadata = _node_of(obj), obj["metadata"]
        lines = versions(metadata.get("labels") or {})
        before = set(self._desired.get(node, {}).values())
        self._desired[node] = {sys.intern(version): sys.intern(key) for key, version in lines.items()}
        self._reported_lines(before ^ lines.keys())
        owners = metadata.get("ownerReferences") or [{}]
        self._owners[node] = owners[0].get("uid", "")
        # If its owner is a Node that was replaced, the garbage collector is about to delete it.
        self._node_changed(node, unless_uid=self._owners[node])

    def _forget_desired(self, node: str) -> None:
        self._reported_lines(self._desired.pop(node, {}).values())
        self._owners.pop(node, None)
        self._node_changed(node)

    def _node_changed(self, node: str, *, unless_uid: str | None = None) -> None:
        """Queue the Node, if it exists with another uid."""
        known = self._objects["Node"].get(("", node))
        if known is not None and known[0] != unless_uid:
            self._changed("ConfigMap", Changed("Node", "", node, uid=str(known[0])))

    def _report_gone(self, node: str) -> None:
        self._compare(node, self._reports.pop(node, None), None)

    def _compare(self, node: str, before: Report | None, after: Report | None) -> None:
        """Queue the WarmImages whose state on the node has changed; a new time of the report is no change."""
        old, new = before or Report(node), after or Report(node)
        by_version = self._desired.get(node, {})
        changed = (old.warm ^ new.warm) | (old.moved ^ new.moved)
        keys = {by_version[version] for version in changed if version in by_version}
        keys |= {key for key in old.states.keys() | new.states.keys() if old.states.get(key) != new.states.get(key)}
        if before is None or after is None:
            # The node became reachable or unreachable, which counts for each of its lines.
            keys |= set(by_version.values())
        fetched = {version for version, one in new.transfers.items() if old.transfers.get(version) != one}
        keys |= self._progress_due({by_version[version] for version in fetched if version in by_version} - keys)
        self._reported_lines(keys)

    def _progress_due(self, keys: Iterable[str]) -> set[str]:
        """Those of these lines for which there was none for a while. The last bytes come with a change of the state."""
        now = self.monotonic()
        due = {key for key in keys if now - self._progressed.get(key, float("-inf")) >= _PROGRESS_SECONDS}
        self._progressed |= dict.fromkeys(due & self._warmimages.keys(), now)
        return due

    def _reported_lines(self, keys: Iterable[str]) -> None:
        """Queue the WarmImages of these lines: other nodes than before have the lines, or their state has changed."""
        if "ConfigMap" in self._listed:
            for key in keys:
                if key in self._warmimages:
                    self.queue.reported(self._warmimages[key])

    def _changed(self, listed: Kind, change: Changed) -> None:
        if listed in self._listed:
            self.queue.changed(change)


def _fingerprint(kind: Kind, obj: Object) -> tuple[object, ...]:
    """The fields whose change matters to the handlers; the uid first."""
    metadata = obj["metadata"]
    uid = metadata.get("uid", "")
    if kind == "Node":
        # A digest, because there are thousands of nodes.
        relevant = [metadata.get("labels") or {}, *map(astuple, blocking_taints(taints_of(obj), unschedulable(obj)))]
        return (uid, hashlib.blake2b(json.dumps(relevant, sort_keys=True).encode(), digest_size=16).digest())
    annotations = metadata.get("annotations") or {}
    ours = tuple(sorted((key, value) for key, value in annotations.items() if "warmhook.dev/" in key))
    return (uid, metadata.get("generation"), metadata.get("deletionTimestamp"), ours)


def _labelled(metadata: Object) -> Object:
    """A WarmImage with the labels of its policy and repository, a few hundred bytes."""
    labels = metadata.get("labels") or {}
    return {"metadata": {"labels": {key: value for key, value in labels.items() if key.startswith(f"{GROUP}/")}}}


def _name(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _role(obj: Object) -> str:
    role: str = (obj["metadata"].get("labels") or {}).get(KIND_LABEL, "")
    return role


def _node_of(obj: Object) -> str:
    """The node of a ConfigMap; empty if its name and its label disagree."""
    name = obj["metadata"]["name"]
    return desired_node(name) if _role(obj) == "desired" else report_node(name)
