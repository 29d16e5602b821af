"""Decide which nodes a Pod prefers: nodes that have its images, as preferences that exclude no node."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from warmhook.node_affinity import Constraints, matches_node
from warmhook.placement import ANY_LINUX_NODE, Node
from warmhook.taints import tolerates

PREFERRED_MAX: Final = 10
_HEAVIEST: Final = 100
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def preferred_nodes(
    images: Collection[str], owner: str, held: Callable[[Node], int], constraints: Constraints, nodes: Iterable[Node]
) -> list[tuple[str, int]]:
    """Up to ten names of nodes that have images of the Pod and can take it, each with a weight from 1 to 100.

    `held` is the number of the images that each node has. Most images first, then by rendezvous over owner, images and
    node: Pods of one owner prefer the same nodes, Pods of other owners with the same images prefer others. Empty if
    every node has the same number of images. An image that more than ten, and more than half, of the nodes have gives
    no preference, because it would only crowd ten of them.
    """
    feasible = [(held(node), node.name) for node in nodes if _can_take(node, constraints)]
    counts = Counter(count for count, _ in feasible if count)
    if len(counts) < 2 and counts.total() == len(feasible):
        return []
    seed = "\n".join((owner, *sorted(images)))
    rare = _rare(counts, len(feasible))
    ranked = sorted((-count, _rank(seed, name), name) for count, name in feasible if count >= rare)
    return [(name, max(1, _HEAVIEST * -missing // len(images))) for missing, _, name in ranked[:PREFERRED_MAX]]


def _rare(counts: Counter[int], nodes: int) -> float:
    """The least number of images that is worth a preference; infinite if none is."""
    least, holders = math.inf, 0
    for count in sorted(counts, reverse=True):
        holders += counts[count]
        if holders > max(PREFERRED_MAX, nodes // 2):
            break
        least = count
    return least


def _rank(seed: str, node: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{node}".encode(errors="surrogatepass")).digest()


def _can_take(node: Node, constraints: Constraints) -> bool:
    affinity = constraints.affinity
    return (
        ANY_LINUX_NODE.matches(node.labels)
        and (affinity is None or matches_node(affinity, node.name, node.labels))
        and tolerates(node.taints, node.unschedulable, constraints.tolerations)
    )


def prefers_nodes(pod: Mapping[str, Any]) -> bool:
    """Whether the Pod names preferred nodes: terms from an earlier review, or equally exact terms of a person."""
    for entry in _node_affinity(pod).get(_PREFERRED) or ():
        term = entry.get("preference") if isinstance(entry, dict) else None
        if isinstance(term, dict) and term.get("matchFields"):
            return True
    return False


def affinity_patch(pod: Mapping[str, Any], preferred: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """The JSON patch (RFC 6902) that adds these preferences after those of the Pod and changes nothing else."""
    terms = [
        {
            "weight": weight,
            "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]},
        }
        for name, weight in preferred
    ]
    if not terms or not isinstance(pod.get("spec"), dict):
        return []
    path, value = "/spec/affinity", pod["spec"].get("affinity")
    for name in ("nodeAffinity", _PREFERRED):
        if not value:
            # The outermost missing part, with its content.
            inner: Any = terms
            for outer in ("nodeAffinity", _PREFERRED)[("nodeAffinity", _PREFERRED).index(name) :][::-1]:
                inner = {outer: inner}
            return [{"op": "add", "path": path, "value": inner}]
        if not isinstance(value, dict):
            return []
        path, value = f"{path}/{name}", value.get(name)
    if not value:
        return [{"op": "add", "path": path, "value": terms}]
    return [{"op": "add", "path": f"{path}/-", "value": term} for term in terms] if isinstance(value, list) else []


def _node_affinity(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = pod
    for name in ("spec", "affinity", "nodeAffinity"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) and isinstance(found.get(_PREFERRED), list | None) else {}
