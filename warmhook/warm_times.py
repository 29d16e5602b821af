"""Note when one, half and all of the nodes of a WarmImage became warm, in the status that is written anyway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

WARM_TIMES: Final = ("firstWarmAt", "halfWarmAt", "completedAt")
"""Fields of a status, in the order in which they happen."""


def warm_times(earlier: Mapping[str, Any], warm: int, reachable: int, moment: str) -> dict[str, str]:
    """The times of a status whose counts are these now, at `moment`; each is that of the first time.

    `earlier` is the status of the same generation before; empty if there was none. What has happened in it without a
    time was counted by a version of Warmhook that noted none, so that nobody knows when. A time is noted only with a
    change of the counts, so it costs no write of its own.
    """
    happened = _happened(warm, reachable)
    was_warm, was_reachable = earlier.get("warm", 0), earlier.get("desired", 0) - earlier.get("unreachable", 0)
    unknown = _happened(was_warm, was_reachable)
    if "completedAt" in earlier:
        unknown = frozenset(WARM_TIMES)
    return {name: earlier.get(name, moment) for name in WARM_TIMES if name in earlier or name in happened - unknown}


def _happened(warm: int, reachable: int) -> frozenset[str]:
    share = {"firstWarmAt": warm > 0, "halfWarmAt": 0 < reachable <= 2 * warm, "completedAt": 0 < reachable == warm}
    return frozenset(name for name, holds in share.items() if holds)
