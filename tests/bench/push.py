"""Count what one push costs the API server."""

from __future__ import annotations

import asyncio
from collections import Counter
from statistics import median
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from adapters.kubernetes.paths import configmaps
from tests.bench.figures import Measured
from tests.bench.place import Place
from tests.bench.sending import HOST, Sender, digest_of, harbor_body, open_sender, start_web
from tests.real.programs import eventually
from warmhook.api import KIND_LABEL

__all__ = ["push_requests"]

_NODES: Final = 3
_REPOSITORY: Final = "team-a/app"
_WAIT_SECONDS: Final = 60.0
_QUIET_SECONDS: Final = 3.0
"""For so long nothing is written before a push and after what it leads to."""
_PROVED_SECONDS: Final = 0.2
"""From the last write of a node to the read that proves it; statuses are read and written later."""
_OWN: Final = frozenset({"leases", "secrets"})
"""What `web` and `watch` read and write now and then whatever happens."""

Requests = Counter[tuple[str, str]]
"""By kind and verb."""


async def push_requests(place: Place) -> list[Measured]:
    """One push of a new tag, which one policy wants, on a quiet system with `watch` inside `web`.

    Reads until its lines are written and proved; writes until nothing is written any more, without those of the nodes'
    ConfigMaps. As `web` counts its requests: watches are none.
    """
    await place.create_nodes(_NODES)
    await place.create_policy("one", f"{HOST}/**", keep=100)
    web = await start_web(place, "--watch")
    reads: list[float] = []
    writes: list[float] = []
    note = ""
    async with open_sender(web.port) as sender:
        await _push(sender, "first")
        await _written(place, 1)
        for run in range(1, place.runs(5) + 1):
            before = await _quiet(sender)
            await _push(sender, f"v{run}")
            await _written(place, run + 1)
            await asyncio.sleep(_PROVED_SECONDS)
            reads.append(sum(count for (_, verb), count in (await _requests(sender) - before).items() if verb == "get"))
            spent = await _quiet(sender) - before
            changes = {
                f"{verb} {kind}": count
                for (kind, verb), count in sorted(spent.items())
                if verb not in {"get", "watch"} and kind != "configmaps"
            }
            writes.append(sum(changes.values()))
            all_reads = sum(count for (_, verb), count in spent.items() if verb == "get")
            note = f"{all_reads} reads with statuses; {changes}"
    return [
        Measured("push-reads", median(reads), reads, note),
        Measured("push-writes", median(writes), writes, f"{_NODES} nodes without agents"),
    ]


async def _push(sender: Sender, tag: str) -> None:
    assert await sender.send(harbor_body(HOST, _REPOSITORY, tag, digest_of(tag))) == 202


async def _written(place: Place, lines: int) -> None:
    async def written() -> bool:
        found = (await place.kubernetes.list(configmaps(place.namespace), labels=f"{KIND_LABEL}=desired")).items
        held = [sum("." not in key for key in obj.get("data") or {}) for obj in found]
        return held == [lines] * _NODES

    await eventually(written, what=f"{_NODES} nodes have {lines} lines", seconds=_WAIT_SECONDS)


async def _quiet(sender: Sender) -> Requests:
    """What was sent when nothing more is sent."""
    async with asyncio.timeout(_WAIT_SECONDS):
        before = None
        while before != (now := await _requests(sender)):
            before = now
            await asyncio.sleep(_QUIET_SECONDS)
    return now


async def _requests(sender: Sender) -> Requests:
    """What `web` has sent since it started."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{sender.port}/metrics") as answer:
        text = await answer.text()
    counted: Requests = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "warmhook_api_requests_total" and sample.labels["kind"] not in _OWN:
                counted[sample.labels["kind"], sample.labels["verb"]] += int(sample.value)
    return counted
