"""Make fleets of nodes for plans, and read the trees of a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from warmhook.distribution import ZONE_LABEL, Candidate, Plan
from warmhook.peers import PeerReport
from warmhook.placement import Node


def node_names(count: int) -> list[str]:
    return [f"n{number}" for number in range(count)]


def candidate(
    name: str,
    *,
    zone: str = "",
    architecture: str = "amd64",
    serves: bool = True,
    warm: bool = False,
    uplink: str = "bad",
    rate: int = 0,
    away: bool = False,
) -> Candidate:
    """A node that should have the image; `serves`: whether its agent serves peers; `rate`: that of its report."""
    labels = {"kubernetes.io/os": "linux", "kubernetes.io/arch": architecture, "uplink": uplink}
    if zone:
        labels[ZONE_LABEL] = zone
    peer = PeerReport(f"10.0.0.1:{1 + sum(name.encode()) % 9999}", f"{name:_<43}", rate) if serves else None
    return Candidate(Node(name, f"uid of {name}", labels, away=away), peer, warm)


@dataclass(frozen=True, slots=True)
class Forest:
    """The edges of a plan, by names of nodes."""

    parents: Mapping[str, Sequence[str]]
    """Of each node with a hint, the nearest first."""
    children: Mapping[str, Sequence[str]]
    crossings: int
    """Nodes whose first parent is in another zone."""

    def depth(self, name: str) -> int:
        """How many nodes the blobs pass before this one while everything works."""
        depth = 0
        while self.parents[name]:
            name, depth = self.parents[name][0], depth + 1
        return depth

    def root(self, name: str) -> str:
        """Where the blobs come from while everything works; the node itself if it has no parents."""
        while self.parents[name]:
            name = self.parents[name][0]
        return name

    @property
    def height(self) -> int:
        return max(map(self.depth, self.parents), default=0)


def forest(plan: Plan, wanted: Iterable[Candidate]) -> Forest:
    """The edges that the hints of these nodes name."""
    zones = {each.node.name: each.node.labels.get(ZONE_LABEL, "") for each in wanted}
    hints = {name: hint for name in zones if (hint := plan.hint(name, 1))}
    parents = {name: [peer.node for peer in hint.parents] for name, hint in hints.items()}
    children = {name: [child.node for child in hint.children] for name, hint in hints.items()}
    crossings = sum(zones[name] != zones[above[0]] for name, above in parents.items() if above)
    return Forest(parents, children, crossings)
