"""Estimate how fast registries and nodes send, from what nodes measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from warmhook.distribution import Rates
from warmhook.distribution_tree import FAN_OUT
from warmhook.peers import PeerReport

RATE: Final = 125_000_000
"""Bytes per second of a link of 1 Gbit/s: the default of both rates."""
_LEAST_REPORTS: Final = 3
"""With fewer, one node would decide."""
_SLOWEST: Final = 1_000_000
_FASTEST: Final = 100_000_000_000


DEFAULT_RATES: Final = Rates(RATE, RATE)


def measured_rates(reports: Iterable[PeerReport], host: str, defaults: Rates) -> Rates:
    """The medians of what nodes say of each other and of the registry `host`; a default if fewer than three do.

    A node receives a part of what its parent sends, so its parent sends `FAN_OUT` times as much. Taken for the whole it
    would double the number of seeds with each plan (docs/decisions.md, entry 93). Nodes may lie: a minority changes no
    median, and nothing is slower than 1 MB/s or faster than 100 GB/s.
    """
    node, registry = list[int](), list[int]()
    for report in reports:
        node.append(FAN_OUT * report.rate)
        registry.append(report.registry_rates.get(host, 0))
    return Rates(_median(registry, defaults.registry), _median(node, defaults.node))


def _median(measured: Iterable[int], default: float) -> float:
    known = sorted(value for value in measured if value > 0)
    if len(known) < _LEAST_REPORTS:
        return default
    return min(max(known[(len(known) - 1) // 2], _SLOWEST), _FASTEST)
