"""Run nodes with a containerd and an agent each, behind links of their own, and a registry with a slow uplink."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import httpx

from adapters.cri import open_runtime
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.paths import NODES, node, warmimages_in
from devcluster import containerd
from devcluster.cluster import Plan
from devcluster.nodes import architecture, node_object
from devcluster.registry.images import Image, incompressible_image
from tests.bench.network import GIGABIT, Host, Network, open_network
from tests.bench.nodes import push
from tests.bench.place import NotMeasured, Place, open_embedded
from tests.bench.sending import Sender, open_sender, start_web
from tests.real.programs import eventually
from tests.real.registry import push_image
from warmhook.ports import Object

__all__ = ["LAYERS", "MEGABYTES", "REGISTRY_RATE", "Distribution", "PeerNodes", "open_peer_nodes"]

MEGABYTES: Final = 100
"""The size of an image (S), in units of 1,000,000 bytes; no compressor makes it smaller."""
LAYERS: Final = 4
REGISTRY_RATE: Final = 10_000_000
"""Bytes per second that leave the registry (R), with the headers of their packets."""

_NODES: Final = tuple(f"node-{number}" for number in range(1, 9))
_REGISTRY: Final = "registry"
_REGISTRY_STAGE: Final = 1
_WAIT_SECONDS: Final = 240.0


@dataclass(frozen=True, slots=True)
class Distribution:
    """How one image came to all nodes. Seconds count from the sender's 202."""

    transfer_seconds: float
    """Until the last blob was complete on the last node."""
    warm_seconds: float
    """Until the last node had pulled."""
    registry_bytes: int
    """What left the registry, with the headers of the packets."""


@dataclass(frozen=True, slots=True)
class PeerNodes:
    """The nodes and the registry, while `web` and the agents run."""

    place: Place
    network: Network
    sender: Sender

    @property
    def registry(self) -> Host:
        """Where the registry runs."""
        return self.network.hosts[_REGISTRY]

    @property
    def registry_host(self) -> str:
        """The host part of its images' names."""
        return _registry_host(self.network)

    async def distribute(self, repository: str, tag: str) -> Distribution:
        """Push a new image and wait until all nodes have it; then remove it everywhere."""
        image = await asyncio.to_thread(image_of, repository, tag)
        reference = await push_image(self.registry_host, repository, tag, image)
        nodes = [_Node(self.place, name) for name in _NODES]
        before = self.registry.sent_bytes()
        accepted = await push(self.sender, self.registry_host, repository, tag, image.digest)
        moment = datetime.now().astimezone()
        needed = sum(map(len, image.blobs)) + len(image.manifest)
        await _wait(lambda: all(each.content_bytes() >= needed for each in nodes), "all blobs are on all nodes")
        transfer = time.monotonic() - accepted
        await _wait(lambda: all(each.pulled(reference) for each in nodes), f"all nodes have pulled {reference}")
        sent = self.registry.sent_bytes() - before
        warm = max((each.pulled(reference) or moment) - moment for each in nodes).total_seconds()
        await self._remove(nodes, reference)
        return Distribution(transfer, warm, sent)

    async def _remove(self, nodes: Sequence[_Node], reference: str) -> None:
        """Remove the WarmImages, then the image from each node with everything that belongs to it."""
        kubernetes, path = self.place.kubernetes, warmimages_in(self.place.namespace)
        for obj in (await kubernetes.list(path, metadata_only=True)).items:
            await kubernetes.delete(f"{path}/{obj['metadata']['name']}")
        await _wait(lambda: all(each.forgot() for each in nodes), "no agent wants the image")
        await asyncio.gather(*(each.remove(reference) for each in nodes))
        await _wait(lambda: all(each.content_bytes() == 0 for each in nodes), "no node has content")


class _Node:
    """What one node has, seen from outside: in its content store and in its agent's log from now on."""

    def __init__(self, place: Place, name: str) -> None:
        self._cluster, self._name = place.cluster, name
        self._log = place.cluster.agents[name].log
        self._from = self._log.stat().st_size

    def content_bytes(self) -> int:
        """The sizes of all complete blobs."""
        blobs = self._cluster.plan.folder / self._name / "root" / "io.containerd.content.v1.content" / "blobs"
        return sum(_size(path) for path in blobs.glob("sha256/*"))

    def pulled(self, reference: str) -> datetime | None:
        """When the agent had pulled the image. Raises `NotMeasured` if it could not."""
        for event in self._events("pull"):
            if event["image"] == reference and event["result"] == "pulled":
                return datetime.fromisoformat(event["time"])
            raise NotMeasured(f"{self._name} could not pull: {event}")
        return None

    def forgot(self) -> bool:
        """Whether the agent has seen that its line is gone."""
        return any(event["removed"] for event in self._events("lines-changed"))

    async def remove(self, reference: str) -> None:
        """Remove the image through CRI."""
        async with open_runtime(f"unix://{self._cluster.socket_of(self._name)}") as runtime:
            await runtime.remove(reference)

    def _events(self, name: str) -> list[Object]:
        lines = self._log.read_bytes()[self._from :].decode(errors="replace").splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [event for event in events if event.get("event") == name]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


async def _wait(holds: Callable[[], bool], what: str) -> None:
    """Wait as long as eight direct pulls may take."""
    await eventually(holds, what=what, seconds=_WAIT_SECONDS)


def image_of(repository: str, tag: str) -> Image:
    """The image that a tag names: the same bytes for the same name."""
    return incompressible_image(MEGABYTES, f"{repository}:{tag}", layers=LAYERS, platform=f"linux/{architecture()}")


@contextlib.asynccontextmanager
async def open_peer_nodes(place: Place, template: Object) -> AsyncIterator[PeerNodes]:
    """Eight nodes that want every push to `bench/**`, by a policy whose template has `template` besides the nodes."""
    for program in ("containerd", "docker-registry", "skopeo"):
        if shutil.which(program) is None:
            raise NotMeasured(f"there is no {program} here")
    async with (
        open_network({_REGISTRY: REGISTRY_RATE} | dict.fromkeys(_NODES, GIGABIT)) as network,
        open_embedded(place, _plan(place, network), network.address) as own,
    ):
        host = _registry_host(network)
        await _start_registry(own, network)
        for name in _NODES:
            _prepare_runtime(own, name, host)
        await own.cluster.join(*_NODES)
        await own.create_policy("peers", f"{host}/bench/**", template=template)
        web = await start_web(own, "--watch", host=host, registries=[{"host": host, "plainHttp": True}])
        async with open_sender(web.port) as sender:
            yield PeerNodes(own, network, sender)


def _registry_host(network: Network) -> str:
    return f"{network.hosts[_REGISTRY].address}:5000"


def _plan(place: Place, network: Network) -> Plan:
    folder = place.folder / "p"
    folder.mkdir()

    async def settings(program: str) -> Mapping[str, str]:
        environ = {"WARMHOOK_NAMESPACE": place.namespace}
        if (name := program.removeprefix("agent-")) in network.hosts:
            environ |= {"HOST_IP": network.hosts[name].address}
        return environ

    return Plan(
        folder,
        folder / "kubeconfig",
        runtime="containerd",
        environ=settings,
        register=_register,
        on_node=lambda command, name: network.hosts[name].inside(*command),
    )


async def _register(kubernetes: Kubernetes, name: str) -> None:
    body = node_object(name, int(name.rpartition("-")[2]), runtime="containerd://1.6.20")
    body["metadata"]["labels"]["topology.kubernetes.io/zone"] = "local-a"
    await kubernetes.create(NODES, body)
    await kubernetes.patch(node(name), {"spec": {"taints": None}})


async def _start_registry(place: Place, network: Network) -> None:
    host, folder = _registry_host(network), place.folder / "registry"
    config = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(folder)}},
        "http": {"addr": host},
    }
    path = place.folder / "registry.yml"
    path.write_text(json.dumps(config))  # YAML reads JSON
    command = network.hosts[_REGISTRY].inside("docker-registry", "serve", str(path))
    program = await place.programs.start("docker-registry", command, stage=_REGISTRY_STAGE)
    async with httpx.AsyncClient(trust_env=False) as client:

        async def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await client.get(f"http://{host}/v2/")).status_code == 200
            return False

        await place.programs.ready(program, answers)


def _prepare_runtime(place: Place, name: str, registry: str) -> None:
    """The configuration of a node's containerd, to which this registry is one without TLS."""
    root = place.folder / name
    containerd.prepare(root)
    hosts = root / "certs.d" / registry
    hosts.mkdir()
    (hosts / "hosts.toml").write_text(f'server = "http://{registry}"\n[host."http://{registry}"]\n')
