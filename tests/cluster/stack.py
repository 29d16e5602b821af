"""How does a test run Warmhook on a real cluster? As processes with the shipped rights, beside nodes of its own.

The cluster needs neither controllers nor kubelets: the test creates the Nodes, and each gets a containerd of its own
(the CRI stand-in where there is none) and an agent. No other Warmhook may run on that cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from adapters.kubernetes.client import Conflict, Kubernetes, NotFound
from adapters.kubernetes.paths import NODES, configmaps, warmimages_in
from adapters.kubernetes.paths import node as node_path
from adapters.kubernetes.transport import open_transport
from devcluster import containerd
from devcluster.nodes import node_object
from devcluster.programs import Program, ProgramFailed, Programs
from devcluster.registry.images import Image, write_image
from devcluster.registry.serve import Registry, serve_registry
from tests.cluster.access import agent_token, grant, web_token, write_kubeconfig
from tests.cluster.place import Place, open_place
from tests.real.programs import eventually, free_port
from warmhook.api import API_VERSION
from warmhook.node_lines import desired_name
from warmhook.node_report import report_name
from warmhook.ports import Object

__all__ = ["Stack", "open_stack"]

_ROOT: Final = Path(__file__).parents[2]
_SECRET: Final = "Bearer of-the-registry"
_RUNTIME, _AGENT, _WEB = range(3)
_READY_SECONDS: Final = 30.0


@dataclass(slots=True)
class Stack:
    """Everything that runs, and what a test does to it and asks of it."""

    place: Place
    folder: Path
    registry: Registry
    _kubeconfig: Path
    _http: httpx.AsyncClient
    _programs: Programs
    webs: dict[int, Program] = field(default_factory=dict)
    """By port."""
    agents: dict[str, Program] = field(default_factory=dict)
    """By node."""
    _numbers: dict[str, int] = field(default_factory=dict)

    @property
    def kubernetes(self) -> Kubernetes:
        """With the rights of the test."""
        return self.place.kubernetes

    # --- programs ---

    async def start_web(self, port: int = 0) -> int:
        """Start a `web --watch`; its port."""
        port = port or free_port()
        source = {
            "name": "harbor",
            "kind": "harbor",
            "registryHost": self.registry.host,
            "secret": {"env": "WARMHOOK_SECRET"},
        }
        config = self.folder / "config.yaml"
        config.write_text(json.dumps({"sources": [source]}))  # YAML reads JSON
        environ = self._environ("web", await web_token(self.place)) | {
            "PORT": str(port),
            "WARMHOOK_CONFIG": str(config),
            "WARMHOOK_SECRET": _SECRET,
            "WARMHOOK_SYNC_SECONDS": "20",
        }
        web = await self._programs.start(f"web-{port}", _python("handlers", "--watch"), stage=_WEB, environ=environ)
        self.webs[port] = web

        async def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await self._http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
            return False

        await self._ready(web, answers)
        return port

    async def join(self, *names: str) -> list[str]:
        """Nodes that come up: runtime, Node and agent. Their full names."""
        nodes = [f"{self.place.prefix}-{name}" for name in names]
        for name in nodes:
            await self._start_runtime(name)
            await self.register(name)
        for name in nodes:
            await self.start_agent(name)
        for name in nodes:
            agent = self.agents[name]
            await self._ready(agent, lambda agent=agent: '"event": "runtime"' in agent.output())  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
        return nodes

    async def register(self, name: str) -> Object:
        """Create the Node; the object."""
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        node = node_object(name, number, runtime="containerd://1.6.20")
        # Labels are shorter than names may be.
        node["metadata"]["labels"] |= {"pool": self.place.prefix, "kubernetes.io/hostname": name[:63]}
        return await self.place.create(NODES, node)

    async def unregister(self, name: str) -> None:
        """Delete the Node."""
        await self.kubernetes.delete(node_path(name))

    async def start_agent(self, name: str) -> None:
        """Start the node's agent, as a new Pod."""
        self._numbers["pods"] = self._numbers.get("pods", 0) + 1
        token = await agent_token(self.place, name, f"agent-{self._numbers['pods']}")
        environ = self._environ(f"agent-{name}", token) | {
            "NODE_NAME": name,
            "CONTAINER_RUNTIME_ENDPOINT": f"unix://{containerd.socket_of(self.folder / name)}",
            "WARMHOOK_STATE_DIR": str(self.folder / f"{name}.state"),
            "WARMHOOK_METRICS_PORT": "0",
            "WARMHOOK_ALLOW_LOCAL_REGISTRIES": "true",
            "WARMHOOK_MIN_FREE_PERCENT": "0",
            "WARMHOOK_CHECK_SECONDS": "2",
        }
        self.agents[name] = await self._programs.start(
            f"agent-{name}", _python("nodeagent"), stage=_AGENT, environ=environ
        )

    async def stop(self, program: Program) -> None:
        """Ask a program to end, and see that it does so in order."""
        program.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(program.process.wait(), 20) == 0

    async def kill(self, program: Program) -> None:
        """End a program as a crash would."""
        os.killpg(program.process.pid, signal.SIGKILL)
        await program.process.wait()

    async def _start_runtime(self, name: str) -> None:
        root = self.folder / name
        socket = containerd.socket_of(root)
        if containerd.missing():
            root.mkdir()
            command = _python("devcluster.cri", "--socket", str(socket), "--root", str(root / "content"))
        else:
            containerd.prepare(root)
            command = containerd.command(root)
        runtime = await self._programs.start(f"runtime-{name}", command, stage=_RUNTIME)

        async def answers() -> bool:
            try:
                _reader, writer = await asyncio.open_unix_connection(str(socket))
            except OSError:
                return False
            writer.close()
            return True

        await self._ready(runtime, answers)

    async def _ready(self, program: Program, holds: Callable[[], Awaitable[bool] | bool]) -> None:
        try:
            await self._programs.ready(program, holds, seconds=_READY_SECONDS)
        except ProgramFailed as error:
            raise AssertionError(f"{error}:\n{error.tail}") from error

    def _environ(self, name: str, token: str) -> dict[str, str]:
        kubeconfig = self.folder / f"{name}.kubeconfig"
        write_kubeconfig(kubeconfig, self._kubeconfig, token)
        return {"KUBECONFIG": str(kubeconfig), "WARMHOOK_LOG": "json", "WARMHOOK_NAMESPACE": self.place.namespace}

    # --- what people and registries do ---

    async def apply_policy(self, keep: int = 5) -> None:
        """Want what is pushed below `shop/` on all nodes of this stack."""
        spec = {
            "push": [{"repository": f"{self.registry.host}/shop/**", "keep": keep}],
            "template": {"nodes": {"selector": {"matchLabels": {"pool": self.place.prefix}}}},
        }
        collection = f"/apis/{API_VERSION}/namespaces/{self.place.namespace}/warmpolicies"
        policy = {"apiVersion": API_VERSION, "kind": "WarmPolicy", "metadata": {"name": "shop"}, "spec": spec}
        try:
            await self.place.create(collection, policy)
        except Conflict:
            await self.kubernetes.patch(f"{collection}/shop", {"spec": spec})

    async def push(self, tag: str, image: Image, *, port: int = 0) -> str:
        """Put an image into the registry and deliver Harbor's webhook until it is accepted; its reference.

        `port` is that of the `web` to tell; 0 is the first.
        """
        digest = write_image(self.registry.root, "shop/app", tag, image)
        reference = f"{self.registry.host}/shop/app:{tag}"
        body = {
            "type": "PUSH_ARTIFACT",
            "occur_at": int(datetime.now(UTC).timestamp()),
            "operator": "ci",
            "event_data": {
                "resources": [{"digest": digest, "tag": tag, "resource_url": reference}],
                "repository": {"name": "app", "namespace": "shop", "repo_full_name": "shop/app"},
            },
        }
        url = f"http://127.0.0.1:{port or next(iter(self.webs))}/webhooks/harbor"

        async def accepted() -> bool:
            with contextlib.suppress(httpx.TransportError):
                answer = await self._http.post(url, json=body, headers={"authorization": _SECRET})
                return answer.status_code == 202
            return False

        await eventually(accepted, what=f"web accepts the push of {reference}")
        return reference

    # --- what is to be seen ---

    async def counts(self, image: str) -> str:
        """`warm/desired` of the WarmImage, and `+unreachable` where some are."""
        listing = await self.kubernetes.list(warmimages_in(self.place.namespace))
        status = next((it.get("status") or {} for it in listing.items if it["spec"]["image"] == image), {})
        silent = status.get("unreachable", 0)
        return f"{status.get('warm')}/{status.get('desired')}" + (f"+{silent}" if silent else "")

    async def becomes(self, image: str, counts: str) -> None:
        """Wait until the WarmImage's `counts` are these."""

        async def agree() -> bool:
            return await self.counts(image) == counts

        await self.eventually(agree, what=f"{image} is {counts}")

    async def owners(self, name: str) -> list[str]:
        """Who owns the node's ConfigMaps: the uid of each that there is."""
        found = []
        for configmap in (desired_name(name), report_name(name)):
            with contextlib.suppress(NotFound):
                obj = await self.kubernetes.get(configmaps(self.place.namespace, configmap))
                found += [owner["uid"] for owner in obj["metadata"]["ownerReferences"]]
        return found

    async def eventually(
        self, holds: Callable[[], Coroutine[Any, Any, bool]] | Callable[[], bool], *, what: str, seconds: float = 60
    ) -> None:
        """Wait until `holds` does; otherwise fail with everything that the programs said."""
        try:
            await eventually(holds, what=what, seconds=seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.said()}") from error

    def said(self) -> str:
        """What Warmhook's own programs have printed."""
        logs = sorted(path for path in (self.folder / "logs").iterdir() if not path.name.startswith("runtime-"))
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in logs)

    async def requests(self) -> list[str]:
        """What `web` asked of the API server, as its metrics count it."""
        found: list[str] = []
        for port in (port for port, web in self.webs.items() if not web.ended):
            metrics = (await self._http.get(f"http://127.0.0.1:{port}/metrics")).text
            found += [line for line in metrics.splitlines() if line.startswith("warmhook_api_requests_total{")]
        return found

    async def refusals(self) -> list[str]:
        """Everything that the API server did not let the programs do."""
        said = [line for line in self.said().splitlines() if re.search(r"\b403\b|[Ff]orbidden", line)]
        return said + [line for line in await self.requests() if 'code="403"' in line]


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


def _inherited() -> dict[str, str]:
    """The test's environment without settings of Warmhook's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("WARMHOOK_", "KUBE"))}


@contextlib.asynccontextmanager
async def open_stack() -> AsyncIterator[Stack]:
    """A place in the cluster with the shipped rights, and a registry; nothing of Warmhook runs yet."""
    kubeconfig = os.environ.get("WARMHOOK_TEST_KUBECONFIG", "")
    if not kubeconfig:
        pytest.skip("WARMHOOK_TEST_KUBECONFIG names no cluster")
    folder = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    (folder / "logs").mkdir()
    try:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(containerd.unmount, folder)
            transport = await stack.enter_async_context(open_transport(kubeconfig))
            place = await stack.enter_async_context(open_place(Kubernetes(transport)))
            await grant(place)
            registry = await stack.enter_async_context(serve_registry(folder / "registry"))
            http = await stack.enter_async_context(httpx.AsyncClient(timeout=10))
            programs = await stack.enter_async_context(Programs(folder / "logs", _inherited(), folder=_ROOT))
            yield Stack(place, folder, registry, Path(kubeconfig), http, programs)
    finally:
        shutil.rmtree(folder)
