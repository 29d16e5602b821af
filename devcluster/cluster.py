"""How does a whole cluster come up on one machine? API server, registry, nodes and Warmhook's programs, as children."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from adapters.kubernetes.client import Kubernetes, KubernetesError
from adapters.kubernetes.paths import CRDS, NODES, node, secrets_in
from adapters.kubernetes.transport import open_transport
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from devcluster import containerd
from devcluster.admission import CONFIGURATIONS, SECRET, configuration
from devcluster.nodes import node_object
from devcluster.programs import Program, Programs

__all__ = ["NAMESPACE", "Cluster", "Commands", "Plan", "RuntimeName", "naming_its_end", "open_cluster"]

RuntimeName: TypeAlias = Literal["embedded", "containerd"]
NAMESPACE: Final = "warmhook-system"
_READY_SECONDS: Final = 30.0
_SECRET_BYTES: Final = 12
# A connection breaks before the system tells that the process at its other end is gone.
_END_SECONDS: Final = 2.0
# The order of stopping, backwards: an agent tells the API server that it leaves, and web must not call it an error.
_API_SERVER, _REGISTRY, _RUNTIME, _AGENT, _WEB = range(5)
_READY_LINE: Final = '"event": "ready"'


@dataclass(frozen=True, slots=True)
class Commands:
    """How Warmhook's own programs are started."""

    web: tuple[str, ...]
    """With watch inside."""
    agent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to come up, and where."""

    folder: Path
    """For everything that is written; at most 80 characters, for the sockets below it."""
    kubeconfig: Path
    """Is written."""
    nodes: int = 3
    runtime: RuntimeName = "embedded"
    api_port: int = 0
    """0 takes a free one."""


@dataclass(slots=True)
class Cluster:
    """A cluster that is up."""

    plan: Plan
    kubernetes: Kubernetes
    programs: Programs
    api_url: str
    registry: str
    """`127.0.0.1:<port>`: the host part of its images' names."""
    web_url: str
    secret: str
    """What the sender `harbor` proves itself with."""
    shared: tuple[Program, ...]
    """Programs that every node depends on."""
    agents: Mapping[str, Program]
    """By node."""
    runtimes: Mapping[str, Program]
    """By node."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Their names, in order."""
        return tuple(self.agents)

    @property
    def registry_root(self) -> Path:
        """The registry's folder; what is written there it serves."""
        return _registry_root(self.plan)

    def check(self) -> None:
        """Raise `ProgramFailed` where a program ended that everything depends on."""
        for program in self.shared:
            if program.ended:
                raise program.failed(program.ended)

    def ended_on(self, name: str) -> Program | None:
        """The program of this node that has ended, if one has."""
        return next((each for each in (self.agents[name], self.runtimes[name]) if each.ended), None)


@contextlib.asynccontextmanager
async def open_cluster(
    plan: Plan, commands: Commands, environ: Mapping[str, str], *, packages: Path, say: Callable[[str], None]
) -> AsyncIterator[Cluster]:
    """A cluster with the CRDs, `plan.nodes` Nodes and an agent on each; all of it ends with the context.

    Programs inherit `environ` and import from `packages`. `say` is told what has come up. Raises `ProgramFailed`, also
    in place of a `KubernetesError` that comes of the API server's end.
    """
    logs = plan.folder / "logs"
    logs.mkdir()
    _registry_root(plan).mkdir()
    names = [f"node-{number}" for number in range(1, plan.nodes + 1)]
    async with contextlib.AsyncExitStack() as stack:
        if plan.runtime == "containerd":
            stack.push_async_callback(containerd.unmount, plan.folder)
        programs = await stack.enter_async_context(Programs(logs, environ, folder=packages))
        api, registry = await _start_servers(programs, plan)
        await stack.enter_async_context(naming_its_end(api))
        runtimes = {name: await _start_runtime(programs, plan, name) for name in names}
        await programs.ready(api, lambda: "apiserver ready on" in api.output(), seconds=_READY_SECONDS)
        api_url = api.output().rpartition("ready on ")[2].split()[0]
        say(f"API server   {api_url}")
        transport = await stack.enter_async_context(open_transport(str(plan.kubeconfig), user_agent="warmhook-cli"))
        kubernetes = Kubernetes(transport)
        await _install(kubernetes, names, plan.runtime)
        tls_port = _free_port()
        await kubernetes.create(CONFIGURATIONS, configuration(tls_port))
        await programs.ready(registry, lambda: _READY_LINE in registry.output(), seconds=_READY_SECONDS)
        host = str(json.loads(registry.output().splitlines()[0])["host"])
        say(f"registry     http://{host}/v2/")
        ready = _READY_LINE if plan.runtime == "embedded" else containerd.BOOTED
        await _all_say(programs, runtimes, ready)
        secret = secrets.token_hex(_SECRET_BYTES)
        port = _free_port()
        agents = {name: await _start_agent(programs, plan, commands.agent, name) for name in names}
        web = await _start_web(programs, plan, commands.web, port, tls_port, host, secret)
        await asyncio.gather(
            _all_say(programs, agents, '"event": "runtime"'),
            programs.ready(web, lambda: _answers(port), seconds=_READY_SECONDS),
        )
        web_url = f"http://127.0.0.1:{port}"
        say(f"web          {web_url}/webhooks/harbor")
        say(f"{len(names)} nodes      {_range(names)}, with {_kind(plan.runtime)} and an agent")
        yield Cluster(
            plan, kubernetes, programs, api_url, host, web_url, secret, (api, registry, web), agents, runtimes
        )


@contextlib.asynccontextmanager
async def naming_its_end(api: Program, *, seconds: float = _END_SECONDS) -> AsyncIterator[None]:
    """Raise `ProgramFailed` where a request got no answer because the API server ended, and `seconds` pass at most."""
    try:
        yield
    except KubernetesError as error:
        if error.status:
            raise
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(api.process.wait(), seconds)
        if not api.ended:
            raise
        raise api.failed(api.ended) from error


async def _start_servers(programs: Programs, plan: Plan) -> tuple[Program, Program]:
    python = (sys.executable, "-m")
    arguments = ("--port", str(plan.api_port), "--kubeconfig", str(plan.kubeconfig))
    api = await programs.start("apiserver", (*python, "devcluster.apiserver", *arguments), stage=_API_SERVER)
    arguments = ("--port", "0", "--root", str(_registry_root(plan)))
    registry = await programs.start("registry", (*python, "devcluster.registry", *arguments), stage=_REGISTRY)
    return api, registry


async def _start_runtime(programs: Programs, plan: Plan, name: str) -> Program:
    root = plan.folder / name
    if plan.runtime == "containerd":
        containerd.prepare(root)
        command: Sequence[str] = containerd.command(root)
    else:
        command = (sys.executable, "-m", "devcluster.cri", "--socket", str(_socket(plan, name)), "--root", str(root))
    return await programs.start(f"runtime-{name}", command, stage=_RUNTIME)


async def _start_agent(programs: Programs, plan: Plan, command: Sequence[str], name: str) -> Program:
    environ = _settings(plan) | {
        "NODE_NAME": name,
        "CONTAINER_RUNTIME_ENDPOINT": f"unix://{_socket(plan, name)}",
        "WARMHOOK_STATE_DIR": str(plan.folder / f"{name}.state"),
        "WARMHOOK_METRICS_PORT": "0",
        "WARMHOOK_ALLOW_LOCAL_REGISTRIES": "true",
        # The images are small, and nothing removes them when the disk of this machine is fuller than a node's may be.
        "WARMHOOK_MIN_FREE_PERCENT": "0",
    }
    return await programs.start(f"agent-{name}", command, stage=_AGENT, environ=environ)


async def _start_web(
    programs: Programs, plan: Plan, command: Sequence[str], port: int, tls_port: int, host: str, secret: str
) -> Program:
    (plan.folder / "secret").write_text(secret)
    config = plan.folder / "config.yaml"
    source = {"name": "harbor", "kind": "harbor", "registryHost": host, "secret": {"file": str(plan.folder / "secret")}}
    # JSON is YAML.
    config.write_text(json.dumps({"sources": [source]}, indent=2))
    environ = _settings(plan) | {
        "PORT": str(port),
        "WARMHOOK_TLS_PORT": str(tls_port),
        "WARMHOOK_CONFIG": str(config),
    }
    return await programs.start("web", command, stage=_WEB, environ=environ)


async def _install(kubernetes: Kubernetes, names: Sequence[str], runtime: RuntimeName) -> None:
    """What an administrator and the kubelets would have done."""
    await kubernetes.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    await kubernetes.create(secrets_in(NAMESPACE), SECRET)
    for crd in (warmpolicy_crd(), warmimage_crd()):
        await kubernetes.create(CRDS, crd)
    for number, name in enumerate(names, 1):
        await kubernetes.create(NODES, node_object(name, number, runtime=f"{runtime}://"))
        # Every Node begins with the taint not-ready; a controller that is not here would take it away.
        await kubernetes.patch(node(name), {"spec": {"taints": None}})


async def _all_say(programs: Programs, each: Mapping[str, Program], words: str) -> None:
    def says(program: Program) -> Callable[[], bool]:
        return lambda: words in program.output()

    for program in each.values():
        await programs.ready(program, says(program), seconds=_READY_SECONDS)


async def _answers(port: int) -> bool:
    """Whether somebody accepts connections there; `web` opens its port when it is ready."""
    try:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


def _settings(plan: Plan) -> dict[str, str]:
    return {"KUBECONFIG": str(plan.kubeconfig), "WARMHOOK_NAMESPACE": NAMESPACE, "WARMHOOK_LOG": "json"}


def _registry_root(plan: Plan) -> Path:
    return plan.folder / "registry"


def _socket(plan: Plan, name: str) -> Path:
    return containerd.socket_of(plan.folder / name) if plan.runtime == "containerd" else plan.folder / f"{name}.sock"


def _free_port() -> int:
    """One that was free a moment ago: `web` cannot be given port 0."""
    with socket.create_server(("", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _range(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _kind(runtime: RuntimeName) -> str:
    return "an embedded runtime" if runtime == "embedded" else "containerd"
