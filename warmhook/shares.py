"""Share the room of a node between namespaces, so that no namespace takes all of it."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """One line that needs room."""

    key: str
    namespace: str
    priority: int
    """Compared with the namespace's own lines only."""
    since: float
    """With equal priority the newest goes first; seconds of any clock."""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """The room for all namespaces together."""

    lines: int
    size_bytes: int


def served(claims: Iterable[Claim], room: Room) -> frozenset[str]:
    """Keys of the lines that have room.

    The next line is always one of the namespace that uses the smallest share so far, of the lines or of the bytes,
    whichever share of it is larger (dominant resource fairness, Ghodsi et al., NSDI 2011). So n namespaces have an nth
    of the room each, and unused room goes to the others.
    """
    queues: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        queues[claim.namespace].append(claim)
    for queue in queues.values():
        queue.sort(key=_order, reverse=True)
    # Share, order of the next claim, namespace.
    heap = [(0.0, _order(queue[-1]), namespace) for namespace, queue in queues.items()]
    heapq.heapify(heap)
    used = dict.fromkeys(queues, (0, 0))
    lines = size_bytes = 0
    found: set[str] = set()
    while heap and lines < room.lines:
        share, _, namespace = heapq.heappop(heap)
        claim = queues[namespace].pop()
        if size_bytes + claim.size_bytes <= room.size_bytes:
            found.add(claim.key)
            lines, size_bytes = lines + 1, size_bytes + claim.size_bytes
            mine = used[namespace] = (used[namespace][0] + 1, used[namespace][1] + claim.size_bytes)
            share = max(mine[0] / room.lines, mine[1] / room.size_bytes)
        if queues[namespace]:
            heapq.heappush(heap, (share, _order(queues[namespace][-1]), namespace))
    return frozenset(found)


def _order(claim: Claim) -> tuple[int, float, str]:
    return -claim.priority, -claim.since, claim.key
