"""Measure how eight nodes get an image from each other, and how long they take if each pulls from the registry."""

from __future__ import annotations

from typing import Final

from tests.bench.figures import Measured
from tests.bench.peer_nodes import LAYERS, MEGABYTES, REGISTRY_RATE, open_peer_nodes
from tests.bench.place import Place

__all__ = ["distribution"]

_SIZE: Final = MEGABYTES * 1_000_000
_SHORTEST_SECONDS: Final = _SIZE / REGISTRY_RATE
"""S / R."""


async def distribution(place: Place) -> list[Measured]:
    """From the sender's 202 to the last byte on the last node, and to the last node that is warm."""
    place.say(f"8 nodes at 1 Gbit/s, {MEGABYTES} MB in {LAYERS} layers, {REGISTRY_RATE / 1e6:g} MB/s from the registry")
    async with open_peer_nodes(place, {"source": {"mode": "registry"}}) as nodes:
        direct = await nodes.distribute("bench/direct", "1")
        place.say(f"direct: {direct}")
    return []
