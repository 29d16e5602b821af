"""A `web` over an API server in the test's process, and the requests that others send to it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from tests.wire.faces import Time, open_web
from tests.wire.recording import NAMESPACE, Cluster, answer_of

__all__ = [
    "CONFIGMAPS",
    "DIGEST",
    "HOST",
    "REVIEWS",
    "SECRET",
    "SECRETS",
    "SHOP",
    "START",
    "STRUCTURED",
    "TOKEN",
    "WARMIMAGES",
    "World",
    "changed",
    "event",
    "frozen",
    "jumping",
    "open_world",
    "pod",
    "review",
    "source_of",
]

START: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOST: Final = "registry.example.com"
SECRET: Final = "s3cret"
TOKEN: Final = "of-the-events"
REVIEW_TOKEN: Final = "20260301-" + "7" * 48
REVIEWS: Final = f"/admission/pods/{REVIEW_TOKEN}"
WARMIMAGES: Final = "/apis/warmhook.dev/v1alpha1/warmimages"
SHOP: Final = "/apis/warmhook.dev/v1alpha1/namespaces/shop"
SECRETS: Final = f"/api/v1/namespaces/{NAMESPACE}/secrets"
CONFIGMAPS: Final = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
DIGEST: Final = "sha256:" + "a" * 64
Source = Mapping[str, Any]


@dataclass(slots=True)
class World:
    """A cluster, and `web` over it."""

    cluster: Cluster
    client: httpx.AsyncClient

    async def send(self, method: str, path: str, content: bytes = b"", /, **headers: str) -> dict[str, Any]:
        """A request to `web`; its answer and what was written because of it."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        answer = await self.client.request(method, path, content=content, headers=named)
        writes = self.cluster.take_writes()
        return {"answer": self.cluster.normal(answer_of(answer)), **({"writes": writes} if writes else {})}

    async def metrics(self) -> list[str]:
        """The lines of `/metrics`, without moments."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return [line for line in lines if "_created" not in line]

    async def event(self, kind: str, **data: Any) -> dict[str, Any]:
        """A CloudEvent for `/events`."""
        return await self.send("POST", "/events", event(kind, **data), **STRUCTURED)

    async def review(self, pod: Any, **request: Any) -> dict[str, Any]:
        """An AdmissionReview as the API server sends it."""
        return await self.send("POST", REVIEWS, review(pod, **request), content_type="application/json")


STRUCTURED: Final = {"content_type": "application/cloudevents+json", "authorization": f"Bearer {TOKEN}"}


def event(kind: str, **data: Any) -> bytes:
    """A structured event of a type of Warmhook."""
    attributes = {"specversion": "1.0", "id": "1", "source": "/test", "type": f"dev.warmhook.{kind}.v1"}
    return json.dumps({**attributes, "data": data}).encode()


def changed(kind: str, name: str, **more: Any) -> dict[str, Any]:
    """How an event names an object that changed."""
    namespace = {} if kind == "Node" else {"namespace": "shop"}
    return {"kind": kind, "name": name, **namespace, **more}


def pod(image: str, **labels: str) -> dict[str, Any]:
    """A Pod of a Deployment, before it has a name."""
    owner = {"kind": "ReplicaSet", "name": "web-5d", "uid": "u-2", "controller": True}
    metadata = {"generateName": "web-5d-", "labels": {"pod-template-hash": "5d", **labels}, "ownerReferences": [owner]}
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": "web", "image": image}]}}


def review(pod: Any, **request: Any) -> bytes:
    """An AdmissionReview."""
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    asked = {"uid": "u-1", "kind": kind, "namespace": "shop", "operation": "CREATE", "dryRun": False, "object": pod}
    body = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {**asked, **request}}
    return json.dumps(body).encode()


def source_of(kind: str, **more: Any) -> Source:
    """One of `sources` in the configuration, named as its kind."""
    return {"name": kind, "kind": kind, "secret": {"env": "SECRET"}, "allowedHosts": [HOST], **more}


def frozen() -> datetime:
    """A clock that stands still, for programs that wait in real time."""
    return START


def jumping(start: datetime = START) -> Callable[[], datetime]:
    """A clock that shows the time of the event loop."""
    return lambda: start + timedelta(seconds=asyncio.get_running_loop().time())


@contextlib.asynccontextmanager
async def open_world(
    folder: Path, sources: Sequence[Source] = (), *, now: Callable[[], datetime] | None = None, **environ: str
) -> AsyncIterator[World]:
    """A `web` with these senders and settings; its clock is `jumping` by default."""
    now = now or jumping()
    cluster = Cluster(now)
    cluster.names[str(folder)] = "<folder>"
    await cluster.set_up()
    data = {"admission-tokens": base64.b64encode(REVIEW_TOKEN.encode()).decode()}
    await cluster.ask("POST", SECRETS, {"metadata": {"name": "warmhook-tls"}, "data": data})
    (folder / "config.yaml").write_text(json.dumps({"sources": list(sources)}))
    (folder / "token").write_text(TOKEN)
    settings = {
        "WARMHOOK_CONFIG": str(folder / "config.yaml"),
        "WARMHOOK_EVENTS_TOKEN_FILE": str(folder / "token"),
        "SECRET": SECRET,
        **environ,
    }
    async with open_web(settings, cluster.connect("web"), Time(now)) as app:
        transport = httpx.ASGITransport(app, client=("203.0.113.1", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://web") as client:
            yield World(cluster, client)
