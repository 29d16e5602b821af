"""Start `web` for a sender, put together Harbor's deliveries, and send them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from devcluster.programs import Program
from tests.bench.place import Place
from warmhook.ports import Object

__all__ = ["HOST", "SECRET", "Sender", "Web", "digest_of", "harbor_body", "open_sender", "start_web"]

HOST: Final = "registry.example.com"
SECRET: Final = "a-secret-of-the-bench"
_SEND_SECONDS: Final = 10.0
_IDLE_SECONDS: Final = 2.0
"""A connection that was idle for longer may be closed by the server while a delivery is sent on it."""


@dataclass(frozen=True, slots=True)
class Web:
    """A `web` that runs."""

    program: Program
    port: int

    @property
    def pid(self) -> int:
        """Of the process itself."""
        return self.program.process.pid


def digest_of(text: str) -> str:
    """A digest that nothing has, the same for the same text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def harbor_body(host: str, repository: str, tag: str, digest: str, *, kind: str = "PUSH_ARTIFACT") -> bytes:
    """A delivery of Harbor, of this second."""
    namespace, _, name = repository.partition("/")
    body = {
        "type": kind,
        "occur_at": int(time.time()),
        "operator": "bench",
        "event_data": {
            "resources": [{"digest": digest, "tag": tag, "resource_url": f"{host}/{repository}:{tag}"}],
            "repository": {"name": name, "namespace": namespace, "repo_full_name": repository, "repo_type": "private"},
        },
    }
    return json.dumps(body).encode()


async def start_web(
    place: Place,
    *arguments: str,
    host: str = HOST,
    registries: Sequence[Object] = (),
    environ: Mapping[str, str] | None = None,
    wait: bool = True,
) -> Web:
    """Start `python -m handlers` with one source `harbor`; with `wait` it is ready on return."""
    source = {"name": "harbor", "kind": "harbor", "registryHost": host, "secret": {"env": "BENCH_SECRET"}}
    settings = {"BENCH_SECRET": SECRET, **(environ or {})}
    command = (sys.executable, "-m", "handlers", *arguments)
    port = await place.cluster.start_web([source], registries=registries, environ=settings, command=command, wait=wait)
    return Web(place.cluster.webs[port], port)


@dataclass(frozen=True, slots=True)
class Sender:
    """A registry that delivers."""

    session: aiohttp.ClientSession
    port: int
    headers: Mapping[str, str]

    async def send(self, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Deliver once; the answer's status."""
        url = f"http://127.0.0.1:{self.port}/webhooks/harbor"
        async with self.session.post(url, data=body, headers=headers or self.headers) as answer:
            await answer.read()
            return answer.status


@contextlib.asynccontextmanager
async def open_sender(port: int, *, connections: int = 100) -> AsyncIterator[Sender]:
    """Connections to the `web` on that port."""
    timeout = aiohttp.ClientTimeout(total=_SEND_SECONDS)
    connector = aiohttp.TCPConnector(limit=connections, keepalive_timeout=_IDLE_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Sender(session, port, {"Authorization": SECRET, "Content-Type": "application/json"})
