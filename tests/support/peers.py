"""Serve blobs to other nodes in memory: a parent with its cluster, and what a child sends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, cast

import structlog

from adapters.clock import Clock
from adapters.kubernetes.client import Kubernetes
from adapters.peer_key import PeerKey, new_peer_key, sign_proof
from adapters.service_account_tokens import TokenVerifier
from devcluster.apiserver import ApiServer, InProcessTransport
from devcluster.tokens import peer_token
from nodeagent.peers.access import Access, Refusal, Served
from nodeagent.peers.blobs import Blobs
from nodeagent.peers.connections import Caller
from nodeagent.peers.image_digests import ImageDigests
from nodeagent.peers.incoming import IncomingBlobs
from nodeagent.peers.pace import Pace
from nodeagent.peers.server import PeerServer
from tests.support.content import MemoryContentStore
from tests.support.instant import loop_clock
from warmhook.peer_requests import AUDIENCE, KEY_HEADER, PROOF_HEADER, blob_path

AGENTS = "system:serviceaccount:warmhook-agents:warmhook-agent"
LINE = "0123456789abcdef"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def digest_of(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


@cache
def key_of(node: str) -> PeerKey:
    """The key of the agent of a node."""
    assert node
    return new_peer_key()


def manifest(config: bytes, *layers: bytes) -> bytes:
    """Of an image with this configuration and these layers."""
    return json.dumps(
        {"config": {"digest": digest_of(config)}, "layers": [{"digest": digest_of(x)} for x in layers]}
    ).encode()


def index(*manifests: bytes) -> bytes:
    return json.dumps({"manifests": [{"digest": digest_of(each)} for each in manifests]}).encode()


@dataclass(slots=True)
class Observed:
    """What a server did."""

    sent_bytes: dict[str, int] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    finished: list[tuple[str, str]] = field(default_factory=list)

    def sent(self, node: str, size_bytes: int) -> None:
        self.sent_bytes[node] = self.sent_bytes.get(node, 0) + size_bytes

    def refused(self, reason: Refusal) -> None:
        self.refusals.append(reason)

    def done(self, line_key: str, node: str) -> None:
        self.finished.append((line_key, node))


class Parent:
    """The server of the node `parent`, whose hint names children."""

    def __init__(self, clock: Clock, folder: Path, *, rate: int = 0) -> None:
        self.clock, self.key = clock, key_of("parent")
        self.api = ApiServer(clock.utcnow, Random(0))
        self.kubernetes = Kubernetes(InProcessTransport(self.api))
        self.tokens = TokenVerifier(self.kubernetes, clock, structlog.get_logger(), subject=AGENTS, audience=AUDIENCE)
        self.content, self.observed = MemoryContentStore(piece_bytes=1000), Observed()
        self.incoming = IncomingBlobs(folder, _here)
        self.served: dict[str, Served] = {}
        """By line key."""
        self.server = PeerServer(
            Access(self.key, self.tokens, self.served.get, clock),
            ImageDigests(self.content, clock),
            Blobs(self.content, self.incoming, _here),
            Pace(rate, clock),
            self.observed,
            clock,
        )

    def have(self, *blobs: bytes) -> None:
        """The content store has these blobs."""
        for blob in blobs:
            self.content.have(blob)

    def serve(self, root: str, *children: str, line: str = LINE, blobs: frozenset[str] = frozenset()) -> None:
        """Have a hint for the image with that digest, which names these nodes."""
        self.served[line] = Served({node: key_of(node).name for node in children}, root, blobs)

    async def token(self, node: str, **different: Any) -> str:
        """The token of the agent of a node."""
        with contextlib.suppress(Exception):
            await self.kubernetes.create("/api/v1/nodes", {"metadata": {"name": node}})
        return await peer_token(self.kubernetes, node, **different)

    async def request(self, node: str, digest: str, *, method: str = "GET", **headers: str | None) -> bytes:
        """The request of a child for a blob; `None` leaves a header out."""
        return request(method, blob_path(LINE, digest), await self.headers(node), headers)

    async def headers(self, node: str) -> dict[str, str]:
        """How a child proves itself."""
        token, key = await self.token(node), key_of(node)
        proof = sign_proof(key, self.key.name, token)
        return {"Authorization": f"Bearer {token}", KEY_HEADER: key.public, PROOF_HEADER: proof}

    async def answer(self, *requests: bytes) -> bytes:
        """What one connection answers to these requests, which come at once."""
        return await answered(self.server, *requests)


def request(method: str, path: str, headers: Mapping[str, str], different: Mapping[str, str | None] = {}) -> bytes:
    """A request with these headers, some of them different; `None` leaves one out."""
    both: dict[str, str | None] = {**headers, **different}
    lines = [f"{name}: {value}" for name, value in both.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: parent", *lines, "", ""]).encode()


async def answered(server: PeerServer, *requests: bytes) -> bytes:
    """What the server answers to these requests on one connection."""
    reader, written = asyncio.StreamReader(), bytearray()
    reader.feed_data(b"".join(requests))
    reader.feed_eof()

    class Writer:
        def write(self, data: bytes) -> None:
            written.extend(data)

        async def drain(self) -> None:
            await asyncio.sleep(0)

    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionAbortedError):
        await server.handle(reader, cast("asyncio.StreamWriter", Writer()), Caller("10.0.0.9"))
    return bytes(written)


async def _here(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


@contextlib.asynccontextmanager
async def a_parent(clock: Clock | None = None, *, rate: int = 0) -> AsyncIterator[Parent]:
    """A parent that knows the keys of its cluster."""
    with tempfile.TemporaryDirectory() as folder:
        parent = Parent(clock or loop_clock(START), Path(folder), rate=rate)
        reading = asyncio.create_task(parent.tokens.run())
        await parent.tokens.ready.wait()
        try:
            yield parent
        finally:
            reading.cancel()
