"""Measure whether a sender gets its answers while its earlier pushes are projected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from adapters.kubernetes.paths import configmaps
from tests.bench.figures import Measured
from tests.bench.place import Place
from tests.bench.runs import percentile
from tests.bench.sending import HOST, digest_of, harbor_body, open_sender, start_web
from tests.real.programs import eventually
from warmhook.api import KIND_LABEL
from warmhook.node_lines import versions

__all__ = ["accepting"]

_NODES: Final = 100
_PUSHES: Final = 50
_PROJECTED_SECONDS: Final = 300.0


async def accepting(place: Place) -> list[Measured]:
    """50 pushes of one sender, strictly one after the other, each of which leads to a line on each of 100 nodes.

    One `web` with `watch` inside receives and projects, as in the plain installation.
    """
    nodes, pushes = (20, 10) if place.quick else (_NODES, _PUSHES)
    await place.create_nodes(nodes)
    await place.create_policy("one", f"{HOST}/bench/**")
    web = await start_web(place, "--watch")
    seconds: list[float] = []
    statuses: list[int] = []
    async with open_sender(web.port, connections=1) as sender:
        # The first push creates the ConfigMaps.
        await sender.send(harbor_body(HOST, "bench/first", "v1", digest_of("first")))
        await eventually(_projected(place, nodes, 1), what="the first lines are there", seconds=_PROJECTED_SECONDS)
        place.say(f"{pushes} pushes, one after the other, to {nodes} nodes")
        for number in range(pushes):
            body = harbor_body(HOST, f"bench/app-{number}", "v1", digest_of(str(number)))
            began = time.monotonic()
            statuses.append(await sender.send(body))
            seconds.append(time.monotonic() - began)
    sent = sum(seconds)
    began, accepted = time.monotonic(), statuses.count(202)
    what = f"{accepted} lines on {nodes} nodes"
    await eventually(_projected(place, nodes, accepted + 1), what=what, seconds=_PROJECTED_SECONDS)
    p50 = 1000 * percentile(seconds, 50)
    note = f"p50 {p50:.1f} ms; {what} {time.monotonic() - began:.1f} s after the last of {sent:.1f} s of pushes"
    each = [1000 * one for one in seconds]
    return [
        Measured("accepted-at-once", accepted / pushes, (), f"{pushes - accepted} of {pushes} not at the first try"),
        Measured("accepted-p99-ms", 1000 * percentile(seconds, 99), each, note),
    ]


def _projected(place: Place, nodes: int, lines: int) -> Callable[[], Coroutine[Any, Any, bool]]:
    """Whether so many nodes hold so many lines; looks twice a second, so as to be no load itself."""

    async def projected() -> bool:
        await asyncio.sleep(0.5)
        path = configmaps(place.namespace)
        found = (await place.kubernetes.list(path, labels=f"{KIND_LABEL}=desired", metadata_only=True)).items
        held = [len(versions(obj["metadata"].get("labels") or {})) for obj in found]
        return len(held) == nodes and min(held) >= lines

    return projected
