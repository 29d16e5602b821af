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
from warmhook.images import Reference
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
Holders: TypeAlias = Literal["all", "some", "none", "unwanted", "unknown"]
"""Which of the nodes that should have an image have it; `unwanted` if no WarmImage names it."""
_log = get_logger()

_AGAIN_SECONDS: Final = 10.0
_RANKINGS_MAX: Final = 100
_RANKING_LIFETIME: Final = timedelta(seconds=2)
_BEST_FIRST: Final[tuple[Holders, ...]] = ("all", "some", "none")
Key = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What one WarmImage wants, and how far that is."""

    image: str
    """As a runtime names it."""
    version: str
    """The version of its line."""
    holders: Holders


@dataclass(slots=True)
class WarmNodes:
    """The last seen policies, WarmImages, Nodes and reports."""

    clock: Clock
    tenancy: Tenancy = NO_RULES
    _listed: set[Kind] = field(default_factory=set)
    _policies: dict[Key, Policy] = field(default_factory=dict)
    _wanted: dict[Key, _Wanted] = field(default_factory=dict)
    """By WarmImage."""
    _by_image: dict[str, dict[Key, _Wanted]] = field(default_factory=dict)
    """The same, by image."""
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
        if kind == "WarmImage":
            self._by_image.clear()
        for obj in objects:
            self.update(kind, obj)
        self._listed.add(kind)

    def update(self, kind: Kind, obj: Object) -> None:
        """An object was added or modified."""
        self._store(kind, _key(obj), _READ[kind](obj, self.tenancy))

    def delete(self, kind: Kind, obj: Object) -> None:
        """An object was deleted."""
        self._store(kind, _key(obj), None)

    def _store(self, kind: Kind, key: Key, value: Any) -> None:
        """Keep the value of an object, or forget it if there is none."""
        table = self._table(kind)
        old = table.pop(key, None)
        if isinstance(old, _Wanted):
            named = self._by_image[old.image]
            del named[key]
            if not named:
                del self._by_image[old.image]
        if value is not None:
            table[key] = value
        if isinstance(value, _Wanted):
            self._by_image.setdefault(value.image, {})[key] = value

    def _table(self, kind: Kind) -> dict[Key, Any]:
        tables: dict[Kind, dict[Key, Any]] = {
            "WarmPolicy": self._policies,
            "WarmImage": self._wanted,
            "Node": self._nodes,
            "ConfigMap": self._reports,
        }
        return tables[kind]

    # --- holders ---

    def holders(self, image: Reference) -> Holders:
        """Which nodes have the image, by the status of the WarmImage with the most; `unknown` before the first list."""
        if "WarmImage" not in self._listed:
            return "unknown"
        found = {wanted.holders for wanted in self._by_image.get(str(image.as_run), {}).values()}
        return next((holders for holders in _BEST_FIRST if holders in found), "unwanted")

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
        versions = {image: {wanted.version for wanted in self._by_image.get(image, {}).values()} for image in images}
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


def _wanted(obj: Object, tenancy: Tenancy) -> _Wanted | None:
    try:
        warmimage = read_warmimage(obj)
    except InvalidObject:
        return None
    warmimage = permitted(replace(warmimage, limits=tenancy.of(warmimage.key.namespace)))
    line = line_of(warmimage)
    # Nodes that still have a purged image are about to lose it.
    return None if warmimage.purged else _Wanted(line.image, line.version, _holders(obj))


def _holders(obj: Object) -> Holders:
    """By the status, which handlers write; nodes whose agent is silent do not count, as in the condition `Ready`."""
    status = obj.get("status") or {}
    if status.get("observedGeneration") != obj["metadata"].get("generation"):
        # A push or a change that the nodes do not have yet.
        return "none"
    warm, desired, silent = (status.get(name) or 0 for name in ("warm", "desired", "unreachable"))
    if not warm:
        return "none"
    return "all" if warm + silent >= desired else "some"


def _report(obj: Object, _: Tenancy) -> Report | None:
    report = read_report(obj["metadata"])
    return report if report.node else None


_READ: Final[Mapping[Kind, Callable[[Object, Tenancy], Any]]] = {
    "WarmPolicy": _policy,
    "WarmImage": _wanted,
    "Node": lambda obj, _: read_node(obj),
    "ConfigMap": _report,
}


def _key(obj: Object) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
