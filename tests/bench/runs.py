"""Choose the number that stands for many runs."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["percentile"]


def percentile(values: Sequence[float], per_cent: int) -> float:
    """The smallest value that at least so many per cent do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * per_cent // 100)
    return ordered[max(0, rank - 1)]
