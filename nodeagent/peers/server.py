"""Serve blobs to the children of this node over HTTPS, while they arrive if need be.

Whoever is not a child, or asks for what is not there, gets the same bytes after the same time: an answer says nothing
about the images of a node. https://www.rfc-editor.org/rfc/rfc9110 and rfc9112, as far as agents use them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from typing import Final, Protocol

from adapters.clock import Budget, Clock
from nodeagent.peers.access import Access, Refusal, RequestRefused, Served
from nodeagent.peers.blobs import Blobs, Gone
from nodeagent.peers.connections import Caller
from nodeagent.peers.image_digests import ImageDigests
from nodeagent.peers.pace import Pace
from warmhook.peer_requests import PeerRequest, read_request
from warmhook.ports import NotContainerd, RuntimeUnreachable

BODIES_MAX: Final = 16
"""Blobs that are sent at the same time; each takes about 1 MiB."""
BODIES_PER_CHILD_MAX: Final = 6
"""A child fetches three blobs of an image at the same time, and may fetch two images."""
REQUESTS_BURST: Final = 200
"""Requests of one child without a wait; an image has fewer blobs."""
REQUESTS_PER_SECOND: Final = 50
"""Of one child after that."""
IDLE_SECONDS: Final = 15.0
"""For the head of a request, from the connection or from the answer before. A child asks again after one second."""
SLOW_SECONDS: Final = 30.0
"""For one chunk of a blob: a child that reads slower is cut."""
EXPECTED_SECONDS: Final = 1.0
"""A child waits so long for the first byte of a blob that this node expects; then it asks again."""
_LOOK_SECONDS: Final = 0.05
REFUSAL_SECONDS: Final = 0.05
"""A refusal is sent this long after its request, or a multiple of it: how long it took to decide says nothing."""

_BUDGETS_MAX: Final = 512
_REFUSED: Final = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
_LATER: Final = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\n\r\n"
_DONE: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Observer(Protocol):
    """Learns what the server does."""

    def sent(self, node: str, size_bytes: int) -> None:
        """So many bytes of a blob went to a child."""

    def refused(self, reason: Refusal) -> None:
        """A request was answered by 404, or by 503 for `busy`."""

    def done(self, line_key: str, node: str) -> None:
        """A child has the image of the line, and will not ask for it again."""


class PeerServer:
    """Answers the requests of other nodes."""

    def __init__(
        self, access: Access, digests: ImageDigests, blobs: Blobs, pace: Pace, observer: Observer, clock: Clock
    ) -> None:
        self._access, self._digests, self._blobs = access, digests, blobs
        self._pace, self._observer, self._clock = pace, observer, clock
        self.sending: Counter[str] = Counter()
        """Child to the number of blobs that are being sent to it."""
        self._budgets: dict[str, Budget] = {}
        """By child."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: Caller) -> None:
        """Answer the requests of one connection, until it ends or is too slow. Raises `OSError` and `TimeoutError`."""
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            await self._answer(head, writer, caller)

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter, caller: Caller) -> None:
        began = self._clock.monotonic()
        try:
            await self._serve(head, writer, caller)
        except RequestRefused as refusal:
            self._observer.refused(refusal.reason)
            taken = self._clock.monotonic() - began
            await self._clock.sleep(REFUSAL_SECONDS - taken % REFUSAL_SECONDS)
            await _send(writer, _LATER if refusal.reason in ("expected", "busy") else _REFUSED)

    async def _serve(self, head: bytes, writer: asyncio.StreamWriter, caller: Caller) -> None:
        """Do what is asked. Raises `RequestRefused` before anything was sent."""
        request = read_request(head)
        if request is None:
            raise RequestRefused("request")
        caller.node, served = self._access.check(request)
        await self._wait_for_turn(caller.node)
        if not request.digest:
            self._observer.done(request.line_key, caller.node)
            await _send(writer, _DONE)
            return
        size = await self._expected_size(request, served)
        part = request.part(size)
        if part is None:
            raise RequestRefused("absent")
        opening = _opening(request, *part, size)
        if request.method == "HEAD":
            await _send(writer, opening)
            return
        # No wait between this look and the count: many requests may come in one moment.
        if self.sending[caller.node] >= BODIES_PER_CHILD_MAX or self.sending.total() >= BODIES_MAX:
            raise RequestRefused("busy")
        with self._place(caller.node):
            await _send(writer, opening)
            await self._send_blob(writer, request.digest, part, caller.node)

    @contextlib.contextmanager
    def _place(self, node: str) -> Iterator[None]:
        """Count a blob that is sent to a child."""
        self.sending[node] += 1
        try:
            yield
        finally:
            self.sending[node] -= 1
            if not self.sending[node]:
                del self.sending[node]

    async def _wait_for_turn(self, node: str) -> None:
        """Let a child that asks too often wait: each request costs this node some work."""
        if len(self._budgets) >= _BUDGETS_MAX:
            self._budgets.clear()
        budget = self._budgets.setdefault(node, Budget(self._clock, REQUESTS_BURST, 1 / REQUESTS_PER_SECOND))
        await self._clock.sleep(budget.spend())

    async def _expected_size(self, request: PeerRequest, served: Served) -> int:
        """As `_size`, a moment later if this node expects the blob: a tree has many levels, and each would wait."""
        until = self._clock.monotonic() + EXPECTED_SECONDS
        while True:
            try:
                return await self._size(request.digest, served)
            except RequestRefused as refusal:
                if refusal.reason != "expected" or self._clock.monotonic() >= until:
                    raise
            await self._clock.sleep(_LOOK_SECONDS)
            # The hint may have changed or expired meanwhile.
            _, served = self._access.check(request)

    async def _size(self, digest: str, served: Served) -> int:
        """The bytes of a blob that belongs to what is served. Raises `RequestRefused`."""
        try:
            belongs = digest in served.blobs or (served.root and await self._digests.belongs(digest, served.root))
            size = await self._blobs.size(digest) if belongs else None
        except (NotContainerd, RuntimeUnreachable) as error:
            raise RequestRefused("absent") from error
        if size is not None:
            return size
        if served.expected and (belongs or not self._digests.all_known(served.root)):
            raise RequestRefused("expected")
        raise RequestRefused("absent" if belongs else "digest")

    async def _send_blob(self, writer: asyncio.StreamWriter, digest: str, part: tuple[int, int], node: str) -> None:
        """Raises `ConnectionAbortedError` if bytes are missing: the child gets the rest elsewhere."""
        start, length = part
        try:
            async with aclosing(self._blobs.read(digest, start, length)) as pieces:
                async for piece in pieces:
                    await self._pace.take(len(piece))
                    await _send(writer, piece)
                    self._observer.sent(node, len(piece))
                    length -= len(piece)
        except (Gone, NotContainerd, RuntimeUnreachable) as error:
            raise ConnectionAbortedError(str(error)) from error
        if length:
            raise ConnectionAbortedError(f"{digest}: {length} bytes are missing")


def _opening(request: PeerRequest, start: int, length: int, size: int) -> bytes:
    if not request.ranged:
        return f"HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n".encode()
    within = f"content-range: bytes {start}-{start + length - 1}/{size}"
    return f"HTTP/1.1 206 Partial Content\r\ncontent-length: {length}\r\n{within}\r\n\r\n".encode()


async def _send(writer: asyncio.StreamWriter, data: bytes | memoryview) -> None:
    writer.write(data)
    async with asyncio.timeout(SLOW_SECONDS):
        await writer.drain()
