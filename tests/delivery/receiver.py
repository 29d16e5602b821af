"""Receive the deliveries of the simulated senders: a `web` that can be killed, over an API server with faults."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Final, Literal

import httpx

from adapters.clock import Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from devcluster.apiserver import ApiServer, InProcessTransport
from handlers.app import Resources, Web, create_app
from handlers.configuration import Configuration, read_configuration
from handlers.metrics import Metrics
from handlers.serving.credentials import Credentials
from handlers.settings import Settings
from tests.delivery.senders import EPOCH, Answer, EventBridge
from warmhook.ports import Object, Response, Unreachable

__all__ = ["HOST", "KINDS", "SECRET", "Fault", "Receiver"]

HOST: Final = "registry.example.com"
SECRET: Final = "s3cret"
KINDS: Final = {
    "distribution": "distribution",
    "harbor": "harbor",
    "quay": "quay",
    "github": "github",
    "gar": "gar",
    "ecr": "ecr",
    "events": "cloudevents",
}
ECR_HOST: Final = f"{EventBridge.account}.dkr.ecr.eu-central-1.amazonaws.com"
Fault = Literal["", "429", "503", "timeout", "lost", "down"]
"""How the API server fails: `lost` performs the request, but its answer does not arrive."""


class Receiver:
    """One `web`, its API server, and the faults of both."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._server = ApiServer(self.now, Random(1))
        self._transport = InProcessTransport(self._server, before=self._before, after=self._after)
        self._admin = Kubernetes(InProcessTransport(self._server))
        self._configuration = _configuration()
        self._web: httpx.AsyncClient | None = None
        self._requests: set[asyncio.Task[httpx.Response]] = set()
        self.fault: Fault = ""

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())

    async def set_up(self) -> None:
        """Create a policy that matches every push, and start `web`."""
        for crd in (warmimage_crd(), warmpolicy_crd()):
            await self._admin.create(paths.CRDS, crd)
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
        await self._admin.create("/api/v1/namespaces", namespace)
        policy = {
            "apiVersion": "warmhook.dev/v1alpha1",
            "kind": "WarmPolicy",
            "metadata": {"name": "all"},
            "spec": {"push": [{"repository": "**"}]},
        }
        await self._admin.create("/apis/warmhook.dev/v1alpha1/namespaces/shop/warmpolicies", policy)
        self.start()

    def start(self) -> None:
        """Start a new process, without any state."""
        rng, settings = Random(3), Settings()
        clock = Clock(self.now, asyncio.get_running_loop().time, asyncio.sleep, rng.random)
        credentials = Credentials(self._admin, settings.namespace)
        resources = Resources(self._transport, credentials, clock, rng, Metrics())
        app = create_app(Web(settings, self._configuration, resources))
        self._web = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://web")

    def kill(self) -> None:
        """End the process and all requests that it had not answered."""
        self._web = None
        for request in self._requests:
            request.cancel()

    async def wanted(self) -> dict[str, Object]:
        """The spec of every WarmImage by its image."""
        return {obj["spec"]["image"]: obj["spec"] for obj in (await self._admin.list(paths.warmimages())).items}

    async def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One request of a sender. Raises `ConnectionError`."""
        if self._web is None:
            raise ConnectionRefusedError
        request = asyncio.create_task(self._web.post(path, headers=headers, content=body), name=f"request {path}")
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        # If the sender stops waiting, `web` still completes what it began.
        await asyncio.wait((request,))
        if request.cancelled():
            raise ConnectionResetError
        answer = request.result()
        return Answer(answer.status_code, answer.content, answer.headers)

    async def _before(self, _method: str, _path: str) -> Response | None:
        await asyncio.sleep(self._rng.random() ** 3 * 0.02)
        match self.fault:
            case "429" | "503" as code:
                return Response(int(code), {"retry-after": "1"}, b'{"kind":"Status","message":"not now"}')
            case "timeout":
                await asyncio.sleep(10)
                raise Unreachable("timed out")
            case "down":
                raise Unreachable("refused")
        return None

    async def _after(self, _method: str, _path: str, answer: Response) -> Response:
        if self.fault == "lost":
            raise Unreachable("cut off")
        return answer


def _configuration() -> Configuration:
    sources = [
        {"name": name, "kind": kind, "secret": {"env": "SECRET"}, "allowedHosts": [HOST, ECR_HOST]}
        for name, kind in KINDS.items()
    ]
    with tempfile.TemporaryDirectory(prefix="wh") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps({"sources": sources}))
        return read_configuration(str(path), {"SECRET": SECRET})
