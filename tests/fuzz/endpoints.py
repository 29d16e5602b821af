"""Check that no request makes `web` fail, say too much, or ask the API server for what nobody should ask for."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

from adapters.clock import Clock
from adapters.kubernetes.client import Kubernetes
from adapters.registries import adapter_kinds
from handlers.app import Resources, Web, create_app
from handlers.configuration import Configuration, read_configuration
from handlers.metrics import Metrics
from handlers.serving.credentials import Credentials
from handlers.settings import Settings
from tests.fuzz.targets import read_request
from warmhook.ports import Json, Response, Stream, Unreachable

__all__ = ["ask", "build", "build_app"]

_NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
_EMPTY: Final = json.dumps({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []}).encode()
_POLICY: Final = {
    "apiVersion": "warmhook.dev/v1alpha1",
    "kind": "WarmPolicy",
    "metadata": {"name": "all", "namespace": "shop", "uid": "u", "resourceVersion": "1", "generation": 1},
    "spec": {"push": [{"repository": "**"}]},
}
_POLICIES: Final = json.dumps({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": [_POLICY]}).encode()
_MISSING: Final = b'{"kind":"Status","status":"Failure","code":404,"reason":"NotFound","message":"no"}'
# Nothing from outside may lead to another kind of object, or out of the path.
_PATH: Final = re.compile(
    r"/api/v1/(nodes|events|secrets|configmaps|namespaces|pods)?(/[A-Za-z0-9._%~-]+)*"
    r"|/apis/(warmhook\.dev/v1alpha1|coordination\.k8s\.io/v1|apps/v1|admissionregistration\.k8s\.io/v1)"
    r"(/[A-Za-z0-9._%~-]+)*"
)
_STATUSES: Final = frozenset({200, 202, 204, 400, 401, 403, 404, 405, 413, 415})


class _EmptyCluster:
    """A `warmhook.ports.Transport` to an API server that has one policy, for everything, and forgets all it is told."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Json | None = None,
        timeout_seconds: float = 10,
    ) -> Response:
        assert _PATH.fullmatch(path), path
        assert not {".", ".."} & set(path.split("/")), path
        json.dumps(body)
        if method == "GET" and path.endswith("/warmpolicies"):
            return Response(200, {"content-type": "application/json"}, _POLICIES)
        if method == "GET" and path.rpartition("/")[2] in ("nodes", "configmaps", "warmimages"):
            return Response(200, {"content-type": "application/json"}, _EMPTY)
        if method == "POST":
            return Response(201, {"content-type": "application/json"}, json.dumps(body).encode())
        return Response(404, {"content-type": "application/json"}, _MISSING)

    def stream(self, path: str, **_more: Any) -> AbstractAsyncContextManager[Stream]:
        raise Unreachable(path)


class _Known(Credentials):
    """Every token is one that the API server was given."""

    def accept(self, token: str) -> bool:
        return True


def build_app() -> Any:
    """`web` with a source of every kind that believes everybody, and `guarded`, which does not."""
    rng, settings = Random(1), Settings(serve=Settings().serve | {"dead-letters"}, events_open=True)
    clock = Clock(lambda: _NOW, lambda: 0.0, _at_once, rng.random)
    credentials = _Known(Kubernetes(_EmptyCluster()), settings.namespace)
    return create_app(Web(settings, _configuration(), Resources(_EmptyCluster(), credentials, clock, rng, Metrics())))


async def _at_once(_seconds: float) -> None:
    await asyncio.sleep(0)


def build() -> Callable[[bytes], None]:
    """Feeds one request to `web`."""
    app, loop = build_app(), asyncio.new_event_loop()

    def run(data: bytes) -> None:
        first, headers, body = read_request(data)
        method, _, path = first.partition(" ")
        loop.run_until_complete(ask(app, method, path, headers, body))

    weakref.finalize(run, loop.close)
    return run


async def ask(app: Any, method: str, path: str, headers: Mapping[str, str], body: bytes) -> int:
    """One request and what holds of its answer; returns the status."""
    where, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method.upper()[:20],
        "path": where,
        "raw_path": where.encode("latin-1", "replace"),
        "root_path": "",
        "scheme": "http",
        "query_string": query.encode("latin-1", "replace"),
        "headers": [(name.encode("latin-1"), text.encode("latin-1")) for name, text in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("web", 80),
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    status: int = sent[0]["status"]
    content = b"".join(message.get("body", b"") for message in sent[1:])
    assert status in _STATUSES, (status, content[:300])
    assert b"Traceback" not in content
    assert len(content) < 2000 or where == "/metrics"
    assert status not in (202, 204) or not content
    return status


def _configuration() -> Configuration:
    sources: list[dict[str, Any]] = [
        {"name": kind, "kind": kind, "insecure": True, "registryHost": "a.example", "allowedOrigins": ["*"]}
        for kind in adapter_kinds()
    ]
    sources.append({"name": "guarded", "kind": "quay", "secret": {"env": "SECRET"}, "allowedHosts": ["a.example"]})
    with tempfile.TemporaryDirectory(prefix="wh") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps({"sources": sources}))
        return read_configuration(str(path), {"SECRET": "s3cret"})
