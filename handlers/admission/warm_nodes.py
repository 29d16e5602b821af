"""Choose the nodes that a Pod should prefer because they hold its images, from a watched cache.

A Pod's creation may not wait for a request, so nothing is read for it. Until everything was listed, Pods get no
preference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, get_args

from adapters.clock import Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.nodes import read_node, reduced_node
from adapters.kubernetes.reflector import ListWatch, reflect
from adapters.kubernetes.spec import InvalidObject
from adapters.kubernetes.warmimage import read_warmimage
from adapters.kubernetes.warmpolicy import read_warmpolicy
from adapters.logs import get_logger
from adapters.outages import WatchOutages
from warmhook.admission_review import Admitted, read_pod
from warmhook.api import KIND_LABEL, PREFER_ANNOTATION
from warmhook.labels import TooManyTerms
from warmhook.limits import NO_RULES, Tenancy
from warmhook.node_affinity import Constraints
from warmhook.node_lines import line_of
from warmhook.node_report import Report, read_report
from warmhook.placement import Node
from warmhook.policies import Policy
from warmhook.ports import Object
from warmhook.preferred_nodes import affinity_patch, preferred_nodes, prefers_nodes
from warmhook.tenancy import permitted

Kind: TypeAlias = Literal["WarmPolicy", "WarmImage", "Node", "ConfigMap"]
_log = get_logger()

_AGAIN_SECONDS: Final = 10.0
_RANKINGS_MAX: Final = 100
_RANKING_LIFETIME: Final = timedelta(seconds=2)
Key = tuple[str, str]
"""Namespace and name."""


@dataclass(slots=True)
class WarmNodes:
    """The last seen policies, WarmImages, Nodes and reports."""

    clock: Clock
    tenancy: Tenancy = NO_RULES
    _listed: set[Kind] = field(default_factory=set)
    _policies: dict[Key, Policy] = field(default_factory=dict)
    _lines: dict[Key, tuple[str, str]] = field(default_factory=dict)
    """By WarmImage: its image, as a runtime names it, and the version of its line."""
    _nodes: dict[Key, Node] = field(default_factory=dict)
    _reports: dict[Key, Report] = field(default_factory=dict)
    _rankings: dict[tuple[frozenset[str], str, Constraints], tuple[datetime, list[tuple[str, int]]]] = field(
        default_factory=dict
    )
    """By the Pods' images, owner and constraints: until when a ranking holds, and the ranking."""

    # --- the cache ---

    async def run(self, kubernetes: Kubernetes, namespace: str, outages: WatchOutages) -> None:
        """Follow the cluster until this is cancelled; `namespace` is that of the reports."""
        kinds: list[ListWatch[Kind]] = [
            ListWatch("WarmPolicy", paths.warmpolicies(), keep=lambda policy: policy),
            ListWatch("WarmImage", paths.warmimages(), keep=lambda warmimage: warmimage),
            ListWatch("Node", paths.NODES, keep=reduced_node),
            ListWatch("ConfigMap", paths.configmaps(namespace), f"{KIND_LABEL}=report"),
        ]
        while True:
            try:
                await reflect(kubernetes, kinds, self, self.clock, outages)
            except Exception:
                # Preferences are optional: no mistake here may end the rest of `web`.
                _log.exception("warm-nodes-failed")
                self._listed.clear()
            await self.clock.sleep(_AGAIN_SECONDS)

    def replace(self, kind: Kind, objects: list[Object]) -> None:
        """Replace all objects of a kind by those of a list."""
        self._table(kind).clear()
        for obj in objects:
            self.update(kind, obj)
        self._listed.add(kind)

    def update(self, kind: Kind, obj: Object) -> None:
        """An object was added or modified."""
        key, value = _key(obj), _READ[kind](obj, self.tenancy)
        if value is None:
            self._table(kind).pop(key, None)
        else:
            self._table(kind)[key] = value

    def delete(self, kind: Kind, obj: Object) -> None:
        """An object was deleted."""
        self._table(kind).pop(_key(obj), None)

    def _table(self, kind: Kind) -> dict[Key, Any]:
        tables: dict[Kind, dict[Key, Any]] = {
            "WarmPolicy": self._policies,
            "WarmImage": self._lines,
            "Node": self._nodes,
            "ConfigMap": self._reports,
        }
        return tables[kind]

    # --- preferences ---

    def patch(self, pod: Mapping[str, Any], namespace: str) -> list[dict[str, Any]]:
        """The JSON patch with the Pod's preferences; empty if it gets none."""
        if self._listed != set(get_args(Kind)) or prefers_nodes(pod) or (pod.get("spec") or {}).get("nodeName"):
            return []
        wish = ((pod.get("metadata") or {}).get("annotations") or {}).get(PREFER_ANNOTATION)
        if wish == "false" or (wish != "true" and not any(policy.prefer_warm for policy in self._policies.values())):
            return []
        admitted = read_pod(pod, namespace)
        if admitted is None or not (wish == "true" or self._preferred_by_policy(admitted)):
            return []
        try:
            constraints = admitted.constraints
        except TooManyTerms:
            return []
        images = frozenset(str(image.as_run) for image in admitted.images)
        owner = f"{admitted.namespace}/{admitted.owner}"
        return affinity_patch(pod, self._preferred(images, owner, constraints))

    def _preferred(self, images: frozenset[str], owner: str, constraints: Constraints) -> list[tuple[str, int]]:
        """The ranking of the nodes, shared by the Pods of two seconds: ranking thousands of nodes takes a while."""
        now = self.clock.utcnow()
        until, ranking = self._rankings.get((images, owner, constraints), (now, []))
        if until > now:
            return ranking
        if len(self._rankings) >= _RANKINGS_MAX:
            self._rankings.clear()
        ranking = self._ranked(images, owner, constraints)
        self._rankings[images, owner, constraints] = (now + _RANKING_LIFETIME, ranking)
        return ranking

    def _ranked(self, images: frozenset[str], owner: str, constraints: Constraints) -> list[tuple[str, int]]:
        lines = self._lines.values()
        versions = {image: {version for listed, version in lines if listed == image} for image in images}
        reachable = {report.node: report for report in self._reports.values() if report.reachable(self.clock.utcnow())}

        def held(node: Node) -> int:
            report = reachable.get(node.name)
            return 0 if report is None else sum(not report.warm.isdisjoint(versions[image]) for image in images)

        return preferred_nodes(images, owner, held, constraints, self._nodes.values())

    def _preferred_by_policy(self, pod: Admitted) -> bool:
        """Whether a policy of the Pod's namespace selects the Pod, or wants one of its images."""
        return any(
            policy.prefer_warm
            and policy.key.namespace == pod.namespace
            and (
                (policy.pods is not None and policy.pods.matches(pod.labels))
                or any(policy.wants(image) or policy.names(image.as_run) for image in pod.images)
            )
            for policy in self._policies.values()
        )


def _policy(obj: Object, _: Tenancy) -> Policy | None:
    try:
        return read_warmpolicy(obj)
    except InvalidObject:
        return None


def _line(obj: Object, tenancy: Tenancy) -> tuple[str, str] | None:
    try:
        warmimage = read_warmimage(obj)
    except InvalidObject:
        return None
    warmimage = permitted(replace(warmimage, limits=tenancy.of(warmimage.key.namespace)))
    line = line_of(warmimage)
    # Nodes that still have a purged image are about to lose it.
    return None if warmimage.purged else (line.image, line.version)


def _report(obj: Object, _: Tenancy) -> Report | None:
    report = read_report(obj["metadata"])
    return report if report.node else None


_READ: Final[Mapping[Kind, Callable[[Object, Tenancy], Any]]] = {
    "WarmPolicy": _policy,
    "WarmImage": _line,
    "Node": lambda obj, _: read_node(obj),
    "ConfigMap": _report,
}


def _key(obj: Object) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
