"""Measure how long a plan for 5,000 nodes takes, which runs in the event loop of the handlers."""

from __future__ import annotations

import time
from statistics import median
from typing import Final

from tests.bench.figures import Measured
from tests.bench.place import Place
from tests.support.fleet import candidate, node_names
from warmhook.distribution import Rates, plan
from warmhook.warmimages import Source

_NODES: Final = 5000
_ZONES: Final = 3


async def planning(place: Place) -> list[Measured]:
    """One image of 500 MB for 5,000 nodes in three zones."""
    wanted = [candidate(name, zone=f"z{number % _ZONES}") for number, name in enumerate(node_names(_NODES))]
    taken, seeds = list[float](), 0
    for _ in range(place.runs(20, 5)):
        began = time.perf_counter()
        seeds = plan("registry.example.com/shop/web", wanted, 500_000_000, Rates(1250e6, 250e6), Source()).seeds
        taken.append(1000 * (time.perf_counter() - began))
    return [Measured("plan-5000-ms", median(taken), taken, f"{seeds} seeds")]
