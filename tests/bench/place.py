"""Where is it measured? On an API server, with objects of the run's own that are removed one by one afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.kubernetes.client import Conflict, Kubernetes, NotFound
from adapters.kubernetes.paths import CRDS, NODES, configmaps, node, warmimages, warmimages_in
from adapters.kubernetes.transport import open_transport
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from devcluster.nodes import node_object
from devcluster.programs import Programs
from tests.bench.figures import ClusterKind
from tests.real.programs import eventually
from warmhook.api import API_VERSION
from warmhook.placement import Node
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey

__all__ = ["API_SERVER", "PACKAGES", "NotMeasured", "Place", "another_namespace", "open_place"]

PACKAGES: Final = Path(__file__).parents[2]
API_SERVER: Final = 0
"""The stage of `Programs` that is stopped last."""
_READY_SECONDS: Final = 30.0
_NAMESPACES: Final = "/api/v1/namespaces"
_CUSTOM: Final = f"/apis/{API_VERSION}/namespaces"


class NotMeasured(Exception):
    """Something is missing here; the message says what."""


@dataclass(frozen=True, slots=True)
class Place:
    """What every measurement works with."""

    cluster: ClusterKind
    folder: Path
    """Of this measurement; short enough for the sockets below it."""
    kubeconfig: str
    kubernetes: Kubernetes
    programs: Programs
    namespace: str
    """Of all objects that have one; also the beginning of the Nodes' names, and their pool."""
    quick: bool
    say: Callable[[str], None]

    def runs(self, usual: int, quick: int = 3) -> int:
        """How often to repeat."""
        return quick if self.quick else usual

    def settings(self) -> dict[str, str]:
        """The environment that every program is given."""
        return {"KUBECONFIG": self.kubeconfig, "WARMHOOK_NAMESPACE": self.namespace, "WARMHOOK_LOG": "json"}

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

    async def create_policy(self, name: str, repositories: str, *, keep: int = 1) -> None:
        """A WarmPolicy for pushes to these repositories, onto the Nodes of this measurement."""
        spec = {"push": [{"repository": repositories, "keep": keep}], "template": {"nodes": self.selector}}
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
    folder = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    logs = folder / "logs"
    logs.mkdir()
    try:
        async with contextlib.AsyncExitStack() as stack:
            servers = await stack.enter_async_context(Programs(logs, environ, folder=PACKAGES))
            file = kubeconfig or await _start_apiserver(servers, folder)
            transport = await stack.enter_async_context(open_transport(file, user_agent="warmhook-bench"))
            kubernetes = Kubernetes(transport)
            namespace = f"wh-bench-{secrets.token_hex(3)}"
            await _prepare(kubernetes, namespace)
            if kubeconfig:
                stack.push_async_callback(_clean_up, kubernetes, namespace)
            # Entered last: nothing that Warmhook's programs write comes after the cleaning.
            programs = await stack.enter_async_context(Programs(logs, environ, folder=PACKAGES))
            cluster: ClusterKind = "real" if kubeconfig else "embedded"
            yield Place(cluster, folder, file, kubernetes, programs, namespace, quick, say)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def another_namespace(place: Place, suffix: str) -> AsyncIterator[str]:
    """One more namespace of this measurement, removed like the first; nothing may write there any more by then."""
    namespace = f"{place.namespace}-{suffix}"
    await place.kubernetes.create(_NAMESPACES, {"metadata": {"name": namespace}})
    try:
        yield namespace
    finally:
        if place.cluster == "real":
            await _clean_up(place.kubernetes, namespace)


async def _start_apiserver(servers: Programs, folder: Path) -> str:
    file = folder / "kubeconfig"
    command = (sys.executable, "-m", "devcluster.apiserver", "--port", "0", "--kubeconfig", str(file))
    server = await servers.start("apiserver", command, stage=API_SERVER)
    await servers.ready(server, lambda: "apiserver ready on" in server.output(), seconds=_READY_SECONDS)
    return str(file)


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
    await eventually(served, what="the CRDs are served", seconds=_READY_SECONDS)


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
