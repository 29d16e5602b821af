"""Measure how a thousand nodes get their lines, and how fast changes reach the API server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, Final

import aiohttp

from adapters.clock import real_clock
from adapters.kubernetes.client import MERGE_PATCH
from adapters.kubernetes.paths import configmaps
from adapters.kubernetes.rate_limit import ByteRateLimiter
from handlers.reconcile import node_configmaps
from handlers.reconcile.context import Context
from handlers.reconcile.node_configmaps import NodeChange, NodeWrites
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.projection import Projection
from handlers.reconcile.reader import Reader
from handlers.reconcile.recorder import Recorder
from handlers.reconcile.resolver import Resolver
from handlers.reconcile.writer import Writer
from tests.bench.bare import open_bare
from tests.bench.figures import Measured
from tests.bench.place import Place
from tests.bench.sending import digest_of
from warmhook.node_lines import Line, desired_name, line_of, node_patch
from warmhook.placement import Node
from warmhook.warmimages import ObjectKey

__all__ = ["patch_rates", "resolve", "unbounded_writes", "write_all"]

_DEADLINE_SECONDS: Final = 600.0


def _line(place: Place, number: int, version: str = "1") -> Line:
    """A line with a reference of 40 characters."""
    name = f"app-{number:03}"
    return Line(
        ObjectKey(place.namespace, name), f"registry.example.com/team-a/{name}:v1.0", digest_of(f"{name} {version}")
    )


def unbounded_writes(place: Place) -> NodeWrites:
    """As `web` has it, without a budget of bytes."""
    return NodeWrites(_context(place), _unlimited())


def _context(place: Place) -> Context:
    clock = real_clock()
    writer = Writer(place.kubernetes, place.namespace, clock)
    reader = Reader(place.kubernetes, place.namespace, clock)
    return Context(reader, writer, clock, Recorder(writer, clock))


def _unlimited() -> ByteRateLimiter:
    return ByteRateLimiter(0, monotonic=time.monotonic, sleep=asyncio.sleep)


async def write_all(writes: NodeWrites, changes: Mapping[str, NodeChange]) -> float:
    """Write all; the seconds that took."""

    async def full(node: str) -> NodeChange:
        return replace(changes[node], replace=True)

    began = time.monotonic()
    outcomes = Outcomes()
    await writes.write(changes, began + _DEADLINE_SECONDS, full, outcomes)
    outcomes.raise_problem()
    return time.monotonic() - began


async def patch_rates(place: Place) -> list[Measured]:
    """One line changes on every node, written by `NodeWrites` and by a bare loop, in turns."""
    nodes = await place.create_nodes(200 if place.quick else 1000)
    writes, measured, filled = unbounded_writes(place), [], 0
    concurrency = node_configmaps._MOST_IN_FLIGHT
    async with open_bare(place.kubeconfig, connections=concurrency) as session:
        for lines in (20, 200):
            place.say(f"{len(nodes)} nodes, {lines} lines each")
            more = {line.key: line for line in (_line(place, number) for number in range(filled, lines))}
            filled = lines
            await write_all(writes, {node.name: NodeChange(node.uid, more) for node in nodes})
            ratios, ours, theirs = [], [], []
            for run in range(place.runs(5)):
                line = _line(place, 0, f"{lines} {run} ours")
                ours.append(await write_all(writes, {it.name: NodeChange(it.uid, {line.key: line}) for it in nodes}))
                line = _line(place, 0, f"{lines} {run} theirs")
                patches = [(it.name, node_patch(it.name, it.uid, {line.key: line})) for it in nodes]
                theirs.append(await _bare_patches(session, place.namespace, patches, concurrency))
                ratios.append(theirs[-1] / ours[-1])
            rates = f"{len(nodes) / median(ours):.0f} patches/s, bare {len(nodes) / median(theirs):.0f}"
            note = f"{rates}; {len(nodes)} nodes, {concurrency} in flight"
            measured.append(Measured(f"patch-rate-ratio-{lines}", median(ratios), ratios, note))
    return measured


async def _bare_patches(
    session: aiohttp.ClientSession, namespace: str, patches: Sequence[tuple[str, Any]], concurrency: int
) -> float:
    pending = iter(patches)
    headers = {"Content-Type": MERGE_PATCH, "Accept": "application/json"}

    async def work() -> None:
        for node, patch in pending:
            path = configmaps(namespace, desired_name(node))
            async with session.patch(path, data=json.dumps(patch).encode(), headers=headers) as answer:
                await answer.read()
                assert answer.status == 200, answer.status

    began = time.monotonic()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return time.monotonic() - began


class _Recorded(NodeWrites):
    """Builds the patches and notes when it had them; sends nothing."""

    patches: Sequence[Any] = ()
    at = 0.0

    async def write(
        self,
        changes: Mapping[str, NodeChange],
        deadline: float,
        full: node_configmaps.DesiredState,
        outcomes: Outcomes,
    ) -> None:
        self.patches = [node_patch(name, it.node_uid, it.lines, it.refused) for name, it in changes.items()]
        self.at = time.monotonic()


async def resolve(place: Place) -> list[Measured]:
    """From a WarmImage's new version to the patches of all its nodes, every one of which holds the older version."""
    count = 1000 if place.quick else 5000
    place.say(f"{count} nodes, one in five matches and holds 20 lines")
    nodes = await place.create_nodes(count, one_in=5)
    matching = [node for node in nodes if node.labels["pool"] == place.namespace]
    name, image = "resolved", "registry.example.com/team-a/app-999:v1.0"
    await place.create_warmimage(name, image, digest_of("0"))
    context = _context(place)
    await _fill(place, context.reader, matching, ObjectKey(place.namespace, name))
    recorded = _Recorded(context, _unlimited())
    projection = Projection(context, recorded, Resolver(context, lambda _key: asyncio.sleep(0)))
    seconds = []
    for run in range(place.runs(7)):
        patch = {"spec": {"digest": digest_of(f"{run + 1}")}}
        await place.kubernetes.patch(place.warmimage_path(name), patch)
        began = time.monotonic()
        await projection.project({ObjectKey(place.namespace, name)}, Outcomes(), first="cached")
        seconds.append(recorded.at - began)
        assert len(recorded.patches) == len(matching), len(recorded.patches)
    note = f"{count} nodes, {len(matching)} patches; without the way of the change through watch"
    return [Measured("resolve-5000-s", median(seconds), seconds, note)]


async def _fill(place: Place, reader: Reader, nodes: Sequence[Node], key: ObjectKey) -> None:
    warmimage = await reader.warmimage(key)
    assert warmimage is not None
    lines = [line_of(warmimage), *(_line(place, number) for number in range(19))]
    held = {line.key: line for line in lines}
    await write_all(unbounded_writes(place), {node.name: NodeChange(node.uid, held) for node in nodes})
