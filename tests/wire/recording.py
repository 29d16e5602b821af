"""Record requests and objects as text, without what is random by nature, and compare them with a file."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import functools
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, Final

import httpx
import pytest
import structlog
import yaml

from tests.wire.faces import ApiServer, InProcessTransport, Response
from warmhook.ports import Json

__all__ = [
    "NAMESPACE",
    "Cluster",
    "Sink",
    "answer_of",
    "check",
    "heard",
    "is_recorded",
    "metric_shape",
    "open_sink",
    "until",
]

NAMESPACE: Final = "warmhook-system"
_ROOT: Final = Path(__file__).parents[2]
_RECORDINGS: Final = Path(__file__).parent / "recordings"
_RECORD: Final = os.environ.get("WARMHOOK_TEST_RECORD") == "1"
_WIDTH: Final = 120
_NONE: Mapping[str, str] = MappingProxyType({})
_RANDOM: Final = (
    (re.compile(r"\d{8}-[0-9a-f]{48}"), "<token>"),
    (re.compile(r"\.[0-9a-f]{16}\b"), ".<digest of uid>"),
    (re.compile(r"\bwarmhook-[0-9a-f]{16}\b"), "warmhook-<digest of uid>"),
    (re.compile(r"\bhost_[0-9a-f]{10}\b"), "host_<random>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:<port>"),
    (re.compile(r"no JSON: .+"), "no JSON: <in words of Python>"),
)
_NAMED: Final = frozenset(
    {"resourceVersion", "warmhook.dev/version", "tls.crt", "tls.key", "ca.crt", "caBundle", "admission-tokens"}
)
"""Keys whose values differ from run to run."""
_DELIVERIES: Final = "warmhook-deliveries"
"""A ConfigMap that `web` writes when it has time, so it is in no recording."""
_PLURALS: Final = {"WarmPolicy": "warmpolicies", "WarmImage": "warmimages"}


def check(name: str, value: Any) -> None:
    """Compare `value` with the recording `name`; with WARMHOOK_TEST_RECORD=1 write it instead. Metrics may be added."""
    path = _RECORDINGS / f"{name}.json"
    if _RECORD:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_dump(value) + "\n", encoding="utf-8")
        return
    recorded = path.read_text(encoding="utf-8")
    text = _dump(_without_new_metrics(value, json.loads(recorded))) + "\n"
    if text != recorded:
        changes = difflib.unified_diff(recorded.splitlines(), text.splitlines(), "recorded", "now", lineterm="")
        pytest.fail(f"{path.name}:\n" + "\n".join(changes), pytrace=False)


def _without_new_metrics(value: Any, recorded: Any) -> Any:
    """`value` without the lines of metrics that the recording does not have."""
    if not isinstance(value, dict) or not isinstance(recorded, dict):
        return value
    return {
        key: [line for line in each if line in recorded[key]]
        if key.endswith("metrics") and isinstance(each, list) and key in recorded
        else _without_new_metrics(each, recorded.get(key))
        for key, each in value.items()
    }


def is_recorded(name: str) -> bool:
    """Whether there is something to compare with, or is to be."""
    return _RECORD or (_RECORDINGS / f"{name}.json").exists()


def _dump(value: Any, indent: int = 0, used: int = 0) -> str:
    """JSON with sorted keys; what fits into a line is in one."""
    line = json.dumps(value, sort_keys=True, ensure_ascii=False)
    if indent + used + len(line) < _WIDTH or not isinstance(value, dict | list):
        return line
    pad = " " * (indent + 1)
    if isinstance(value, list):
        return "[\n" + ",\n".join(pad + _dump(part, indent + 1) for part in value) + "\n" + pad[1:] + "]"
    keys = {key: json.dumps(key, ensure_ascii=False) + ": " for key in sorted(value)}
    parts = [pad + text + _dump(value[key], indent + 1, len(text)) for key, text in keys.items()]
    return "{\n" + ",\n".join(parts) + "\n" + pad[1:] + "}"


def heard(run: Callable[[Any], Any], main: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """What `main` finds, and which events with which fields were logged meanwhile."""
    with structlog.testing.capture_logs() as logs:
        found: dict[str, Any] = run(main)
    fields: dict[str, set[str]] = {}
    for entry in logs:
        fields.setdefault(f"{entry['log_level']} {entry['event']}", set()).update(entry.keys() - {"event", "log_level"})
    return found | {"logged": {name: " ".join(sorted(names)) for name, names in fields.items()}}


def metric_shape(exposition: str) -> list[str]:
    """Names, types and help of metrics, and the names of the labels that are in use; no figures."""
    lines = exposition.splitlines()
    labels = {re.sub(r'="[^"]*"', "", line.rpartition(" ")[0]) for line in lines if not line.startswith("#")}
    return [line for line in lines if line.startswith("#")] + sorted(labels)


def answer_of(response: httpx.Response) -> dict[str, Any]:
    """An HTTP answer: status, headers, body."""
    return {"status": response.status_code, "headers": _headers(response.headers), **_body(response.content)}


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in headers.items() if name not in {"content-length", "date", "host"}}


def _body(content: bytes) -> dict[str, Any]:
    try:
        return {"json": json.loads(content)}
    except ValueError:
        return {"text": content.decode()} if content else {}


@functools.cache
def _crds() -> list[Any]:
    return [yaml.safe_load(path.read_text()) for path in sorted((_ROOT / "knative/base/crds").glob("*.yaml"))]


# --- the API server --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Cluster:
    """An API server, and what the programs wrote to it."""

    now: Callable[[], datetime]
    writes: list[dict[str, Any]] = field(default_factory=list)
    fault: Response | Exception | None = None
    """Instead of the server's answer to a program."""
    names: dict[str, str] = field(default_factory=dict)
    """Random texts, uids above all, and what stands for them in a recording."""
    _server: ApiServer = field(init=False)

    def __post_init__(self) -> None:
        self._server = ApiServer(self.now, Random(1))

    async def set_up(self) -> None:
        """The CRDs, two namespaces, and the Secret as an administrator creates it."""
        for crd in _crds():
            await self.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        for name in (NAMESPACE, "shop"):
            await self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        await self.ask(
            "POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", {"metadata": {"name": "warmhook-deliveries"}}
        )

    def connect(self, name: str) -> Connection:
        """How a program reaches the API server."""
        return Connection(self, self._server, name)

    async def ask(self, method: str, path: str, body: Json | None = None) -> Any:
        """A request of the test; the object of the answer."""
        headers = {"content-type": "application/merge-patch+json"} if method == "PATCH" else _NONE
        admin = InProcessTransport(self._server, user_agent="admin")
        answer = await admin.request(method, path, headers=headers, body=body)
        assert answer.status < 300, answer
        self.learn(answer.body)
        return json.loads(answer.body)

    async def add_node(self, name: str, **spec: Any) -> None:
        """A Linux node that is ready."""
        await self.ask("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}})
        await self.ask("PATCH", f"/api/v1/nodes/{name}", {"spec": {"taints": None, **spec}})

    async def add(self, kind: str, name: str, spec: Json) -> None:
        """A WarmPolicy or a WarmImage of the namespace `shop`."""
        body = {"apiVersion": "warmhook.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        await self.ask("POST", f"/apis/warmhook.dev/v1alpha1/namespaces/shop/{_PLURALS[kind]}", body)

    async def objects(self, path: str) -> list[Any]:
        """Every object below a collection, normalised."""
        found = [obj for obj in (await self.ask("GET", path))["items"] if obj["metadata"]["name"] != _DELIVERIES]
        for obj in found:
            obj["metadata"].pop("managedFields", None)
        return sorted((self.normal(obj) for obj in found), key=lambda obj: json.dumps(obj["metadata"], sort_keys=True))

    def learn(self, body: bytes) -> None:
        """Remember whose uids these are."""
        with contextlib.suppress(ValueError, AttributeError):
            read = json.loads(body)
            for obj in read.get("items") or [read]:
                metadata = obj.get("metadata") or {}
                owner = "/".join(filter(None, (metadata.get("namespace"), metadata.get("name"))))
                if uid := metadata.get("uid"):
                    self.names[uid] = f"<uid of {owner}>"

    def take_writes(self) -> list[Any]:
        """What was written since the last time, by path; PATCHes of one path are in their order."""
        found, self.writes = [self.normal(write) for write in self.writes], []

        def place(write: Any) -> tuple[str, str]:
            method, _, path = write["request"].partition(" ")
            return path, json.dumps(write["body"], sort_keys=True) if method == "POST" else ""

        return sorted(found, key=place)

    def normal(self, value: Any, key: str = "") -> Any:
        """A JSON value without what differs from run to run."""
        if isinstance(value, dict):
            return {name: self.normal(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [self.normal(part) for part in value]
        if not isinstance(value, str) or not value:
            return value
        if key in _NAMED:
            return f"<{key}>"
        for text, name in self.names.items():
            value = value.replace(text, name)
        for pattern, name in _RANDOM:
            value = pattern.sub(name, value)
        return value


class Connection(InProcessTransport):
    """A transport that records writes."""

    def __init__(self, cluster: Cluster, server: ApiServer, user_agent: str) -> None:
        super().__init__(server, user_agent=user_agent)
        self.cluster = cluster

    async def request(self, method: str, path: str, **given: Any) -> Response:
        """One request, recorded if it is no GET, and not what `web` writes of its deliveries when it has time."""
        if isinstance(self.cluster.fault, Exception):
            raise self.cluster.fault
        answer = self.cluster.fault or await super().request(method, path, **given)
        self.cluster.learn(answer.body)
        if method != "GET" and not path.endswith(f"/{_DELIVERIES}"):
            named = {name.lower(): text for name, text in (given.get("headers") or {}).items()}
            kind = named.get("content-type", "")
            url = httpx.URL(path, params=given.get("query") or None)
            write = {"request": f"{method} {url}", "contentType": kind, "body": given.get("body")}
            self.cluster.writes.append(write | {"status": answer.status})
        return answer


# --- who receives events ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Sink:
    """An HTTP server that takes everything and answers 202."""

    port: int = 0
    taken: list[dict[str, Any]] = field(default_factory=list)
    open: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection."""
        self.open.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines[1:-2])}
                content = await reader.readexactly(int(headers.get("content-length", "0")))
                self.taken.append({"request": lines[0], "headers": _headers(headers), **_body(content)})
                writer.write(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")

    async def take(self, count: int) -> list[Any]:
        """The next requests, as soon as there are so many."""
        await until(lambda: len(self.taken) >= count)
        found, self.taken = self.taken, []
        return found


@contextlib.asynccontextmanager
async def open_sink() -> AsyncIterator[Sink]:
    """A sink on a free port."""
    sink = Sink()
    async with await asyncio.start_server(sink.serve, "127.0.0.1", 0) as server:
        sink.port = server.sockets[0].getsockname()[1]
        try:
            yield sink
        finally:
            for writer in sink.open:
                writer.close()
                await writer.wait_closed()


async def until(holds: Callable[[], bool | Awaitable[bool]], seconds: float = 60) -> None:
    """Wait for a condition in real time."""
    async with asyncio.timeout(seconds):
        # Nobody notifies of what is waited for here.
        while not (await found if isinstance(found := holds(), Awaitable) else found):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
