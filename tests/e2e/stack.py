"""Run all of Warmhook for a test: API server, `web --watch`, and nodes with a containerd and an agent each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from adapters.cri import open_runtime
from adapters.kubernetes.paths import CRDS
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from devcluster.cluster import Cluster, Plan, open_cluster
from devcluster.install import NAMESPACE as SYSTEM
from devcluster.install import create_namespace, install, register
from devcluster.programs import Program
from devcluster.registry.images import Image
from devcluster.registry.serve import Registry
from tests.real.programs import free_port, need
from tests.support.crds import without_patterns
from tests.support.stack import SECRET, BaseStack, events_of, inherited, source_of, stack_folder
from warmhook.ports import Object, RuntimeImage

__all__ = ["NAMESPACE", "SECRET", "SYSTEM", "Options", "Stack", "events_of", "open_stack"]

NAMESPACE: Final = "shop"
"""Of the policies."""


@dataclass(frozen=True, slots=True)
class Options:
    """What differs from one test to another."""

    registry: str
    """`127.0.0.1:<port>`, the only host that the registry may name."""
    agent: Mapping[str, str] = field(default_factory=dict)
    """More environment of the agents."""
    web: Mapping[str, str] = field(default_factory=dict)
    """More environment of `web`."""
    sources: tuple[Object, ...] = ()
    """More senders in the configuration file."""
    registries: tuple[Object, ...] = ()
    """The registries in the configuration file."""
    peers: bool = False
    """Whether nodes get images from each other, each at an address of its own."""
    api_port: int = field(default_factory=free_port)
    web_port: int = field(default_factory=free_port)

    @property
    def webhook_url(self) -> str:
        """Where the registry posts its notifications."""
        return f"http://127.0.0.1:{self.web_port}/webhooks/registry"

    async def environ(self, name: str) -> Mapping[str, str]:
        """Of the program."""
        return {"WARMHOOK_SECRET": SECRET, **self.web} if name == "web" else self.agent


class Stack(BaseStack):
    """Everything that runs, and what a test does to it and sees of it."""

    def __init__(self, cluster: Cluster, options: Options, api_arguments: Sequence[str]) -> None:
        """Nothing runs yet."""
        super().__init__(cluster, options.registry, system=SYSTEM, namespace=NAMESPACE)
        self.options, self._api_arguments = options, api_arguments

    @property
    def api(self) -> Program:
        """The API server."""
        return self.cluster.api

    @property
    def web(self) -> Program:
        """`web`, with watch inside."""
        return self.cluster.webs[self.options.web_port]

    async def start_api(self) -> None:
        """Start the API server, at the same address and with the cluster that it had."""
        data = ("--port", str(self.options.api_port), "--data", str(self.folder / "cluster"))
        await self.cluster.start_api(*data, *self._api_arguments)

    async def start_web(self) -> None:
        """Start `web --watch`; its port is open on return."""
        sources = [source_of(self.options.registry), *self.options.sources]
        await self.cluster.start_web(sources, registries=self.options.registries, port=self.options.web_port)

    async def drop_patterns(self) -> None:
        """Let objects that are made from now on say what the CRDs of an older version let in."""
        for crd in (warmimage_crd(), warmpolicy_crd()):
            await self.kubernetes.patch(f"{CRDS}/{crd['metadata']['name']}", without_patterns(crd))

    async def register(self, *nodes: str) -> None:
        """Create Nodes on which nothing runs."""
        for node in nodes:
            await register(self.kubernetes, node)

    async def push(self, registry: Registry, repository: str, tag: str, image: Image) -> str:
        """Put an image into the registry and notify `web` until it accepts; its reference."""
        return await self.push_to(registry.root, repository, tag, image)

    async def images(self, node: str) -> list[RuntimeImage]:
        """What the node's containerd lists."""
        async with open_runtime(f"unix://{self.cluster.socket_of(node)}") as runtime:
            return await runtime.images()

    async def remove_image(self, node: str, image: str) -> None:
        """Remove it through CRI, as the kubelet's garbage collection does."""
        async with open_runtime(f"unix://{self.cluster.socket_of(node)}") as runtime:
            await runtime.remove(image)


@contextlib.asynccontextmanager
async def open_stack(
    options: Options, *, nodes: Sequence[str] = ("node-1", "node-2"), api_arguments: Sequence[str] = ()
) -> AsyncIterator[Stack]:
    """All of it, ready; skips or fails the test (requirement `containerd`) if there is none or no root."""
    if nodes:
        need("containerd", "containerd", root=True)
    with stack_folder() as folder:
        plan = Plan(folder, folder / "kubeconfig", runtime="containerd", environ=options.environ, peers=options.peers)
        async with open_cluster(plan, inherited()) as cluster:
            stack = Stack(cluster, options, api_arguments)
            async with stack.http:
                await stack.start_api()
                await install(stack.kubernetes)
                await create_namespace(stack.kubernetes, NAMESPACE)
                if options.peers:
                    cluster.registry = options.registry
                    await cluster.join(*nodes)
                    # What a `web` reads at its start serves it for minutes.
                    await cluster.peers_ready()
                    await stack.start_web()
                else:
                    await asyncio.gather(stack.start_web(), cluster.join(*nodes))
                yield stack
