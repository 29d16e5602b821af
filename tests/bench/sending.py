"""What does a sender do? Start `web` for it, put together Harbor's deliveries, and send them."""

from __future__ import annotations

import asyncio
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
from tests.real.programs import free_port

__all__ = ["HOST", "SECRET", "Sender", "Web", "digest_of", "harbor_body", "open_sender", "start_web"]

HOST: Final = "registry.example.com"
SECRET: Final = "a-secret-of-the-bench"
_READY_SECONDS: Final = 30.0
_WEB: Final = 4
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
    place: Place, *arguments: str, host: str = HOST, environ: Mapping[str, str] | None = None, wait: bool = True
) -> Web:
    """Start `python -m handlers` with one source `harbor`; with `wait` it is ready on return."""
    config = place.folder / "config.json"
    source = {"name": "harbor", "kind": "harbor", "registryHost": host, "secret": {"env": "BENCH_SECRET"}}
    config.write_text(json.dumps({"sources": [source]}))  # YAML reads JSON
    port = free_port()
    own = {"PORT": str(port), "WARMHOOK_CONFIG": str(config), "BENCH_SECRET": SECRET}
    settings = place.settings() | own | dict(environ or {})
    command: Sequence[str] = (sys.executable, "-m", "handlers", *arguments)
    program = await place.programs.start(f"web-{port}", command, stage=_WEB, environ=settings)
    if wait:
        await place.programs.ready(program, lambda: _listens(port), seconds=_READY_SECONDS)
    return Web(program, port)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


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
