"""Decide from which nodes each node gets the blobs of an image: trees in which nobody has more than two children.

Each zone is one binary tree. Its nodes are placed one after another in the order of a hash over image and node: a node
takes the first free slot on the path that other bits of its hash spell (a digital search tree; Knuth, The Art of
Computer Programming, volume 3, section 6.3). So a tree is a function of the set of its nodes, it is about log2(n) deep,
and a node that joins or leaves moves only nodes on one path. Roots come first in the order, so they are at the top and
the edges between them are not used: one root more or less changes nothing else.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

FAN_OUT: Final = 2
"""Nodes that get blobs from one node while everything works."""
LISTED_MAX: Final = FAN_OUT + FAN_OUT**2
"""Nodes that have one node among their parents: its children, and as a second choice their children."""

_Slots: TypeAlias = dict[int, "Member"]
"""Slot to node: the root is 1, and below slot n are 2n and 2n + 1."""


class Position(NamedTuple):
    """Where a node, or a zone, is placed."""

    rank: int
    """The lowest is placed first."""
    path: int
    """Bits that say left or right at each slot, the lowest first."""


class Member(NamedTuple):
    """A node that can get blobs from others, and give them."""

    name: str
    zone: str
    """Empty if the node has no label."""
    warm: bool
    """Whether it has the image, so that it needs no parents."""
    may_read: bool
    """Whether it may read the registry."""
    last: bool
    """Whether it is placed after all others, where it has few nodes below it or none."""
    position: Position


def position(image: str, name: str) -> Position:
    """Where a node or a zone is placed for this image."""
    digest = hashlib.sha256(f"{image}\n{name}".encode()).digest()
    return Position(int.from_bytes(digest[:8]), int.from_bytes(digest[8:]))


def select_roots(members: Iterable[Member], count: int, *, each_zone: bool) -> frozenset[str]:
    """The names of up to `count` nodes that get the image from no other.

    These are warm, or else they read the registry. `each_zone`: first one node of each zone that has such a node.
    """
    candidates = sorted((member for member in members if member.warm or member.may_read), key=_warm_first)
    if each_zone:
        first = {member.zone: member.name for member in reversed(candidates)}
        candidates.sort(key=lambda member: first[member.zone] != member.name)
    return frozenset(member.name for member in candidates[:count])


def find_parents(image: str, members: Collection[Member], roots: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The parents of each node by name, the nearest first; none for a warm node and for `roots`, at least one.

    The second parent is the parent of the first. A zone without a root or a warm node gets the blobs over one edge from
    another zone.
    """
    zones = _zones(members, roots)
    fed = {zone for zone, (head, *_) in zones.items() if head.warm or head.name in roots}
    below = _zones_below(image, zones, fed)
    parents: dict[str, tuple[str, ...]] = {}
    for zone in fed:
        slots: _Slots = {}
        starts = [(zone, 1)]
        while starts:
            name, start = starts.pop()
            starts += _fill(slots, start, zones[name], below[name])
        for slot, member in slots.items():
            nearest = (slots[above].name for above in (slot >> 1, slot >> 2) if above)
            parents[member.name] = () if member.warm or member.name in roots else tuple(nearest)
    return parents


def _order(member: Member) -> tuple[bool, int, str]:
    return (member.last, member.position.rank, member.name)


def _warm_first(member: Member) -> tuple[bool, bool, int, str]:
    return (member.last, not member.warm, member.position.rank, member.name)


def _zones(members: Iterable[Member], roots: Collection[str]) -> dict[str, list[Member]]:
    """The nodes of each zone in the order of placement: its roots, or else one warm node, and then the others."""
    zones: defaultdict[str, list[Member]] = defaultdict(list)
    for member in members:
        zones[member.zone].append(member)
    for nodes in zones.values():
        nodes.sort(key=lambda member: (member.name not in roots, _order(member)))
        if nodes[0].name not in roots:
            nodes.insert(0, nodes.pop(nodes.index(min(nodes, key=_warm_first))))
    return dict(zones)


def _zones_below(image: str, zones: Mapping[str, Sequence[Member]], fed: Collection[str]) -> dict[str, list[str]]:
    """The zones that get the blobs from each zone: a tree like that of nodes, in which the zones `fed` come first."""
    positions = {zone: position(image, zone) for zone in zones}
    slots: dict[int, str] = {}
    below: dict[str, list[str]] = {zone: [] for zone in zones}
    for zone in sorted(zones, key=lambda zone: (zone not in fed, positions[zone].rank, zone)):
        slot = _free_slot(slots, 1, positions[zone].path)
        slots[slot] = zone
        if zone not in fed:
            below[slots[slot >> 1]].append(zone)
    return below


def _fill(slots: _Slots, start: int, nodes: Sequence[Member], below: Sequence[str]) -> list[tuple[str, int]]:
    """Place the nodes of a zone from slot `start` on; returns the zones `below` and where they start.

    Each of these takes the place of one of the two children of one of the first nodes, so that it is near the root.
    """
    starts, nodes = [], list(nodes)
    for zone in below:
        if not nodes:  # a zone of one node and two zones below
            starts.append((zone, start))
            continue
        slots[start] = nodes.pop(0)
        starts.append((zone, 2 * start + 1))
        start *= 2
    for node in nodes:
        slots[_free_slot(slots, start, node.position.path)] = node
    return starts


def _free_slot(slots: Mapping[int, object], slot: int, path: int) -> int:
    while slot in slots:
        slot, path = 2 * slot + (path & 1), path >> 1
    return slot
