"""Simulate how an image streams over the trees of a plan, chunk by chunk.

A sender divides its rate evenly among those that get the image from it, and nobody receives faster than a node can. A
node has each chunk before it sends it on. Nothing else costs time, except that a node that has nothing yet asks only
every so often.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from warmhook.distribution import Rates

REGISTRY: Final = ""
"""The source of seeds, and of nodes whose parents have all died."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is transferred, over what."""

    rates: Rates
    size_bytes: int
    chunk_bytes: int
    hop_seconds: float = 0.0
    """From the first chunk at a node to the first request of its child that finds it."""
    notice_seconds: float = 0.0
    """From the death of a node until its children ask another."""

    @property
    def chunks(self) -> int:
        return -(-self.size_bytes // self.chunk_bytes)


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    finished: dict[str, float] = field(default_factory=dict)
    """When each node had the last chunk, in seconds."""
    first: dict[str, float] = field(default_factory=dict)
    """When it had the first one."""
    sent: Counter[str] = field(default_factory=Counter)
    """Chunks by sender."""

    @property
    def seconds(self) -> float:
        return max(self.finished.values(), default=0.0)


def simulate(parents: Mapping[str, Sequence[str]], load: Load, dies: Mapping[str, float] | None = None) -> Outcome:
    """Transfer the image to each node over its `parents`, or from the registry where it has none.

    `dies`: nodes that stop at a time.
    """
    return _Simulation(parents, load, dies or {}).run()


class _Simulation:
    def __init__(self, parents: Mapping[str, Sequence[str]], load: Load, dies: Mapping[str, float]) -> None:
        self._load, self._outcome = load, Outcome()
        self._sources = {name: [*above, REGISTRY] for name, above in parents.items()}
        self._have = dict.fromkeys(parents, 0) | {REGISTRY: load.chunks}
        self._served = Counter(sources[0] for sources in self._sources.values())
        """How many nodes get the image from each sender."""
        self._waiting: dict[str, list[str]] = {name: [] for name in self._have}
        """Nodes that need a chunk that this one does not have yet."""
        self._dead = set[str]()
        self._events: list[tuple[float, str, str, bool]] = [(time, name, name, False) for name, time in dies.items()]
        """Time, node, sender: the node has the next chunk; or, without one, asks for it; or, with itself, dies."""
        heapq.heapify(self._events)

    def run(self) -> Outcome:
        for name in self._sources:
            self._ask(name, 0.0)
        while self._events:
            now, name, sender, has_chunk = heapq.heappop(self._events)
            if name == sender:
                self._die(name, now)
            elif name not in self._dead and sender == self._sources[name][0]:
                if has_chunk:
                    self._receive(name, sender, now)
                self._ask(name, now)
        return self._outcome

    def _ask(self, name: str, now: float) -> None:
        """Begin the transfer of the next chunk to a node, or let it wait."""
        sender, rates = self._sources[name][0], self._load.rates
        if self._have[name] == self._load.chunks:
            return
        if self._have[sender] == self._have[name]:
            self._waiting[sender].append(name)
            return
        rate = min((rates.registry if sender == REGISTRY else rates.node) / self._served[sender], rates.node)
        heapq.heappush(self._events, (now + self._load.chunk_bytes / rate, name, sender, True))

    def _receive(self, name: str, sender: str, now: float) -> None:
        self._have[name] += 1
        self._outcome.sent[sender] += 1
        delay = 0.0
        if self._have[name] == 1:
            self._outcome.first[name] = now
            delay = self._load.hop_seconds
        if self._have[name] == self._load.chunks:
            self._outcome.finished[name] = now
            self._served[sender] -= 1
        waiting, self._waiting[name] = self._waiting[name], []
        for child in waiting:
            if child not in self._dead:
                self._ask(child, now + delay)

    def _die(self, name: str, now: float) -> None:
        """Its children change to their next source that is alive."""
        self._dead.add(name)
        if self._have[name] < self._load.chunks:
            self._served[self._sources[name][0]] -= 1
        for child, sources in self._sources.items():
            if sources[0] == name and self._have[child] < self._load.chunks and child not in self._dead:
                sources[:] = [source for source in sources if source not in self._dead]
                self._served[sources[0]] += 1
                heapq.heappush(self._events, (now + self._load.notice_seconds, child, sources[0], False))
