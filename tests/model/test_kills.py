"""Every push that was accepted is warm in the end, whichever real program is killed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import httpx
import pytest

from adapters.cri import open_runtime
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.transport import open_transport
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from devcluster.apiserver.__main__ import kubeconfig
from devcluster.nodes import node_object
from devcluster.programs import Program, Programs
from devcluster.registry.images import incompressible_image, write_image
from tests.model.proxy import Proxy, open_proxy
from tests.model.running import SEED
from tests.real.programs import eventually, free_port, real_time
from warmhook.api import API_VERSION
from warmhook.ports import Json

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BURST: Final = 10
SYNC_SECONDS: Final = 10
KILLS: Final = {"web": (12, 12), "watch": (4, 2), "agent": (8, 5)}
"""How often each is killed, and within how many requests each time: `watch` and agents make few."""
PUSHES: Final = pytest.mark.parametrize("pushes", [40, pytest.param(100, marks=pytest.mark.nightly)])
# A sender's second, here: bursts come sooner as well.
SECOND: Final = 0.4
_ROOT: Final = Path(__file__).parents[2]
_SECRET: Final = "planted"


@dataclass(slots=True)
class System:
    """The programs, each with a proxy of its own before the API server."""

    folder: Path
    programs: Programs
    rng: Random
    api_port: int
    web_port: int
    http: httpx.AsyncClient
    registry: str = ""
    proxies: dict[str, Proxy] = field(default_factory=dict)
    running: dict[str, Program] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)
    """Reference to digest."""
    lost: set[str] = field(default_factory=set)
    """What its sender gave up; it may be warm or not."""

    async def keep_running(self, name: str, *command: str, **environ: str) -> None:
        """Start a program, and again whenever it ends."""
        config = self.folder / f"{name}.kubeconfig"
        if name in self.proxies:
            config.write_text(kubeconfig(self.proxies[name].port), encoding="utf-8")
        environ = {"KUBECONFIG": str(config), "WARMHOOK_LOG": "json", **environ}
        while True:
            program = await self.programs.start(name, (sys.executable, "-m", *command), stage=1, environ=environ)
            self.running[name] = program
            await program.process.wait()
            await asyncio.sleep(0.1)

    def kill(self, name: str) -> None:
        """At once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.running[name].process.pid, signal.SIGKILL)

    # --- senders ---

    async def deliver(self, source: str, number: int, attempts: int) -> None:
        """Send one push as often as its sender would."""
        repository, tag = f"shop/app-{number % 7}", f"v{number}"
        digest = write_image(self.folder / "registry", repository, tag, incompressible_image(0.01, f"image {number}"))
        reference = f"{self.registry}/{repository}:{tag}"
        body = (_distribution if source == "distribution" else _harbor)(number, repository, tag, digest)
        for _ in range(attempts):
            status = 0
            with contextlib.suppress(httpx.HTTPError):
                url = f"http://127.0.0.1:{self.web_port}/webhooks/{source}"
                status = (await self.http.post(url, json=body, headers={"authorization": _SECRET})).status_code
            if 200 <= status < 300:
                self.accepted[reference] = digest
                return
            assert status in (0, 503), status
            await asyncio.sleep(SECOND)
        self.lost.add(reference)

    async def push_all(self, pushes: int, *, after: int = 0) -> None:
        """Bursts: half of each through Distribution's queue in order, half from Harbor, which tries three times.

        Their numbers begin with `after`.
        """
        for first in range(after, after + pushes, BURST):
            numbers = range(first, first + BURST)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._in_order([number for number in numbers if number % 2]), name="distribution")
                for number in numbers:
                    if number % 2 == 0:
                        group.create_task(self.deliver("harbor", number, 3), name=f"harbor {number}")
            await asyncio.sleep(self.rng.uniform(1, 6) * SECOND)

    async def _in_order(self, numbers: list[int]) -> None:
        for number in numbers:
            await self.deliver("distribution", number, 1000)

    # --- the end ---

    async def all_warm(self, kubernetes: Kubernetes) -> None:
        """Wait until every accepted push is on the node, and reported so."""
        endpoint = f"unix://{self.folder}/s"

        async def holds() -> bool:
            async with open_runtime(endpoint) as runtime:
                held = {tag: image.digests for image in await runtime.images() for tag in image.tags}
            if any(
                f"{ref.rpartition(':')[0]}@{digest}" not in held.get(ref, ()) for ref, digest in self.accepted.items()
            ):
                return False
            objects = (await kubernetes.list(paths.warmimages())).items
            warm = {obj["spec"]["image"] for obj in objects if (obj.get("status") or {}).get("warm") == 1}
            return self.accepted.keys() <= warm

        await eventually(holds, what=f"{len(self.accepted)} accepted pushes are warm", seconds=90)


def _distribution(number: int, repository: str, tag: str, digest: str) -> Json:
    target = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "repository": repository,
        "tag": tag,
        "digest": digest,
    }
    moment = datetime.now(UTC).isoformat()
    return {"events": [{"id": f"event-{number}", "action": "push", "timestamp": moment, "target": target}]}


def _harbor(_number: int, repository: str, tag: str, digest: str) -> Json:
    data = {"resources": [{"digest": digest, "tag": tag}], "repository": {"repo_full_name": repository}}
    moment = int(datetime.now(UTC).timestamp())
    return {"type": "PUSH_ARTIFACT", "occur_at": moment, "operator": "admin", "event_data": data}


@contextlib.asynccontextmanager
async def system(seed: int) -> AsyncIterator[tuple[System, Kubernetes]]:
    """Everything up: one node, and a policy that keeps all pushes."""
    folder = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    rng = Random(seed)
    (folder / "logs").mkdir()
    try:
        async with (
            Programs(folder / "logs", os.environ, folder=_ROOT) as programs,
            httpx.AsyncClient(timeout=2) as http,
            contextlib.AsyncExitStack() as stack,
        ):
            made = System(folder, programs, rng, free_port(), free_port(), http)
            tasks = await stack.enter_async_context(_cancelled_at_the_end())
            api = ("devcluster.apiserver", "--port", str(made.api_port), "--data", str(folder / "data"))
            tasks(made.keep_running("api", *api))
            registry_port = free_port()
            made.registry = f"127.0.0.1:{registry_port}"
            root = str(folder / "registry")
            tasks(made.keep_running("registry", "devcluster.registry", "--port", str(registry_port), "--root", root))
            tasks(
                made.keep_running("cri", "devcluster.cri", "--socket", str(folder / "s"), "--root", str(folder / "cri"))
            )
            (folder / "kubeconfig").write_text(kubeconfig(made.api_port), encoding="utf-8")
            transport = await stack.enter_async_context(open_transport(str(folder / "kubeconfig"), user_agent="test"))
            kubernetes = Kubernetes(transport)
            await eventually(lambda: _answers(http, f"http://127.0.0.1:{made.api_port}/readyz"), what="an API server")
            await eventually((folder / "s").exists, what="a runtime")
            await _install(kubernetes, made.registry)
            for name in ("web", "watch", "agent"):
                made.proxies[name] = await stack.enter_async_context(open_proxy(made.api_port, rng))
                made.proxies[name].kill = _killer(made, name)
            _configure(made)
            environ = {"PORT": str(made.web_port), "WARMHOOK_CONFIG": str(folder / "config"), "SECRET": _SECRET}
            (folder / "token").write_text("of-the-events", encoding="ascii")
            environ |= {"WARMHOOK_SYNC_SECONDS": str(SYNC_SECONDS), "WARMHOOK_EVENTS_TOKEN_FILE": str(folder / "token")}
            environ |= {"NODE_NAME": "node-1", "CONTAINER_RUNTIME_ENDPOINT": f"unix://{folder}/s"}
            environ |= {"WARMHOOK_STATE_DIR": str(folder / "state"), "WARMHOOK_METRICS_PORT": "0"}
            environ |= {"WARMHOOK_ALLOW_LOCAL_REGISTRIES": "true", "WARMHOOK_MIN_FREE_PERCENT": "0"}
            for name, module in (("web", "handlers"), ("watch", "handlers.watch"), ("agent", "nodeagent")):
                tasks(made.keep_running(name, module, **environ))
            await eventually(lambda: _answers(http, f"http://127.0.0.1:{made.web_port}/readyz"), what="web")
            yield made, kubernetes
    finally:
        shutil.rmtree(folder)


def _killer(made: System, name: str) -> Callable[[], None]:
    return lambda: made.kill(name)


def _configure(made: System) -> None:
    sources = [
        {"name": kind, "kind": kind, "secret": {"env": "SECRET"}, "registryHost": made.registry}
        for kind in ("distribution", "harbor")
    ]
    (made.folder / "config").write_text(json.dumps({"sources": sources}), encoding="utf-8")  # JSON is YAML


@contextlib.asynccontextmanager
async def _cancelled_at_the_end() -> AsyncIterator[Callable[..., object]]:
    tasks: list[asyncio.Task[None]] = []
    try:
        yield lambda work: tasks.append(asyncio.create_task(work, name=work.__name__))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _install(kubernetes: Kubernetes, registry: str) -> None:
    for crd in (warmimage_crd(), warmpolicy_crd()):
        await kubernetes.create(paths.CRDS, crd)
    await kubernetes.create("/api/v1/namespaces", {"metadata": {"name": "warmhook-system"}})
    await kubernetes.create(paths.NODES, node_object("node-1", 1, runtime="embedded"))
    push = [{"repository": f"{registry}/**", "keep": 100}]
    policy = {
        "apiVersion": API_VERSION,
        "kind": "WarmPolicy",
        "metadata": {"name": "all"},
        "spec": {"push": push},
    }
    await kubernetes.create(f"/apis/{API_VERSION}/namespaces/default/warmpolicies", policy)


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == 200
    except httpx.HTTPError:
        return False


@PUSHES
@pytest.mark.parametrize("victim", KILLS)
@real_time
async def test_a_program_that_is_killed_again_and_again_loses_no_accepted_push(victim: str, pushes: int) -> None:
    async with system(SEED) as (made, kubernetes):
        made.proxies[victim].kills_left, made.proxies[victim].within = KILLS[victim]
        await made.push_all(pushes)
        # On a busy machine a program may rest before the request at which it dies.
        for number in range(pushes, 10 * pushes, BURST):
            if made.proxies[victim].killed >= 2:
                break
            await made.push_all(BURST, after=number)
        assert made.proxies[victim].killed >= 2
        await made.all_warm(kubernetes)
        assert len(made.accepted) >= pushes / 2


@PUSHES
@pytest.mark.parametrize("cut_seconds", [5.0, pytest.param(30.0, marks=pytest.mark.nightly)])
@real_time
async def test_an_api_server_that_restarts_is_cut_off_and_refuses_loses_no_accepted_push(
    cut_seconds: float, pushes: int
) -> None:
    async def trouble(made: System) -> None:
        await asyncio.sleep(1)
        made.kill("api")
        await asyncio.sleep(1.5)
        for kind, seconds in (("429", 2.0), ("503", 2.0), ("cut", cut_seconds)):
            for proxy in made.proxies.values():
                proxy.trouble = kind  # type: ignore[assignment]  # mypy widens literals in tuples
                if kind == "cut":
                    proxy.cut()
            await asyncio.sleep(seconds)
            for proxy in made.proxies.values():
                proxy.trouble = ""
            await asyncio.sleep(0.5)

    async with system(SEED) as (made, kubernetes):
        async with asyncio.TaskGroup() as group:
            group.create_task(trouble(made), name="trouble")
            group.create_task(made.push_all(pushes), name="pushes")
        await made.all_warm(kubernetes)
        assert len(made.accepted) >= pushes / 2
