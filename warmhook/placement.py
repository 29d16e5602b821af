"""Decide which nodes should hold an image."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeAlias

from warmhook.labels import LABEL_OPERATORS, Requirement, Selector
from warmhook.manifests import Resolved
from warmhook.node_affinity import matches_node
from warmhook.platforms import Platform
from warmhook.taints import Taint, tolerates
from warmhook.warmimages import Nodes, WarmImage

_OS_LABEL: Final = "kubernetes.io/os"
_ARCH_LABEL: Final = "kubernetes.io/arch"
# The default selector of a policy. The kubelet sets both labels; virtual kubelets run no containers of their own.
ANY_LINUX_NODE: Final = Selector(
    (Requirement(_OS_LABEL, "In", ("linux",)), Requirement("type", "NotIn", ("virtual-kubelet",)))
)

# Object names have at most 253 characters and "warmhook-desired-" takes 17 of them.
NODE_NAME_MAX: Final = 236
# A restart takes minutes; moving placements for each one would waste pulls.
_NOT_READY: Final = timedelta(minutes=10)
# Requirements of Pods up to this size go into a query string; the rest is compared here.
_SHORT: Final = 16


@dataclass(frozen=True, slots=True)
class Node:
    """The fields of a Node that placement reads."""

    name: str
    uid: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...] = ()
    """Also empty if they were not read."""
    unschedulable: bool = False
    away: bool = False
    """Whether a limit takes the node last. Also False if that was not read."""
    created_at: datetime | None = None
    """The time of its registration; `None` if unknown."""


class PodQuery(NamedTuple):
    """Some Pods of a namespace."""

    namespace: str
    selector: Selector


RunningNodes: TypeAlias = Mapping[PodQuery, Collection[str]]
"""Names of the nodes that run such Pods."""
_NOTHING_RUNS: Final[RunningNodes] = {}


def is_away(unschedulable: bool, not_ready_since: datetime | None, now: datetime) -> bool:
    """Whether a node is cordoned, or has not been Ready for longer than a restart takes.

    `not_ready_since` is `None` for a node that is Ready.
    """
    return unschedulable or (not_ready_since is not None and now - not_ready_since >= _NOT_READY)


def selector_of(nodes: Nodes) -> Selector:
    """The selector of these nodes, given or not; names are not part of it."""
    if nodes.selector is not None:
        return nodes.selector
    return Selector(()) if nodes.names else ANY_LINUX_NODE


def node_selector(nodes: Nodes) -> Selector:
    """The label selector under which the API server lists every candidate; names are not part of it."""
    selector = selector_of(nodes)
    if nodes.affinity is None or len(nodes.affinity) != 1:
        return selector
    expressions = [
        expression
        for expression in nodes.affinity[0].expressions
        if expression.operator in LABEL_OPERATORS and len(expression.values) <= _SHORT
    ]
    return Selector(tuple(dict.fromkeys((*selector.requirements, *expressions[:_SHORT]))))


def reads_taints(warmimages: Iterable[WarmImage]) -> bool:
    """Whether the placement of these needs more of a Node than its metadata."""
    templates = (warmimage.template for warmimage in warmimages)
    return any(template.nodes.tolerations is not None or template.nodes.limit is not None for template in templates)


def platform_of_node(node: Node) -> Platform:
    """What the labels of the node say; empty where they are missing."""
    return Platform(node.labels.get(_OS_LABEL, ""), node.labels.get(_ARCH_LABEL, ""))


def lacks_platform(resolved: Resolved | None, node: Node) -> bool:
    """Whether the image does not run on the node. A node without the labels of its platform runs everything."""
    if resolved is None or not resolved.platforms:
        return False
    return resolved.lacks(platform_of_node(node))


def place(image: str, wanted: Nodes, nodes: Iterable[Node], resolved: Resolved | None = None) -> list[Node]:
    """The nodes that should hold `image`, a canonical reference; also those that lack its platform.

    A limit takes the nodes whose SHA-256 over image and name is lowest (rendezvous hashing): different images are
    placed on different nodes, and a node that joins or leaves moves no more than one placement. Nodes that are away
    come last, and return to their rank when they are Ready. Nodes without the platform of the image come after them.
    """
    selector, names = node_selector(wanted), frozenset(wanted.names)
    chosen = [node for node in nodes if (not names or node.name in names) and selector.matches(node.labels)]
    chosen = [node for node in chosen if len(node.name) <= NODE_NAME_MAX]
    affinity, tolerations = wanted.affinity, wanted.tolerations
    if affinity is not None:
        chosen = [node for node in chosen if matches_node(affinity, node.name, node.labels)]
    if tolerations is not None:
        chosen = [node for node in chosen if tolerates(node.taints, node.unschedulable, tolerations)]
    if wanted.limit is None:
        return chosen
    chosen.sort(key=lambda node: (lacks_platform(resolved, node), node.away, _rank(image, node.name), node.name))
    return chosen[: wanted.limit.of(len(chosen))]


NodesPart: TypeAlias = Literal["name", "names", "selector", "affinity", "tolerations"]


def refusing_part(wanted: Nodes, node: Node) -> NodesPart | None:
    """The part of `wanted` that keeps the image off this node; `None`: none, a limit and running Pods aside.

    Each part is tried alone, without the others.
    """
    anywhere = Nodes(selector=Selector(()))
    alone: dict[NodesPart, Nodes] = {
        "name": anywhere,
        "names": replace(anywhere, names=wanted.names),
        "selector": replace(anywhere, selector=selector_of(wanted)),
        "affinity": replace(anywhere, affinity=wanted.affinity),
        "tolerations": replace(anywhere, tolerations=wanted.tolerations),
    }
    return next((part for part, each in alone.items() if not place("", each, [node])), None)


def _rank(image: str, node: str) -> bytes:
    return hashlib.sha256(f"{image}\n{node}".encode()).digest()


def pod_queries(warmimage: WarmImage) -> list[tuple[PodQuery, ...]]:
    """The Pods on which the placement depends: of each tuple a node must run one. None if it is complete."""
    if warmimage.complete:
        return []
    namespace, queries = warmimage.key.namespace, list[tuple[PodQuery, ...]]()
    if warmimage.template.nodes.running_pods is not None:
        queries.append((PodQuery(namespace, warmimage.template.nodes.running_pods),))
    origin = warmimage.pod_origin
    if origin is not None and origin.source == "Rollout":
        selectors = {owner.selector for owner in origin.owners if owner.selector is not None}
        # More workloads than are stored: the nodes of any Pod are those of theirs, and some others.
        queries.append(tuple(PodQuery(namespace, each) for each in ({Selector()} if origin.more else selectors)))
    return queries


def place_each(
    warmimages: Iterable[WarmImage], nodes: Iterable[Node], running: RunningNodes = _NOTHING_RUNS
) -> Iterator[tuple[WarmImage, list[Node]]]:
    """Each WarmImage and the nodes that should hold its image: none if it is complete, or no container can run it.

    `running` has every query of these WarmImages.

    WarmImages of one policy select the same nodes, and only a limit depends on the image, so labels are compared once.
    """
    nodes = list(nodes)
    matching: dict[Nodes, list[Node]] = {}
    for warmimage in warmimages:
        wanted, resolved = warmimage.template.nodes, warmimage.resolved
        if warmimage.complete or (resolved is not None and not resolved.runnable):
            yield warmimage, []
            continue
        unlimited = replace(wanted, limit=None)
        if unlimited not in matching:
            matching[unlimited] = place("", unlimited, nodes)
        chosen = matching[unlimited]
        for queries in pod_queries(warmimage):
            names = frozenset[str]().union(*(running[query] for query in queries))
            chosen = [node for node in chosen if node.name in names]
        yield warmimage, chosen if wanted.limit is None else place(str(warmimage.image), wanted, chosen, resolved)
