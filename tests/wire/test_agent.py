"""An agent asks its runtime, writes its report and counts as recorded in `recordings/`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio
import httpx
import pytest
from cri_api.v1 import api_pb2 as cri
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

from tests.wire.faces import Time, run_agent
from tests.wire.recording import Cluster, check, heard, metric_shape, until
from tests.wire.world import CONFIGMAPS, DIGEST, HOST, frozen

GOOD: Final = f"{HOST}/shop/app:v1"
FAILS: Final = f"{HOST}/shop/app:gone"
IMAGES: Final = {"good": GOOD, "gone": FAILS}
"""By WarmImage."""


@dataclass(slots=True)
class Runtime:
    """A CRI runtime whose registry has one image."""

    calls: list[tuple[str, Any]] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """How many pulls may end."""

    async def answer(self, name: str, request: Any, context: Any) -> Any:
        """One call, recorded with its time limit to the next ten seconds."""
        seconds = round(context.time_remaining(), -1)
        self.calls.append((name, {"request": MessageToDict(request), "seconds": seconds}))
        image = cri.Image(id="sha256:1", repo_tags=[GOOD], repo_digests=[f"{HOST}/shop/app@{DIGEST}"], size=1000)
        if name == "PullImage":
            await self.gate.acquire()
        match name:
            case "PullImage" if request.image.image == GOOD:
                self.images[:] = [image]
                return cri.PullImageResponse(image_ref=image.id)
            case "PullImage":
                await context.abort(grpc.StatusCode.NOT_FOUND, f"failed to pull and unpack image: {FAILS}: not found")
            case "ListImages":
                return cri.ListImagesResponse(images=self.images)
            case "ImageStatus":
                spec = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": ["sha256:2"]}}
                return cri.ImageStatusResponse(image=image, info={"info": json.dumps({"imageSpec": spec})})
            case "Version":
                return cri.VersionResponse(version="0.1.0", runtime_name="test", runtime_version="v1.0")
        return cri.ImageFsInfoResponse()

    def distinct(self) -> list[Any]:
        """The calls, each once."""
        texts = {f"{name} {json.dumps(call, sort_keys=True)}": {name: call} for name, call in self.calls}
        return [texts[text] for text in sorted(texts)]


@contextlib.asynccontextmanager
async def serve_runtime(path: str) -> AsyncIterator[Runtime]:
    runtime = Runtime()

    def handler(name: str) -> Any:
        async def call(request: Any, context: Any) -> Any:
            return await runtime.answer(name, request, context)

        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=getattr(cri, f"{name}Request").FromString,
            response_serializer=getattr(cri, f"{name}Response").SerializeToString,
        )

    services = {
        "ImageService": ("ListImages", "PullImage", "ImageStatus", "ImageFsInfo", "RemoveImage"),
        "RuntimeService": ("Version",),
    }
    server = grpc.aio.server()
    for service, names in services.items():
        handlers = {name: handler(name) for name in names}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"runtime.v1.{service}", handlers),))
    server.add_insecure_port(f"unix://{path}")
    await server.start()
    try:
        yield runtime
    finally:
        await server.stop(grace=0)


@pytest.mark.slow
def test_an_agent_pulls_reports_and_counts_as_recorded() -> None:
    async def main() -> dict[str, Any]:
        # The path of a socket has at most 107 bytes.
        with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
            cluster = Cluster(frozen)
            await cluster.set_up()
            await cluster.add_node("a")
            await _want(cluster, "good", "gone")
            environ = {
                "NODE_NAME": "a",
                "CONTAINER_RUNTIME_ENDPOINT": f"unix://{folder}/socket",
                "WARMHOOK_STATE_DIR": f"{folder}/state",
                "WARMHOOK_METRICS_PORT": str(_free_port()),
                "WARMHOOK_PARALLEL_PULLS": "1",
                "WARMHOOK_CHECK_SECONDS": "10",
            }
            found: dict[str, Any] = {}
            async with serve_runtime(f"{folder}/socket") as runtime:
                async with run_agent(environ, cluster.connect("agent"), Time(frozen, speed=10)):
                    found["01 first pull"] = await _report(cluster, "pulling", "waiting")
                    runtime.gate.release()
                    found["02 second pull"] = await _report(cluster, "failed", "pulling")
                    runtime.gate.release()
                    found["03 one warm"] = await _report(cluster, "failed", warm=1)
                    found |= await _asked(environ["WARMHOOK_METRICS_PORT"])
                    await _want(cluster, "good")
                    found["04 a line less"] = await _report(cluster, warm=1)
                    runtime.images.clear()
                    found["05 removed behind its back"] = await _report(cluster, "pulling")
                found |= {"calls": runtime.distinct(), "writes": _fields(cluster.take_writes())}
            return found

    check("agent", heard(asyncio.run, main()))


def _fields(writes: list[Any]) -> dict[str, Any]:
    """Which fields are written by which requests: what one write says and what the next depends on time."""
    found: dict[str, set[str]] = {}
    for write in writes:
        name = f"{write['request']} {write['contentType']} {write['status']}"
        found.setdefault(name, set()).update(_paths(write["body"]))
    return {name: sorted(paths) for name, paths in found.items()}


def _paths(value: Any, path: str = "") -> set[str]:
    if not isinstance(value, dict) or not value:
        return {path}
    return {deeper for key, part in value.items() for deeper in _paths(part, f"{path}.{key}".lstrip("."))}


async def _want(cluster: Cluster, *names: str) -> None:
    """What `web` writes for the node."""
    node = await cluster.ask("GET", "/api/v1/nodes/a")
    owner = {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": node["metadata"]["uid"]}
    lines = {
        hashlib.sha256(f"shop/{name}".encode()).hexdigest()[:16]: {"b": 0, "i": IMAGES[name], "w": f"shop/{name}"}
        for name in names
    }
    data = {key: json.dumps(line, separators=(",", ":")) for key, line in lines.items()}
    versions = {f"line.warmhook.dev/{key}": hashlib.sha256(text.encode()).hexdigest()[:8] for key, text in data.items()}
    metadata = {
        "name": "warmhook-desired-a",
        "labels": {"warmhook.dev/kind": "desired", **versions},
        "annotations": {"warmhook.dev/node": "a"},
        "ownerReferences": [owner],
    }
    if any(obj["metadata"]["name"] == metadata["name"] for obj in await cluster.objects(CONFIGMAPS)):
        await cluster.ask("DELETE", f"{CONFIGMAPS}/warmhook-desired-a")
    await cluster.ask("POST", CONFIGMAPS, {"metadata": metadata, "data": data})


async def _report(cluster: Cluster, *states: str, warm: int = 0) -> Any:
    """The report, as soon as it names as many warm lines and, of the others, these states."""

    async def find() -> Any:
        for obj in await cluster.objects(CONFIGMAPS):
            if obj["metadata"]["name"] == "warmhook-report-a":
                versions = [text for text in obj["metadata"]["annotations"]["warmhook.dev/warm"].split(",") if text]
                labels = {key: text for key, text in obj["metadata"]["labels"].items() if key.startswith("line.")}
                if len(versions) == warm and sorted(text.partition("-")[0] for text in labels.values()) == [*states]:
                    return obj
        return None

    async def is_there() -> bool:
        return await find() is not None

    await until(is_there)
    return await find()


async def _asked(port: str) -> dict[str, Any]:
    """What the agent answers on its port."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        found: dict[str, Any] = {}
        for path in ("/healthz", "/readyz", "/nothing"):
            answer = await client.get(path)
            found[path] = {"status": answer.status_code, "headers": dict(answer.headers), "text": answer.text}
        found["POST /metrics"] = (await client.post("/metrics")).status_code
        answer = await client.get("/metrics")
        found["/metrics"] = metric_shape(answer.text)
        found["content type of metrics"] = answer.headers["content-type"]
        counted = ("warmhook_lines", "warmhook_pulls_total", "warmhook_pull_bytes_total")
        found["counted"] = [line for line in answer.text.splitlines() if line.startswith(counted)]
        return found


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port
