"""What do the programs ask of the API server? Recorded while all of them run through all that can happen to them."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import structlog

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes, NotFound
from devcluster.apiserver import InProcessTransport
from handlers.watch.certificates import CONFIGURATION, SECRET
from nodeagent.agent import Agent
from nodeagent.clock import Clock
from nodeagent.metrics import Metrics
from nodeagent.settings import Settings
from tests.handlers.world import DIGEST, HOST, NAMESPACE, POLICIES, World, in_world
from tests.support.runtime import MemoryRuntime
from warmhook.platforms import Platform
from warmhook.ports import Json, Object, Response, Stream

__all__ = ["Call", "record", "requested"]

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_LONG_NAME: Final = 400
"""Characters: with many images of such names a node's ConfigMap is soon full."""


class Call(NamedTuple):
    """A request in the words of RBAC."""

    account: str
    namespace: str
    """Empty: of the cluster, or of all namespaces."""
    verb: str
    group: str
    resource: str
    """With its subresource: `warmimages/status`."""
    name: str
    """Empty: not said, as in lists and creates."""


def requested(account: str, method: str, path: str, query: Mapping[str, str]) -> Call | None:
    """How the API server's authorizer sees a request; `None` for what is no resource."""
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
    return Call(account, namespace, verb, group, "/".join(filter(None, [resource, *subresource])), name)


@dataclass(slots=True)
class _Recorded:
    """A program's `Transport`; notes what was asked, and whether the server had such a thing."""

    inner: InProcessTransport
    account: str
    calls: set[Call]

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = _NONE,
        headers: Mapping[str, str] = _NONE,
        body: Json | None = None,
        timeout_seconds: float = 10,
    ) -> Response:
        self._note(method, path, query)
        return await self.inner.request(
            method, path, query=query, headers=headers, body=body, timeout_seconds=timeout_seconds
        )

    def stream(
        self,
        path: str,
        *,
        query: Mapping[str, str] = _NONE,
        headers: Mapping[str, str] = _NONE,
        timeout_seconds: float = 330,
    ) -> AbstractAsyncContextManager[Stream]:
        self._note("GET", path, query)
        return self.inner.stream(path, query=query, headers=headers, timeout_seconds=timeout_seconds)

    def _note(self, method: str, path: str, query: Mapping[str, str]) -> None:
        call = requested(self.account, method, path, query)
        if call is not None:
            self.calls.add(call)


def record() -> set[Call]:
    """Every kind of call that `web`, `watch` and the agent make."""
    calls: set[Call] = set()

    async def story(world: World) -> None:
        with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
            await _story(world, calls, Path(folder))

    in_world(story)
    return calls


async def _story(world: World, calls: set[Call], folder: Path) -> None:
    def connection(account: str) -> Any:
        return _Recorded(InProcessTransport(world.server, user_agent=account), account, calls)

    world.transport = connection("warmhook-web")
    world.app = world.new_app()
    world.client = world.new_client(world.app)
    await world.admin.create(
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", _webhook_configuration()
    )
    await world.add_nodes("node-1", "node-2", "n" * 240)
    await world.add_policy()
    async with world.watching(transport=connection("warmhook-web")):
        for happenings in (_pushes, _troubles):
            # The second time the agents find a report that they did not write.
            agents = [_agent(world, node, connection("warmhook-agent"), folder) for node in ("node-1", "node-2")]
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                for agent in agents:
                    group.create_task(agent.run(stop), name="agent")
                await happenings(world)
                stop.set()


async def _pushes(world: World) -> None:
    """Two tags, one of them twice."""
    for tag, content in (("v1", DIGEST), ("v2", DIGEST), ("v2", "sha256:" + "b" * 64)):
        assert (await world.push(tag, content=content)).status_code == 202
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
    return Agent(
        Settings(node, NAMESPACE, state_dir=folder / node),
        Kubernetes(transport),
        runtime,
        clock=Clock(world.now, world.monotonic, asyncio.sleep, Random(1).random),
        log=structlog.get_logger(),
        metrics=Metrics(),
        platform=Platform("linux", "amd64"),
        offload=here,
    )


def _webhook_configuration() -> Object:
    service = {"name": "warmhook-admission", "namespace": NAMESPACE, "path": "/admission/pods"}
    webhook = {
        "name": "pods.warmhook.dev",
        "clientConfig": {"service": service},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": CONFIGURATION},
        "webhooks": [webhook],
    }
