"""Real containerds get images from each other over real connections, and their pulls find everything there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from adapters.clock import real_clock
from adapters.containerd_content import open_content_store
from adapters.cri import open_runtime
from adapters.peer_client import open_peers
from adapters.peer_key import server_tls
from adapters.registry_blobs import RegistryAccess
from devcluster.registry.app import Access as Request
from devcluster.registry.images import Image, build_image, incompressible, incompressible_image, write_image
from devcluster.registry.serve import Registry, serve_registry
from nodeagent.peers.access import Access, Served
from nodeagent.peers.blobs import Blobs
from nodeagent.peers.connections import Connections
from nodeagent.peers.exchange import Exchange, Fetched, Order
from nodeagent.peers.image_digests import ImageDigests
from nodeagent.peers.incoming import IncomingBlobs
from nodeagent.peers.pace import Pace
from nodeagent.peers.pulled_blobs import keep_pulled_blobs
from nodeagent.peers.server import PeerServer
from nodeagent.peers.transfer import fetch_image
from tests.real.containerd import Containerd, start_containerd
from tests.real.programs import eventually, real_time, small_disk
from tests.support.exchange import blobs_of, layers_of
from tests.support.fake_peers import FakeParent, parent_at
from tests.support.instant import until
from tests.support.peers import LINE, Observed, Parent, a_parent, key_of
from warmhook.hints import Child, Hint, Peer
from warmhook.images import parse_reference
from warmhook.platforms import Platform
from warmhook.ports import ContentStore, PullFailed, Runtime

pytestmark = pytest.mark.containerd

# containerd 1.x and 2.x.
DISCARD = """
[plugins."io.containerd.grpc.v1.cri".containerd]
discard_unpacked_layers = true
[plugins."io.containerd.cri.v1.images"]
discard_unpacked_layers = true
"""


@dataclass(slots=True)
class Node:
    """A node with a containerd, which serves its children."""

    name: str
    containerd: Containerd
    content: ContentStore
    runtime: Runtime
    exchange: Exchange
    served: dict[str, Served]
    observed: Observed
    address: str

    @property
    def peer(self) -> Peer:
        return Peer(self.name, self.address, key_of(self.name).name)

    def order(self, reference: str, image: Image, parents: Sequence[Node | FakeParent], children: list[str]) -> Order:
        """The image by a hint of ten minutes, which this node serves by as well."""
        keys = {child: key_of(child).name for child in children}
        self.served[LINE] = Served(keys, image.digest, expected=True)
        hint = Hint(
            int(time.time()) + 600,
            parents=tuple(parent.peer for parent in parents),
            children=tuple(Child(child, key_of(child).name) for child in children),
        )
        return Order(LINE, parse_reference(reference), image.digest, hint)

    async def fetch(self, order: Order, progressed: Callable[[Fetched], None] = lambda _fetched: None) -> Fetched:
        return await fetch_image(self.exchange, order, progressed)

    async def has(self, image: Image) -> bool:
        """Whether every blob is there."""
        return all([await self.content.info(digest) for digest in blobs_of(image)])


@dataclass(slots=True)
class Site:
    """A cluster with a registry."""

    cluster: Parent
    registry: Registry
    requests: list[Request]
    folder: Path

    def push(self, image: Image, name: str = "shop") -> str:
        """The reference of the image."""
        write_image(self.registry.root, name, "1", image)
        return f"{self.registry.host}/{name}:1"

    @contextlib.asynccontextmanager
    async def node(self, name: str, more: str = "", disk: Path = Path("/tmp")) -> AsyncIterator[Node]:
        clock, state = real_clock(), self.folder / name
        state.mkdir()
        (state / "token").write_text(await self.cluster.token(name))
        access = RegistryAccess(clock, frozenset({self.registry.host}), allow_local=True)
        async with (
            start_containerd(more=more, parent=disk) as containerd,
            open_content_store(containerd.endpoint) as content,
            open_runtime(containerd.endpoint) as runtime,
            open_peers(key_of(name), state / "token", allow_local=True) as peers,
        ):
            incoming, observed, served = IncomingBlobs(state / "incoming"), Observed(), dict[str, Served]()
            exchange = Exchange(
                content,
                peers,
                access.open,
                incoming,
                runtime,
                Platform("linux", "amd64"),
                clock,
                structlog.get_logger(),
            )
            server = PeerServer(
                Access(key_of(name), self.cluster.tokens, served.get, clock),
                ImageDigests(content, clock),
                Blobs(content, incoming),
                Pace(0, clock),
                observed,
                clock,
            )
            async with listening(server, name) as address:
                yield Node(name, containerd, content, runtime, exchange, served, observed, address)

    def asked(self) -> list[str]:
        """Method and last part of the path of each request at the registry since the last call."""
        asked = [f"{request.method} {request.path.split('/')[-2]}" for request in self.requests]
        self.requests.clear()
        return asked


@contextlib.asynccontextmanager
async def listening(server: PeerServer, name: str) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(Connections(server_tls(key_of(name)), server.handle).accept(listener))
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            serving.cancel()
            await asyncio.wait([serving])


@contextlib.asynccontextmanager
async def a_site(bytes_per_second: int = 0) -> AsyncIterator[Site]:
    """`bytes_per_second`: what the registry sends to all together; 0: no limit."""
    requests: list[Request] = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "registry").mkdir()
        async with (
            a_parent(real_clock()) as cluster,
            serve_registry(folder / "registry", log=requests.append, bytes_per_second=bytes_per_second) as registry,
        ):
            yield Site(cluster, registry, requests, folder)


async def is_gone(node: Node, digest: str) -> bool:
    return await node.content.info(digest) is None


@real_time
async def test_a_pull_after_a_transfer_asks_the_registry_for_the_tag_alone() -> None:
    image = incompressible_image(20, "pull", layers=4)
    async with a_site() as site, site.node("seed") as seed, site.node("child") as child, site.node("plain") as plain:
        reference = site.push(image)
        fetched = await seed.fetch(seed.order(reference, image, [], ["child"]))
        assert fetched.complete
        assert fetched.registry_bytes == sum(map(len, blobs_of(image).values()))
        site.asked()
        order = child.order(reference, image, [seed], [])
        fetched = await child.fetch(order)
        assert fetched.complete
        assert (fetched.registry_bytes, fetched.parents) == (0, {"seed"})
        assert site.asked() == []
        await child.runtime.pull(reference, timeout_seconds=60)
        assert site.asked() == ["HEAD manifests"]
        await plain.runtime.pull(reference, timeout_seconds=60)
        assert await child.runtime.image(reference) == await plain.runtime.image(reference)
        await child.content.delete_lease(order.lease)
        assert await child.content.leases() == []


@real_time
async def test_a_chain_of_nodes_streams_a_layer_that_the_first_one_is_still_receiving() -> None:
    image = incompressible_image(30, "chain", layers=1)
    (layer,) = layers_of(image)
    async with (
        a_site(bytes_per_second=10_000_000) as site,
        site.node("seed") as seed,
        site.node("middle") as middle,
        site.node("last") as last,
    ):
        reference = site.push(image)
        orders = [
            seed.order(reference, image, [], ["middle"]),
            middle.order(reference, image, [seed], ["last"]),
            last.order(reference, image, [middle], []),
        ]
        events: list[str] = []

        async def fetch(node: Node, order: Order) -> Fetched:
            fetched = await node.fetch(order, lambda _fetched: events.append(node.name))
            events.append(f"{node.name} complete")
            return fetched

        nodes = (seed, middle, last)
        fetched = await asyncio.gather(*(fetch(node, order) for node, order in zip(nodes, orders, strict=True)))
        assert [each.complete for each in fetched] == [True, True, True]
        assert [each.registry_bytes > 0 for each in fetched] == [True, False, False]
        assert await last.has(image)
        # Manifest and configuration are the first two; the third is a part of the layer.
        third = [number for number, event in enumerate(events) if event == "last"][2]
        assert third < events.index("seed complete")
        assert [node.exchange.incoming.get(layer) for node in nodes] == [None, None, None]


@real_time
async def test_a_liar_at_the_top_sends_none_but_its_own_child_to_the_registry() -> None:
    image = incompressible_image(20, "liar", layers=1)
    (layer,) = layers_of(image)

    def lie(digest: str, blob: bytes) -> bytes:
        return bytes([blob[0] ^ 1]) + blob[1:] if digest == layer else blob

    liar = FakeParent("liar", blobs_of(image), change=lie)
    async with a_site() as site, site.node("middle") as middle, site.node("last") as last:
        reference = site.push(image)
        with parent_at(liar):
            above, below = await asyncio.gather(
                middle.fetch(middle.order(reference, image, [liar], ["last"])),
                last.fetch(last.order(reference, image, [middle], [])),
            )
        assert (above.complete, below.complete) == (True, True)
        assert (above.parents, below.parents) == ({"liar"}, {"middle"})
        assert below.registry_bytes == 0
        assert site.asked() == ["GET blobs"]
        assert len(liar.offsets(layer)) == 1
        await last.runtime.pull(reference, timeout_seconds=60)


@real_time
async def test_a_seed_without_access_keeps_what_containerd_pulls_although_it_discards_layers() -> None:
    image = incompressible_image(5, "discard", layers=3)
    async with a_site() as site, site.node("seed", DISCARD) as seed, site.node("child", DISCARD) as child:
        reference = site.push(image)
        order = seed.order(reference, image, [], ["child"])
        keeping = asyncio.create_task(keep_pulled_blobs(seed.exchange, order))
        await seed.runtime.pull(reference, timeout_seconds=60)
        await keeping
        assert await seed.has(image)
        site.asked()
        order = child.order(reference, image, [seed], [])
        assert (await child.fetch(order)).complete
        await child.runtime.pull(reference, timeout_seconds=60)
        assert site.asked() == ["HEAD manifests"]
        assert (await child.runtime.image(reference)) == (await seed.runtime.image(reference))


@real_time
async def test_layers_that_another_image_has_unpacked_are_not_fetched_again() -> None:
    base, more = incompressible(3_000_000, "base"), incompressible(3_000_000, "more")
    first, second = build_image(base), build_image(base, more)
    async with a_site() as site, site.node("seed") as seed, site.node("child", DISCARD) as child:
        one, two = site.push(first, "one"), site.push(second, "two")
        await child.runtime.pull(one, timeout_seconds=60)
        (shared,) = layers_of(first)
        await eventually(lambda: is_gone(child, shared), what="containerd collects the layer", seconds=30)
        await seed.fetch(seed.order(two, second, [], ["child"]))
        fetched = await child.fetch(child.order(two, second, [seed], []))
        assert fetched.complete
        assert fetched.peer_bytes < 3_500_000
        site.asked()
        await child.runtime.pull(two, timeout_seconds=60)
        assert site.asked() == ["HEAD manifests"]


@real_time
async def test_a_transfer_goes_on_after_containerd_was_killed_in_it() -> None:
    image = incompressible_image(60, "killed", layers=2)
    async with a_site() as site, site.node("seed") as seed, site.node("child") as child:
        reference = site.push(image)
        await seed.fetch(seed.order(reference, image, [], ["child"]))
        killed = asyncio.Event()

        def progressed(fetched: Fetched) -> None:
            if fetched.peer_bytes > 20_000_000:
                killed.set()

        fetching = asyncio.create_task(child.fetch(child.order(reference, image, [seed], []), progressed))
        await killed.wait()
        await child.containerd.kill()
        await child.containerd.start()
        fetched = await fetching
        assert fetched.complete
        assert fetched.registry_bytes == 0
        # What was on its way into containerd, and what was in the buffers of the connections.
        assert fetched.peer_bytes < sum(map(len, blobs_of(image).values())) + 2 * 8_000_000
        await child.runtime.pull(reference, timeout_seconds=60)


@real_time
async def test_a_cancelled_transfer_leaves_nothing_in_containerd() -> None:
    image = incompressible_image(60, "cancelled", layers=2)
    async with a_site() as site, site.node("seed") as seed, site.node("child") as child:
        reference = site.push(image)
        await seed.fetch(seed.order(reference, image, [], ["child"]))
        begun = asyncio.Event()

        def progressed(fetched: Fetched) -> None:
            if fetched.peer_bytes > 5_000_000:
                begun.set()

        fetching = asyncio.create_task(child.fetch(child.order(reference, image, [seed], []), progressed))
        await begun.wait()
        fetching.cancel()
        await asyncio.wait([fetching])
        assert await child.content.leases() == []
        ingests = child.containerd.root / "root" / "io.containerd.content.v1.content" / "ingest"
        await until(lambda: not os.listdir(ingests), seconds=20)


@real_time
async def test_a_full_disk_of_containerd_ends_a_transfer_as_such_and_leaves_nothing() -> None:
    image = incompressible_image(60, "full", layers=2)
    async with a_site() as site, small_disk(megabytes=40) as disk, site.node("seed", disk=disk) as seed:
        order = seed.order(site.push(image), image, [], [])
        with pytest.raises(PullFailed) as failure:
            await seed.fetch(order)
        assert failure.value.reason == "DiskFull"
        assert await seed.content.leases() == []
