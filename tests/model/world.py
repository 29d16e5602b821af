"""Run a whole system in one process: API server, `web` replicas, `watch`, agents and senders, at random.

Time is the loop's, so hours take milliseconds; every request takes a random while, so every run of the programs is
interleaved in another way, and in the same way for the same seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import structlog

from adapters.clock import Clock
from adapters.cloudevents import STRUCTURED, write_event
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from adapters.outages import WatchOutages
from devcluster.apiserver import ApiServer
from handlers.app import Resources, Web, create_app
from handlers.event_sink import Post, Refused, RetryLater, open_in_process
from handlers.metrics import Metrics
from handlers.serving.credentials import Credentials
from handlers.settings import Settings
from handlers.watch.run import Process, watch
from nodeagent.agent import Agent
from nodeagent.context import Context
from nodeagent.metrics import Metrics as AgentMetrics
from nodeagent.settings import Settings as AgentSettings
from tests.model.history import EPOCH, Attempt, History, Image, Push, Spec
from tests.model.model import SKEW
from tests.model.node_runtime import NodeRuntime
from tests.model.programs import Connection, Network, Program
from tests.model.registries import ModelRegistries
from tests.model.senders import attempts_of, configuration, request_of
from tests.support.containerd import MemoryContainerd
from tests.support.crds import without_patterns
from tests.support.runtime import digest_of
from warmhook.api import API_VERSION
from warmhook.events import Event, sync_event
from warmhook.platforms import Platform
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey

__all__ = ["NAMESPACE", "RIVAL", "SYNC_SECONDS", "UNREADABLE", "World", "world"]

NAMESPACE: Final = "warmhook-system"
RIVAL: Final = "rival"
"""The namespace of a tenant that does what harms others, if they are not kept apart."""
UNREADABLE: Final = "registry.example.com/Shop/Web:1"
"""An image that the CRD takes and nobody can pull: repositories are lower-case."""
SYNC_SECONDS: Final = 300
# An agent's clock counts for nothing but whether it is there, which is judged in minutes.
_AGENT_SKEW_SECONDS: Final = 240
# Where there is a file system in memory: a file that is flushed to a disk takes real time.
_MEMORY: Final = "/dev/shm" if Path("/dev/shm").is_dir() else None
_SILENT = structlog.wrap_logger(None, processors=[], wrapper_class=structlog.make_filtering_bound_logger(50))
# Registries so slow that it pays to get images from other nodes.
_SETTINGS: Final = Settings(namespace=NAMESPACE, events_open=True, sync_seconds=SYNC_SECONDS, registry_rate=10**6)
_CRDS: Final = (without_patterns(warmimage_crd()), without_patterns(warmpolicy_crd()))
_SYNC: Final = sync_event(0, EPOCH)


@dataclass(slots=True)
class World:
    """The system, the history that a test makes, and the doors through which it does."""

    server: ApiServer
    network: Network
    seed: int
    rng: Random
    folder: Path
    history: History = field(default_factory=History)
    programs: dict[str, Program] = field(default_factory=dict)
    runtimes: dict[str, NodeRuntime] = field(default_factory=dict)
    """By node; they outlive Nodes and agents."""
    registry: dict[str, str] = field(default_factory=dict)
    images: list[Image] = field(default_factory=list)
    """What the registry has from the start."""
    registries: ModelRegistries | None = None
    """`None`: the configuration has no registry."""
    settled_pulls: dict[str, int] = field(default_factory=dict)
    """How many pulls had begun on each node when no more were due for what is suspended or purged."""
    deaths: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When each program died, in the seconds of the loop."""
    problems: list[str] = field(default_factory=list)
    """What must never happen and did."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _apps: dict[str, Any] = field(default_factory=dict)
    _queues: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def has_pins(self) -> bool:
        """Whether the nodes have containerd; the others have another runtime."""
        return self.seed % 3 > 0

    def hold(self, image: Image) -> None:
        """The registry has an image since before everything."""
        self.images.append(image)
        self.registry[str(image)] = digest_of(str(image))
        self.history.registry[str(image)] = [(EPOCH, self.registry[str(image)])]

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())

    def clock(self, program: str) -> Callable[[], datetime]:
        """The clock of a program, which is not quite the clock of any other."""
        skew = self.skew(program)
        return lambda: self.now() + skew

    def skew(self, program: str) -> timedelta:
        """By how much it is ahead; the same after a restart."""
        most = _AGENT_SKEW_SECONDS if program.startswith("agent") else SKEW.total_seconds()
        return timedelta(seconds=Random(f"{self.seed} {program}").uniform(-most, most))

    # --- programs ---

    def start(self, name: str) -> None:
        """`web-<n>`, `watch` or `agent-<node>`; it is started again whenever it dies."""
        program = self.programs[name] = Program(name)
        connection = Connection(self.network, program)
        kind, _, which = name.partition("-")
        if kind == "web":
            self._apps[name] = create_app(self._web(connection, name))
        elif kind == "watch":
            program.spawn(self._watch(connection), name)
        else:
            program.spawn(self._agent(connection, which).run(asyncio.Event()), name)
        self.spawn(self._start_again(program), f"restart {name}")

    async def _start_again(self, program: Program) -> None:
        await program.died.wait()
        self.deaths[program.name].append(asyncio.get_running_loop().time())
        self._apps.pop(program.name, None)
        await asyncio.sleep(self.rng.uniform(0.1, 3))
        if self.programs.get(program.name) is program:
            self.start(program.name)

    def stop(self, name: str) -> None:
        """For good."""
        self.programs.pop(name).kill()

    def _web(self, connection: Connection, name: str) -> Web:
        rng = Random(self.rng.random())
        credentials = Credentials(Kubernetes(connection), NAMESPACE)
        resources = Resources(connection, credentials, self._clock(name, rng), rng, Metrics(), None, self.registries)
        return Web(_SETTINGS, configuration(), resources)

    async def _watch(self, connection: Connection) -> None:
        """Half of all systems have `watch` in a `web`, whose handlers are given what it saw."""
        rng = Random(self.rng.random())
        clock = self._clock("watch", rng)
        async with contextlib.AsyncExitStack() as stack:
            post: Post = self._post
            if self.seed % 2:
                web = self._web(connection, "watch")
                self._apps["watch"] = create_app(web)
                post = await stack.enter_async_context(open_in_process(functools.partial(web.handle, local=True)))
            process = Process(clock, rng, WatchOutages(clock.monotonic))
            await watch(Kubernetes(connection), post, _SETTINGS, process)

    def _clock(self, program: str, rng: Random) -> Clock:
        return Clock(self.clock(program), asyncio.get_running_loop().time, asyncio.sleep, rng.random)

    def _agent(self, connection: Connection, node: str) -> Agent:
        async def here(function: Any, *arguments: Any) -> Any:
            return function(*arguments)

        clock = self._clock(f"agent-{node}", Random(self.rng.random()))
        settings = AgentSettings(node, NAMESPACE, state_dir=self.folder / node, min_free_percent=0)
        runtime = self.runtimes.setdefault(node, NodeRuntime(self.registry))
        context = Context(
            settings,
            Kubernetes(connection),
            runtime,
            clock,
            _SILENT,
            AgentMetrics(),
            Platform("linux", "amd64"),
            MemoryContainerd(runtime, absent=not self.has_pins),
            offload=here,
        )
        return Agent(context)

    # --- HTTP ---

    async def _post(self, event: Event) -> None:
        body = write_event(event)
        try:
            async with asyncio.timeout(30):
                headers = {"content-type": STRUCTURED}
                status, text = await self.request("/events", headers, body)
        except (ConnectionError, TimeoutError) as error:
            raise RetryLater(str(error)) from error
        if status == 400:
            self.problems.append(f"/events refused {body[:200]!r}: {text!r}")
            raise Refused(text.decode())
        if status >= 300:
            raise RetryLater(str(status), 1)

    async def request(
        self, path: str, headers: Mapping[str, str], body: bytes, attempt: Attempt | None = None
    ) -> tuple[int, bytes]:
        """POST to any web replica that lives. Raises `ConnectionError` where it dies over it."""
        alive = sorted(name for name in self._apps if self.programs[name].alive)
        if not alive:
            raise ConnectionRefusedError
        name = self.rng.choice(alive)
        if attempt is not None:
            attempt.skew = self.skew(name)
        program, answer = self.programs[name], _Answer(path, headers, body)
        task = program.spawn(self._apps[name](answer.scope, answer.receive, answer.send), f"{name} {path}")
        await asyncio.wait((task,))
        if task.cancelled():
            raise ConnectionResetError
        if error := task.exception():
            self.problems.append(f"{name} {path}: {error!r}")
            raise ConnectionResetError
        return answer.status, bytes(answer.body)

    async def sync(self) -> None:
        """One sync, however often it must be asked for."""
        while True:
            with contextlib.suppress(RetryLater):
                return await self._post(_SYNC)
            await asyncio.sleep(1)

    # --- senders ---

    def push(self, source: str, image: Image, *, tells_digest: bool, age: timedelta, tell: bool = True) -> None:
        """A registry takes an image and tells of it; one of a negative age has a clock that runs ahead."""
        number, now = len(self.history.pushes), self.now()
        digest = digest_of(f"{image} {number}") if ":" not in image.tag else image.tag
        time = None if source == "events" else now - age
        if time is not None and source == "harbor":
            time = time.replace(microsecond=0)
        reference = str(image)
        if "@" not in reference and (age <= timedelta(0) or reference not in self.registry):
            self.registry[reference] = digest
            self.history.registry.setdefault(reference, []).append((now, digest))
        told = digest if tells_digest or source != "events" or "@" in reference else ""
        # Harbor tells neither an id nor parts of a second: a push that is equal to another is a repeat of it.
        told_by_harbor = (
            (it.number, it.image, it.digest, it.time) for it in self.history.pushes if it.source == "harbor"
        )
        repeated = [other for other, *same in told_by_harbor if source == "harbor" and same == [image, told, time]]
        if not repeated:
            self.history.pushes.append(Push(number, source, image, told, time))
        if tell:
            self.deliver(repeated[0] if repeated else number)

    def move(self, image: Image, *, back: bool) -> None:
        """A tag gets another image in the registry; back: the one before its last."""
        before = self.history.registry[str(image)]
        digest = before[-2][1] if back and len(before) > 1 else digest_of(f"{image} moved {len(before)}")
        self.registry[str(image)] = digest
        before.append((self.now(), digest))

    def deliver(self, number: int) -> None:
        """Send a push, once more perhaps; Distribution's queue keeps the order, others send side by side."""
        push = self.history.pushes[number]
        before = self._queues.get(push.source) if push.source == "distribution" else None
        self._queues[push.source] = self.spawn(self._deliver(push, before), f"deliver {number}")

    async def all_delivered(self) -> None:
        """Wait until every sender has its answer, or has given up."""
        async with asyncio.timeout(600):
            while deliveries := [task for task in self.tasks if task.get_name().startswith("deliver")]:
                await asyncio.wait(deliveries)

    async def _deliver(self, push: Push, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        await asyncio.sleep(self.rng.random() * 2)
        headers, body = request_of(push)
        for _ in range(attempts_of(push.source)):
            attempt = Attempt(self.now())
            push.attempts.append(attempt)
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(5):
                    attempt.status, _text = await self.request(f"/webhooks/{push.source}", headers, body, attempt)
            attempt.ended = self.now()
            if 200 <= attempt.status < 300:
                return
            if attempt.status not in (0, 503):
                self.problems.append(f"push {push.number} was answered {attempt.status}")
            await asyncio.sleep(1)

    # --- a person at the API server ---

    def ask(self, method: str, path: str, body: Object | None = None) -> Object:
        """A request that nothing disturbs; its answer, or an empty one for what does not exist."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        content = b"" if body is None else json.dumps(body).encode()
        response = self.server.handle(method, path, {}, {"content-type": kind, "accept": "application/json"}, content)
        assert response.status < 300 or response.status == 404, response
        answer: Object = json.loads(response.body)
        return answer if response.status < 300 else {}

    def items(self, path: str) -> list[Object]:
        """Everything below a collection."""
        found: list[Object] = self.ask("GET", path)["items"]
        return found

    def set_policy(self, policy: str, spec: Spec | None) -> None:
        """Write or delete a policy, `namespace/name`."""
        namespace, _, name = policy.partition("/")
        path = paths.warmpolicies(ObjectKey(namespace, name))
        present = self.ask("GET", path)
        self.history.policies.setdefault(policy, []).append((self.now(), spec))
        if spec is None:
            self.ask("DELETE", path)
        elif present:
            metadata = {**present["metadata"], "annotations": spec.annotations()}
            self.ask("PUT", path, present | {"metadata": metadata, "spec": spec.fields()})
        else:
            metadata = {"name": name, "annotations": spec.annotations()}
            body = {"apiVersion": API_VERSION, "kind": "WarmPolicy", "metadata": metadata}
            self.ask("POST", path.rpartition("/")[0], body | {"spec": spec.fields()})

    def set_pod(self, namespace: str, node: str, app: str, image: Image | None) -> None:
        """Create or delete the Pod of a node with a label `app`."""
        path, name = f"/api/v1/namespaces/{namespace}/pods", f"{app}-{node}"
        if self.ask("GET", f"{path}/{name}"):
            self.ask("DELETE", f"{path}/{name}")
        if image is not None:
            spec = {"nodeName": node, "containers": [{"name": "main", "image": str(image)}]}
            self.ask("POST", path, {"metadata": {"name": name, "labels": {"app": app}}, "spec": spec})
        if node in self.runtimes:
            pods = [pod["spec"] for pod in self.items(path) if pod["spec"]["nodeName"] == node]
            self.runtimes[node].name([container["image"] for spec in pods for container in spec["containers"]])

    def running(self, namespace: str) -> dict[str, set[str]]:
        """The nodes by the label `app` of the Pods that they run."""
        found: dict[str, set[str]] = {}
        for pod in self.items(f"/api/v1/namespaces/{namespace}/pods"):
            found.setdefault(pod["metadata"]["labels"]["app"], set()).add(pod["spec"]["nodeName"])
        return found

    def nodes(self) -> dict[str, Mapping[str, str]]:
        """The labels of every Node."""
        return {node["metadata"]["name"]: node["metadata"].get("labels") or {} for node in self.items(paths.NODES)}

    def spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        """A task that lives as long as the world."""
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def collect_garbage(self) -> None:
        """The cluster's garbage collector, which takes its time."""
        while True:
            await asyncio.sleep(self.rng.uniform(0.2, 5))
            self.server.collect()


class _Answer:
    """One HTTP request to an ASGI application, and what came back."""

    def __init__(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": raw,
            "client": ("127.0.0.1", 1),
            "server": ("web", 80),
        }
        self._body = body
        self.status, self.body = 0, bytearray()

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")


@contextlib.asynccontextmanager
async def world(seed: int, *, webs: int = 2, nodes: Mapping[str, Mapping[str, str]]) -> AsyncIterator[World]:
    """A system with these nodes, an agent on each, and no policies yet."""
    rng, loop = Random(seed), asyncio.get_running_loop()
    server = ApiServer(lambda: EPOCH + timedelta(seconds=loop.time()), Random(seed))
    with tempfile.TemporaryDirectory(prefix="wh", dir=_MEMORY) as folder:
        made = World(server, Network(server, rng), seed, rng, Path(folder))
        if seed % 5 < 2:
            made.registries = ModelRegistries(made.registry, Random(seed))
        for crd in _CRDS:
            made.ask("POST", paths.CRDS, crd)
        for namespace in (NAMESPACE, "shop", RIVAL):
            made.ask("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        loop.set_exception_handler(lambda _loop, context: made.problems.append(str(context)))
        for name, labels in nodes.items():
            made.ask("POST", paths.NODES, {"metadata": {"name": name, "labels": dict(labels)}})
        names = [f"web-{number}" for number in range(webs)] + ["watch"] + [f"agent-{name}" for name in nodes]
        for name in names:
            made.start(name)
        made.spawn(made.collect_garbage(), "garbage")
        try:
            yield made
        finally:
            for name in list(made.programs):
                made.stop(name)
            await asyncio.sleep(1)
            for task in list(made.tasks):
                task.cancel()
            await asyncio.sleep(0)
