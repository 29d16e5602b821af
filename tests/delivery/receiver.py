"""Where do the simulated senders deliver to? A `web` that is killed now and then, over an API server with faults."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from devcluster.apiserver import ApiServer, InProcessTransport
from handlers.metrics import Metrics
from handlers.settings import Settings
from handlers.sources import Configuration, read_configuration
from handlers.wiring import build_web
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
"""What the API server does: `lost` does what is asked and then does not say so."""


class Receiver:
    """One `web`, its API server, and what goes wrong with both."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._server = ApiServer(self.now, Random(1))
        self._transport = InProcessTransport(self._server, before=self._before, after=self._after)
        self._admin = Kubernetes(InProcessTransport(self._server))
        self._configuration = _configuration()
        self._app: Any = None
        self._requests: set[asyncio.Task[None]] = set()
        self.fault: Fault = ""

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())

    async def set_up(self) -> None:
        """A policy that wants everything."""
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
        """A new process: nothing is remembered."""
        self._app = build_web(
            Settings(),
            self._configuration,
            self._transport,
            {"SECRET": SECRET},
            Metrics(),
            now=self.now,
            monotonic=asyncio.get_running_loop().time,
            rng=Random(3),
        )

    def kill(self) -> None:
        """End it, and with it every request that it had not answered."""
        self._app = None
        for request in self._requests:
            request.cancel()

    async def wanted(self) -> dict[str, Object]:
        """Every WarmImage's spec by its image."""
        return {obj["spec"]["image"]: obj["spec"] for obj in (await self._admin.list(paths.warmimages())).items}

    async def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """What senders call. Raises `ConnectionError`."""
        if self._app is None:
            raise ConnectionRefusedError
        request = _Request(path, headers, body)
        task = asyncio.create_task(self._app(request.scope, request.receive, request.send), name=f"request {path}")
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        try:
            # Whoever no longer waits for the answer does not end what was begun.
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            request.disconnected = True
            raise
        if task.cancelled():
            raise ConnectionResetError
        task.result()
        return Answer(request.status, bytes(request.body), request.headers)

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


class _Request:
    """One ASGI request."""

    def __init__(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        where, _, query = path.partition("?")
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": where,
            "raw_path": where.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": query.encode(),
            "headers": [(name.encode(), text.encode()) for name, text in headers.items()],
            "client": ("203.0.113.1", 1),
            "server": ("web", 80),
        }
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.disconnected = False
        self._sent: bytes | None = body

    async def receive(self) -> dict[str, Any]:
        if self._sent is None:
            return {"type": "http.disconnect"}
        body, self._sent = self._sent, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): text.decode() for name, text in message["headers"]}
        else:
            self.body += message.get("body", b"")


def _configuration() -> Configuration:
    sources = [
        {"name": name, "kind": kind, "secret": {"env": "SECRET"}, "allowedHosts": [HOST, ECR_HOST]}
        for name, kind in KINDS.items()
    ]
    with tempfile.TemporaryDirectory(prefix="wh") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps({"sources": sources}))
        return read_configuration(str(path), {"SECRET": SECRET})
