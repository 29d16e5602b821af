"""Serve a registry on loopback, in the event loop of the caller."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from adapters.server import Server
from devcluster.registry.app import Access, Uplink, registry_app

_STOP_POLL_SECONDS: Final = 0.02
_BACKLOG: Final = 4096


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that is being served."""

    host: str
    """`127.0.0.1:<port>`: the host part of its images' names."""
    root: Path
    answering: Counter[str]
    """By path, the answers that have begun and not ended."""


@contextlib.asynccontextmanager
async def serve_registry(
    root: Path, *, port: int = 0, log: Callable[[Access], None] = lambda _: None, bytes_per_second: int = 0
) -> AsyncIterator[Registry]:
    """Serve the folder `root` on 127.0.0.1; `port` 0 takes a free one. Raises `OSError` if the port is taken.

    All answers together get at most `bytes_per_second`; 0: no limit.
    """
    answering: Counter[str] = Counter()
    app = registry_app(root, log=log, answering=answering, uplink=Uplink(bytes_per_second))
    async with serve_app(app, port=port, name="registry") as host:
        yield Registry(host, root, answering)


@contextlib.asynccontextmanager
async def serve_app(app: ASGIApp, *, port: int = 0, name: str = "app") -> AsyncIterator[str]:
    """Serve any application on 127.0.0.1 in this event loop; gives `127.0.0.1:<port>`."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="off", backlog=_BACKLOG
    )
    with _listener(port) as listener:
        server = Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]), name=name)
        try:
            # Connections made before uvicorn is ready wait in the listener's queue.
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            # Stalled answers do not end by themselves, and uvicorn's own limit logs an error even if there are none.
            while not serving.done():
                for task in tuple(server.server_state.tasks):
                    task.cancel()
                await asyncio.wait({serving}, timeout=_STOP_POLL_SECONDS)
            await serving


def _listener(port: int) -> socket.socket:
    # Of sockets whose protocol is not named asyncio does not turn Nagle's algorithm off: 40 ms for each answer.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
