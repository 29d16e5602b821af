"""Run nodes with a real containerd and an agent each, whose lines and hints a test writes itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.containerd_content import open_content_store
from adapters.cri import open_runtime
from devcluster.cluster import Cluster, Plan, open_cluster
from devcluster.install import NAMESPACE as SYSTEM
from devcluster.install import install, register
from devcluster.programs import Program
from devcluster.registry.app import Access
from devcluster.registry.folder import digest_of
from devcluster.registry.images import Image, write_image
from devcluster.registry.serve import Registry, serve_registry
from devcluster.tokens import peer_token
from tests.real.containerd import Containerd, start_containerd
from tests.real.programs import eventually
from tests.support.fake_peers import FakeChild
from tests.support.hints import HintedNode
from tests.support.stack import events_of, inherited, stack_folder
from warmhook.hints import Child, Hint, Peer
from warmhook.node_lines import Line
from warmhook.ports import Object, RuntimeImage
from warmhook.warmimages import ObjectKey

__all__ = ["PeerNode", "PeerPlace", "blobs_of", "hint", "open_peer_place"]

_DISCARD: Final = '[plugins."io.containerd.grpc.v1.cri".containerd]\ndiscard_unpacked_layers = true\n'
_CONTENT: Final = Path("root/io.containerd.content.v1.content")


def hint(*parents: Peer, children: Iterable[Child] = (), seconds: int = 600) -> Hint:
    """A hint that expires after so many seconds."""
    return Hint(int(time.time()) + seconds, parents=parents, children=tuple(children), seeds=1)


def blobs_of(*images: Image) -> dict[str, bytes]:
    """All blobs and manifests of images, by digest."""
    return {digest_of(blob): blob for image in images for blob in (image.manifest, *image.blobs)}


@dataclass(frozen=True, slots=True)
class PeerNode:
    """A node."""

    configmaps: HintedNode
    containerd: Containerd
    cluster: Cluster

    @property
    def name(self) -> str:
        """Of the Node."""
        return self.configmaps.name

    @property
    def agent(self) -> Program:
        """The agent that was started last."""
        return self.cluster.agents[self.name]

    async def start_agent(self) -> Peer:
        """Start its agent; the node as hints name it."""
        await self.cluster.start_agent(self.name, self.containerd.socket)
        return await self.configmaps.peer()

    async def child(self) -> Child:
        """The node as the hint of its parent names it."""
        peer = await self.configmaps.peer()
        return Child(peer.node, peer.key)

    async def image(self, line: Line) -> RuntimeImage:
        """What its runtime lists for a line. Raises `AssertionError` if nothing."""
        async with open_runtime(self.containerd.endpoint) as runtime:
            found = await runtime.image(line.image)
        assert found is not None, f"{line.image} is not on {self.name}"
        return found

    async def leases(self) -> list[str]:
        """Warmhook's leases in its containerd."""
        async with open_content_store(self.containerd.endpoint) as content:
            return await content.leases()

    async def has_no_lease(self) -> None:
        """Wait until there is none."""

        async def none() -> bool:
            return not await self.leases()

        await eventually(none, what=f"{self.name} has no lease")

    async def receives(self, digest: str, beyond: int = 0) -> None:
        """Wait until more than so many bytes of a blob are in its content store, while it is incomplete."""
        ref = f"-{digest}"

        def some() -> bool:
            for ingest in (self.containerd.root / _CONTENT / "ingest").glob("*"):
                with contextlib.suppress(FileNotFoundError):
                    if (ingest / "ref").read_text().endswith(ref):
                        return (ingest / "data").stat().st_size > beyond
            return False

        await eventually(some, what=f"{self.name} receives {digest}")

    def events(self, name: str) -> list[Object]:
        """What its agent logged."""
        return events_of(self.agent, name)


@dataclass(frozen=True, slots=True)
class PeerPlace:
    """Nodes and a registry."""

    cluster: Cluster
    registry: Registry
    accesses: list[Access]
    """Requests that the registry has answered."""
    nodes: Sequence[PeerNode]

    def push(self, name: str, image: Image) -> Line:
        """Put an image into the registry; a line for it."""
        digest = write_image(self.registry.root, f"shop/{name}", "1", image)
        return Line(ObjectKey("shop", name), f"{self.registry.host}/shop/{name}:1", digest)

    def registry_bytes(self) -> int:
        """The bytes of bodies that left the registry."""
        return sum(access.bytes for access in self.accesses if access.method == "GET")

    def token_file(self, node: str) -> Path:
        """The token that the agent of a node shows to others."""
        return self.cluster.plan.folder / f"{node}.token"

    async def fake_child(self, node: str) -> FakeChild:
        """A child with a valid token, in place of the agent of a node."""
        return FakeChild(node, await peer_token(self.cluster.kubernetes, node))


@contextlib.asynccontextmanager
async def open_peer_place(*nodes: str, discard: bool = False) -> AsyncIterator[PeerPlace]:
    """These nodes, whose agents do not run yet, and Nodes `node-8` and `node-9` for children without one.

    `discard`: containerd drops layers that it has unpacked, unless a lease keeps them.
    """
    accesses: list[Access] = []
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(stack_folder())
        (folder / "images").mkdir()
        registry = await stack.enter_async_context(serve_registry(folder / "images", log=accesses.append))
        starting = (start_containerd(more=_DISCARD if discard else "") for _ in nodes)
        runtimes = [await stack.enter_async_context(each) for each in starting]
        cluster = await stack.enter_async_context(
            open_cluster(Plan(folder, folder / "kubeconfig", peers=True), inherited())
        )
        cluster.registry = registry.host
        await cluster.start_api("--port", "0")
        await install(cluster.kubernetes)
        for name in (*nodes, "node-8", "node-9"):
            await register(cluster.kubernetes, name)
        made = [
            PeerNode(HintedNode(cluster.kubernetes, SYSTEM, name), runtime, cluster)
            for name, runtime in zip(nodes, runtimes, strict=True)
        ]
        place = PeerPlace(cluster, registry, accesses, made)
        yield place
