"""The agent of a node serves its images, and the agent of another node gets them, over TLS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
import structlog
from structlog.testing import capture_logs

from adapters.clock import Clock, real_clock
from adapters.containerd_content import open_content_store
from adapters.kubernetes.client import Kubernetes
from adapters.listener import open_listener_at
from adapters.peer_client import open_peers
from adapters.service_account_tokens import REREAD_SECONDS
from adapters.tasks import in_background
from devcluster.apiserver import ApiServer, InProcessTransport
from devcluster.registry.images import incompressible_image
from devcluster.tokens import write_peer_token
from nodeagent.context import Context
from nodeagent.metrics import Metrics
from nodeagent.peers.access import Served
from nodeagent.peers.incoming import IncomingBlobs
from nodeagent.peers.parent import Parent as Serving
from nodeagent.peers.settings import PeerSettings
from nodeagent.settings import Settings
from tests.real.containerd import start_containerd
from tests.real.programs import real_time
from tests.support.containerd import MemoryContainerd
from tests.support.content import MemoryContentStore
from tests.support.instant import until
from tests.support.peers import LINE, Observed, digest_of, key_of, manifest
from tests.support.runtime import MemoryRuntime
from warmhook.hints import Peer
from warmhook.platforms import Platform
from warmhook.ports import ContentStore, NotHere, PeerBlobs, SourceFailed

pytestmark = pytest.mark.slow

CONFIG, LAYER = b"a configuration", b"a layer" * 100_000
IMAGE = manifest(CONFIG, LAYER)
SECONDS = 10


@dataclass(slots=True)
class Node:
    """A node whose agent serves, at an address of this machine."""

    folder: Path
    kubernetes: Kubernetes
    settings: PeerSettings
    changes: list[bool] = field(default_factory=list)
    content: ContentStore = field(default_factory=MemoryContentStore)
    served: Served = field(default_factory=lambda: Served({}))
    observed: Observed = field(default_factory=Observed)

    @contextlib.asynccontextmanager
    async def serving(self, clock: Clock | None = None) -> AsyncIterator[Serving]:
        context = Context(
            Settings("parent", peers=self.settings),
            self.kubernetes,
            MemoryRuntime(),
            clock or real_clock(),
            structlog.get_logger(),
            Metrics(),
            Platform("linux", "amd64"),
            MemoryContainerd(MemoryRuntime()),
        )
        incoming = IncomingBlobs(self.folder / "incoming")
        served = {LINE: self.served}
        parent = Serving(
            context, self.content, incoming, served.get, self.observed, lambda: self.changes.append(parent.serving)
        )
        async with in_background(parent.run(), "parent"):
            yield parent


@contextlib.asynccontextmanager
async def a_node(tmp_path: Path) -> AsyncIterator[Node]:
    with open_listener_at("127.0.0.1", 0) as found:
        port: int = found.getsockname()[1]
    api = ApiServer(real_clock().utcnow, Random(0))
    kubernetes = Kubernetes(InProcessTransport(api))
    for name in ("parent", "child"):
        await kubernetes.create("/api/v1/nodes", {"metadata": {"name": name}})
    token = tmp_path / "token"
    await write_peer_token(kubernetes, "parent", token)
    node = Node(tmp_path, kubernetes, PeerSettings(port, "127.0.0.1", token))
    node.served = Served({"child": key_of("child").name}, digest_of(IMAGE))
    assert isinstance(node.content, MemoryContentStore)
    for blob in (IMAGE, CONFIG, LAYER):
        node.content.have(blob)
    yield node


@contextlib.asynccontextmanager
async def a_child(node: Node) -> AsyncIterator[PeerBlobs]:
    """What the agent of the child asks its parents with."""
    token = node.folder / "child-token"
    await write_peer_token(node.kubernetes, "child", token)
    async with open_peers(key_of("child"), token, allow_local=True) as peers:
        yield peers


def parent_in_hint(node: Node, parent: Serving) -> Peer:
    assert parent.key is not None
    return Peer("parent", node.settings.endpoint, parent.key.name)


async def fetched(peers: PeerBlobs, peer: Peer, digest: str, offset: int = 0) -> bytes:
    """The bytes of a blob from an offset on."""
    async with asyncio.timeout(SECONDS), peers.read(peer, LINE, digest, offset) as part:
        return b"".join([bytes(data) async for data in part.data])


@real_time
async def test_an_agent_serves_as_soon_as_it_has_a_key_a_token_and_the_keys_of_the_cluster(tmp_path: Path) -> None:
    async with a_node(tmp_path) as node:
        async with node.serving() as parent:
            await until(lambda: parent.serving, seconds=SECONDS)
            async with a_child(node) as peers:
                assert await fetched(peers, parent_in_hint(node, parent), digest_of(CONFIG)) == CONFIG
        assert node.changes == [False, True, False]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", node.settings.port)


@real_time
async def test_a_port_in_use_and_a_missing_token_are_logged_and_tried_again(tmp_path: Path) -> None:
    async with a_node(tmp_path) as node:
        taken = open_listener_at("127.0.0.1", node.settings.port)
        taken.listen()
        hidden = node.settings.token_file.rename(tmp_path / "hidden")

        async def sleep(seconds: float) -> None:
            if seconds >= REREAD_SECONDS:
                await asyncio.sleep(seconds)
            elif hidden.exists():
                hidden.rename(node.settings.token_file)
            else:
                taken.close()

        clock = real_clock()
        with capture_logs() as logs:
            async with node.serving(Clock(clock.utcnow, clock.monotonic, sleep, clock.random)) as parent:
                await until(lambda: parent.serving, seconds=SECONDS)
        events = [log["event"] for log in logs]
        assert events == [
            "peer-token-not-read",
            "peer-token-not-read-over",
            "peer-port-not-open",
            "peer-port-not-open-over",
        ]


@real_time
async def test_a_child_reads_on_at_any_byte_and_says_when_it_is_done(tmp_path: Path) -> None:
    async with a_node(tmp_path) as node, node.serving() as parent, a_child(node) as peers:
        await until(lambda: parent.serving, seconds=SECONDS)
        peer = parent_in_hint(node, parent)
        for offset in (0, 1, len(LAYER) - 1):
            assert await fetched(peers, peer, digest_of(LAYER), offset) == LAYER[offset:]
        with pytest.raises(NotHere):
            await fetched(peers, peer, digest_of(b"another blob"))
        with pytest.raises(SourceFailed):
            await fetched(peers, replace(peer, key=key_of("child").name), digest_of(LAYER))
        await peers.done(peer, LINE)
        assert node.observed.finished == [(LINE, "child")]
        assert node.observed.sent_bytes == {"child": 2 * len(LAYER)}


@pytest.mark.containerd
@real_time
async def test_a_child_gets_what_containerd_has_of_an_image(tmp_path: Path) -> None:
    image = incompressible_image(3, "peers", layers=2)
    blobs = (image.manifest, *image.blobs)
    async with contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(a_node(tmp_path))
        containerd = await stack.enter_async_context(start_containerd())
        content = await stack.enter_async_context(open_content_store(containerd.endpoint))
        await content.create_lease("warmhook-test", datetime.now(UTC) + timedelta(hours=1))
        for blob in blobs:
            digest = digest_of(blob)
            async with content.open_writer(f"layer-{digest}", digest, len(blob), "warmhook-test") as writer:
                await writer.write(blob)
                await writer.commit({})
        node.content, node.served = content, replace(node.served, root=digest_of(image.manifest))
        parent, peers = await stack.enter_async_context(node.serving()), await stack.enter_async_context(a_child(node))
        await until(lambda: parent.serving, seconds=SECONDS)
        peer = parent_in_hint(node, parent)
        assert await asyncio.gather(*(fetched(peers, peer, digest_of(blob), 7) for blob in blobs)) == [
            blob[7:] for blob in blobs
        ]
        with pytest.raises(NotHere):
            await fetched(peers, peer, digest_of(IMAGE))
        await containerd.kill()
        with pytest.raises(NotHere):
            await fetched(peers, peer, digest_of(image.manifest))


@real_time
async def test_a_node_without_an_address_or_a_port_makes_no_key(tmp_path: Path) -> None:
    async with a_node(tmp_path) as node:
        for settings in (PeerSettings(), replace(node.settings, port=0)):
            node.settings = settings
            async with node.serving() as parent, asyncio.timeout(SECONDS):
                await parent.run()
                assert (parent.key, parent.serving) == (None, False)
        assert node.changes == []
