"""Agents with a real containerd each get images from each other, whatever a parent does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.cri import open_runtime
from devcluster.nodes import architecture
from devcluster.registry.folder import digest_of
from devcluster.registry.images import Image, build_image, incompressible, incompressible_image
from tests.real.programs import eventually, real_time
from tests.support.fake_peers import FakeParent, parent_at
from tests.support.peer_nodes import blobs_of, hint, open_peer_place

pytestmark = pytest.mark.containerd

MEGABYTES = 8
HALF = MEGABYTES * 500_000
NODE = "node-1"


class Gate:
    """Lets a parent send the bytes of a blob up to an offset, and the others when it is opened."""

    def __init__(self, digest: str, offset: int = HALF) -> None:
        self._digest, self._offset = digest, offset
        self._open, self.sent_bytes = threading.Event(), 0

    def __call__(self, digest: str, offset: int) -> None:
        """Called by a parent before it sends the bytes from `offset` on."""
        if digest == self._digest:
            self.sent_bytes = max(self.sent_bytes, offset)
            if offset >= self._offset and not self._open.wait(60):
                raise ConnectionAbortedError("the test never opened it")

    def open(self) -> None:
        """Let the rest pass."""
        self._open.set()


def an_image(name: str) -> Image:
    """With one layer."""
    return incompressible_image(MEGABYTES, name, platform=f"linux/{architecture()}")


def layer_of(image: Image) -> str:
    """The digest of its last layer."""
    return digest_of(image.blobs[-1])


@real_time
async def test_a_child_gets_bytes_that_its_parent_has_before_the_parent_has_the_last_one() -> None:
    image = an_image("streams")
    gate = Gate(layer_of(image))
    async with open_peer_place(NODE) as place:
        (node,) = place.nodes
        line, middle, sink = place.push("streams", image), await node.start_agent(), await place.fake_child("node-9")
        with parent_at(FakeParent("node-8", blobs_of(image), before_slice=gate)) as source:
            await node.configmaps.want(line, hint(source.peer, children=[sink.child]))
            reading = sink.read_when_there(middle, line.key, layer_of(image))
            first = bytes(await asyncio.to_thread(next, reading))
            held_back = gate.sent_bytes
            gate.open()
            rest = await asyncio.to_thread(lambda: b"".join(map(bytes, reading)))
            assert first + rest == image.blobs[-1]
            assert held_back < len(image.blobs[-1])
            assert source.offsets(layer_of(image)) == [0]
            await node.configmaps.becomes(line, "warm")
        assert place.registry_bytes() == 0


@real_time
async def test_a_parent_that_is_killed_inside_a_blob_is_replaced_at_the_byte_that_it_reached() -> None:
    image = an_image("killed")
    gate = Gate(layer_of(image))
    async with open_peer_place(NODE, "node-2") as place:
        parent, child = place.nodes
        line, first = place.push("killed", image), await parent.start_agent()
        await child.start_agent()
        with (
            parent_at(FakeParent("node-8", blobs_of(image), before_slice=gate)) as source,
            parent_at(FakeParent("node-9", blobs_of(image))) as second,
        ):
            await parent.configmaps.want(line, hint(source.peer, children=[await child.child()]))
            await child.configmaps.want(line, hint(first, second.peer))
            await child.receives(layer_of(image), beyond=HALF // 2)
            await parent.agent.kill()
            report = await child.configmaps.becomes(line, "warm")
            (offset,) = second.offsets(layer_of(image))
            assert HALF // 2 < offset <= gate.sent_bytes
            gate.open()
        assert report.transfers[line.version].fallbacks == 0
        assert place.registry_bytes() == 0
        assert (await child.image(line)).digests == (f"{place.registry.host}/shop/killed@{image.digest}",)


@real_time
async def test_a_parent_that_stalls_inside_a_blob_is_replaced_at_the_byte_that_it_reached() -> None:
    image = an_image("stalls")
    gate = Gate(layer_of(image))
    async with open_peer_place(NODE) as place:
        (node,) = place.nodes
        line, _ = place.push("stalls", image), await node.start_agent()
        with (
            parent_at(FakeParent("node-8", blobs_of(image), before_slice=gate)) as stalled,
            parent_at(FakeParent("node-9", blobs_of(image))) as second,
        ):
            await node.configmaps.want(line, hint(stalled.peer, second.peer))
            await node.configmaps.becomes(line, "warm")
            (offset,) = second.offsets(layer_of(image))
            assert 0 < offset <= gate.sent_bytes
            gate.open()
        assert place.registry_bytes() == 0
        assert (await node.image(line)).id == image.config_digest


@real_time
async def test_a_parent_that_sends_wrong_bytes_is_not_believed_and_not_asked_again() -> None:
    image = an_image("wrong")
    async with open_peer_place(NODE) as place:
        (node,) = place.nodes
        line, _ = place.push("wrong", image), await node.start_agent()
        liar = FakeParent("node-8", blobs_of(image))
        liar.change = lambda digest, blob: b"x" * len(blob) if digest == layer_of(image) else blob
        with parent_at(liar), parent_at(FakeParent("node-9", blobs_of(image))) as second:
            await node.configmaps.want(line, hint(liar.peer, second.peer))
            await node.configmaps.becomes(line, "warm")
            assert liar.offsets(layer_of(image)) == [0]
            assert second.offsets(layer_of(image)) == [0]
        assert place.registry_bytes() == 0
        assert (await node.image(line)).id == image.config_digest


@real_time
async def test_a_parent_whose_key_is_not_the_pinned_one_is_sent_nothing() -> None:
    image = an_image("impostor")
    async with open_peer_place(NODE) as place:
        (node,) = place.nodes
        line, _ = place.push("impostor", image), await node.start_agent()
        with (
            parent_at(FakeParent("node-8", blobs_of(image))) as impostor,
            parent_at(FakeParent("node-9", blobs_of(image))) as second,
        ):
            await node.configmaps.want(line, hint(replace(impostor.peer, key=second.key.name), second.peer))
            await node.configmaps.becomes(line, "warm")
            assert impostor.connections > 0
            assert impostor.received_bytes == 0
        assert place.registry_bytes() == 0


@real_time
async def test_a_child_without_a_valid_token_gets_the_image_from_the_registry() -> None:
    image = an_image("token")
    async with open_peer_place(NODE, "node-2") as place:
        parent, child = place.nodes
        line, first = place.push("token", image), await parent.start_agent()
        await child.start_agent()
        await parent.configmaps.want(line, hint(children=[await child.child()]))
        await parent.configmaps.becomes(line, "warm")
        place.token_file(child.name).write_text("none of this cluster")
        await child.configmaps.want(line, hint(first))
        report = await child.configmaps.becomes(line, "warm", seconds=90)
        transfer = report.transfers[line.version]
        assert (transfer.peer_kib, transfer.registry_kib > 0) == (0, True)
        assert (await child.image(line)).id == image.config_digest


@pytest.mark.parametrize("discard", [False, True], ids=["layers-kept", "layers-discarded"])
def test_an_image_of_a_warm_parent_is_as_after_a_plain_pull(discard: bool) -> None:
    @real_time
    async def scenario() -> None:
        image = incompressible_image(MEGABYTES, "names", layers=2, platform=f"linux/{architecture()}")
        async with open_peer_place(NODE, "node-2", discard=discard) as place:
            parent, child = place.nodes
            line, first, before = place.push("names", image), await parent.start_agent(), _files_in_etc()
            runtime = child.containerd.pid
            await child.start_agent()
            # Far more than the parent needs for its own pull, which discards layers.
            await parent.configmaps.want(line, hint(children=[await child.child()]))
            await parent.configmaps.becomes(line, "warm")
            place.accesses.clear()
            await child.configmaps.want(line, hint(first))
            report = await child.configmaps.becomes(line, "warm")
            assert report.transfers[line.version].registry_kib == 0
            assert {access.method for access in place.accesses} == {"HEAD"}
            got = await child.image(line)
            async with open_runtime(child.containerd.endpoint) as plain:
                await plain.remove(line.image)
                await plain.pull(line.image, timeout_seconds=30)
            assert got == await child.image(line)
            assert got.tags == (line.image,)
            assert got.digests == (f"{line.image.rpartition(':')[0]}@{image.digest}",)
            await parent.has_no_lease()
            await child.has_no_lease()
            assert child.containerd.pid == runtime
            assert _files_in_etc() == before

    scenario()


@real_time
async def test_layers_that_a_node_has_are_not_fetched_for_another_image() -> None:
    base, own, other = (incompressible(4_000_000, seed) for seed in ("base", "own", "other"))
    platform = f"linux/{architecture()}"
    first, second = build_image(base, own, platform=platform), build_image(base, other, platform=platform)
    async with open_peer_place(NODE) as place:
        (node,) = place.nodes
        lines, _ = [place.push("first", first), place.push("second", second)], await node.start_agent()
        with parent_at(FakeParent("node-8", blobs_of(first, second))) as source:
            for line in lines:
                await node.configmaps.want(line, hint(source.peer))
                await node.configmaps.becomes(line, "warm")
            asked = Counter(request.digest for request in source.asked if request.method == "GET")
        assert set(asked.values()) == {1}
        assert set(asked) == set(blobs_of(first, second))
        assert place.registry_bytes() == 0


@real_time
async def test_a_lease_of_an_agent_that_was_killed_ends_with_its_hint() -> None:
    image = an_image("lease")
    gate = Gate(layer_of(image))
    async with open_peer_place(NODE) as place:
        (node,) = place.nodes
        line, _ = place.push("lease", image), await node.start_agent()
        with parent_at(FakeParent("node-8", blobs_of(image), before_slice=gate)) as source:
            wanted = hint(source.peer, seconds=5)
            await node.configmaps.want(line, wanted)
            await node.receives(layer_of(image))
            assert await node.leases()
            await node.agent.kill()
            gate.open()
        await eventually(lambda: time.time() > wanted.expires_at, what="the hint has expired")
        # containerd looks for garbage after it removed something.
        other = place.push("other", an_image("other"))
        async with open_runtime(node.containerd.endpoint) as runtime:
            await runtime.pull(other.image, timeout_seconds=30)
            await runtime.remove(other.image)
        await node.has_no_lease()


def _files_in_etc() -> dict[str, tuple[float, int]]:
    """Every file with the time of its last change and its size."""
    found = {}
    for path in Path("/etc").rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            found[str(path)] = (status.st_mtime, status.st_size)
    return found
