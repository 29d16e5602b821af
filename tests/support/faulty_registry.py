"""Put a proxy with faults before a registry: what real registries and networks do to pulls, by repository.

It serves one request for each connection, so a fault concerns that request alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Literal

_PATH: Final = re.compile(rb"(?:GET|HEAD) /v2/([^ ?]+?)/(manifests|blobs)/")
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_HEAD_END: Final = b"\r\n\r\n"
_TLS_HANDSHAKE: Final = b"\x16"
# Larger than every configuration and manifest of the tests, so a blob beyond it is a layer.
_LAYER_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the requests for one repository."""

    status: int = 0
    """The status of every answer; 0: the registry's own."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of an answer with `status`."""
    body: str = ""
    reset: bool = False
    """Reset every connection before an answer."""
    layers: Literal["", "reset", "stall", "cut", "corrupt"] = ""
    """After half of a layer: reset the connection, send nothing more, end it; or change one byte of the layer."""


@dataclass(frozen=True, slots=True)
class FaultyRegistry:
    """A proxy that is being served."""

    host: str
    """`127.0.0.1:<port>`: the host part of its images' names."""
    faults: dict[str, Fault]
    """By repository; a change counts from the next request on."""
    requests: list[str]
    """The repository of every request, in order."""


@contextlib.asynccontextmanager
async def serve_faults(registry: str, *, port: int = 0) -> AsyncIterator[FaultyRegistry]:
    """Serve a proxy of the registry at this host; `port` 0 takes a free one."""
    faults, requests, tasks = dict[str, Fault](), list[str](), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        ends = (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError)
        with contextlib.suppress(*ends), contextlib.closing(writer):
            first = await reader.readexactly(1)
            if first == _TLS_HANDSHAKE:
                # containerd tries TLS first from 1.7 on, and HTTP if the answer is HTTP.
                writer.write(b"HTTP/1.0 400 Bad Request" + _HEAD_END)
                await writer.drain()
                return
            request = first + await reader.readuntil(_HEAD_END)
            found = _PATH.match(request)
            repository = found[1].decode() if found else ""
            requests.append(repository)
            await _answer(registry, request, writer, faults.get(repository, Fault()))
        tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        try:
            yield FaultyRegistry("127.0.0.1:{1}".format(*server.sockets[0].getsockname()), faults, requests)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(registry: str, request: bytes, writer: asyncio.StreamWriter, fault: Fault) -> None:
    if fault.reset:
        _reset(writer)
    elif fault.status:
        body = b"" if request.startswith(b"HEAD") else fault.body.encode()
        headers = {"content-length": str(len(fault.body.encode())), "connection": "close"} | dict(fault.headers)
        lines = [f"HTTP/1.1 {fault.status} {HTTPStatus(fault.status).phrase}", *map(": ".join, headers.items())]
        writer.write("\r\n".join(lines).encode() + _HEAD_END + body)
        await writer.drain()
    else:
        await _forward(registry, request, writer, fault)


async def _forward(registry: str, request: bytes, writer: asyncio.StreamWriter, fault: Fault) -> None:
    host, _, port = registry.rpartition(":")
    upstream, sender = await asyncio.open_connection(host, int(port))
    with contextlib.closing(sender):
        sender.write(request[:-2] + b"connection: close" + _HEAD_END)
        head = await upstream.readuntil(_HEAD_END)
        content = b"" if request.startswith(b"HEAD") else await upstream.read(-1)
    length = int(found[1]) if (found := _LENGTH.search(head)) else 0
    layer = length > _LAYER_BYTES and b"/blobs/" in request.partition(b"\r\n")[0]
    if not layer or not fault.layers:
        writer.write(head + content)
    elif fault.layers == "corrupt":
        writer.write(head + content[:-1] + bytes([content[-1] ^ 1]) if content else head)
    else:
        # A client that asks for the rest gets none.
        writer.write(head if b" 206 " in head.partition(b"\r\n")[0] else head + content[: len(content) // 2])
        await writer.drain()
        if fault.layers == "stall":
            await asyncio.Event().wait()
        if fault.layers == "reset":
            _reset(writer)
            return
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST in place of FIN."""
    taken = writer.get_extra_info("socket")
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
