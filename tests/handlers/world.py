"""Run `web` and `watch` for tests: in one process, over an embedded API server, with a clock that jumps."""

from __future__ import annotations

import asyncio
import base64
import functools
import inspect
import json
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from random import Random
from typing import Any, Concatenate, ParamSpec, TypeAlias

import httpx
import structlog
from starlette.applications import Starlette

from adapters.clock import Clock
from adapters.cloudevents import STRUCTURED, write_event
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Conflict, NotFound
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from adapters.kubernetes.webhook_secret import SECRET as ADMISSION_SECRET
from adapters.kubernetes.webhook_secret import token_data
from adapters.outages import WatchOutages
from adapters.strictyaml import decode
from devcluster.apiserver import ApiServer, InProcessTransport
from devcluster.cluster import UNLIMITED
from handlers.app import Resources, Web, create_app
from handlers.configuration import Configuration, read_configuration
from handlers.event_sink import Post, raise_for_status
from handlers.metrics import Metrics
from handlers.reconcile.reader import Reader
from handlers.serving.credentials import Credentials
from handlers.settings import Settings
from handlers.watch.run import Process, watch
from tests.support.crds import of_newer_version, without_patterns
from tests.support.instant import instantly, loop_clock
from warmhook.api import API_VERSION, PEER_ANNOTATION
from warmhook.delivery_records import CONFIGMAP
from warmhook.events import Event
from warmhook.hints import Hint, line_of_hint, read_hint
from warmhook.node_lines import desired_name, line_key
from warmhook.node_report import LineReport, report_name, report_patch
from warmhook.peers import PeerReport, encode_peer
from warmhook.ports import Object, Registries, Response
from warmhook.warmimages import ObjectKey

_Given = ParamSpec("_Given")
Answer: TypeAlias = Response | Exception
"""What a request meets."""

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMESPACE = "warmhook-system"
WRITES = "POST PUT PATCH DELETE"
"""The methods of requests that change something."""
HOST = "harbor.example.com"
SECRET = "geheim-und-lang"
ADMISSION_TOKEN = "20260301-" + "7" * 48
"""What the path of a review carries."""
ADMISSION = f"/admission/pods/{ADMISSION_TOKEN}"
SOURCES = f"""
sources:
- {{name: harbor, kind: harbor, secret: {{env: HARBOR}}, registryHost: {HOST}}}
"""
DIGEST = "sha256:" + "a" * 64
POLICIES = "/apis/warmhook.dev/v1alpha1/namespaces/shop/warmpolicies"
WARMIMAGES = "/apis/warmhook.dev/v1alpha1/namespaces/shop/warmimages"


def digest(letter: str) -> str:
    """A digest that looks like no other."""
    return "sha256:" + letter * 64


class World:
    """A cluster, and `web` over it, in which every namespace may do everything unless `sources` limits some."""

    def __init__(self, server: ApiServer, *, sources: str = SOURCES, settings: Settings | None = None) -> None:
        self.server = server
        self.requests: list[tuple[str, str]] = []
        """Method and path of what `web` asked of the API server."""
        self.faults: list[Callable[[str, str], Awaitable[Response | None] | Response | None]] = []
        """Asked in turn about every request of `web`; an answer replaces the server's."""
        self.transport = InProcessTransport(server, user_agent="web", before=self._before)
        self.admin = Kubernetes(InProcessTransport(server, user_agent="admin"))
        self.settings = settings or Settings(events_open=True)
        self.clock = loop_clock(START, 2)
        self.metrics = Metrics()
        self.environ = {"HARBOR": SECRET}
        self.configuration = configuration(sources, self.environ)
        self.cluster = Reader(self.admin, NAMESPACE, self.clock, tenancy=self.configuration.tenancy)
        self.registries: Registries | None = None
        """What a `web` asks that is started from now on."""
        self.credentials = Credentials(Kubernetes(InProcessTransport(server, user_agent="web")), NAMESPACE)
        self.app = self.new_app()
        self.client = self.new_client(self.app)
        self._watches = 0

    def new_app(self, settings: Settings | None = None, post: Post | None = None) -> Starlette:
        """Another replica of `web` over the same cluster; it sends events out of the process with `post`."""
        opened = (self.transport, self.credentials, self.clock, Random(2), self.metrics, post, self.registries)
        resources = Resources(*opened)
        return create_app(Web(settings or self.settings, self.configuration, resources))

    def restart(self, sources: str | None = None, **settings: Any) -> None:
        """Run `web` with these senders and settings from now on."""
        self.settings = replace(self.settings, **settings)
        if sources is not None:
            self.configuration = configuration(sources, self.environ)
        self.app = self.new_app()
        self.client = self.new_client(self.app)

    def new_cluster(self) -> Reader:
        """What reads the cluster for a `web`."""
        return Reader(Kubernetes(self.transport), NAMESPACE, self.clock, tenancy=self.configuration.tenancy)

    def new_client(self, app: Any, host: str = "127.0.0.1") -> httpx.AsyncClient:
        """A client of `app`, from that address."""
        transport = httpx.ASGITransport(app, client=(host, 4711))
        return httpx.AsyncClient(transport=transport, base_url="http://web")

    def now(self) -> datetime:
        return self.clock.utcnow()

    def monotonic(self) -> float:
        return self.clock.monotonic()

    async def _before(self, method: str, path: str) -> Response | None:
        self.requests.append((method, path))
        for fault in self.faults:
            answer = fault(method, path)
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer is not None:
                return answer
        return None

    def answer(
        self,
        given: Answer | None,
        method: str = "",
        part: str = "",
        *,
        times: float = inf,
        after: float = 0,
    ) -> None:
        """Answer requests of `web` with one of these methods and this part of a path, the first `times`.

        They take so many seconds; if nothing is given, the server answers them then.
        """
        left = times

        async def fault(asked: str, path: str) -> Response | None:
            nonlocal left
            if left <= 0 or (method and asked not in method.split()) or part not in path:
                return None
            left -= 1
            await asyncio.sleep(after)
            if isinstance(given, Exception):
                raise given
            return given

        self.faults.append(fault)

    def once(self, act: Callable[[], Awaitable[object]], method: str, path: str) -> None:
        """Do something right before the first request of `web` whose path begins so."""
        done = False

        async def fault(asked: str, of: str) -> None:
            nonlocal done
            if asked == method and of.startswith(path) and not done:
                done = True
                await act()

        self.faults.append(fault)

    # --- the cluster -------------------------------------------------------------------------------------------------

    async def set_up(self) -> None:
        for crd in (warmimage_crd(), warmpolicy_crd()):
            await self.admin.create(paths.CRDS, crd)
        for name in (NAMESPACE, "shop"):
            await self.add_namespace(name)
        await self.admin.create(paths.configmaps(NAMESPACE), {"metadata": {"name": CONFIGMAP}})
        data = {name: base64.b64encode(text).decode() for name, text in token_data((ADMISSION_TOKEN,)).items()}
        await self.admin.create(paths.secrets(NAMESPACE), {"metadata": {"name": ADMISSION_SECRET}, "data": data})
        await self.credentials.look()

    async def change_crds(self, change: Callable[[Object], Object]) -> None:
        """What is made from now on may say what the CRDs of another version let in."""
        for crd in (warmimage_crd(), warmpolicy_crd()):
            await self.admin.patch(f"{paths.CRDS}/{crd['metadata']['name']}", change(crd))

    async def add_nodes(self, *names: str, **labels: str) -> None:
        for name in names:
            metadata = {"name": name, "labels": {"kubernetes.io/os": "linux", **labels}}
            await self.admin.create(paths.NODES, {"metadata": metadata})

    async def add_namespace(self, name: str) -> None:
        await self.admin.create("/api/v1/namespaces", {"metadata": {"name": name}})

    async def add_policy(self, name: str = "shop", *, namespace: str = "shop", **spec: Any) -> Object:
        spec = spec or {"push": [{"repository": f"{HOST}/shop/**"}]}
        body = {"apiVersion": API_VERSION, "kind": "WarmPolicy", "metadata": {"name": name}, "spec": spec}
        return await self.admin.create(POLICIES.replace("/shop/", f"/{namespace}/"), body)

    async def add_warmimage(
        self,
        name: str,
        image: str = f"{HOST}/shop/app:v1",
        *,
        namespace: str = "shop",
        metadata: Object | None = None,
        **spec: Any,
    ) -> Object:
        """One made by hand."""
        body = {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": {"name": name, **(metadata or {})}}
        return await self.admin.create(paths.warmimages_in(namespace), {**body, "spec": {"image": image, **spec}})

    async def add_pod(
        self,
        name: str,
        node: str = "",
        image: str = f"{HOST}/shop/app:v1",
        *,
        namespace: str = "shop",
        phase: str = "Running",
        owner: str = "",
        spec: Object | None = None,
        **labels: str,
    ) -> None:
        """A Pod on that node; `owner` is the name of its ReplicaSet."""
        owners = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": True}]
        metadata = {"name": name, "labels": labels, "ownerReferences": owners if owner else []}
        body = {"metadata": metadata, "spec": {"containers": [{"name": "app", "image": image}], **(spec or {})}}
        if node:
            body["spec"]["nodeName"] = node
        path = paths.pods(namespace)
        await self.admin.create(path, body)
        await self.admin.patch(f"{path}/{name}/status", {"status": {"phase": phase}})

    async def set_workload(
        self, name: str = "web", image: str = f"{HOST}/shop/app:v1", *, kind: str = "Deployment", **labels: str
    ) -> None:
        """Create a workload whose Pods have the label `app` with its name, or change its image."""
        template = {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "app", "image": image}]},
        }
        spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
        path = paths.workloads(kind, "shop")
        version = "apps.kruise.io/v1alpha1" if kind == "CloneSet" else "apps/v1"
        body = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": spec}
        try:
            await self.admin.create(path, body)
        except Conflict:
            await self.admin.patch(f"{path}/{name}", {"spec": {"template": template}})

    async def warmimages(self) -> dict[str, Object]:
        """Every WarmImage by its image."""
        return {obj["spec"]["image"]: obj for obj in (await self.admin.list(paths.warmimages())).items}

    async def desired(self, node: str) -> Object | None:
        try:
            return await self.admin.get(paths.configmaps(NAMESPACE, desired_name(node)))
        except NotFound:
            return None

    async def lines(self) -> dict[str, list[str]]:
        """Per node with a ConfigMap the images of its lines; labels and data must tell the same."""
        found: dict[str, list[str]] = {}
        for one in await self.cluster.desired():
            data = (await self.desired(one.node) or {}).get("data") or {}
            lines = {key: text for key, text in data.items() if "." not in key}
            assert lines.keys() == one.lines.keys()
            found[one.node] = sorted(json.loads(text)["i"] for text in lines.values())
        return found

    async def hints(self, name: str) -> dict[str, Hint]:
        """Per node the hint of this WarmImage; data and metadata must tell the same."""
        found: dict[str, Hint] = {}
        for one in await self.cluster.desired():
            data = (await self.desired(one.node) or {}).get("data") or {}
            hints = {line: read_hint(text) for key, text in data.items() if (line := line_of_hint(key))}
            assert {key: hint.expires_at for key, hint in hints.items()} == one.hints
            if (key := line_key(ObjectKey("shop", name))) in hints:
                found[one.node] = hints[key]
        return found

    async def serve(self, *nodes: str, key: str = "k", states: Mapping[str, LineReport] | None = None) -> None:
        """The agents of these nodes say that they serve images, with a key of this letter."""
        for node in nodes:
            await self.report(node, states)
            peer = encode_peer(PeerReport(f"10.0.0.{ord(node[0])}:9465", key * 43))
            body = {"metadata": {"annotations": {PEER_ANNOTATION: peer}}}
            await self.admin.patch(paths.configmaps(NAMESPACE, report_name(node)), body)

    async def report(
        self, node: str, states: Mapping[str, LineReport] | None = None, *, seen: datetime | None = None
    ) -> None:
        """The agent of `node` says this; keys are those of lines."""
        uid = (await self.admin.get(paths.node(node)))["metadata"]["uid"]
        patch = report_patch(node, uid, seen or self.now(), {}, states or {})
        path = paths.configmaps(NAMESPACE, report_name(node))
        try:
            await self.admin.patch(path, patch)
        except NotFound:
            patch["metadata"].pop("managedFields")
            patch["metadata"]["labels"] = {k: v for k, v in patch["metadata"]["labels"].items() if v is not None}
            patch["metadata"]["name"] = report_name(node)
            patch["data"] = {k: v for k, v in patch.get("data", {}).items() if v is not None}
            await self.admin.create(paths.configmaps(NAMESPACE), patch)

    # --- talking to web ----------------------------------------------------------------------------------------------

    async def push(
        self, tag: str = "v1", *, repository: str = "shop/app", content: str = DIGEST, ago: float = 0, **more: Any
    ) -> httpx.Response:
        """Harbor tells of a push."""
        return await self.deliver(harbor_push(self.now() - timedelta(seconds=ago), tag, repository, content), **more)

    async def deliver(self, body: Object | bytes, *, secret: str = SECRET, source: str = "harbor") -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(f"/webhooks/{source}", content=content, headers={"authorization": secret})

    async def event(
        self, kind: str, data: Object | None = None, *, client: httpx.AsyncClient | None = None, **attributes: str
    ) -> httpx.Response:
        """Somebody posts a structured CloudEvent."""
        event = {"specversion": "1.0", "id": "1", "source": "/test", "type": kind, "data": data or {}, **attributes}
        headers = {"content-type": STRUCTURED}
        return await (client or self.client).post("/events", content=json.dumps(event).encode(), headers=headers)

    async def sync(self) -> None:
        answer = await self.event("dev.warmhook.sync.v1")
        assert answer.status_code == 204, answer.text

    async def sync_in_part(self) -> None:
        """A sync that asks to be repeated."""
        assert (await self.event("dev.warmhook.sync.v1")).status_code == 503

    async def changed(
        self, kind: str, *names: str, client: httpx.AsyncClient | None = None, **more: Any
    ) -> httpx.Response:
        """Objects of a kind have changed."""
        namespace = "" if kind == "Node" else "shop"
        objects = [{"kind": kind, "namespace": namespace, "name": name, **more} for name in names]
        return await self.event("dev.warmhook.objects.changed.v1", {"objects": objects}, client=client)

    async def reported(self, *names: str) -> None:
        answer = await self.event("dev.warmhook.report.changed.v1", {"warmimages": [f"shop/{name}" for name in names]})
        assert answer.status_code == 204, answer.text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels."""
        total = 0.0
        for line in self.metrics.exposition().decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(f'{key}="{text}"' in sample for key, text in labels.items()):
                total += float(value)
        return total

    def asked(self) -> Counter[tuple[str, str]]:
        """What `web` asked since the last time: method and resource."""
        counted = Counter((method, path.partition("?")[0]) for method, path in self.requests)
        self.requests.clear()
        return counted

    def writes(self) -> list[tuple[str, str]]:
        """What `web` wrote since the last time."""
        found = [(method, path) for method, path in self.requests if method != "GET"]
        self.requests.clear()
        return found

    # --- watching ----------------------------------------------------------------------------------------------------

    async def post(self, event: Event) -> None:
        """How `watch` reaches `web`."""
        headers = {"content-type": STRUCTURED}
        raise_for_status(await self.client.post("/events", content=write_event(event), headers=headers), "/events")

    @asynccontextmanager
    async def watching(
        self,
        post: Post | None = None,
        *,
        transport: InProcessTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        sync_seconds: int = 300,
    ) -> AsyncIterator[asyncio.Task[None]]:
        """A `watch` that runs meanwhile."""
        self._watches += 1
        kubernetes = Kubernetes(transport or InProcessTransport(self.server, user_agent="watch"))
        rng = Random(self._watches)
        clock = Clock(self.now, self.monotonic, sleep, rng.random)
        settings = replace(self.settings, sync_seconds=sync_seconds)
        process = Process(clock, rng, WatchOutages(self.monotonic))
        work = watch(kubernetes, post or self.post, settings, process)
        task = asyncio.create_task(work, name="watch")
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])


def harbor_push(moment: datetime, tag: str, repository: str, content: str) -> Object:
    """What Harbor sends."""
    namespace, _, name = repository.partition("/")
    resource = {"digest": content, "tag": tag, "resource_url": f"{HOST}/{repository}:{tag}"}
    return {
        "type": "PUSH_ARTIFACT",
        "occur_at": int(moment.timestamp()),
        "operator": "admin",
        "event_data": {
            "resources": [resource],
            "repository": {"name": name, "namespace": namespace, "repo_full_name": repository},
        },
    }


def configuration(sources: str, environ: Mapping[str, str]) -> Configuration:
    with tempfile.TemporaryDirectory(prefix="wh") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps({"namespaces": [UNLIMITED]} | decode(sources)), encoding="utf-8")
        return read_configuration(str(path), environ)


def run_in_world(
    case: Callable[[World], Coroutine[Any, Any, None]],
    *,
    sources: str = SOURCES,
    patterns: bool = True,
    newer: bool = False,
    nodes: str = "",
    policy: bool = False,
    warmimage: str = "",
    **settings: Any,
) -> None:
    """Run a case in a fresh world whose time jumps; without `patterns` the CRDs let in what nobody can read.

    If `newer`, they let in any field and value.

    `nodes` has a letter for each node; `policy` wants every push of shop/**; `warmimage` is the name of one made by
    hand.
    """

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = ApiServer(lambda: START + timedelta(seconds=loop.time()), Random(1))
        opened = {"events_open": "events_token_file" not in settings}
        world = World(server, sources=sources, settings=replace(Settings(), **opened | settings))
        await world.set_up()
        if not patterns:
            await world.change_crds(without_patterns)
        if newer:
            await world.change_crds(of_newer_version)
        await world.add_nodes(*nodes)
        if policy:
            await world.add_policy()
        if warmimage:
            await world.add_warmimage(warmimage)
        await case(world)

    with structlog.testing.capture_logs():
        instantly(run())


AsyncTest: TypeAlias = Callable[..., Coroutine[Any, Any, None]]


def giving(count: int, run: Callable[[AsyncTest], None]) -> Callable[[AsyncTest], Callable[..., None]]:
    """Decorate an asynchronous test whose first `count` arguments are no fixtures: `run` calls it with them."""

    def decorate(test: AsyncTest) -> Callable[..., None]:
        @functools.wraps(test)
        def decorated(*args: Any, **kwargs: Any) -> None:
            run(lambda *given: test(*given, *args, **kwargs))

        signature = inspect.signature(test)
        decorated.__signature__ = signature.replace(parameters=list(signature.parameters.values())[count:])  # type: ignore[attr-defined]
        return decorated

    return decorate


def in_world(
    **given: Any,
) -> Callable[[Callable[Concatenate[World, _Given], Coroutine[Any, Any, None]]], Callable[_Given, None]]:
    """Give an asynchronous test a world as its first argument; `given` is as for `run_in_world`."""

    def decorate(test: Callable[Concatenate[World, _Given], Coroutine[Any, Any, None]]) -> Callable[_Given, None]:
        @functools.wraps(test)
        def run(*args: _Given.args, **kwargs: _Given.kwargs) -> None:
            run_in_world(lambda world: test(world, *args, **kwargs), **given)

        # The world is no fixture.
        signature = inspect.signature(test)
        run.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
        return run

    return decorate


def logged(*events: str) -> list[Any]:
    """The lines of the log so far that are these events; all if none is named."""
    entries = structlog.get_config()["processors"][0].entries
    return [line for line in entries if not events or line["event"] in events]


def status(code: int, message: str = "", **headers: str) -> Response:
    """An answer of the API server that is a problem."""
    body = {"kind": "Status", "code": code, "reason": message, "message": message}
    return Response(code, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(body).encode())
