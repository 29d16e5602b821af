"""A cluster in which everything works, for tests that break one thing of it: real handlers, a real agent, one process.

The runtime is in memory and fails with the texts of real runtimes. What nobody in the process writes is written as in a
cluster: the objects of the manifests, and the Pod of the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import tempfile
import tomllib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from adapters.clock import Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from cli.cluster import Cluster
from cli.explain.facts import Question, gather
from devcluster.apiserver import InProcessTransport
from handlers.reconcile.reader import Reader
from tests.handlers.world import DIGEST, HOST, NAMESPACE, World, run_in_world
from tests.manifests.rendered import BASE, find, render
from tests.support.agents import Bench
from tests.support.containerd import MemoryContainerd
from tests.support.instant import until
from tests.support.runtime import MemoryRuntime
from warmhook.api import API_VERSION
from warmhook.explain import Explanation, explain
from warmhook.images import parse_reference
from warmhook.ports import Object, PullFailed
from warmhook.pull_failures import failure_reason

AGENTS: Final = "warmhook-agents"
IMAGE: Final = f"{HOST}/shop/app:v1"
NODE: Final = "node-1"
_RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
_ERRORS: Final = Path(__file__).parents[1] / "data" / "pull_errors.toml"
_SETTLED_SECONDS: Final = 30.0


class _Node(Bench):
    """A node of the world, with the clock of the world."""

    world: World

    def clock(self) -> Clock:
        return self.world.clock


@dataclass(slots=True)
class Scene:
    """The cluster, and the question."""

    world: World
    node: Bench
    exits: contextlib.AsyncExitStack
    agent: contextlib.AsyncExitStack
    watch: contextlib.AsyncExitStack
    image: str = IMAGE
    asked_node: str = NODE
    watching: bool = True
    """Whether a replica of `watch` runs."""

    @property
    def runtime(self) -> MemoryRuntime:
        """That of the node."""
        return self.node.runtime

    @property
    def admin(self) -> Kubernetes:
        """The test's own client."""
        return self.world.admin

    # --- what people and registries do ---

    async def push(self, tag: str = "v1", **more: Any) -> None:
        """Push the image to the registry, which tells Warmhook."""
        content = more.get("content", DIGEST)
        self.runtime.registry.setdefault(f"{HOST}/shop/app:{tag}", content)
        await self.world.push(tag, **more)

    async def warm(self) -> None:
        """Push the image and wait until it is warm."""
        await self.push()
        await self.reported("warm")

    async def patch_policy(self, spec: Object, name: str = "shop") -> None:
        """Change the policy."""
        key = f"/apis/{API_VERSION}/namespaces/shop/warmpolicies/{name}"
        await self.admin.patch(key, {"spec": spec})

    async def configure_handlers(self, config: str) -> None:
        """Create the Deployment of the handlers with this configuration."""
        name = "warmhook-handlers-config-7f2k"
        data = {"config.yaml": config}
        await self.admin.create(paths.configmaps(NAMESPACE), {"metadata": {"name": name}, "data": data})
        deployment = find(render(BASE), "Deployment", "warmhook-handlers")
        for volume in deployment["spec"]["template"]["spec"]["volumes"]:
            if volume["name"] == "config":
                volume["configMap"]["name"] = name
        await self.admin.create(paths.workloads("Deployment", NAMESPACE), deployment)

    async def patch_node(self, change: Object) -> None:
        """Change the Node."""
        await self.admin.patch(paths.node(NODE), change)

    def pull_error(self, name: str) -> None:
        """Let pulls fail as a real runtime did, by the name in `tests/data/pull_errors.toml`."""
        code, text = errors()[name]
        text = text.replace("registry.example.com/shop/web:1", IMAGE).replace("registry.example.com", HOST)
        failure = PullFailed(failure_reason(code, text), text)
        self.runtime.failures[IMAGE].extend([failure] * 50)

    # --- waiting ---

    async def settled(self) -> None:
        """Let everything happen that is due."""
        await asyncio.sleep(_SETTLED_SECONDS)

    async def reported(self, *states: str, reason: str = "") -> None:
        """Wait until the report says one of these of a line."""

        def says() -> bool:
            report = self.node.report()
            found = {state for state, _ in report.states.values()} | ({"warm"} if report.warm else set())
            data = (self.node.stored_report() or {}).get("data") or {}
            return bool(found & set(states)) and (not reason or any(f'"{reason}"' in text for text in data.values()))

        await until(says, seconds=600, step=1)

    async def stop_agent(self) -> None:
        """The agent ends."""
        await self.agent.aclose()

    async def stop_watch(self) -> None:
        """No replica of `watch` runs any more."""
        await self.watch.aclose()
        self.watching = False

    async def restart_watch(self) -> None:
        """Another replica of `watch` runs from now on."""
        await self.exits.enter_async_context(self.world.watching())
        self.watching = True

    async def pass_time(self, seconds: float) -> None:
        """So much time passes."""
        await asyncio.sleep(seconds)

    # --- the question ---

    async def explain(
        self, *, namespace: str = "", warmimage: str = "", transport: InProcessTransport | None = None
    ) -> Explanation:
        """What the command finds."""
        transport = transport or InProcessTransport(self.world.server, user_agent="cli")
        kubernetes = Kubernetes(transport)
        reader = Reader(kubernetes, NAMESPACE, self.world.clock)
        cluster = Cluster(kubernetes, reader, transport, self.world.clock, "https://api", "a test", "", NAMESPACE)
        question = Question(self.asked_node, namespace, AGENTS, "shop", warmimage)
        image = parse_reference(self.image, default_tag="latest").as_run
        return explain(await gather(cluster, question, image))


@functools.cache
def errors() -> dict[str, tuple[str, str]]:
    """Code and text of real errors, by name."""
    found = tomllib.loads(_ERRORS.read_text())["error"]
    return {error["name"]: (error["code"], error["text"]) for error in found}


async def install(world: World) -> None:
    """What the manifests create and the world does not."""
    await world.add_namespace(AGENTS)
    objects = render(BASE)
    for obj in objects:
        namespace = obj["metadata"].get("namespace", "")
        scope = f"/namespaces/{namespace}" if namespace else ""
        if obj["kind"] == "ServiceAccount":
            await world.admin.create(f"/api/v1{scope}/serviceaccounts", obj)
        elif obj["apiVersion"].startswith("rbac."):
            await world.admin.create(f"{_RBAC}{scope}/{obj['kind'].lower()}s", obj)
    webhook = find(objects, "MutatingWebhookConfiguration", "warmhook")
    await world.admin.create(paths.mutating_webhooks("warmhook").rpartition("/")[0], webhook)


async def add_agent_pod(world: World, **status: Any) -> None:
    """The Pod that the DaemonSet has on the node."""
    labels = {"app.kubernetes.io/name": "warmhook-agent"}
    body = {"metadata": {"name": "warmhook-agent-x7k2p", "labels": labels}}
    spec = {"nodeName": NODE, "containers": [{"name": "agent", "image": "warmhook:1"}]}
    await world.admin.create(paths.pods(AGENTS), body | {"spec": spec})
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await world.admin.patch(f"{paths.pods(AGENTS)}/warmhook-agent-x7k2p/status", {"status": status or ready})


@contextlib.asynccontextmanager
async def open_scene(world: World) -> AsyncIterator[Scene]:
    """Everything works: one node, `web` with `watch`, a policy for shop/**."""
    async with contextlib.AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="wh")))
        runtime = MemoryRuntime()
        transport = InProcessTransport(world.server, user_agent="agent")
        own = MemoryContainerd(runtime, absent=True)
        node = _Node(world.server, transport, Kubernetes(transport), runtime, own, folder / "state", NODE)
        node.world = world
        await exits.enter_async_context(world.app.router.lifespan_context(world.app))
        watch, agent = contextlib.AsyncExitStack(), contextlib.AsyncExitStack()
        await exits.enter_async_context(watch)
        await exits.enter_async_context(agent)
        await watch.enter_async_context(world.watching())
        await agent.enter_async_context(node.agent())
        yield Scene(world, node, exits, agent, watch)


def in_scene(case: Callable[[Scene], Coroutine[Any, Any, None]], *, agent_pod: bool = True, **given: Any) -> None:
    """Run a case; `given` is as for `run_in_world`."""

    async def run(world: World) -> None:
        await install(world)
        await world.add_nodes(NODE, **{"kubernetes.io/arch": "amd64"})
        await world.admin.patch(paths.node(NODE), {"spec": {"taints": None}})
        if agent_pod:
            await add_agent_pod(world)
        async with open_scene(world) as scene:
            await case(scene)

    run_in_world(run, **{"policy": True, **given})
