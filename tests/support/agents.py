"""Run a node's agent in a test's own process, against an API server and a runtime in memory."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Concatenate, ParamSpec

import structlog

from adapters.clock import Clock
from adapters.credential_providers import CredentialProviders
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import NotFound
from adapters.kubernetes.paths import NODES, configmaps
from adapters.kubernetes.paths import node as node_path
from adapters.tasks import in_background
from devcluster.apiserver import ApiServer, InProcessTransport
from nodeagent.agent import Agent
from nodeagent.context import Context
from nodeagent.metrics import Metrics
from nodeagent.peers.fetches import Peers
from nodeagent.peers.settings import PeerSettings
from nodeagent.settings import Settings
from tests.support.containerd import MemoryContainerd
from tests.support.content import MemoryContentStore
from tests.support.instant import instant, until
from tests.support.runtime import MemoryRuntime
from warmhook.disk_space import Space
from warmhook.hints import Hint, encode_hint, hint_key
from warmhook.node_lines import Line, desired_name, node_patch
from warmhook.node_report import Report, read_report, report_name
from warmhook.platforms import Platform
from warmhook.ports import Containerd, Object, Response, Runtime, Unreachable
from warmhook.warmimages import ObjectKey, Pull

NAMESPACE = "warmhook-system"
WEB = "registry.example.com/shop/web:1"
EPOCH = datetime(2026, 5, 1, tzinfo=UTC)
"""When the loop's clock stands at 0."""


@dataclass(slots=True)
class Bench:
    """One node with its agent, which a test starts, and what is around it. Time is the loop's: run it `instantly`."""

    server: ApiServer
    transport: InProcessTransport
    kubernetes: Kubernetes
    """The test's own client; its requests are not counted."""
    runtime: MemoryRuntime
    containerd: MemoryContainerd
    """Absent, as with another runtime, unless a test changes that."""
    state_dir: Path
    node: str = "node-1"
    parallel_pulls: int = 2
    allow_local_registries: bool = False
    free_percent: Callable[[], float | None] = lambda: None
    """The free share of the node's disk; `None`: it cannot be seen."""
    disk_bytes: int = 100 * 2**30
    """The size of the node's disk."""
    requests: list[tuple[float, str, str]] = field(default_factory=list)
    """When the agent asked the API server what: seconds, method, path."""
    logs: list[MutableMapping[str, Any]] = field(default_factory=list)
    down: bool = False
    """Whether the API server is out of reach."""
    hangs: bool = False
    """Whether the API server takes requests and does not answer."""
    hanging: set[str] = field(default_factory=set)
    """Paths to which the API server gives no answer."""
    swallows_before: float = -1.0
    """Connections that were opened until then deliver nothing any more."""
    answers: dict[tuple[str, str], Response] = field(default_factory=dict)
    """Method and path to what the agent is answered instead."""
    speed: float = 1.0
    """How much faster the agent's clock is than the loop's."""
    metrics: Metrics = field(default_factory=Metrics)
    providers: CredentialProviders | None = None
    """The node's credential providers, for agents that are made later."""
    content: MemoryContentStore | None = None
    """The node's content store, for agents that are made later and exchange images at `peer_address`."""
    peer_address: str = ""
    peers: Peers | None = None
    """The other nodes, for agents that are made later; `None`: there are none."""

    def clock(self) -> Clock:
        """Time as the loop has it, or faster; chance that repeats itself."""
        loop = asyncio.get_running_loop()
        return Clock(
            utcnow,
            lambda: loop.time() * self.speed,
            lambda seconds: asyncio.sleep(seconds / self.speed),
            Random(1).random,
        )

    def log(self) -> Any:
        """A log whose events are `logs`."""
        return structlog.wrap_logger(
            None, processors=[self._capture], wrapper_class=structlog.make_filtering_bound_logger(20)
        )

    @contextlib.asynccontextmanager
    async def agent(
        self, *, runtime: Runtime | None = None, containerd: Containerd | None = None, check_seconds: int = 45
    ) -> AsyncIterator[Agent]:
        """A running agent; told to stop on leaving, as SIGTERM does."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            running = self.new_agent(runtime, containerd, check_seconds)
            group.create_task(running.run(stop), name="agent")
            try:
                yield running
            finally:
                stop.set()

    @contextlib.asynccontextmanager
    async def killed_agent(self) -> AsyncIterator[Agent]:
        """A running agent that ends without any last word."""
        running = self.new_agent()
        async with in_background(running.run(asyncio.Event()), "agent"):
            yield running

    def new_agent(
        self, runtime: Runtime | None = None, containerd: Containerd | None = None, check_seconds: int = 45
    ) -> Agent:
        """An agent that does not run yet; of the bench's own runtime, or of a real one."""
        settings = Settings(
            self.node,
            NAMESPACE,
            parallel_pulls=self.parallel_pulls,
            check_seconds=check_seconds,
            state_dir=self.state_dir,
            allow_local_registries=self.allow_local_registries,
            peers=PeerSettings(address=self.peer_address),
        )
        transport = InProcessTransport(
            self.server, before=self._before, swallow=lambda opened: opened <= self.swallows_before
        )

        async def here(function: Any, *arguments: Any) -> Any:
            # A thread would be waited for in real time, which this loop does not have.
            return function(*arguments)

        return Agent(
            Context(
                settings,
                Kubernetes(transport, count=self.metrics.count_api_request),
                runtime or self.runtime,
                self.clock(),
                self.log(),
                self.metrics,
                Platform("linux", "amd64"),
                containerd or self.containerd,
                self.content,
                offload=here,
                providers=self.providers,
                measure=lambda _folders, _instead: self.space(),
            ),
            self.peers,
        )

    def space(self) -> Space | None:
        """The node's disk as the agent measures it; `None`: it cannot be seen."""
        percent = self.free_percent()
        return None if percent is None else Space(self.disk_bytes, int(self.disk_bytes * percent / 100))

    # --- the cluster ---

    async def register_node(self) -> str:
        """The Node as kubelet registers it; returns its uid."""
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}}
        created = await self.kubernetes.create(NODES, body)
        uid: str = created["metadata"]["uid"]
        return uid

    async def node_uid(self) -> str:
        """The Node's uid."""
        uid: str = (await self.kubernetes.get(node_path(self.node)))["metadata"]["uid"]
        return uid

    async def want(self, *lines: Line, without: tuple[Line, ...] = ()) -> None:
        """Write lines as handlers do, and remove others."""
        changes: dict[str, Line | None] = {line.key: line for line in lines} | {line.key: None for line in without}
        await self.patch_desired(node_patch(self.node, await self.node_uid(), changes))

    async def hint(self, line: Line, hint: Hint | str) -> None:
        """Write a line and its hint in one patch, as handlers do."""
        patch = node_patch(self.node, await self.node_uid(), {line.key: line})
        patch["data"][hint_key(line.key)] = hint if isinstance(hint, str) else encode_hint(hint)
        await self.patch_desired(patch)

    async def patch_desired(self, patch: Object) -> None:
        """Patch the node's desired ConfigMap; create it where it is missing."""
        try:
            await self.kubernetes.patch(configmaps(NAMESPACE, desired_name(self.node)), patch)
        except NotFound:
            data = {key: text for key, text in patch["data"].items() if text is not None}
            metadata = patch["metadata"] | {"name": desired_name(self.node)}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
            await self.kubernetes.create(configmaps(NAMESPACE), body)

    def stored_report(self) -> Object | None:
        """The report's ConfigMap as it is in the store."""
        answer = self.server.handle("GET", configmaps(NAMESPACE, report_name(self.node)), {}, {})
        if answer.status != 200:
            return None
        stored: Object = json.loads(answer.body)
        return stored

    def report(self) -> Report:
        """The report; an empty one where there is none."""
        stored = self.stored_report()
        return read_report(stored["metadata"]) if stored else Report(self.node)

    def state(self, line: Line) -> str:
        """What the report says of a line; `unknown` where it does not name this version."""
        report = self.report()
        return report.state(line.key, line.version) if report.knows(line.key, line.version) else "unknown"

    def detail(self, line: Line) -> str:
        """The report's value for a line; empty where there is none."""
        stored = self.stored_report() or {}
        text: str = (stored.get("data") or {}).get(line.key, "")
        return text

    def reason(self, line: Line) -> str:
        """The report's reason for a line; empty where there is none."""
        reason: str = json.loads(self.detail(line) or "{}").get("reason", "")
        return reason

    def refuse(self, method: str, path: str, code: int, reason: str) -> None:
        """Refuse these requests of the agent with a `Status`."""
        status = {"kind": "Status", "message": "not allowed", "reason": reason, "code": code}
        self.answers[(method, path)] = Response(code, {}, json.dumps(status).encode())

    def writes(self) -> list[float]:
        """When the agent wrote."""
        return [at for at, method, _ in self.requests if method != "GET"]

    def events(self, name: str) -> list[Mapping[str, Any]]:
        """The log events of that name."""
        return [event for event in self.logs if event["event"] == name]

    async def _before(self, method: str, path: str) -> Response | None:
        self.requests.append((asyncio.get_running_loop().time(), method, path))
        if self.down:
            raise Unreachable("connection refused")
        if self.hangs or path in self.hanging:
            await asyncio.sleep(86400)
        return self.answers.get((method, path))

    def _capture(self, _logger: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        self.logs.append({**event, "level": level})
        raise structlog.DropEvent


def utcnow() -> datetime:
    """`EPOCH` and what the loop's clock shows since."""
    return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())


@contextlib.asynccontextmanager
async def bench(
    node: str = "node-1", *, registered: bool = True, allow_local_registries: bool = False
) -> AsyncIterator[Bench]:
    """A cluster with one Node, no lines and no agent yet."""
    server = ApiServer(utcnow, Random(1))
    transport = InProcessTransport(server)
    kubernetes = Kubernetes(transport)
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    await kubernetes.create("/api/v1/namespaces", namespace)
    with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
        runtime = MemoryRuntime()
        own = MemoryContainerd(runtime, absent=True)
        made = Bench(server, transport, kubernetes, runtime, own, Path(folder) / "state", node)
        made.allow_local_registries = allow_local_registries
        if registered:
            await made.register_node()
        yield made


def line_of(image: str, *, name: str = "", digest: str = "", pushed_at: str = "", pull: Pull | None = None) -> Line:
    """A line for an image; its WarmImage is named after the image."""
    key = ObjectKey("shop", name or image.rpartition("/")[2].replace(":", "-"))
    return Line(key, image, digest, pushed_at, pull or Pull())


def a_push(b: Bench, image: str = WEB, content: str = "first", *, pull: Pull | None = None) -> Line:
    """A line for what was just pushed."""
    return line_of(image, digest=b.runtime.push(image, content), pull=pull)


async def warm(b: Bench, *lines: Line, seconds: float = 120) -> float:
    """Let time pass until all lines are warm; returns how many seconds that took."""
    return await until(lambda: all(b.state(line) == "warm" for line in lines), seconds=seconds)


async def push(b: Bench, image: str = WEB, content: str = "first", *, pull: Pull | None = None) -> Line:
    """Push an image, and write its line as handlers do."""
    line = a_push(b, image, content, pull=pull)
    await b.want(line)
    return line


async def push_warm(b: Bench, image: str = WEB, content: str = "first", *, seconds: float = 120) -> Line:
    """Push an image, and let time pass until its line is warm."""
    line = await push(b, image, content)
    await warm(b, line, seconds=seconds)
    return line


_Given = ParamSpec("_Given")
_Test = Callable[Concatenate[Bench, _Given], Coroutine[Any, Any, None]]


def on_node(test: _Test[_Given]) -> Callable[_Given, None]:
    """Run an asynchronous test on an `InstantLoop`, with a bench as its first argument."""
    return _as_test(test, lambda _: contextlib.nullcontext())


def with_agent(test: _Test[_Given]) -> Callable[_Given, None]:
    """Do the same while the node's agent runs."""
    return _as_test(test, Bench.agent)


def _as_test(
    test: _Test[_Given], around: Callable[[Bench], contextlib.AbstractAsyncContextManager[object]]
) -> Callable[_Given, None]:
    @functools.wraps(test)
    @instant
    async def run(*args: _Given.args, **kwargs: _Given.kwargs) -> None:
        async with bench() as b, around(b):
            await test(b, *args, **kwargs)

    # The bench is no fixture.
    signature = inspect.signature(test)
    run.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    return run
