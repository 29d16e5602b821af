"""Measure how eight nodes get an image from each other, and how long they take if each pulls from the registry."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from tests.bench.figures import Bar, Measured
from tests.bench.peer_nodes import LAYERS, MEGABYTES, REGISTRY_RATE, open_peer_nodes
from tests.bench.place import Place

__all__ = ["distribution", "early_blobs"]

_SIZE_BYTES: Final = MEGABYTES * 1_000_000
_SHORTEST_SECONDS: Final = _SIZE_BYTES / REGISTRY_RATE
"""S / R: no registry can send an image faster."""
_PUSH_RATE: Final = 5_000_000
"""Bytes per second that a build machine pushes: 40 Mbit/s, half of what the registry sends."""
_MORE_BYTES: Final = 0.2
"""What may leave the registry besides the images of the seeds, as a share of S: headers, and what is repeated."""


async def distribution(place: Place) -> list[Measured]:
    """From the sender's 202 to the last byte on the last node, and to the last node that is warm."""
    place.say(f"8 nodes at 1 Gbit/s, {MEGABYTES} MB in {LAYERS} layers, {REGISTRY_RATE / 1e6:g} MB/s from the registry")
    async with open_peer_nodes(place) as nodes:
        ours = [await nodes.distribute("bench/peers", f"v{run}") for run in range(place.runs(3, 1))]
        place.say("the same with the source registry: every node pulls by itself")
        direct = await nodes.distribute("bench/direct", "v0")
    # Ratios to S and to S / R.
    sent = [run.registry_bytes / _SIZE_BYTES for run in ours]
    seeds = max(run.seeds for run in ours)
    return [
        Measured(
            "peer-registry-bytes",
            median(sent),
            sent,
            f"{seeds} seeds; direct {direct.registry_bytes / _SIZE_BYTES:.2f}",
            Bar(seeds + _MORE_BYTES, text=f"<= k0 + {_MORE_BYTES:g}"),
        ),
        _times("peer-transfer-ratio", [run.transfer_seconds for run in ours], direct.transfer_seconds),
        _times("peer-warm-ratio", [run.warm_seconds for run in ours], direct.warm_seconds),
    ]


async def early_blobs(place: Place) -> list[Measured]:
    """From the end of a push to eight warm nodes, where nodes fetch its layers before the end and where they do not."""
    place.say(f"pushes of {MEGABYTES} MB at {_PUSH_RATE / 1e6:g} MB/s, one layer after the other")
    seconds = {}
    for early in (False, True):
        async with open_peer_nodes(place, early_blobs=early) as nodes:
            # The nodes of the repository's last image are those that fetch early.
            await nodes.distribute("bench/peers", "first")
            pushes = [await nodes.distribute("bench/peers", f"v{run}", _PUSH_RATE) for run in range(place.runs(3, 1))]
        seconds[early] = [push.warm_seconds for push in pushes]
    ratios = [each / median(seconds[False]) for each in seconds[True]]
    note = f"{median(seconds[True]):.1f} s; without {median(seconds[False]):.1f} s"
    return [Measured("early-blob-ratio", median(ratios), ratios, note)]


def _times(slug: str, seconds: Sequence[float], direct: float) -> Measured:
    ratios = [each / _SHORTEST_SECONDS for each in seconds]
    note = f"{median(seconds):.1f} s; direct {direct / _SHORTEST_SECONDS:.2f} ({direct:.1f} s)"
    return Measured(slug, median(ratios), ratios, note)
