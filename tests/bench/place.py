"""Measure on an API server, with objects of the run's own, which are removed one by one afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Conflict, NotFound
from adapters.kubernetes.paths import CRDS, NODES, configmaps, node, warmimages, warmimages_in
from adapters.kubernetes.transport import open_transport
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from devcluster.cluster import Cluster, Plan, open_cluster
from devcluster.nodes import node_object
from devcluster.programs import Programs
from tests.bench.figures import ClusterKind
from tests.real.programs import eventually
from tests.support.stack import stack_folder
from warmhook.api import API_VERSION
from warmhook.placement import Node
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey

__all__ = ["PACKAGES", "NotMeasured", "Place", "another_namespace", "open_embedded", "open_place"]

PACKAGES: Final = Path(__file__).parents[2]
_NAMESPACES: Final = "/api/v1/namespaces"
_CUSTOM: Final = f"/apis/{API_VERSION}/namespaces"


class NotMeasured(Exception):
    """Something is missing here; the message says what."""


@dataclass(frozen=True, slots=True)
class Place:
    """What every measurement works with."""

    kind: ClusterKind
    cluster: Cluster
    """Its folder is of this measurement."""
    namespace: str
    """Of all objects that have one; also the beginning of the Nodes' names, and their pool."""
    quick: bool
    say: Callable[[str], None]

    @property
    def folder(self) -> Path:
        """Short enough for the sockets in it."""
        return self.cluster.plan.folder

    @property
    def kubeconfig(self) -> str:
        """Of the API server."""
        return str(self.cluster.plan.kubeconfig)

    @property
    def kubernetes(self) -> Kubernetes:
        """A client with the rights of the kubeconfig."""
        return self.cluster.kubernetes

    @property
    def programs(self) -> Programs:
        """Those that run."""
        return self.cluster.programs

    def runs(self, usual: int, quick: int = 3) -> int:
        """How often to repeat."""
        return quick if self.quick else usual

    async def create_nodes(self, count: int, *, one_in: int = 1) -> list[Node]:
        """Nodes of this measurement; one in so many is in the pool that `selector` chooses."""
        return list(await asyncio.gather(*(self._create_node(number, one_in) for number in range(1, count + 1))))

    async def _create_node(self, number: int, one_in: int) -> Node:
        body = node_object(f"{self.namespace}-{number:04}", number, runtime="bench://")
        pool = self.namespace if (number - 1) % one_in == 0 else f"{self.namespace}-other"
        body["metadata"]["labels"] |= {"pool": pool, "warmhook-bench": self.namespace}
        created = (await self.kubernetes.create(NODES, body))["metadata"]
        return Node(created["name"], created["uid"], created["labels"])

    @property
    def selector(self) -> Object:
        """The `nodes` of a template that chooses the Nodes of this measurement."""
        return {"selector": {"matchLabels": {"pool": self.namespace}}}

    async def create_policy(
        self, name: str, repositories: str, *, keep: int = 1, template: Object | None = None
    ) -> None:
        """A WarmPolicy for pushes to these repositories; without a template onto the Nodes of this measurement."""
        push = [{"repository": repositories, "keep": keep}]
        spec = {"push": push, "template": {"nodes": self.selector} if template is None else template}
        body = {"apiVersion": API_VERSION, "kind": "WarmPolicy", "metadata": {"name": name}, "spec": spec}
        await self.kubernetes.create(f"{_CUSTOM}/{self.namespace}/warmpolicies", body)

    async def create_warmimage(self, name: str, image: str, digest: str) -> Object:
        """A WarmImage as a person makes one."""
        spec = {"image": image, "digest": digest, "nodes": self.selector}
        body = {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": {"name": name}, "spec": spec}
        return await self.kubernetes.create(warmimages_in(self.namespace), body)

    def warmimage_path(self, name: str) -> str:
        """Where a WarmImage of this measurement is."""
        return warmimages(ObjectKey(self.namespace, name))


@contextlib.asynccontextmanager
async def open_place(
    kubeconfig: str | None, environ: Mapping[str, str], *, quick: bool, say: Callable[[str], None]
) -> AsyncIterator[Place]:
    """A place on the cluster of `kubeconfig`, without one on an embedded API server of its own."""
    namespace = f"wh-bench-{secrets.token_hex(3)}"

    async def settings(_program: str) -> Mapping[str, str]:
        return {"WARMHOOK_NAMESPACE": namespace}

    with stack_folder() as folder:
        async with contextlib.AsyncExitStack() as stack:
            given = None
            if kubeconfig:
                transport = await stack.enter_async_context(open_transport(kubeconfig, user_agent="warmhook-bench"))
                given = Kubernetes(transport)
                await _prepare(given, namespace)
                stack.push_async_callback(_clean_up, given, namespace)
            # Entered last: nothing that Warmhook's programs write comes after the cleaning.
            plan = Plan(folder, Path(kubeconfig or folder / "kubeconfig"), environ=settings)
            cluster = await stack.enter_async_context(open_cluster(plan, environ, kubernetes=given))
            if given is None:
                await cluster.start_api("--port", "0")
                await _prepare(cluster.kubernetes, namespace)
            yield Place("real" if kubeconfig else "embedded", cluster, namespace, quick, say)


@contextlib.asynccontextmanager
async def open_embedded(place: Place, plan: Plan, address: str) -> AsyncIterator[Place]:
    """The same measurement on one more cluster, whose embedded API server listens on that address of this machine."""
    async with open_cluster(plan, os.environ) as cluster:
        await cluster.start_api("--port", "0", "--host", address)
        await _prepare(cluster.kubernetes, place.namespace)
        yield replace(place, kind="embedded", cluster=cluster)


@contextlib.asynccontextmanager
async def another_namespace(place: Place, suffix: str) -> AsyncIterator[str]:
    """One more namespace of this measurement, removed like the first; nothing may write there any more by then."""
    namespace = f"{place.namespace}-{suffix}"
    await place.kubernetes.create(_NAMESPACES, {"metadata": {"name": namespace}})
    try:
        yield namespace
    finally:
        if place.kind == "real":
            await _clean_up(place.kubernetes, namespace)


async def _prepare(kubernetes: Kubernetes, namespace: str) -> None:
    for crd in (warmpolicy_crd(), warmimage_crd()):
        with contextlib.suppress(Conflict):
            await kubernetes.create(CRDS, crd)
    await kubernetes.create(_NAMESPACES, {"metadata": {"name": namespace}})

    async def served() -> bool:
        try:
            for plural in ("warmpolicies", "warmimages"):
                await kubernetes.list(f"{_CUSTOM}/{namespace}/{plural}")
        except NotFound:
            return False
        return True

    # A CRD is served a moment after it was created.
    await eventually(served, what="the CRDs are served")


async def _clean_up(kubernetes: Kubernetes, namespace: str) -> None:
    """Remove everything of this measurement by name: removal of a whole namespace needs controllers."""
    collections = [f"{_CUSTOM}/{namespace}/{plural}" for plural in ("warmpolicies", "warmimages")]
    for path in (*collections, configmaps(namespace)):
        found = (await kubernetes.list(path, metadata_only=True)).items
        await asyncio.gather(*(kubernetes.delete(f"{path}/{obj['metadata']['name']}") for obj in found))
    nodes = (await kubernetes.list(NODES, labels=f"warmhook-bench={namespace}", metadata_only=True)).items
    await asyncio.gather(*(kubernetes.delete(node(obj["metadata"]["name"])) for obj in nodes))
    path = f"{_NAMESPACES}/{namespace}"
    await kubernetes.delete(path)
    with contextlib.suppress(NotFound, Conflict):
        # It is empty; where no controller says so it would be terminating for ever.
        terminating = await kubernetes.get(path)
        await kubernetes.replace(f"{path}/finalize", terminating | {"spec": {"finalizers": []}})
