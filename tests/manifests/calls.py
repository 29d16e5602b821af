"""What each part of the programs asks of the API server, recorded while all of them meet all that can happen."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple, TypeAlias

import structlog

from adapters.clock import Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import NotFound
from adapters.kubernetes.webhook_secret import SECRET
from adapters.service_account_tokens import ISSUER_PATH, KEYS_PATH, TokenVerifier
from adapters.tasks import in_background
from devcluster.apiserver import ApiServer, InProcessTransport
from handlers.serving.credentials import Credentials
from nodeagent.agent import Agent
from nodeagent.context import Context
from nodeagent.metrics import Metrics
from nodeagent.settings import Settings
from tests.handlers.readers import SEES_NODES, SEES_WARMIMAGES, browser, grant, page, token
from tests.handlers.world import DIGEST, HOST, NAMESPACE, POLICIES, World, run_in_world, status
from tests.manifests.installation import path_of
from tests.manifests.rendered import BASE, render
from tests.support.containerd import MemoryContainerd
from tests.support.crds import clone_set_crd
from tests.support.runtime import MemoryRuntime
from warmhook.api import LINE_LABEL, REPOSITORY_LABEL
from warmhook.node_lines import line_key
from warmhook.node_report import LineReport
from warmhook.platforms import Platform
from warmhook.ports import Response, Stream
from warmhook.warmimages import ObjectKey

__all__ = ["PARTS", "Call", "record", "requested"]

PARTS: Final = ("receiver", "handlers", "admission", "watch", "agent", "ui")
"""What the programs consist of; the role of each is called `warmhook-<part>`."""

Fault: TypeAlias = Callable[[str, str], Response | None]
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
BROKEN: Final = ObjectKey("shop", "broken")
_LONG_NAME: Final = 400
"""Characters: with many images of such names a node's ConfigMap is soon full."""


class Call(NamedTuple):
    """A request in the words of RBAC."""

    part: str
    namespace: str
    """Empty: of the cluster, or of all namespaces."""
    verb: str
    group: str
    resource: str
    """With its subresource: `warmimages/status`; a path that is no resource's."""
    name: str
    """Empty: not said, as in lists and creates."""


def requested(part: str, method: str, path: str, query: Mapping[str, str]) -> Call | None:
    """How the API server's authorizer sees a request; `None` for what everybody may see."""
    if path in (ISSUER_PATH, KEYS_PATH):
        return Call(part, "", method.lower(), "", path, "")
    parts = path.strip("/").split("/")
    if parts[0] not in ("api", "apis"):
        return None
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource, name, *subresource = [*rest, ""][:3]
    verb = _VERBS.get(method) or ("get" if name else "watch" if query.get("watch") in ("1", "true") else "list")
    if verb in ("list", "watch") and query.get("fieldSelector", "").startswith("metadata.name="):
        # The authorizer reads the name from there.
        name = query["fieldSelector"].removeprefix("metadata.name=")
    return Call(part, namespace, verb, group, "/".join(filter(None, [resource, *subresource])), name)


class _Recorded(InProcessTransport):
    """A program's `Transport` that notes its calls; an answer of one of `faults` replaces the server's."""

    def __init__(self, server: ApiServer, part: str, calls: set[Call], faults: Sequence[Fault]) -> None:
        super().__init__(server, user_agent=part)
        self.part, self.calls, self.faults = part, calls, faults

    async def request(self, method: str, path: str, **given: Any) -> Response:
        self._note(method, path, given)
        for fault in self.faults:
            if (answer := fault(method, path)) is not None:
                return answer
        return await super().request(method, path, **given)

    def stream(self, path: str, **given: Any) -> AbstractAsyncContextManager[Stream]:
        self._note("GET", path, given)
        return super().stream(path, **given)

    def _note(self, method: str, path: str, given: Mapping[str, Any]) -> None:
        call = requested(self.part, method, path, given.get("query") or {})
        if call is not None:
            self.calls.add(call)


def record() -> set[Call]:
    """Every kind of call that each part makes."""
    calls: set[Call] = set()

    async def story(world: World) -> None:
        with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
            await _story(world, calls, Path(folder))

    run_in_world(story)
    return calls


async def _story(world: World, calls: set[Call], folder: Path) -> None:
    faults: list[Fault] = []

    def connection(part: str) -> Any:
        return _Recorded(world.server, part, calls, faults)

    # As they are shipped.
    await world.admin.delete(paths.secrets(NAMESPACE, SECRET))
    for obj in (obj for obj in render(BASE) if obj["kind"] in ("MutatingWebhookConfiguration", "Secret")):
        collection = path_of(obj).rpartition("/")[0]
        await world.admin.create(collection, obj)
    await world.add_nodes("node-1", "node-2", "n" * 240)
    await world.add_policy()
    async with _web(world, connection), world.watching(transport=connection("watch")):
        await _keys(world, connection("agent"))
        for happenings in (_pushes, _policies, _workloads, _troubles):
            # The second time the agents find a report that they did not write.
            agents = [_agent(world, node, connection("agent"), folder) for node in ("node-1", "node-2")]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for agent in agents:
                    group.create_task(agent.run(stop), name="agent")
                await happenings(world)
                stop.set()
        await _refusals(world, faults)
    await _read_page(world, connection("ui"))


async def _read_page(world: World, transport: Any) -> None:
    """Somebody signs in, and looks at an image that failed, and at its node."""
    await world.add_namespace("people")
    await world.add_warmimage("broken", f"{HOST}/shop/broken:v1", nodes={"names": ["node-1"]})
    await world.sync()
    (line,) = [key for key in (await world.desired("node-1") or {})["data"] if key == line_key(BROKEN)]
    version = (await world.desired("node-1") or {})["metadata"]["labels"][LINE_LABEL + line]
    await world.report("node-1", {line: LineReport(version, "failed", "NotFound")})
    await grant(world, "ada", SEES_WARMIMAGES)
    await grant(world, "ada", SEES_NODES)
    world.transport = transport
    async with page(world) as opened, browser(opened, authorization=f"Bearer {await token(world, 'ada')}") as client:
        for path in ("/ui/", "/ui/images/shop/broken", "/ui/nodes/node-1"):
            assert (await client.get(path)).status_code == 200


async def _keys(world: World, transport: Any) -> None:
    """An agent reads the keys that verify the tokens of others."""
    clock = Clock(world.now, world.monotonic, asyncio.sleep, Random(1).random)
    tokens = TokenVerifier(Kubernetes(transport), clock, structlog.get_logger(), subject="agents", audience="peers")
    async with in_background(tokens.run(), "keys"):
        await tokens.ready.wait()


@contextlib.asynccontextmanager
async def _web(world: World, connection: Any) -> AsyncIterator[None]:
    """One process per part, behind an address that leads to each."""
    apps = {}
    for part, serve in (("receiver", "webhooks"), ("handlers", "events"), ("admission", "admission")):
        world.transport = connection(part)
        world.credentials = Credentials(Kubernetes(world.transport), NAMESPACE)
        apps[part] = world.new_app(replace(world.settings, serve=frozenset({serve})))

    async def front(scope: Any, receive: Any, send: Any) -> None:
        await apps["receiver" if scope["path"].startswith("/webhooks/") else "handlers"](scope, receive, send)

    world.client = world.new_client(front)
    receiver, admission = apps["receiver"], apps["admission"]
    async with receiver.router.lifespan_context(receiver), admission.router.lifespan_context(admission):
        yield


async def _pushes(world: World) -> None:
    """Two tags, one of them twice."""
    for tag, content in (("v1", DIGEST), ("v2", DIGEST), ("v2", "sha256:" + "b" * 64)):
        assert (await world.push(tag, content=content)).status_code == 202
        await asyncio.sleep(60)


async def _refusals(world: World, faults: list[Fault]) -> None:
    """What a push leads to was changed by hand; then the API server refuses one, and somebody else writes first."""
    await world.add_policy("refused", push=[{"repository": f"{HOST}/refused/*"}])
    assert (await world.push(repository="refused/app")).status_code == 202
    (changed,) = [obj for image, obj in (await world.warmimages()).items() if "/refused/app" in image]
    path = paths.warmimages(ObjectKey("shop", changed["metadata"]["name"]))
    await world.admin.patch(path, {"metadata": {"labels": {REPOSITORY_LABEL: None}}})
    assert (await world.push(repository="refused/app", content="sha256:" + "c" * 64)).status_code == 202
    conflicts = iter([status(409, "Conflict")])

    def refuse(method: str, path: str) -> Response | None:
        if method == "POST" and path.endswith("/warmimages"):
            return status(403, "Forbidden")
        return next(conflicts, None) if method == "PATCH" and path.endswith("/status") else None

    faults.append(refuse)
    assert (await world.push(repository="refused/other")).status_code == 202
    faults.remove(refuse)


async def _policies(world: World) -> None:
    """A policy names images, then fewer on fewer nodes, which remove them."""
    images = [f"{HOST}/base/sidecar:{tag}" for tag in (1, 2)]
    await world.add_policy("named", images=images, template={"onRemoval": "Delete"})
    await asyncio.sleep(60)
    change = {"images": images[:1], "template": {"nodes": {"names": ["node-1"]}}}
    await world.admin.patch(f"{POLICIES}/named", {"spec": change})
    await asyncio.sleep(120)


async def _workloads(world: World) -> None:
    """Policies that depend on Pods and workloads."""
    await world.admin.create(paths.CRDS, clone_set_crd())
    await world.add_policy("running", images=[f"{HOST}/base/sidecar:1"], template={"nodes": {"runningPods": {}}})
    await world.add_policy("observed", pods={"selector": {}, "existing": True}, rollouts={"selector": {}})
    await asyncio.sleep(60)


async def _troubles(world: World) -> None:
    """A broken certificate, a full node, a node that goes, a policy that goes."""
    await world.admin.patch(paths.secrets(NAMESPACE, SECRET), {"data": {"tls.key": None}})
    for number in range(250):
        name = f"{HOST}/shop/{'x' * _LONG_NAME}:{number}"
        await world.add_warmimage(f"wide-{number}", name, digest=DIGEST)
    await asyncio.sleep(400)
    await world.admin.delete(paths.node("node-2"))
    await world.admin.delete(f"{POLICIES}/shop")
    await asyncio.sleep(400)
    await _until_gone(world, "warmhook-desired-node-2")


async def _until_gone(world: World, name: str) -> None:
    async with asyncio.timeout(600):
        while True:
            try:
                await world.admin.get(paths.configmaps(NAMESPACE, name))
            except NotFound:
                return
            await asyncio.sleep(1)


def _agent(world: World, node: str, transport: Any, folder: Path) -> Agent:
    async def here(function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    runtime = MemoryRuntime(registry={f"{HOST}/shop/app:{tag}": DIGEST for tag in ("v1", "v2")})
    runtime.push(f"{HOST}/base/sidecar:2", "sidecar")
    context = Context(
        Settings(node, NAMESPACE, state_dir=folder / node, min_free_percent=0),
        Kubernetes(transport),
        runtime,
        Clock(world.now, world.monotonic, asyncio.sleep, Random(1).random),
        structlog.get_logger(),
        Metrics(),
        Platform("linux", "amd64"),
        MemoryContainerd(runtime, absent=True),
        offload=here,
    )
    return Agent(context)
