"""Decide which parent of an image is asked next for a blob, and when the blob is no longer expected from them.

The trees of a plan keep each node from serving more than a few others. So a node asks its nearest parent, which may
still be waiting for its own, and others only after a while, or when that parent fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from adapters.clock import Clock
from warmhook.hints import Peer

PATIENCE_SECONDS: Final = 30.0
"""So long, about, without a byte from any parent; then the registry is asked."""
PROMISED_FACTOR: Final = 4
"""So many times longer if parents gave something, and say that they expect the rest: a runtime that pulls by itself
hands a layer on when it has all of it."""
_PROMISE_SECONDS: Final = 5.0
"""How long a promise counts; a parent is asked again after one second, or a few when there are several."""
ABSENT_SECONDS: Final = 5.0
"""A parent may learn so much later than its child that it is one; until then it says that it has nothing."""
FURTHER_SECONDS: Final = 3.0
"""So long without a byte; then the next parent is asked as well."""
SLOW_SECONDS: Final = 30.0
SLOW_BYTES: Final = 16 * 1024 * int(SLOW_SECONDS)
"""A source that gives less in so many seconds is left like one that gives nothing."""
_FAILURES_MAX: Final = 3
_REST_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 1.0
_PAUSE_GROWTH: Final = 1.5


class Parents:
    """The parents of one image, for all its blobs."""

    def __init__(self, peers: Iterable[Peer], clock: Clock) -> None:
        """`peers`: the nearest first."""
        self.clock = clock
        self._failures = dict.fromkeys(peers, 0)
        """Since it gave `SLOW_BYTES`: few bytes at a time would keep its children for ever. Of those still asked."""
        self._owed = dict.fromkeys(self._failures, SLOW_BYTES)
        self._slow = Counter[Peer]()
        """How often one was too slow."""
        self.given = Counter[Peer]()
        """The bytes of each, of all blobs."""
        self._rests: dict[Peer, float] = {}
        self._began = self._last_byte = clock.monotonic()
        self._promised = self._began - _PROMISE_SECONDS
        self._knowing: set[Peer] = set()
        """Those that gave or promised something, so they know that this node is their child."""
        # Different on each node, or all would go to the registry at once.
        self._patience = PATIENCE_SECONDS * (0.75 + 0.5 * clock.random())

    @property
    def left(self) -> list[Peer]:
        """Those that may still give something, the nearest first."""
        return list(self._failures)

    def rests(self, peer: Peer) -> bool:
        """Whether it failed a moment ago."""
        return self.clock.monotonic() < self._rests.get(peer, 0.0)

    def patience_ended(self, since: float) -> bool:
        """Whether no byte came for long: of any blob, or of the one that is waited for since that monotonic second."""
        now = self.clock.monotonic()
        promised = self._last_byte > self._began and now < self._promised + _PROMISE_SECONDS
        factor = PROMISED_FACTOR if promised else 1
        return now - min(since, self._last_byte) >= factor * self._patience

    def gave(self, peer: Peer, count: int) -> None:
        """So many bytes came."""
        self._last_byte = self.clock.monotonic()
        self._knowing.add(peer)
        self.given[peer] += count
        self._owed[peer] -= count
        if self._owed[peer] <= 0:
            self._owed[peer] = SLOW_BYTES
            if peer in self._failures:
                self._failures[peer] = 0

    def promised(self, peer: Peer) -> None:
        """It expects something, or is busy."""
        self._promised = self.clock.monotonic()
        self._knowing.add(peer)

    def may_learn(self, peer: Peer) -> bool:
        """Whether it may not know yet that this node is its child."""
        return peer not in self._knowing and self.clock.monotonic() < self._began + ABSENT_SECONDS

    def failed(self, peer: Peer) -> None:
        """It broke off, or was not reachable. After several failures it is not asked again."""
        if peer in self._failures:
            self._failures[peer] += 1
            self._rests[peer] = self.clock.monotonic() + _REST_SECONDS
            if self._failures[peer] >= _FAILURES_MAX:
                self.drop(peer)

    def too_slow(self, peer: Peer) -> None:
        """Its bytes come too slowly. It may itself wait for another, and be faster when that one was left."""
        self._slow[peer] += 1
        self._rests[peer] = self.clock.monotonic() + SLOW_SECONDS
        if self._slow[peer] >= _FAILURES_MAX or self.left == [peer]:
            self.drop(peer)

    def drop(self, peer: Peer) -> None:
        """It is not asked again for this image."""
        self._failures.pop(peer, None)


class Search:
    """The search for one blob."""

    def __init__(self, parents: Parents) -> None:
        self._parents, self._clock = parents, parents.clock
        self._asked: set[Peer] = set()
        """In this round."""
        self._absent: set[Peer] = set()
        """Those that neither have the blob nor expect it."""
        self._since = self._clock.monotonic()
        """Of the first byte of the blob, then of each further `SLOW_BYTES`; at first of the search."""
        self._owed = 1
        self._pause = _FIRST_PAUSE_SECONDS

    @property
    def over(self) -> bool:
        """Whether no parent is expected to give the blob."""
        return not self._candidates() or self._parents.patience_ended(self._since)

    def next(self) -> Peer | None:
        """The parent to ask now; `None` after a round."""
        patient = self._clock.monotonic() < self._since + FURTHER_SECONDS
        for peer in self._candidates():
            if peer not in self._asked and not self._parents.rests(peer):
                self._asked.add(peer)
                return peer
            if patient and not self._parents.rests(peer):
                break
        return None

    def next_round(self) -> float:
        """Begin a round; the seconds to wait before it, short at first."""
        self._asked.clear()
        pause, self._pause = self._pause, min(_LONGEST_PAUSE_SECONDS, _PAUSE_GROWTH * self._pause)
        return pause

    def came(self, count: int) -> None:
        """So many bytes of the blob came."""
        self._owed -= count
        if self._owed <= 0:
            self._since, self._pause, self._owed = self._clock.monotonic(), _FIRST_PAUSE_SECONDS, SLOW_BYTES

    def not_here(self, peer: Peer) -> None:
        """It has not got the blob, and does not say that it expects it."""
        if not self._parents.may_learn(peer):
            self._absent.add(peer)

    def not_yet(self, peer: Peer) -> None:
        """It expects the blob, or is busy."""
        self._parents.promised(peer)

    def _candidates(self) -> list[Peer]:
        return [peer for peer in self._parents.left if peer not in self._absent]
