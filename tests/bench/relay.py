"""Measure how fast an agent receives a blob and serves it at the same time, in turns with containerd's write alone.

The source and the sink are processes that send from memory and drop what they receive.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Final

import grpc

from devcluster.cluster import Plan
from devcluster.nodes import architecture
from devcluster.registry.folder import digest_of
from devcluster.registry.images import Image, incompressible, incompressible_image, write_image
from devcluster.tokens import peer_token
from tests.bench.figures import Measured
from tests.bench.memory import peak_rss_mib
from tests.bench.place import NotMeasured, Place, open_embedded
from tests.real.containerd import Containerd, start_containerd
from tests.real.programs import eventually
from tests.support.fake_peers import FakeChild, FakeParent, parent_at
from tests.support.hints import HintedNode
from warmhook.hints import Hint, Peer
from warmhook.node_lines import Line
from warmhook.warmimages import ObjectKey

__all__ = ["relay"]

_MEGABYTES: Final = 300
_PIECE_BYTES: Final = 1024 * 1024
_WAIT_SECONDS: Final = 120.0
_HINT_SECONDS: Final = 600
_ADDRESS: Final = "127.0.0.1"
_SPAWN: Final = multiprocessing.get_context("spawn")
_BLOBS: Final = Path("root/io.containerd.content.v1.content/blobs/sha256")
_WRITE: Final = "/containerd.services.content.v1.Content/Write"
_DELETE: Final = "/containerd.services.content.v1.Content/Delete"
_METADATA: Final = (("containerd-namespace", "k8s.io"),)


async def relay(place: Place) -> list[Measured]:
    """A node between a parent and a child: until its containerd and the child have the last byte of a blob."""
    if shutil.which("containerd") is None:
        raise NotMeasured("there is no containerd here")
    if os.geteuid() != 0:
        raise NotMeasured("containerd needs root")
    ratios, ours, bare = [], [], []
    async with start_containerd() as containerd, open_embedded(place, _plan(place), _ADDRESS) as own:
        middle = await _start_middle(own, containerd)
        agent = own.cluster.agents[middle.node.name]
        runs = place.runs(3, 1)
        place.say(f"{runs} pairs of a blob of {_MEGABYTES} MB")
        for run in range(runs):
            bare.append(await asyncio.to_thread(_write, containerd, incompressible(_MEGABYTES * 10**6, f"bare {run}")))
            ours.append(await middle.stream(f"v{run}"))
            ratios.append(bare[-1] / ours[-1])
        memory = peak_rss_mib(agent.process.pid)
        await agent.stop()
    rates = f"{_MEGABYTES / median(ours):.0f} MB/s, Content.Write alone {_MEGABYTES / median(bare):.0f} MB/s"
    note = f"{rates}; source and sink: processes with TLS 1.3, from and to memory"
    return [
        Measured("peer-stream-ratio", median(ratios), ratios, note),
        Measured("peer-agent-rss-mib", memory, (), "the most since the start of the agent"),
    ]


def _plan(place: Place) -> Plan:
    folder = place.folder / "s"
    folder.mkdir()

    async def settings(_program: str) -> Mapping[str, str]:
        return {"WARMHOOK_NAMESPACE": place.namespace}

    return Plan(folder, folder / "kubeconfig", environ=settings, peers=True)


async def _start_middle(place: Place, containerd: Containerd) -> _Middle:
    """The node between, whose agent runs."""
    await place.cluster.start_registry()
    middle, sink = await place.create_nodes(2)
    await place.cluster.start_agent(middle.name, containerd.socket)
    hinted = HintedNode(place.kubernetes, place.namespace, middle.name)
    child = FakeChild(sink.name, await peer_token(place.kubernetes, sink.name))
    return _Middle(place, containerd, hinted, await hinted.peer(), child)


@dataclass(frozen=True, slots=True)
class _Middle:
    """A node whose agent gets images from a source and gives them to a sink."""

    place: Place
    containerd: Containerd
    node: HintedNode
    peer: Peer
    """Its agent, as the hint of a child names it."""
    sink: FakeChild

    async def stream(self, tag: str) -> float:
        """Let it get and give an image of one large layer; the seconds from the first byte of that to the last."""
        image = _image_of(tag)
        digest = write_image(self.place.cluster.plan.registry_root, "bench/stream", tag, image)
        line = Line(
            ObjectKey(self.place.namespace, "stream"), f"{self.place.cluster.registry}/bench/stream:{tag}", digest
        )
        layer, loop = digest_of(image.blobs[-1]), asyncio.get_running_loop()
        ours, theirs = _SPAWN.Pipe()
        source = _SPAWN.Process(target=_serve, args=(theirs, tag), daemon=True)
        source.start()
        try:
            parent = await asyncio.to_thread(ours.recv)
            with ProcessPoolExecutor(1, mp_context=_SPAWN) as sinks:
                hint = Hint(int(time.time()) + _HINT_SECONDS, parents=(parent,), children=(self.sink.child,), seeds=1)
                await self.node.want(line, hint)
                draining = loop.run_in_executor(sinks, _drain, self.sink, self.peer, line.key, layer)
                received, written = await asyncio.gather(draining, self._written(layer))
            await self.node.becomes(line, "warm", seconds=_WAIT_SECONDS)
            ours.send("end")
            began: float = await asyncio.to_thread(ours.recv)
        finally:
            source.terminate()
            source.join()
        await self.node.forget(line)
        return max(received, written) - began

    async def _written(self, digest: str) -> float:
        """When the blob was complete in the content store."""
        blob = self.containerd.root / _BLOBS / digest.removeprefix("sha256:")
        await eventually(blob.exists, what="the blob is in the content store", seconds=_WAIT_SECONDS)
        return time.monotonic()


def _image_of(tag: str) -> Image:
    return incompressible_image(_MEGABYTES, f"stream {tag}", platform=f"linux/{architecture()}")


def _serve(pipe: Connection, tag: str) -> None:
    """Be the source, in a process of its own; after a message say when the first byte of the layer went."""
    image, began = _image_of(tag), list[float]()
    layer = digest_of(image.blobs[-1])

    def sends(digest: str, offset: int) -> None:
        if digest == layer and not offset:
            began.append(time.monotonic())

    blobs = {digest_of(blob): blob for blob in (image.manifest, *image.blobs)}
    with parent_at(FakeParent("source", blobs, before_slice=sends)) as source:
        pipe.send(source.peer)
        pipe.recv()
        pipe.send(began[0])


def _drain(sink: FakeChild, peer: Peer, line_key: str, digest: str) -> float:
    """Be the sink, in a process of its own; when the last byte of the blob came."""
    for _ in sink.read_when_there(peer, line_key, digest):
        pass
    came = time.monotonic()
    sink.say_done(peer, line_key)
    return came


def _write(containerd: Containerd, blob: bytes) -> float:
    """Write a blob by one stream as fast as containerd takes it, and delete it; the seconds of the write."""
    digest = digest_of(blob)
    with grpc.insecure_channel(containerd.endpoint) as channel:
        began = time.monotonic()
        write = channel.stream_stream(_WRITE, request_serializer=bytes, response_deserializer=bytes)
        for _ in write(_write_requests(digest, blob), metadata=_METADATA):
            pass
        seconds = time.monotonic() - began
        delete = channel.unary_unary(_DELETE, request_serializer=bytes, response_deserializer=bytes)
        delete(_text(1, digest), metadata=_METADATA)
    return seconds


def _write_requests(digest: str, blob: bytes) -> Iterator[bytes]:
    """`WriteContentRequest`s: ref 2, total 3, expected 4, offset 5, data 6; the actions of field 1 are 1 and 2."""
    about = _text(2, f"layer-{digest}") + _number(3, len(blob)) + _text(4, digest)
    for offset in range(0, len(blob), _PIECE_BYTES):
        yield b"\x08\x01" + about + _number(5, offset) + _bytes(6, blob[offset : offset + _PIECE_BYTES])
    yield b"\x08\x02" + about + _number(5, len(blob))


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, data: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(data)) + data


def _number(field: int, number: int) -> bytes:
    return bytes([field << 3]) + _varint(number)


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
