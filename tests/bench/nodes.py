"""Measure how soon nodes pull a push, what an idle agent holds, and what a push writes per node."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from contextlib import aclosing
from statistics import median
from typing import Final

from adapters.kubernetes.errors import NotFound
from adapters.kubernetes.paths import configmaps
from devcluster.registry.images import write_image
from tests.bench.figures import Measured
from tests.bench.memory import read_memory
from tests.bench.place import Place
from tests.bench.runs import percentile
from tests.bench.runtimes import Runtimes, image_of, repository_of, start_runtimes
from tests.bench.sending import Sender, harbor_body, open_sender, start_web
from tests.real.programs import eventually
from warmhook.api import KIND_LABEL, WARM_ANNOTATION
from warmhook.node_report import report_name
from warmhook.ports import Object

__all__ = ["node_with_200_lines", "push", "push_to_pull"]

_NODES: Final = 10
_LINES: Final = 200
_WAIT_SECONDS: Final = 120.0
_QUIET_SECONDS: Final = 8.0
"""After so long nothing more is written because of a push: the reporter waits at most 5 s."""


async def push_to_pull(place: Place) -> list[Measured]:
    """From a sender's 202 to the call of PullImage, on each of ten nodes with an agent process of its own."""
    pushes = 6 if place.quick else 30
    nodes = await place.create_nodes(_NODES)
    runtimes = await start_runtimes(place, nodes=_NODES, repositories=1, tags=pushes + 1)
    await place.create_policy("one", f"{runtimes.host}/team-a/**", keep=2)
    for number, node in enumerate(nodes):
        await place.cluster.start_agent(node.name, runtimes.socket(number))
    web = await start_web(place, "--watch", host=runtimes.host)
    seconds: list[float] = []
    each = []
    async with open_sender(web.port) as sender:
        # The first push creates the ConfigMaps.
        await _pulled(runtimes, sender, 0)
        place.say(f"{pushes} pushes to {_NODES} nodes")
        for number in range(1, pushes + 1):
            latencies = await _pulled(runtimes, sender, number)
            seconds += latencies
            each.append(1000 * median(latencies))
            await asyncio.sleep(2)  # reports and statuses of this push are no load on the next
    note = f"{len(seconds)} pulls; embedded runtimes, every agent a process, all on this machine; spread: p50 by push"
    return [
        Measured("push-to-pull-p50-ms", 1000 * percentile(seconds, 50), each, note),
        Measured("push-to-pull-p99-ms", 1000 * percentile(seconds, 99), (), f"longest {1000 * max(seconds):.0f} ms"),
    ]


async def _pulled(runtimes: Runtimes, sender: Sender, number: int) -> list[float]:
    """Push the tag of that number; how long each node took from the 202 to its PullImage."""
    repository, tag = repository_of(0), f"v1.{number}"
    accepted = await push(sender, runtimes.host, repository, tag)
    image = f"{runtimes.host}/{repository}:{tag}"

    def at() -> dict[int, float]:
        return {pull["node"]: pull["at"] for pull in reversed(runtimes.pulls()) if pull["image"] == image}

    await eventually(lambda: len(at()) == _NODES, what=f"{_NODES} nodes pull {image}", seconds=_WAIT_SECONDS)
    return [moment - accepted for moment in at().values()]


async def push(sender: Sender, host: str, repository: str, tag: str, digest: str = "") -> float:
    """Deliver a push until it is accepted; when it was, in monotonic seconds."""
    body = harbor_body(host, repository, tag, digest or image_of(repository, tag).digest)

    async def accepted() -> bool:
        return await sender.send(body) == 202

    await eventually(accepted, what=f"the push of {repository}:{tag} is accepted", seconds=_WAIT_SECONDS)
    return time.monotonic()


async def node_with_200_lines(place: Place) -> list[Measured]:
    """A node whose 200 lines are warm: its agent at rest, then what pushes write of its two ConfigMaps."""
    lines = 50 if place.quick else _LINES
    (node,) = await place.create_nodes(1)
    runtimes = await start_runtimes(place, nodes=1, repositories=lines, tags=4)
    await place.create_policy("one", f"{runtimes.host}/team-a/**")
    await place.cluster.start_agent(node.name, runtimes.socket(0))
    web = await start_web(place, "--watch", host=runtimes.host)
    written: list[Object] = []
    async with open_sender(web.port) as sender:
        place.say(f"{lines} lines on one node")
        for number in range(lines):
            await push(sender, runtimes.host, repository_of(number), "v1.0")
        await _warm(place, node.name, lines)
        watching = asyncio.create_task(_note_writes(place, written), name="watch")
        try:
            await _quiet(written)
            memory = read_memory(place.cluster.agents[node.name].process.pid)
            by_tag: dict[str, list[float]] = {"new tag": [], "moved tag": []}
            for run in range(1, place.runs(3, 1) + 1):
                for number, (what, sizes) in enumerate(by_tag.items()):
                    written.clear()
                    repository, tag = repository_of(2 * run + number), f"v1.{run}"
                    image = image_of(repository, tag)
                    tag = tag if what == "new tag" else "v1.0"
                    write_image(runtimes.images, repository, tag, image)
                    await push(sender, runtimes.host, repository, tag, image.digest)
                    await _quiet(written)
                    sizes.append(sum(map(_size, written)))
        finally:
            watching.cancel()
            await asyncio.wait((watching,))
    told = "; ".join(f"{what} {median(sizes):.0f}" for what, sizes in by_tag.items())
    last = ", ".join(f"{it['metadata']['name'].split('-')[1]} {_size(it)}" for it in written)
    return [
        Measured("agent-idle-rss-mib", memory.rss, (), f"PSS {memory.pss:.1f} MiB; {lines} lines, all warm"),
        Measured(
            "etcd-bytes-per-node-push",
            median(by_tag["new tag"]),
            by_tag["new tag"],
            f"both ConfigMaps as JSON, {lines} lines; {told}; writes of the last push: {last}",
        ),
    ]


async def _warm(place: Place, node: str, lines: int) -> None:
    path = configmaps(place.namespace, report_name(node))

    async def all_warm() -> bool:
        await asyncio.sleep(0.5)
        try:
            report = await place.kubernetes.get(path, metadata_only=True)
        except NotFound:
            return False
        said = (report["metadata"].get("annotations") or {}).get(WARM_ANNOTATION, "")
        return len([part for part in said.split(",") if part]) == lines

    await eventually(all_warm, what=f"{lines} lines are warm on {node}", seconds=_WAIT_SECONDS)


async def _note_writes(place: Place, written: list[Object]) -> None:
    path = configmaps(place.namespace)
    version = (await place.kubernetes.list(path, metadata_only=True)).resource_version
    async with aclosing(place.kubernetes.watch(path, resource_version=version)) as changes:
        async for change in changes:
            labels: Mapping[str, str] = change.object["metadata"].get("labels") or {}
            if change.type in ("ADDED", "MODIFIED") and KIND_LABEL in labels:
                written.append(change.object)


async def _quiet(written: list[Object]) -> None:
    """Wait until nothing was written for a while."""
    async with asyncio.timeout(_WAIT_SECONDS):
        before = -1
        while before != len(written):
            before = len(written)
            await asyncio.sleep(_QUIET_SECONDS)


def _size(obj: Object) -> int:
    return len(json.dumps(obj, separators=(",", ":")))
