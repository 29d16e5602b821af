"""Run a cluster on one machine: API server, registry, and Warmhook's programs on nodes with a runtime each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError
from adapters.kubernetes.paths import configmaps
from adapters.kubernetes.transport import open_transport
from devcluster import containerd
from devcluster.install import NAMESPACE, register
from devcluster.programs import Program, Programs
from devcluster.tokens import peer_token
from warmhook.api import KIND_LABEL, PEER_ANNOTATION
from warmhook.ports import Object

RuntimeName: TypeAlias = Literal["embedded", "containerd"]
UNLIMITED: Final = {
    "names": ["**"],
    "linesPerNode": 256,
    "bytesPerNode": 98304,
    "highestPriority": 1000,
    "allow": ["Delete", "Pinned", "SharePrivate"],
}
"""The limits of every namespace: the cluster has one user."""

Environ: TypeAlias = Mapping[str, str]

_PACKAGES: Final = Path(__file__).resolve().parents[1]
_PYTHON: Final = (sys.executable, "-m")
_SECRET_BYTES: Final = 12
_TOKEN_SECONDS: Final = 86_400
_FIRST_PORT: Final = 15_000
_PORTS: Final = 15_000
"""Of them `free_port` takes one."""
# A connection breaks before the system reports the end of the process at its other end.
_END_SECONDS: Final = 2.0
# Programs of a higher stage stop first: an agent writes a last report, and `web` must not log the API server's end.
_API_SERVER, _REGISTRY, _RUNTIME, _AGENT, _WEB = range(5)


@dataclass(frozen=True, slots=True)
class Commands:
    """How Warmhook's own programs are started."""

    web: Sequence[str] = (*_PYTHON, "handlers", "--watch")
    agent: Sequence[str] = (*_PYTHON, "nodeagent")


async def _no_environ(_name: str) -> Environ:
    return {}


def _here(command: Sequence[str], _node: str) -> Sequence[str]:
    return command


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a cluster's programs run, and what differs from one cluster to another."""

    folder: Path
    """For everything that is written; at most 80 characters, because of the sockets in it."""
    kubeconfig: Path
    """Of the API server. `Cluster.start_api` writes it."""
    runtime: RuntimeName = "embedded"
    commands: Commands = Commands()
    environ: Callable[[str], Awaitable[Environ]] = _no_environ
    """More settings of a program, by its name: `web`, `agent-<node>`. Called at each start."""
    peers: bool = False
    """Whether nodes get images from each other, each at an address of its own on loopback."""
    register: Callable[[Kubernetes, str], Awaitable[Any]] = register
    """Creates the Node of a node that joins."""
    on_node: Callable[[Sequence[str], str], Sequence[str]] = _here
    """The command that runs a command on the node of that name, such as in a network namespace."""

    @property
    def registry_root(self) -> Path:
        """The folder that the registry serves."""
        return self.folder / "registry"


class Cluster:
    """The programs of a cluster. Methods start one program each and return when it is ready.

    Each raises `ProgramFailed` if the program ends, or is not ready in time. All of them end with `open_cluster`.
    """

    api: Program
    """The embedded API server, after `start_api`."""
    kubernetes: Kubernetes
    """A client with the rights of the kubeconfig."""
    registry: str
    """`127.0.0.1:<port>`, the host part of its images' names; after `start_registry`."""

    def __init__(self, plan: Plan, programs: Programs, exits: contextlib.AsyncExitStack) -> None:
        """What is opened later closes with `exits`."""
        self.plan, self.programs, self._exits = plan, programs, exits
        self.secret = secrets.token_hex(_SECRET_BYTES)
        """What a sender may prove itself with."""
        self.shared: list[Program] = []
        """Programs that every node depends on."""
        self.webs: dict[int, Program] = {}
        """By port."""
        self.agents: dict[str, Program] = {}
        """By node."""
        self.runtimes: dict[str, Program] = {}
        """By node."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of those with an agent, in the order of their numbers."""
        return tuple(sorted(self.agents, key=lambda name: (len(name), name)))

    @property
    def web_url(self) -> str:
        """Of the first `web`."""
        return f"http://127.0.0.1:{next(iter(self.webs))}"

    def check(self) -> None:
        """Raise `ProgramFailed` if a program ended that every node depends on."""
        for program in self.shared:
            if program.ended:
                raise program.failed(program.ended)

    def ended_on(self, node: str) -> Program | None:
        """The agent or the runtime of this node, if it ended."""
        return next((each for each in (self.agents[node], self.runtimes[node]) if each.ended), None)

    async def start_api(self, *arguments: str) -> str:
        """Start the embedded API server with these arguments and connect to it; its URL."""
        command = (*_PYTHON, "devcluster.apiserver", "--kubeconfig", str(self.plan.kubeconfig), *arguments)
        self.api = await self._start_shared("apiserver", command, stage=_API_SERVER)
        await self.programs.prints(self.api, "apiserver ready on")
        if not hasattr(self, "kubernetes"):
            transport = open_transport(str(self.plan.kubeconfig), user_agent="warmhook-cli")
            self.kubernetes = Kubernetes(await self._exits.enter_async_context(transport))
        return self.api.printed().rpartition("ready on ")[2].split()[0]

    async def start_registry(self, *, bytes_per_second: int = 0) -> None:
        """Start a registry that serves the folder of images, to all nodes together at this rate; 0: no limit."""
        root = self.plan.registry_root
        root.mkdir(exist_ok=True)
        limit = ("--bytes-per-second", str(bytes_per_second))
        command = (*_PYTHON, "devcluster.registry", "--port", "0", "--root", str(root), *limit)
        program = await self._start_shared("registry", command, stage=_REGISTRY)
        await self.programs.prints(program, '"event": "ready"')
        self.registry = str(json.loads(program.printed().splitlines()[0])["host"])

    def registry_bytes(self) -> int:
        """The bytes of all answers of the registry so far."""
        program = next(each for each in self.shared if each.name == "registry")
        lines = (json.loads(line) for line in program.printed().splitlines() if line.endswith("}"))
        return sum(line.get("bytes", 0) for line in lines)

    async def start_runtime(self, node: str) -> None:
        """Start the node's container runtime, with the images that it had."""
        root = self.plan.folder / node
        command: Sequence[str]
        if self.plan.runtime == "containerd":
            if not root.exists():
                containerd.prepare(root)
            command, ready = containerd.command(root), containerd.BOOTED
        else:
            options = ("--socket", str(self.socket_of(node)), "--root", str(root))
            command, ready = (*_PYTHON, "devcluster.cri", *options), '"event": "ready"'
        command = self.plan.on_node(command, node)
        self.runtimes[node] = await self.programs.start(f"runtime-{node}", command, stage=_RUNTIME)
        await self.programs.prints(self.runtimes[node], ready)

    async def start_agent(self, node: str, socket: Path | None = None) -> None:
        """Start the node's agent; its runtime, at `socket` if it is not the node's own, has answered on return."""
        name = f"agent-{node}"
        environ = self._environ() | {
            "NODE_NAME": node,
            "CONTAINER_RUNTIME_ENDPOINT": f"unix://{socket or self.socket_of(node)}",
            "WARMHOOK_STATE_DIR": str(self.plan.folder / f"{node}.state"),
            "WARMHOOK_METRICS_PORT": "0",
            "WARMHOOK_ALLOW_LOCAL_REGISTRIES": "true",
            # The images are small, and nothing removes them if this machine's disk is fuller than a node's may be.
            "WARMHOOK_MIN_FREE_PERCENT": "0",
        }
        if self.plan.peers:
            environ |= await self._peer_environ(node)
        environ |= await self.plan.environ(name)
        command = self.plan.on_node(self.plan.commands.agent, node)
        self.agents[node] = await self.programs.start(name, command, stage=_AGENT, environ=environ)
        await self.programs.prints(self.agents[node], '"event": "runtime"')

    async def start_web(
        self,
        sources: Sequence[Object],
        *,
        registries: Sequence[Object] = (),
        port: int = 0,
        environ: Environ = MappingProxyType({}),
        command: Sequence[str] = (),
        wait: bool = True,
    ) -> int:
        """Start `web` with these senders and registries; its port, a free one if `port` is 0.

        `command` replaces the plan's.

        Without `wait` it is not ready on return.
        """
        port = port or free_port()
        config = self.plan.folder / f"config-{port}.yaml"
        content = {"sources": list(sources), "namespaces": [UNLIMITED], "registries": list(registries)}
        config.write_text(json.dumps(content, indent=2))  # JSON is YAML
        settings = self._environ() | {"PORT": str(port), "WARMHOOK_CONFIG": str(config)}
        settings |= {**await self.plan.environ("web"), **environ}
        name = "web" if port == next(iter(self.webs), port) else f"web-{port}"
        command = command or self.plan.commands.web
        self.webs[port] = await self._start_shared(name, command, stage=_WEB, environ=settings)
        if wait:
            await self.programs.ready(self.webs[port], lambda: _accepts(port))
        return port

    async def join(self, *nodes: str) -> None:
        """Bring up nodes: runtime, Node and agent."""
        await asyncio.gather(*(self._provide(node) for node in nodes))
        await asyncio.gather(*map(self.start_agent, nodes))

    async def peers_ready(self) -> None:
        """Return when every node serves images to others and says so."""
        await self.programs.ready(self.agents[self.nodes[-1]], self._all_serve)

    async def _all_serve(self) -> bool:
        reports = await self.kubernetes.list(configmaps(NAMESPACE), labels=f"{KIND_LABEL}=report", metadata_only=True)
        annotations = [obj["metadata"].get("annotations") or {} for obj in reports.items]
        return sum(PEER_ANNOTATION in each for each in annotations) == len(self.agents)

    async def _provide(self, node: str) -> None:
        await asyncio.gather(self.start_runtime(node), self.plan.register(self.kubernetes, node))

    async def _start_shared(
        self, name: str, command: Sequence[str], *, stage: int, environ: Environ = MappingProxyType({})
    ) -> Program:
        program = await self.programs.start(name, command, stage=stage, environ=environ)
        self.shared = [*(each for each in self.shared if each.name != name), program]
        return program

    async def _peer_environ(self, node: str) -> Environ:
        """Where the agent serves images to others, and what it proves itself with for a day."""
        token = self.plan.folder / f"{node}.token"
        token.write_text(await peer_token(self.kubernetes, node, seconds=_TOKEN_SECONDS))
        return {
            "WARMHOOK_PEER_ADDRESS": f"127.0.1.{1 + (int(node.rpartition('-')[2]) - 1) % 250}",
            "WARMHOOK_PEER_PORT": str(free_port()),
            "WARMHOOK_PEER_TOKEN_FILE": str(token),
            "WARMHOOK_PLAIN_HTTP_REGISTRIES": self.registry,
        }

    def socket_of(self, node: str) -> Path:
        """Of the node's runtime."""
        embedded = self.plan.folder / f"{node}.sock"
        return containerd.socket_of(self.plan.folder / node) if self.plan.runtime == "containerd" else embedded

    def _environ(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.plan.kubeconfig), "WARMHOOK_NAMESPACE": NAMESPACE, "WARMHOOK_LOG": "json"}


@contextlib.asynccontextmanager
async def open_cluster(plan: Plan, environ: Environ, *, kubernetes: Kubernetes | None = None) -> AsyncIterator[Cluster]:
    """A cluster in which nothing runs yet; what is started ends with the context. Programs inherit `environ`.

    `kubernetes` is the client, if the API server runs already.
    """
    logs = plan.folder / "logs"
    logs.mkdir()
    async with contextlib.AsyncExitStack() as exits:
        if plan.runtime == "containerd":
            exits.push_async_callback(containerd.unmount, plan.folder)
        programs = await exits.enter_async_context(Programs(logs, environ, folder=_PACKAGES))
        cluster = Cluster(plan, programs, exits)
        if kubernetes is not None:
            cluster.kubernetes = kubernetes
        yield cluster


@contextlib.asynccontextmanager
async def naming_its_end(api: Program, *, seconds: float = _END_SECONDS) -> AsyncIterator[None]:
    """Raise `ProgramFailed` if a request got no answer because the API server ended; wait `seconds` for its end."""
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


def free_port() -> int:
    """A port that was free a moment ago: `web` cannot be given port 0.

    Below those that Linux gives to connections, one of which could take it before the program does.
    """
    while True:
        port = _FIRST_PORT + secrets.randbelow(_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port


async def _accepts(port: int) -> bool:
    """Whether a program accepts connections on that port; `web` does when it is ready."""
    try:
        _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
