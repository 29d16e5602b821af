"""Keep what the report of the node says about peers: where this node serves images, and what it fetched from whom."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from adapters.clock import Clock
from warmhook.api import PEER_ANNOTATION, TRANSFERS_ANNOTATION
from warmhook.peers import PeerReport, Transfer, encode_peer, encode_transfers, read_peer

PROGRESS_SECONDS: Final = 5.0
"""Progress is written so long after the start of a transfer, then after twice as long, and so on."""
KEPT_SECONDS: Final = 3600.0
"""A transfer that has ended is named for so long."""
_HOSTS_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class _Known:
    transfer: Transfer
    began: float
    ended: float | None = None


class PeerAnnotations:
    """The annotations of the report about peers. All times are monotonic seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._peer: PeerReport | None = None
        self._rate = 0
        self._registry_rates: dict[str, int] = {}
        self._transfers: dict[str, _Known] = {}
        """By version of the line, in the order of their starts."""

    def serving(self, address: str, key: str) -> None:
        """Other nodes can connect to this address, and find this key there."""
        self._peer = PeerReport(address, key)

    def not_serving(self) -> None:
        """Other nodes cannot connect."""
        self._peer = None

    def received(self, bytes_per_second: float) -> None:
        """A large transfer from peers was so fast."""
        self._rate = int(bytes_per_second)

    def read_registry(self, host: str, bytes_per_second: float) -> None:
        """An estimate of what the registry gives to all nodes together."""
        self._registry_rates.pop(host, None)
        self._registry_rates[host] = int(bytes_per_second)
        while len(self._registry_rates) > _HOSTS_MAX:
            del self._registry_rates[next(iter(self._registry_rates))]

    def transferred(self, transfer: Transfer, *, ended: bool) -> None:
        """What was fetched for a line so far."""
        now, known = self._clock.monotonic(), self._transfers.get(transfer.version)
        began = known.began if known is not None and known.ended is None else now
        self._transfers.pop(transfer.version, None)
        self._transfers[transfer.version] = _Known(transfer, began, now if ended else None)

    def current(self) -> dict[str, str]:
        """Annotation to value; without those that say nothing."""
        peer = self._peer and replace(self._peer, rate=self._rate, registry_rates=self._registry_rates)
        oldest = self._clock.monotonic() - KEPT_SECONDS
        self._transfers = {
            version: known for version, known in self._transfers.items() if known.ended is None or known.ended > oldest
        }
        values = {
            PEER_ANNOTATION: encode_peer(peer) if peer else "",
            TRANSFERS_ANNOTATION: encode_transfers(known.transfer for known in self._transfers.values()),
        }
        return {name: value for name, value in values.items() if value}

    def due_at(self, written: Mapping[str, str], written_at: float) -> float:
        """When these annotations are worth a write, after one at `written_at`; infinite if they can wait for another.

        Where this node serves is, as soon as that changes; rates and the end of a transfer are not.
        """
        current = self.current()
        if _place(current) != _place(written):
            return -math.inf
        unchanged = current.get(TRANSFERS_ANNOTATION) == written.get(TRANSFERS_ANNOTATION)
        after = self._clock.monotonic() if unchanged else written_at
        running = (known.began for known in self._transfers.values() if known.ended is None)
        return min((_next_progress(began, after) for began in running), default=math.inf)


def _place(annotations: Mapping[str, str]) -> tuple[str, str] | None:
    peer = read_peer(annotations.get(PEER_ANNOTATION, ""))
    return (peer.address, peer.key) if peer else None


def _next_progress(began: float, after: float) -> float:
    """The first time later than `after` at which progress is written: 5, 15, 35, 75, ... seconds after the start."""
    step = PROGRESS_SECONDS
    at = began + step
    while at <= after:
        step *= 2
        at += step
    return at
