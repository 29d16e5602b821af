"""How does a test get all of Warmhook running? API server, `web --watch`, and nodes with a containerd and an agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from adapters.cri import open_runtime
from adapters.kubernetes.client import Kubernetes, NotFound
from adapters.kubernetes.paths import CRDS, NODES, configmaps, node, secrets_in, warmimages
from adapters.kubernetes.transport import open_transport
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from devcluster import containerd
from devcluster.admission import SECRET as SECRET_OF_ADMISSION
from devcluster.nodes import node_object
from devcluster.programs import Program, ProgramFailed, Programs
from devcluster.registry.images import Image, write_image
from devcluster.registry.serve import Registry
from tests.real.programs import eventually, free_port, need
from tests.support.crds import without_patterns
from warmhook.api import API_VERSION
from warmhook.node_lines import desired_name
from warmhook.node_report import report_name
from warmhook.ports import Object, RuntimeImage

__all__ = ["NAMESPACE", "SECRET", "SYSTEM", "Options", "Stack", "events_of", "open_stack"]

SYSTEM: Final = "warmhook-system"
NAMESPACE: Final = "shop"
"""Of the policies."""
SECRET: Final = "Bearer planted-of-the-registry"
"""What the registry proves itself with; the whole `Authorization` header."""
_ROOT: Final = Path(__file__).parents[2]
_PYTHON: Final = (sys.executable, "-m")
_READY_SECONDS: Final = 60.0
# Backwards, the order of stopping.
_API_SERVER, _RUNTIME, _AGENT, _WEB = range(4)
_DISTRIBUTION_TYPES: Final = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class Options:
    """What differs from one test to another."""

    registry: str
    """`127.0.0.1:<port>`, the only host that the registry may speak of."""
    nodes: tuple[str, ...] = ("node-1", "node-2")
    """Each with a containerd and an agent."""
    bare_nodes: tuple[str, ...] = ()
    """Nodes on which nothing runs."""
    web_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    api_arguments: tuple[str, ...] = ()
    agent: Mapping[str, str] = field(default_factory=dict)
    """More environment of the agents."""
    web: Mapping[str, str] = field(default_factory=dict)
    """More environment of `web`."""
    sources: tuple[Object, ...] = ()
    """More senders in the configuration file."""
    containerd_config: str = ""
    """Appended to each containerd's configuration."""

    @property
    def webhook_url(self) -> str:
        """Where the registry posts its notifications."""
        return f"http://127.0.0.1:{self.web_port}/webhooks/registry"


@dataclass(slots=True)
class Stack:
    """Everything that runs, and what a test does to it and asks of it."""

    options: Options
    folder: Path
    kubernetes: Kubernetes
    """The test's own client."""
    http: httpx.AsyncClient
    api: Program
    _programs: Programs
    _web: Program | None = None
    agents: dict[str, Program] = field(default_factory=dict)
    """By node."""
    runtimes: dict[str, Program] = field(default_factory=dict)
    """By node."""

    @property
    def web(self) -> Program:
        """`web`, with watch inside."""
        assert self._web is not None
        return self._web

    @property
    def kubeconfig(self) -> Path:
        """Names the API server."""
        return self.folder / "kubeconfig"

    # --- programs ---

    async def start_api(self) -> None:
        """Start the API server, at the same address and with the cluster it had."""
        self.api = await _start_api(self._programs, self.options, self.folder)

    async def start_web(self) -> None:
        """Start `web --watch`; its port is open afterwards."""
        options = self.options
        environ = self._environ() | {
            "PORT": str(options.web_port),
            "WARMHOOK_CONFIG": str(self.folder / "config.yaml"),
            "WARMHOOK_SECRET": SECRET,
        }
        source = {
            "name": "registry",
            "kind": "distribution",
            "registryHost": options.registry,
            "secret": {"env": "WARMHOOK_SECRET"},
        }
        (self.folder / "config.yaml").write_text(json.dumps({"sources": [source, *options.sources]}))  # YAML reads JSON
        command = (*_PYTHON, "handlers", "--watch")
        self._web = await self._programs.start("web", command, stage=_WEB, environ=environ | dict(options.web))
        await _ready(self._programs, self._web, self._web_answers)

    async def start_runtime(self, name: str) -> None:
        """Start the node's containerd, with the images it had; its CRI answers afterwards."""
        await self._start_runtime(name)
        await self._runtime_ready(name)

    async def start_agent(self, name: str) -> None:
        """Start the node's agent; it has found its runtime afterwards."""
        known = len(self.agents[name].output()) if name in self.agents else 0
        await self._start_agent(name)
        await self.says(self.agents[name], '"event": "runtime"', after=known)

    async def says(self, program: Program, words: str, *, after: int = 0, seconds: float = _READY_SECONDS) -> None:
        """Wait until the program has printed `words`, past the first `after` characters of its output."""
        await _ready(self._programs, program, lambda: words in program.output()[after:], seconds)

    async def kill(self, program: Program) -> None:
        """End a program as a crash would."""
        os.killpg(program.process.pid, signal.SIGKILL)
        await program.process.wait()

    async def stop(self, program: Program) -> int:
        """Ask a program to stop; its exit status."""
        program.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(program.process.wait(), 20)

    async def _start_runtime(self, name: str) -> None:
        root = self.folder / name
        if not root.exists():
            containerd.prepare(root)
            with (root / "config.toml").open("a") as config:
                config.write(self.options.containerd_config)
        command = containerd.command(root)
        self.runtimes[name] = await self._programs.start(f"runtime-{name}", command, stage=_RUNTIME)

    async def _runtime_ready(self, name: str) -> None:
        await _ready(self._programs, self.runtimes[name], lambda: self._runtime_answers(name))

    async def _runtime_answers(self, name: str) -> bool:
        reader_writer = asyncio.open_unix_connection(str(containerd.socket_of(self.folder / name)))
        try:
            _reader, writer = await reader_writer
        except OSError:
            return False
        writer.close()
        return True

    async def _start_agent(self, name: str) -> None:
        environ = self._environ() | {
            "NODE_NAME": name,
            "CONTAINER_RUNTIME_ENDPOINT": self._endpoint(name),
            "WARMHOOK_STATE_DIR": str(self.folder / f"{name}.state"),
            "WARMHOOK_METRICS_PORT": "0",
            "WARMHOOK_ALLOW_LOCAL_REGISTRIES": "true",
            "WARMHOOK_MIN_FREE_PERCENT": "0",
        }
        command = (*_PYTHON, "nodeagent")
        self.agents[name] = await self._programs.start(
            f"agent-{name}", command, stage=_AGENT, environ=environ | dict(self.options.agent)
        )

    async def _web_answers(self) -> bool:
        try:
            answer = await self.http.get(f"http://127.0.0.1:{self.options.web_port}/readyz")
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    def _endpoint(self, name: str) -> str:
        return f"unix://{containerd.socket_of(self.folder / name)}"

    def _environ(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig), "WARMHOOK_LOG": "json"}

    # --- what people, registries and kubelets do ---

    async def apply_policy(self, spec: Object, *, name: str = "shop") -> None:
        """Create a WarmPolicy."""
        policy = {"apiVersion": API_VERSION, "kind": "WarmPolicy", "metadata": {"name": name}, "spec": spec}
        await self.kubernetes.create(f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/warmpolicies", policy)

    async def drop_patterns(self) -> None:
        """What is made from now on may say what the CRDs of an older version let in."""
        for crd in (warmimage_crd(), warmpolicy_crd()):
            await self.kubernetes.patch(f"{CRDS}/{crd['metadata']['name']}", without_patterns(crd))

    async def register(self, name: str) -> None:
        """Create the Node."""
        number = int(name.rpartition("-")[2])
        await self.kubernetes.create(NODES, node_object(name, number, runtime="containerd://1.6.20"))
        # Every Node begins with the taint not-ready; a controller that is not here would take it away.
        await self.kubernetes.patch(node(name), {"spec": {"taints": None}})

    async def join(self, *names: str) -> None:
        """Nodes that come up: containerd, Node and agent."""
        for name in names:
            await self._start_runtime(name)
            await self.register(name)
        for name in names:
            await self._runtime_ready(name)
            await self._start_agent(name)
        for name in names:
            await self.says(self.agents[name], '"event": "runtime"')

    async def notify(self, repository: str, tag: str, digest: str) -> httpx.Response:
        """Post what a registry posts when `repository:tag` was pushed."""
        target = {"mediaType": _DISTRIBUTION_TYPES, "digest": digest, "repository": repository, "tag": tag}
        event = {
            "id": f"{repository}:{tag}@{digest}",
            "timestamp": datetime.now(UTC).isoformat(),
            "action": "push",
            "target": target,
            "request": {"host": self.options.registry},
        }
        return await self.http.post(
            self.options.webhook_url, json={"events": [event]}, headers={"authorization": SECRET}
        )

    async def push(self, registry: Registry, repository: str, tag: str, image: Image) -> str:
        """Put an image into the registry and tell `web`, again until it accepts; its reference."""
        digest = write_image(registry.root, repository, tag, image)

        async def accepted() -> bool:
            return (await self.notify(repository, tag, digest)).status_code == 202

        await eventually(accepted, what=f"web accepts the push of {repository}:{tag}")
        return f"{registry.host}/{repository}:{tag}"

    # --- what is to be seen ---

    async def warmimages(self) -> list[Object]:
        """All WarmImages."""
        return (await self.kubernetes.list(warmimages())).items

    async def status(self, image: str) -> Object:
        """The status of the WarmImage for a reference; empty where there is none."""
        found = [it for it in await self.warmimages() if it["spec"]["image"] == image]
        status: Object = found[0].get("status") or {} if found else {}
        return status

    async def counts(self, image: str) -> str:
        """`warm/desired`, and `+unreachable` where some are."""
        status = await self.status(image)
        silent = status.get("unreachable", 0)
        return f"{status.get('warm')}/{status.get('desired')}" + (f"+{silent}" if silent else "")

    async def becomes(self, image: str, counts: str, *, seconds: float = 60) -> None:
        """Wait until the WarmImage's `counts` are these."""

        async def agree() -> bool:
            return await self.counts(image) == counts

        await self.eventually(agree, what=f"{image} is {counts}", seconds=seconds)

    async def eventually(
        self, holds: Callable[[], Coroutine[Any, Any, bool]] | Callable[[], bool], *, what: str, seconds: float = 60
    ) -> None:
        """Wait until `holds` does; otherwise fail with everything that the programs said."""
        try:
            await eventually(holds, what=what, seconds=seconds)
        except TimeoutError as error:
            said = "\n".join(f"--- {path.name}\n{path.read_text()[-6000:]}" for path in self.logs())
            raise AssertionError(f"{error}\n{json.dumps(await self.warmimages(), indent=1)}\n{said}") from error

    async def images(self, name: str) -> list[RuntimeImage]:
        """What the node's containerd lists."""
        async with open_runtime(self._endpoint(name)) as runtime:
            return await runtime.images()

    async def remove_image(self, name: str, image: str) -> None:
        """Remove it through CRI, as the kubelet's garbage collection does."""
        async with open_runtime(self._endpoint(name)) as runtime:
            await runtime.remove(image)

    async def desired(self, name: str) -> Object | None:
        """The ConfigMap that the handlers write for the node."""
        return await self._configmap(desired_name(name))

    async def report(self, name: str) -> Object | None:
        """The ConfigMap that the node's agent writes."""
        return await self._configmap(report_name(name))

    def logs(self) -> list[Path]:
        """What Warmhook's own programs have printed."""
        return sorted(path for path in (self.folder / "logs").iterdir() if not path.name.startswith("runtime-"))

    async def _configmap(self, name: str) -> Object | None:
        try:
            return await self.kubernetes.get(configmaps(SYSTEM, name))
        except NotFound:
            return None


@contextlib.asynccontextmanager
async def open_stack(options: Options) -> AsyncIterator[Stack]:
    """All of it, ready; skips or fails the test (requirement `containerd`) where there is none or no root."""
    if options.nodes:
        need("containerd", "containerd", root=True)
    folder = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    (folder / "logs").mkdir()
    try:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(containerd.unmount, folder)
            programs = await stack.enter_async_context(Programs(folder / "logs", _inherited(), folder=_ROOT))
            api = await _start_api(programs, options, folder)
            http = await stack.enter_async_context(httpx.AsyncClient(timeout=10))
            transport = await stack.enter_async_context(open_transport(str(folder / "kubeconfig")))
            running = Stack(options, folder, Kubernetes(transport), http, api, programs)
            await _install(running.kubernetes)
            for name in options.bare_nodes:
                await running.register(name)
            async with asyncio.TaskGroup() as group:
                group.create_task(running.start_web(), name="start web")
                group.create_task(running.join(*options.nodes), name="start nodes")
            yield running
    finally:
        shutil.rmtree(folder)


def events_of(program: Program, name: str) -> list[dict[str, Any]]:
    """The lines of a program's log with that event name."""
    lines = [json.loads(line) for line in program.output().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == name]


async def _ready(
    programs: Programs, program: Program, holds: Callable[[], Awaitable[bool] | bool], seconds: float = _READY_SECONDS
) -> None:
    """Wait for a program; otherwise fail with the end of its log."""
    try:
        await programs.ready(program, holds, seconds=seconds)
    except ProgramFailed as error:
        raise AssertionError(f"{error}:\n{error.tail}") from error


async def _start_api(programs: Programs, options: Options, folder: Path) -> Program:
    files = ("--kubeconfig", str(folder / "kubeconfig"), "--data", str(folder / "cluster"))
    command = (*_PYTHON, "devcluster.apiserver", "--port", str(options.api_port), *files, *options.api_arguments)
    log = folder / "logs" / "apiserver.log"
    known = len(log.read_text()) if log.exists() else 0
    program = await programs.start("apiserver", command, stage=_API_SERVER)
    await _ready(programs, program, lambda: "apiserver ready" in program.output()[known:])
    return program


async def _install(kubernetes: Kubernetes) -> None:
    """What an administrator has done."""
    for namespace in (SYSTEM, NAMESPACE):
        await kubernetes.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    await kubernetes.create(secrets_in(SYSTEM), SECRET_OF_ADMISSION)
    for crd in (warmpolicy_crd(), warmimage_crd()):
        await kubernetes.create(CRDS, crd)


def _inherited() -> dict[str, str]:
    """The test's environment without settings of Warmhook's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("WARMHOOK_", "KUBE"))}
