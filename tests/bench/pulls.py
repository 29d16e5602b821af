"""Measure what the agent adds to a pull of a large image by a real containerd, in turns with a bare call."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Final

from adapters.cri import open_runtime
from devcluster.nodes import architecture
from devcluster.programs import Program
from devcluster.registry.images import incompressible_image, write_image
from handlers.reconcile.node_configmaps import NodeChange
from tests.bench.figures import Measured
from tests.bench.fleet import unbounded_writes, write_all
from tests.bench.place import NotMeasured, Place
from tests.real.containerd import Containerd, start_containerd
from tests.real.programs import eventually
from warmhook.node_lines import Line
from warmhook.placement import Node
from warmhook.ports import Object, Runtime
from warmhook.warmimages import ObjectKey

__all__ = ["pull_overhead"]

_MEGABYTES: Final = 200
_LAYERS: Final = 4
_ALLOWED_SECONDS: Final = 0.1
"""What the agent may take beside the pull: noticing, asking the runtime before and after."""
_WAIT_SECONDS: Final = 120.0
_SMALL_BYTES: Final = 5_000_000


async def pull_overhead(place: Place) -> list[Measured]:
    """From the line's arrival at the agent to warm, compared with a bare PullImage of the same image."""
    if shutil.which("containerd") is None:
        raise NotMeasured("there is no containerd here")
    if os.geteuid() != 0:
        raise NotMeasured("containerd needs root")
    image = incompressible_image(_MEGABYTES, "bench", layers=_LAYERS, platform=f"linux/{architecture()}")
    digest = write_image(place.cluster.plan.registry_root, "bench/large", "v1", image)
    await place.cluster.start_registry()
    line = Line(ObjectKey(place.namespace, "large"), f"{place.cluster.registry}/bench/large:v1", digest)
    (node,) = await place.create_nodes(1)
    async with start_containerd() as containerd, open_runtime(containerd.endpoint) as runtime:
        await place.cluster.start_agent(node.name, containerd.socket)
        agent = place.cluster.agents[node.name]
        wanted = _Wanted(place, node, line)
        direct, ours = [], []
        pairs = place.runs(7)
        place.say(f"{pairs} pairs of pulls of {_MEGABYTES} MB")
        try:
            await _direct(runtime, containerd, line.image)  # the first of all fills the page cache
            for pair in range(pairs):
                if pair % 2:
                    ours.append(await _by_agent(runtime, containerd, agent, wanted))
                direct.append(await _direct(runtime, containerd, line.image))
                if not pair % 2:
                    ours.append(await _by_agent(runtime, containerd, agent, wanted))
        finally:
            await agent.stop()
    ratios = [(agent_seconds - _ALLOWED_SECONDS) / bare for agent_seconds, bare in zip(ours, direct, strict=True)]
    note = f"(agent - {_ALLOWED_SECONDS:g} s) / direct; medians {median(ours):.3f} s and {median(direct):.3f} s"
    return [Measured("pull-overhead", median(ratios), ratios, f"{note}; {_MEGABYTES} MB in {_LAYERS} layers")]


class _Wanted:
    """The one line of the node, there or not, as handlers write it."""

    def __init__(self, place: Place, node: Node, line: Line) -> None:
        self._writes = unbounded_writes(place)
        self._node, self.line = node, line

    async def there(self, wanted: bool) -> None:
        """Write the line or remove it."""
        change = NodeChange(self._node.uid, {self.line.key: self.line if wanted else None})
        await write_all(self._writes, {self._node.name: change})


async def _direct(runtime: Runtime, containerd: Containerd, reference: str) -> float:
    began = time.monotonic()
    await runtime.pull(reference, timeout_seconds=_WAIT_SECONDS)
    seconds = time.monotonic() - began
    await _remove(runtime, containerd, reference)
    return seconds


async def _by_agent(runtime: Runtime, containerd: Containerd, agent: Program, wanted: _Wanted) -> float:
    """From the agent's log, which has microseconds: when it saw the line, and when it had found it warm."""
    events = _Log(agent)
    await wanted.there(True)
    await eventually(lambda: events.has("pull"), what="the agent pulls", seconds=_WAIT_SECONDS)
    seen, pulled = events.first("lines-changed"), events.first("pull")
    if pulled["result"] != "pulled":
        raise NotMeasured(f"the agent could not pull: {pulled}")
    events = _Log(agent)
    await wanted.there(False)
    await eventually(lambda: events.has("lines-changed"), what="the agent sees the removal", seconds=_WAIT_SECONDS)
    await _remove(runtime, containerd, wanted.line.image)
    return (_time(pulled) - _time(seen)).total_seconds()


class _Log:
    """What an agent logs from now on."""

    def __init__(self, agent: Program) -> None:
        self._agent, self._from = agent, len(agent.output().splitlines())

    def first(self, event: str) -> Object:
        """The first of its kind. Raises `StopIteration` where there is none."""
        return next(each for each in self._events() if each.get("event") == event)

    def has(self, event: str) -> bool:
        """Whether there is one."""
        return any(each.get("event") == event for each in self._events())

    def _events(self) -> list[Object]:
        return [json.loads(line) for line in self._agent.output().splitlines()[self._from :] if line.endswith("}")]


def _time(event: Object) -> datetime:
    return datetime.fromisoformat(event["time"])


async def _remove(runtime: Runtime, containerd: Containerd, reference: str) -> None:
    """Remove the image and wait until containerd has dropped its content, so that the next pull begins with nothing."""
    await runtime.remove(reference)
    content = containerd.root / "root" / "io.containerd.content.v1.content" / "blobs"
    await eventually(lambda: _bytes_below(content) < _SMALL_BYTES, what="the content is gone", seconds=_WAIT_SECONDS)


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
