"""Decide which nodes read the registry, and from which nodes the others get an image.

A plan is a static forest: blobs stream along it, so a node gives to its children what it has while it still receives
the rest. Let an image have S bytes, a registry send R bytes per second to all nodes together, and a node send and
receive B each. N direct pulls then take max(NS/R, S/B) seconds, and trees with two children per node and k seeds about
S / min(R/k, B/2), whatever N is. docs/distribution.md has the curves.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from warmhook.distribution_tree import FAN_OUT, Member, find_parents, position, select_roots
from warmhook.hints import Child, Hint, Peer
from warmhook.labels import Selector
from warmhook.peers import PeerReport
from warmhook.placement import Node, platform_of_node
from warmhook.platforms import Platform
from warmhook.warmimages import Source

Outcome: TypeAlias = Literal["Peers", "SourceIsRegistry", "TooFewNodes", "DirectIsFast"]
"""`Peers`: nodes get the image from each other. The others: every node pulls from the registry, and why."""

ZONE_LABEL: Final = "topology.kubernetes.io/zone"

# Doubling would take R / (B ln 2) seeds. Streaming trees are as fast with any number up to 2R/B, and this spares the
# registry the rest.
_SEEDS_PER_RATE: Final = 1 / math.log(2)
# Bytes that cross zones cost money and share a link, so from this size on each zone has a seed of its own, if then each
# seed still gets a third of what a node can receive.
_LARGE_BYTES: Final = 1_000_000_000
_ZONES_PER_RATE: Final = 3
# Of an image whose size no registry has told.
_ASSUMED_BYTES: Final = 100_000_000
# A node that last received less than this part of what half of the nodes did would hold up all nodes below it.
_SLOW: Final = 0.25
# Until the first byte has passed a node: a child asks for a blob that its parent does not have yet once a second.
_HOP_SECONDS: Final = 0.5
# What a plan must save, or it is not worth its hints and the node that is down.
_LEAST_SAVED_SECONDS: Final = 2.0
_LEAST_RATIO: Final = 1.25
# One warm node that is down, or lies, must not be the only source.
_LEAST_SOURCES: Final = 2
# Direct pulls that take less time altogether start at once.
_NO_ORDER_SECONDS: Final = 10.0
_NO_SEED_NODE: Final = "no node that should have the image matches seedNodes: any of them may read the registry"
# The rate of the registry may be a guess, so `auto` delays nobody for long.
_LONGEST_WAIT_SECONDS: Final = {"auto": 120.0, "peers": 600.0}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that should have the image."""

    node: Node
    peer: PeerReport | None = None
    """Where its agent serves images; `None` if it does not, or has not reported lately."""
    warm: bool = False


@dataclass(frozen=True, slots=True)
class Rates:
    """What a transfer is limited by, in bytes per second."""

    registry: float
    """Of the registry to all nodes together."""
    node: float
    """Of one node, in each direction."""


@dataclass(frozen=True, slots=True)
class Plan:
    """From where every node gets an image."""

    outcome: Outcome
    seeds: int = 0
    """Nodes that read the registry at the same time."""
    seconds: float = 0.0
    """An estimate of the whole transfer."""
    problem: str = ""
    """What a person should change; empty if nothing."""
    _hints: Mapping[str, Hint] = field(default_factory=dict)

    def hint(self, node: str, expires_at: int, digest: str = "") -> Hint | None:
        """The hint of a node; `None` for one that pulls from the registry at once, or is warm and serves nobody.

        `expires_at` in Unix seconds. `digest` is that of the image if the line has none.
        """
        found = self._hints.get(node)
        return None if found is None else replace(found, expires_at=expires_at, digest=digest)


@dataclass(frozen=True, slots=True)
class _Group:
    """The nodes of one platform that get the image from each other: blobs of another platform are of no use to them."""

    members: Sequence[Member]
    roots: frozenset[str]

    @property
    def warm(self) -> int:
        return sum(member.warm for member in self.members)

    @property
    def seeds(self) -> int:
        return sum(member.name in self.roots and not member.warm for member in self.members)


def plan(image: str, candidates: Collection[Candidate], size_bytes: int, rates: Rates, source: Source) -> Plan:
    """From where each of `candidates`, all nodes that should have the image, gets it.

    `image` decides which nodes are seeds: give the canonical repository, and an image that replaces another has the
    same trees. `size_bytes` are those of the compressed layers; 0 if unknown. Takes 0.1 s for 5,000 nodes.
    """
    if source.mode == "registry":
        return Plan("SourceIsRegistry")
    size_bytes = size_bytes or _ASSUMED_BYTES
    rates = Rates(max(1.0, rates.registry), max(1.0, rates.node))
    waits = _waits(image, candidates, size_bytes, rates, _LONGEST_WAIT_SECONDS[source.mode])
    groups, problem = _groups(image, candidates, size_bytes, rates, source)
    at_once = sum(wait == 0 for wait in waits.values())
    readers = sum(group.seeds for group in groups) + at_once
    seconds = _streaming_seconds(groups, readers, size_bytes, rates)
    outcome = _outcome(groups, direct_seconds(candidates, size_bytes, rates), seconds, source)
    if outcome != "Peers":
        groups, readers = [], at_once
    peers = {each.node.name: each.peer for each in candidates if each.peer is not None}
    hints = {name: Hint(0, seeds=readers, wait_seconds=wait) for name, wait in waits.items() if wait}
    for group in groups:
        hints.update(_hints(find_parents(image, group.members, group.roots), group, peers, readers))
    return Plan(outcome, readers, seconds if groups else 0.0, problem if groups else "", hints)


def _groups(
    image: str, candidates: Collection[Candidate], size_bytes: int, rates: Rates, source: Source
) -> tuple[list[_Group], str]:
    """Nodes that can serve each other, with their roots; and what is wrong with the source."""
    limit = max(1, source.seeds.of(len(candidates)))
    seeds = min(limit, _seeds(rates))
    zones_max = min(limit, _ZONES_PER_RATE * rates.registry / rates.node) if size_bytes >= _LARGE_BYTES else 0
    able: defaultdict[Platform, list[Candidate]] = defaultdict(list)
    for each in candidates:
        if each.peer is not None:
            able[platform_of_node(each.node)].append(each)
    groups, problem = [], ""
    for some in able.values():
        if len(some) < 2 or all(each.warm for each in some):
            continue
        members = list(_members(image, some, source.seed_nodes))
        if not any(member.warm or member.may_read for member in members):
            # Blobs of this platform come from nowhere else.
            members, problem = list(_members(image, some, None)), _NO_SEED_NODE
        least = _LEAST_SOURCES if any(each.warm and not each.last for each in members) else 1
        count, zones = max(least, round(seeds * len(some) / len(candidates))), len({each.zone for each in members})
        each_zone = zones <= zones_max
        count = max(count, zones) if each_zone else count
        groups.append(_Group(members, select_roots(members, count, each_zone=each_zone)))
    return groups, problem


def _members(image: str, candidates: Collection[Candidate], seed_nodes: Selector | None) -> Iterator[Member]:
    rates = sorted(each.peer.rate for each in candidates if each.peer is not None and each.peer.rate)
    slow = rates[len(rates) // 2] * _SLOW if rates else 0.0
    for each in candidates:
        name, labels = each.node.name, each.node.labels
        may_read = seed_nodes is None or seed_nodes.matches(labels)
        last = each.node.away or (each.peer is not None and 0 < each.peer.rate < slow)
        yield Member(name, labels.get(ZONE_LABEL, ""), each.warm, may_read, last, position(image, name))


def _outcome(groups: Sequence[_Group], direct_seconds: float, streaming_seconds: float, source: Source) -> Outcome:
    if not groups:
        return "TooFewNodes"
    saved = direct_seconds - streaming_seconds
    pays = saved >= _LEAST_SAVED_SECONDS and direct_seconds >= _LEAST_RATIO * streaming_seconds
    return "Peers" if pays or source.mode == "peers" else "DirectIsFast"


def direct_seconds(candidates: Iterable[Candidate], size_bytes: int, rates: Rates) -> float:
    """How long it takes if every node pulls from the registry."""
    cold = sum(not each.warm for each in candidates)
    return max(cold * size_bytes / rates.registry, size_bytes / rates.node)


def _streaming_seconds(groups: Sequence[_Group], readers: int, size_bytes: int, rates: Rates) -> float:
    """How long it takes in trees, while `readers` nodes read the registry."""
    sources = sum(group.warm + group.seeds for group in groups)
    children = sum(len(group.members) for group in groups) - sources
    if not sources:
        return 0.0
    rate = rates.node / min(max(children / sources, 1), FAN_OUT)
    if any(group.seeds for group in groups):
        rate = min(rate, rates.registry / readers)
    return size_bytes / rate + _HOP_SECONDS * math.log2(children / sources + 1)


def _seeds(rates: Rates) -> int:
    return max(1, round(_SEEDS_PER_RATE * rates.registry / rates.node))


def _waits(
    image: str, candidates: Iterable[Candidate], size_bytes: int, rates: Rates, longest_seconds: float
) -> dict[str, int]:
    """How long each node that has no part in the trees waits before it pulls from the registry.

    As many pull at once as there would be seeds, in the order of the hash, so that the first are warm early and none
    has to share the registry with all. If that takes longer than `longest_seconds`, more pull at once.
    """
    names = [each.node.name for each in candidates if each.peer is None and not each.warm]
    names.sort(key=lambda name: position(image, name).rank)
    together = _seeds(rates)
    interval = max(together * size_bytes / rates.registry, size_bytes / rates.node)
    last = (len(names) - 1) // together
    if len(names) * size_bytes / rates.registry < _NO_ORDER_SECONDS:
        interval = 0.0
    elif last * interval > longest_seconds:
        interval = longest_seconds / last
    return {name: round(number // together * interval) for number, name in enumerate(names)}


def _hints(
    parents: Mapping[str, Sequence[str]], group: _Group, peers: Mapping[str, PeerReport], readers: int
) -> Iterator[tuple[str, Hint]]:
    children: defaultdict[str, list[Child]] = defaultdict(list)
    for name in sorted(parents):
        child = Child(name, peers[name].key)
        for parent in parents[name]:
            children[parent].append(child)
    serving = {name: Peer(name, peers[name].address, peers[name].key) for name in children}
    for member in group.members:
        served = tuple(children.get(member.name, ()))
        if served or not member.warm:
            above = tuple([serving[name] for name in parents[member.name]])
            yield member.name, Hint(0, parents=above, children=served, seeds=readers)
