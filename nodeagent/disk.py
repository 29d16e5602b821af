"""Measure how much of the disk that holds images is free."""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["free_percent"]


def free_percent(folders: Iterable[str], instead: str) -> float | None:
    """The least free share of the file systems of `folders`, in percent, as a kubelet counts it: used by root or not.

    The folders are the host's and seldom visible in a container. Where none is, `instead` counts: the agent's own
    folder on the host, which on most nodes is on the same disk. `None` where that is missing as well.
    """
    shares = [share for share in map(_free_percent, folders) if share is not None]
    return min(shares) if shares else _free_percent(instead)


def _free_percent(folder: str) -> float | None:
    try:
        stat = os.statvfs(folder)
    except OSError:
        return None
    return 100 * stat.f_bavail / stat.f_blocks if stat.f_blocks else None
