"""Run nodes with a containerd and an agent each, behind links of their own, and a registry with a slow uplink."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import httpx

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.paths import NODES, configmaps, node
from devcluster import containerd
from devcluster.cluster import Plan, free_port
from devcluster.nodes import architecture, node_object
from devcluster.registry.folder import digest_of
from devcluster.registry.images import Image, incompressible_image
from devcluster.tokens import write_peer_token
from tests.bench.network import GIGABIT, Network, open_network
from tests.bench.place import NotMeasured, Place, open_embedded
from tests.bench.pushing import push_layers
from tests.bench.sending import SECRET
from tests.real.programs import eventually
from warmhook.api import KIND_LABEL, PEER_ANNOTATION
from warmhook.hints import hint_key, read_hint

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
    """How one image came to all nodes. Seconds count from when the registry had the manifest."""

    transfer_seconds: float
    """Until the last blob was complete on the last node."""
    warm_seconds: float
    """Until the last node had pulled."""
    registry_bytes: int
    """What left the registry since the push began, with the headers of the packets."""
    seeds: int
    """How many nodes had to read the registry by the plan (k0); all nodes without one."""


@dataclass(frozen=True, slots=True)
class PeerNodes:
    """The nodes and the registry, while `web` and the agents run."""

    place: Place
    network: Network

    async def distribute(self, repository: str, tag: str, push_rate: int = 0) -> Distribution:
        """Push a new image, at so many bytes per second if that is not 0, and wait until all nodes have it."""
        registry, host = self.network.hosts[_REGISTRY], _registry_host(self.network)
        image = await asyncio.to_thread(_image_of, repository, tag)
        digests = [digest_of(blob) for blob in (image.manifest, *image.blobs)]
        nodes = [_Node(self.place, name) for name in _NODES]
        before = registry.sent_bytes()
        pushed = await push_layers(host, repository, tag, image, push_rate)
        await _wait(lambda: all(each.has(digests) for each in nodes), "all blobs are on all nodes")
        transferred, reference = time.time(), f"{host}/{repository}:{tag}"
        await _wait(lambda: all(each.pulled(reference) for each in nodes), f"all nodes have pulled {reference}")
        sent = registry.sent_bytes() - before
        warm = max(each.pulled(reference) for each in nodes)
        return Distribution(transferred - pushed, warm - pushed, sent, await self._seeds())

    async def _seeds(self) -> int:
        """How many nodes have no hint that names parents."""
        path = configmaps(self.place.namespace)
        found = (await self.place.kubernetes.list(path, labels=f"{KIND_LABEL}=desired")).items
        texts = [text for obj in found for key, text in obj["data"].items() if key.endswith(hint_key(""))]
        return len(_NODES) - sum(bool(read_hint(text).parents) for text in texts)


class _Node:
    """What one node has, seen from outside: in its content store, and in its agent's log from now on."""

    def __init__(self, place: Place, name: str) -> None:
        self._name, self._log = name, place.cluster.agents[name].log
        self._blobs = (
            place.cluster.plan.folder / name / "root" / "io.containerd.content.v1.content" / "blobs" / "sha256"
        )
        self._from = self._log.stat().st_size

    def has(self, digests: Sequence[str]) -> bool:
        """Whether these blobs are complete."""
        return all((self._blobs / digest.removeprefix("sha256:")).exists() for digest in digests)

    def pulled(self, reference: str) -> float:
        """When the agent had pulled the image, in Unix seconds; 0 if it has not. Raises `NotMeasured` if it cannot."""
        lines = self._log.read_bytes()[self._from :].decode(errors="replace").splitlines()
        for event in (json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")):
            if event.get("event") == "pull" and event["image"] == reference:
                if event["result"] != "pulled":
                    raise NotMeasured(f"{self._name} could not pull: {event}")
                return datetime.fromisoformat(event["time"]).timestamp()
        return 0.0


async def _wait(holds: Callable[[], bool], what: str) -> None:
    """Wait as long as eight direct pulls may take."""
    await eventually(holds, what=what, seconds=_WAIT_SECONDS)


def _image_of(repository: str, tag: str) -> Image:
    """The image that a tag names: the same bytes for the same name."""
    return incompressible_image(MEGABYTES, f"{repository}:{tag}", layers=LAYERS, platform=f"linux/{architecture()}")


@contextlib.asynccontextmanager
async def open_peer_nodes(place: Place, *, early_blobs: bool = False) -> AsyncIterator[PeerNodes]:
    """Eight nodes that want every push: those to `bench/direct` from the registry, as a policy says.

    `early_blobs`: they may fetch the layers of a push before its end.
    """
    for program in ("containerd", "docker-registry"):
        if shutil.which(program) is None:
            raise NotMeasured(f"there is no {program} here")
    async with (
        open_network({_REGISTRY: REGISTRY_RATE} | dict.fromkeys(_NODES, GIGABIT)) as network,
        open_embedded(place, _plan(place, network), network.address) as own,
    ):
        host, port = _registry_host(network), free_port()
        await _start_registry(own, network, f"http://{network.address}:{port}/webhooks/registry")
        for name in _NODES:
            _prepare_runtime(own, name, host)
        await own.cluster.join(*_NODES)
        # A push in the seconds in which agents start is planned with those that serve already.
        await eventually(lambda: _all_serve(own), what="every agent serves images", seconds=_WAIT_SECONDS)
        await own.create_policy("peers", f"{host}/bench/peers", template={})
        await own.create_policy("direct", f"{host}/bench/direct", template={"source": {"mode": "registry"}})
        source = {"name": "registry", "kind": "distribution", "registryHost": host, "secret": {"env": "BENCH_SECRET"}}
        await own.cluster.start_web(
            [source | ({"earlyBlobs": True} if early_blobs else {})],
            registries=[{"host": host, "plainHttp": True}],
            port=port,
            environ={
                "BENCH_SECRET": SECRET,
                "WARMHOOK_REGISTRY_RATE": str(REGISTRY_RATE),
                "WARMHOOK_NODE_RATE": str(GIGABIT),
            },
        )
        yield PeerNodes(own, network)


async def _all_serve(place: Place) -> bool:
    """Whether every node has reported where it serves images."""
    path = configmaps(place.namespace)
    found = (await place.kubernetes.list(path, labels=f"{KIND_LABEL}=report", metadata_only=True)).items
    return sum(PEER_ANNOTATION in obj["metadata"].get("annotations", {}) for obj in found) == len(_NODES)


def _registry_host(network: Network) -> str:
    return f"{network.hosts[_REGISTRY].address}:5000"


def _plan(place: Place, network: Network) -> Plan:
    folder = Path(tempfile.mkdtemp(dir=place.folder))

    async def settings(program: str) -> Mapping[str, str]:
        environ = {"WARMHOOK_NAMESPACE": place.namespace}
        if (name := program.removeprefix("agent-")) in network.hosts:
            environ |= {
                "HOST_IP": network.hosts[name].address,
                "WARMHOOK_PEER_TOKEN_FILE": str(folder / f"{name}.token"),
                "WARMHOOK_PLAIN_HTTP_REGISTRIES": _registry_host(network),
            }
        return environ

    return Plan(
        folder,
        folder / "kubeconfig",
        runtime="containerd",
        environ=settings,
        register=partial(_register, folder),
        on_node=lambda command, name: network.hosts[name].inside(*command),
    )


async def _register(folder: Path, kubernetes: Kubernetes, name: str) -> None:
    """Create the Node, in the same zone as all, and the token of its agent."""
    body = node_object(name, int(name.rpartition("-")[2]), runtime="containerd://1.6.20")
    body["metadata"]["labels"]["topology.kubernetes.io/zone"] = "local-a"
    await kubernetes.create(NODES, body)
    await kubernetes.patch(node(name), {"spec": {"taints": None}})
    await write_peer_token(kubernetes, name, folder / f"{name}.token")


async def _start_registry(place: Place, network: Network, webhook: str) -> None:
    host, folder = _registry_host(network), place.folder / "registry"
    endpoint = {
        "name": "bench",
        "url": webhook,
        "headers": {"Authorization": [SECRET]},
        "timeout": "5s",
        "threshold": 3,
        "backoff": "200ms",
        "ignore": {"actions": ["pull"]},
    }
    config = {
        "version": 0.1,
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(folder)}},
        "http": {"addr": host},
        "notifications": {"endpoints": [endpoint]},
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
