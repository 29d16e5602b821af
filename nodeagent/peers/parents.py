"""Decide which parent of an image is asked next, and when a blob is no longer expected from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from adapters.clock import Clock
from warmhook.hints import Peer

PATIENCE_SECONDS: Final = 30.0
"""So long, about, without a byte from any parent; then the registry is asked."""
_FAILURES_MAX: Final = 3
_REST_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 1.0
_PAUSE_GROWTH: Final = 1.5


class Parents:
    """The parents of one image, for all its blobs."""

    def __init__(self, peers: Iterable[Peer], clock: Clock) -> None:
        """`peers`: the nearest first."""
        self._clock = clock
        self._failures = dict.fromkeys(peers, 0)
        """Since the last byte; of those that are still asked."""
        self._rests: dict[Peer, float] = {}
        self._last_byte = clock.monotonic()
        # Different on each node, or all would go to the registry at once.
        self._patience = PATIENCE_SECONDS * (0.75 + 0.5 * clock.random())

    @property
    def any_left(self) -> bool:
        """Whether a parent may still give something."""
        return bool(self._failures)

    def next(self, asked: Iterable[Peer]) -> Peer | None:
        """The nearest parent that was not asked in this round; `None` if there is none now."""
        now = self._clock.monotonic()
        return next(
            (peer for peer in self._failures if peer not in asked and now >= self._rests.get(peer, 0.0)),
            None,
        )

    def waited_enough(self, since: float) -> bool:
        """Whether no byte came for long: of any blob, or of the one that is waited for since that monotonic second."""
        return self._clock.monotonic() - min(since, self._last_byte) >= self._patience

    def gave(self, peer: Peer) -> None:
        """Some bytes came."""
        self._last_byte = self._clock.monotonic()
        if peer in self._failures:
            self._failures[peer] = 0

    def failed(self, peer: Peer) -> None:
        """It broke off, or was not reachable. After several failures it is not asked again."""
        if peer in self._failures:
            self._failures[peer] += 1
            self._rests[peer] = self._clock.monotonic() + _REST_SECONDS
            if self._failures[peer] >= _FAILURES_MAX:
                self.drop(peer)

    def drop(self, peer: Peer) -> None:
        """It is not asked again for this image."""
        self._failures.pop(peer, None)


class Pauses:
    """The pauses between rounds in which no parent had a blob: short at first."""

    def __init__(self) -> None:
        self._seconds = _FIRST_PAUSE_SECONDS

    def next(self) -> float:
        """Seconds until the next round."""
        seconds = self._seconds
        self._seconds = min(_LONGEST_PAUSE_SECONDS, _PAUSE_GROWTH * seconds)
        return seconds
