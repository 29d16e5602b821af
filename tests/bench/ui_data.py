"""Measure what 5,000 nodes with 200 images cost the process of the page: memory to keep them, and time to count them.

`python -m tests.bench.ui_data` measures in a process of its own and prints the figures as JSON. It lists from an API
server that makes each page when it is asked for. Times are those of a processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from random import Random
from statistics import median
from typing import Any, Final

from adapters.clock import real_clock
from adapters.kubernetes.client import Kubernetes
from handlers.ui.cache import ClusterCache
from tests.bench.figures import Measured
from tests.bench.memory import read_memory
from tests.bench.place import Place
from warmhook.api import KIND_LABEL, LINE_LABEL, NODE_ANNOTATION, SEEN_ANNOTATION, WARM_ANNOTATION
from warmhook.inventory import ALL_RIGHTS
from warmhook.node_lines import line_key
from warmhook.overview_rows import Selection, count_all, overview
from warmhook.ports import Object, Response, Stream
from warmhook.timestamps import format_time
from warmhook.warmimages import ObjectKey

_NODES, _IMAGES = 5000, 200
_HELD: Final = 190
"""Of the images each node should hold so many, no two nodes the same ones."""
_WARM: Final = 180


async def page_data(place: Place) -> list[Measured]:
    """The median of a few processes."""
    found: dict[str, list[float]] = {}
    for _ in range(place.runs(3, 1)):
        command = (sys.executable, "-m", "tests.bench.ui_data")
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        printed, _ = await process.communicate()
        for name, value in json.loads(printed).items():
            found.setdefault(name, []).append(value)
    return [Measured(name, median(values), values) for name, values in found.items()]


async def _measure() -> dict[str, float]:
    clock = real_clock()
    cache = ClusterCache("warmhook-system", clock)
    before = read_memory(os.getpid()).rss
    following = asyncio.create_task(cache.run(Kubernetes(_ApiServer())), name="follow")
    await cache.listed.wait()
    grown = read_memory(os.getpid()).rss - before
    inventory = cache.inventory
    assert (len(inventory.nodes), len(inventory.images), len(inventory.reports)) == (_NODES, _IMAGES, _NODES)
    inventory.note_time(clock.utcnow())
    by_pool, by_node = list[float](), list[float]()
    for by, taken in (("pool", by_pool), ("node", by_node)) * 5:
        began = time.process_time()
        page = overview(inventory, count_all(inventory), ALL_RIGHTS, Selection(by), clock.utcnow())  # type: ignore[arg-type]
        taken.append(1000 * (time.process_time() - began))
        assert sum(row.total.desired for row in page.rows) == _NODES * _HELD
    following.cancel()
    return {"ui-cache-mib": grown, "ui-count-ms": median(by_pool), "ui-count-by-node-ms": median(by_node)}


class _ApiServer:
    """A `Transport` to an API server that keeps nothing."""

    def __init__(self) -> None:
        self._seen = format_time(real_clock().utcnow())

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, **given: Any
    ) -> Response:
        query = query or {}
        first, limit = int(query.get("continue", "0")), int(query["limit"])
        if path.endswith("/nodes"):
            make, total = self._node, _NODES
        elif path.endswith("/warmimages"):
            make, total = self._warmimage, _IMAGES
        elif query.get("fieldSelector"):
            make, total = self._warmimage, 0
        else:
            make, total = self._configmap, 2 * _NODES
        items = [make(number) for number in range(first, min(total, first + limit))]
        metadata = {"resourceVersion": "1"} | ({"continue": str(first + limit)} if first + limit < total else {})
        return Response(200, {}, json.dumps({"metadata": metadata, "items": items}).encode())

    @contextlib.asynccontextmanager
    async def stream(self, path: str, **given: Any) -> AsyncIterator[Stream]:
        async def lines() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        yield Stream(200, {}, lines())

    def _node(self, number: int) -> Object:
        labels = {f"example.com/label-{index}": f"value-{number % 7}" for index in range(20)}
        labels |= {"topology.kubernetes.io/zone": f"zone-{number % 3}", "pool": f"pool-{number % 20}"}
        metadata = {"name": _node_name(number), "uid": f"uid-{number}", "labels": labels, "resourceVersion": "1"}
        return {"metadata": metadata | {"creationTimestamp": "2026-01-01T00:00:00Z"}}

    def _warmimage(self, number: int) -> Object:
        key = _key(number)
        status = {
            "observedGeneration": 1,
            "desired": _NODES,
            "warm": _NODES,
            "conditions": [
                {"type": "Ready", "status": "True", "reason": "AllWarm", "message": "5000 of 5000 nodes warm"}
            ],
        }
        metadata = {"namespace": key.namespace, "name": key.name, "uid": f"image-{number}", "generation": 1}
        return {"metadata": metadata, "spec": {"image": f"registry.example.com/{key}:v1"}, "status": status}

    def _configmap(self, number: int) -> Object:
        node, is_report = divmod(number, 2)
        held = Random(node).sample(range(_IMAGES), _HELD)
        metadata: Object = {"uid": f"map-{number}", "resourceVersion": "1", "namespace": "warmhook-system"}
        annotations = {NODE_ANNOTATION: _node_name(node)}
        if is_report:
            labels = {KIND_LABEL: "report"}
            labels |= {LINE_LABEL + line_key(_key(image)): f"waiting-{_version(image)}" for image in held[_WARM:]}
            warm = ",".join(sorted(_version(image) for image in held[:_WARM]))
            annotations |= {SEEN_ANNOTATION: self._seen, WARM_ANNOTATION: warm}
            name = f"warmhook-report-{_node_name(node)}"
        else:
            labels = {KIND_LABEL: "desired"} | {LINE_LABEL + line_key(_key(image)): _version(image) for image in held}
            name = f"warmhook-desired-{_node_name(node)}"
        return {"metadata": metadata | {"name": name, "labels": labels, "annotations": annotations}}


def _node_name(number: int) -> str:
    return f"ip-10-{number // 250}-{number % 250}.eu-central-1.compute.internal"


def _key(number: int) -> ObjectKey:
    return ObjectKey(f"team-{number % 10}", f"image-{number}-0a1b2c3d4e")


def _version(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}"


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure())))  # noqa: T201 - the process that started this one reads it
