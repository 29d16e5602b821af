"""Run Warmhook on a real cluster for a test: processes with the shipped rights, and nodes of the test's own.

The cluster needs neither controllers nor kubelets: the test creates the Nodes, and each gets a containerd of its own
(the CRI stand-in if there is none) and an agent. No other Warmhook may run on that cluster.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.paths import NODES, warmpolicies
from adapters.kubernetes.paths import node as node_path
from adapters.kubernetes.transport import open_transport
from devcluster import containerd
from devcluster.cluster import Cluster, Plan, open_cluster
from devcluster.nodes import node_object
from devcluster.registry.images import Image
from devcluster.registry.serve import Registry, serve_registry
from tests.cluster.access import agent_token, grant, web_token, write_kubeconfig
from tests.cluster.place import Place, open_place
from tests.support.stack import SECRET, BaseStack, inherited, source_of, stack_folder
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey

__all__ = ["Stack", "open_stack"]


class Nodes:
    """The Nodes of a place, and the settings with which the programs get the shipped rights."""

    def __init__(self, place: Place, folder: Path, kubeconfig: Path) -> None:
        """`kubeconfig` has the rights of the test; those of the programs are written to `folder`."""
        self._place, self._folder, self._kubeconfig = place, folder, kubeconfig
        self._numbers: dict[str, int] = {}
        self._pods = 0

    async def register(self, _kubernetes: Kubernetes, name: str) -> Object:
        """Create the Node; the object."""
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        node = node_object(name, number, runtime="containerd://1.6.20")
        # Labels are shorter than names may be.
        node["metadata"]["labels"] |= {"pool": self._place.prefix, "kubernetes.io/hostname": name[:63]}
        return await self._place.create(NODES, node)

    async def environ(self, name: str) -> Mapping[str, str]:
        """Of `web`, or of an agent, which gets a new Pod at each start."""
        common = {"KUBECONFIG": str(self._folder / f"{name}.kubeconfig"), "WARMHOOK_NAMESPACE": self._place.namespace}
        if name == "web":
            token = await web_token(self._place)
            own = {"WARMHOOK_SECRET": SECRET, "WARMHOOK_SYNC_SECONDS": "20"}
        else:
            self._pods += 1
            token = await agent_token(self._place, name.removeprefix("agent-"), f"agent-{self._pods}")
            own = {"WARMHOOK_CHECK_SECONDS": "2"}
        write_kubeconfig(Path(common["KUBECONFIG"]), self._kubeconfig, token)
        return common | own


class Stack(BaseStack):
    """Everything that runs, and what a test does to it and sees of it."""

    def __init__(self, cluster: Cluster, place: Place, registry: Registry, nodes: Nodes) -> None:
        """Nothing of Warmhook runs yet."""
        super().__init__(cluster, registry.host, system=place.namespace, namespace=place.namespace)
        self.place, self._registry, self._nodes = place, registry, nodes
        self.webs = cluster.webs

    async def start_web(self, port: int = 0) -> int:
        """Start a `web --watch`; its port."""
        return await self.cluster.start_web([source_of(self.registry_host)], port=port)

    async def join(self, *names: str) -> list[str]:
        """Bring up nodes; their full names."""
        nodes = [f"{self.place.prefix}-{name}" for name in names]
        await self.cluster.join(*nodes)
        return nodes

    async def register(self, name: str) -> Object:
        """Create the Node; the object."""
        return await self._nodes.register(self.kubernetes, name)

    async def unregister(self, name: str) -> None:
        """Delete the Node."""
        await self.kubernetes.delete(node_path(name))

    async def keep(self, count: int = 5) -> None:
        """Apply a policy that puts what is pushed below `shop/` on all nodes of this stack."""
        spec = {
            "push": [{"repository": f"{self.registry_host}/shop/**", "keep": count}],
            "template": {"nodes": {"selector": {"matchLabels": {"pool": self.place.prefix}}}},
        }
        await self.apply_policy(spec)
        self.place.note(warmpolicies(ObjectKey(self.namespace, "shop")))

    async def push(self, tag: str, image: Image, *, port: int = 0) -> str:
        """Put an image into the registry and notify `web` until it accepts; its reference."""
        return await self.push_to(self._registry.root, "shop/app", tag, image, port=port)

    async def owners(self, name: str) -> list[str]:
        """The owners of the node's ConfigMaps: the uid of each that there is."""
        found = []
        for configmap in (await self.desired(name), await self.report(name)):
            if configmap is not None:
                found += [owner["uid"] for owner in configmap["metadata"]["ownerReferences"]]
        return found

    async def requests(self) -> list[str]:
        """The requests of `web` to the API server, as its metrics count them."""
        found: list[str] = []
        for port in (port for port, web in self.webs.items() if not web.ended):
            metrics = (await self.http.get(f"http://127.0.0.1:{port}/metrics")).text
            found += [line for line in metrics.splitlines() if line.startswith("warmhook_api_requests_total{")]
        return found

    async def refusals(self) -> list[str]:
        """Everything that the API server did not let the programs do."""
        printed = [line for path in self.logs() for line in path.read_text().splitlines()]
        refused = [line for line in printed if re.search(r"\b403\b|[Ff]orbidden", line)]
        return refused + [line for line in await self.requests() if 'code="403"' in line]


@contextlib.asynccontextmanager
async def open_stack() -> AsyncIterator[Stack]:
    """A place in the cluster with the shipped rights, and a registry; nothing of Warmhook runs yet."""
    kubeconfig = os.environ.get("WARMHOOK_TEST_KUBECONFIG", "")
    if not kubeconfig:
        pytest.skip("WARMHOOK_TEST_KUBECONFIG names no cluster")
    with stack_folder() as folder:
        async with (
            open_transport(kubeconfig) as transport,
            open_place(Kubernetes(transport)) as place,
            serve_registry(folder / "registry") as registry,
        ):
            await grant(place)
            nodes = Nodes(place, folder, Path(kubeconfig))
            plan = Plan(
                folder,
                Path(kubeconfig),
                runtime="embedded" if containerd.missing() else "containerd",
                environ=nodes.environ,
                register=nodes.register,
            )
            async with open_cluster(plan, inherited(), kubernetes=place.kubernetes) as cluster:
                stack = Stack(cluster, place, registry, nodes)
                async with stack.http:
                    yield stack
