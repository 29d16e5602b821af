"""What `watch` remembers of the cluster, and which changes of it matter to the handlers."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from typing import Literal, TypeAlias, get_args

from adapters.kubernetes.nodes import taints_of, unschedulable
from handlers.watch.work_queue import WorkQueue
from warmhook.api import KIND_LABEL
from warmhook.events import Changed
from warmhook.node_lines import desired_node, line_key, versions
from warmhook.node_report import Report, read_report, report_node
from warmhook.ports import Object
from warmhook.taints import blocking_taints
from warmhook.warmimages import ObjectKey

__all__ = ["ChangeFilter", "Kind"]

Kind: TypeAlias = Literal["WarmPolicy", "WarmImage", "Node", "ConfigMap"]


@dataclass(slots=True)
class ChangeFilter:
    """The last known state of everything watched, reduced to what decides whether a change matters."""

    pending: WorkQueue
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
    _listed: set[Kind] = field(default_factory=set)

    @property
    def complete(self) -> bool:
        """Whether every kind was listed."""
        return len(self._listed) == len(get_args(Kind))

    def replace(self, kind: Kind, objects: list[Object]) -> None:
        """Take a list for the truth: what is missing from it is gone.

        Of the first list of a kind nothing is told: a sync that comes after it looks at everything anyway.
        """
        if kind == "ConfigMap":
            present = {(_role(obj), _node_of(obj)) for obj in objects}
            for node in [node for node in self._desired if ("desired", node) not in present]:
                self._forget_desired(node)
            for node in [node for node in self._reports if ("report", node) not in present]:
                self._report_gone(node)
        else:
            names = {_name(obj) for obj in objects}
            for namespace, name in self._objects[kind].keys() - names:
                self._gone(kind, namespace, name, "")
        for obj in objects:
            self.seen(kind, obj)
        self._listed.add(kind)

    def seen(self, kind: Kind, obj: Object) -> None:
        """An object was listed, added or modified."""
        if kind == "ConfigMap":
            if not _node_of(obj):
                return  # a copy, under a name that means nothing
            if _role(obj) == "desired":
                self._desired_seen(obj)
            else:
                self._report_seen(obj)
            return
        key, what_matters = _name(obj), _what_matters(kind, obj)
        if self._objects[kind].get(key) == what_matters:
            return
        self._objects[kind][key] = what_matters
        metadata = obj["metadata"]
        if kind == "WarmImage":
            name = f"{key[0]}/{key[1]}"
            self._warmimages[line_key(ObjectKey(*key))] = name
            if kind in self._listed:
                self.pending.reported(name)
        self._changed(kind, Changed(kind, *key, False, metadata.get("resourceVersion", ""), metadata.get("uid", "")))

    def deleted(self, kind: Kind, obj: Object) -> None:
        """An object is gone."""
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
            self._warmimages.pop(line_key(ObjectKey(namespace, name)), None)
        self._changed(kind, Changed(kind, namespace, name, True, resource_version, str(known[0])))

    def _desired_seen(self, obj: Object) -> None:
        node, metadata = _node_of(obj), obj["metadata"]
        lines = versions(metadata.get("labels") or {})
        before = set(self._desired.get(node, {}).values())
        self._desired[node] = {sys.intern(version): sys.intern(key) for key, version in lines.items()}
        self._reported_lines(before ^ lines.keys())
        owners = metadata.get("ownerReferences") or [{}]
        self._owners[node] = owners[0].get("uid", "")
        known = self._objects["Node"].get(("", node))
        if known is not None and known[0] != self._owners[node]:
            # The garbage collector is about to take it: its owner is a Node that was replaced.
            self._changed("ConfigMap", Changed("Node", "", node, uid=str(known[0])))

    def _forget_desired(self, node: str) -> None:
        self._reported_lines(self._desired.pop(node, {}).values())
        self._owners.pop(node, None)
        known = self._objects["Node"].get(("", node))
        if known is not None:
            self._changed("ConfigMap", Changed("Node", "", node, uid=str(known[0])))

    def _report_seen(self, obj: Object) -> None:
        report = read_report(obj["metadata"])
        before = self._reports.get(report.node)
        self._reports[report.node] = report
        self._tell(report.node, before, report)

    def _report_gone(self, node: str) -> None:
        self._tell(node, self._reports.pop(node, None), None)

    def _tell(self, node: str, before: Report | None, after: Report | None) -> None:
        """Name the WarmImages whose state on the node is another one; `seen` alone changes none."""
        was = before or Report(node)
        now = after or Report(node)
        by_version = self._desired.get(node, {})
        told = (was.warm ^ now.warm) | (was.moved ^ now.moved)
        keys = {by_version[version] for version in told if version in by_version}
        keys |= {key for key in was.states.keys() | now.states.keys() if was.states.get(key) != now.states.get(key)}
        if before is None or after is None:
            # The node becomes reachable, or is no longer: that counts for each of its lines.
            keys |= set(by_version.values())
        self._reported_lines(keys)

    def _reported_lines(self, keys: Iterable[str]) -> None:
        """Other nodes than before have these lines, or they are in another state there."""
        if "ConfigMap" in self._listed:
            for key in keys:
                if key in self._warmimages:
                    self.pending.reported(self._warmimages[key])

    def _changed(self, listed: Kind, change: Changed) -> None:
        if listed in self._listed:
            self.pending.changed(change)


def _what_matters(kind: Kind, obj: Object) -> tuple[object, ...]:
    """What of an object, if it differs, the handlers must know. The first element is the uid."""
    metadata = obj["metadata"]
    uid = metadata.get("uid", "")
    if kind == "Node":
        # Of thousands of nodes, so a digest: what the labels say is read again by the handlers.
        said = [metadata.get("labels") or {}, *map(astuple, blocking_taints(taints_of(obj), unschedulable(obj)))]
        return (uid, hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).digest())
    annotations = metadata.get("annotations") or {}
    ours = tuple(sorted((key, value) for key, value in annotations.items() if "warmhook.dev/" in key))
    return (uid, metadata.get("generation"), metadata.get("deletionTimestamp"), ours)


def _name(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _role(obj: Object) -> str:
    role: str = (obj["metadata"].get("labels") or {}).get(KIND_LABEL, "")
    return role


def _node_of(obj: Object) -> str:
    """Empty where its name and its label do not agree."""
    name = obj["metadata"]["name"]
    return desired_node(name) if _role(obj) == "desired" else report_node(name)
