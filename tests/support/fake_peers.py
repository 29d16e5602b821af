"""Stand in for agents of other nodes: a parent that serves blobs as a test likes, and a child that asks for them.

Both use threads and blocking sockets: OpenSSL works while Python waits, so they cost a measurement as little as any.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from adapters.peer_key import PeerKey, new_peer_key, server_tls, sign_proof
from warmhook.hints import Child, Peer
from warmhook.peer_requests import KEY_HEADER, PROOF_HEADER, PeerRequest, blob_path, done_path, read_request

__all__ = ["FakeChild", "FakeParent", "NotServed", "parent_at"]

_SLICE_BYTES: Final = 256 * 1024
_HEAD_MAX: Final = 16 * 1024
_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.05


class NotServed(Exception):
    """The parent answered something else than a blob; the status is its text."""


@dataclass(eq=False)
class FakeParent:
    """A parent that asks for no proof. A test changes what it does while it runs."""

    node: str
    blobs: Mapping[str, bytes]
    key: PeerKey = field(default_factory=new_peer_key)
    asked: list[PeerRequest] = field(default_factory=list)
    """The requests for blobs that it has, in order."""
    done: list[str] = field(default_factory=list)
    """The line keys whose children are warm."""
    connections: int = 0
    received_bytes: int = 0
    """Of requests."""
    before_slice: Callable[[str, int], None] = lambda _digest, _offset: None
    """Called before the bytes at each offset are sent; may wait, and an `OSError` breaks the connection off."""
    change: Callable[[str, bytes], bytes] = lambda _digest, data: data
    """What it sends in place of a blob; of the same length."""
    address: str = ""

    @property
    def peer(self) -> Peer:
        """As a hint names it."""
        return Peer(self.node, self.address, self.key.name)

    def offsets(self, digest: str) -> list[int]:
        """The first bytes that were asked for, in the order of the requests."""
        return [request.start for request in self.asked if request.digest == digest]

    def serve(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        """Answer the requests on one connection until it ends."""
        self.connections += 1
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
            while head := _read_head(secured)[0]:
                self.received_bytes += len(head)
                request = read_request(head)
                if request is None or not self._answer(secured, request):
                    return

    def _answer(self, connection: socket.socket, request: PeerRequest) -> bool:
        if not request.digest:
            self.done.append(request.line_key)
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            return True
        blob = self.blobs.get(request.digest)
        part = request.part(len(blob)) if blob is not None else None
        if blob is None or part is None:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        self.asked.append(request)
        offset, length = part
        connection.sendall(_head(offset, length, len(blob), ranged=request.ranged))
        if request.method == "HEAD":
            return True
        content = memoryview(self.change(request.digest, blob))
        for start in range(offset, offset + length, _SLICE_BYTES):
            self.before_slice(request.digest, start)
            connection.sendall(content[start : min(start + _SLICE_BYTES, offset + length)])
        return True


def _head(offset: int, length: int, size: int, *, ranged: bool) -> bytes:
    last = offset + length - 1
    status = f"206 Partial Content\r\nContent-Range: bytes {offset}-{last}/{size}" if ranged else "200 OK"
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n".encode()


@contextlib.contextmanager
def parent_at(parent: FakeParent, address: str = "127.0.0.1", port: int = 0) -> Iterator[FakeParent]:
    """The parent, reachable at its `address` within the context."""
    context = server_tls(parent.key)
    listener = socket.create_server((address, port))
    parent.address = f"{address}:{listener.getsockname()[1]}"
    open_now: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_now.append(connection)
                threading.Thread(target=parent.serve, args=(connection, context), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield parent
    finally:
        for each in (listener, *open_now):
            # Also those that a thread waits for end by this.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        thread.join()


@dataclass(frozen=True)
class FakeChild:
    """A child with a token of its node."""

    node: str
    token: str
    key: PeerKey = field(default_factory=new_peer_key)

    @property
    def child(self) -> Child:
        """As a hint names it."""
        return Child(self.node, self.key.name)

    def read(self, parent: Peer, line_key: str, digest: str, offset: int = 0) -> Iterator[memoryview]:
        """The bytes of a blob as they arrive; each piece is valid until the next. Raises `NotServed` and `OSError`."""
        range_line = f"Range: bytes={offset}-\r\n" if offset else ""
        with self._connect(parent) as connection:
            status, length, data = self._ask(connection, parent, f"GET {blob_path(line_key, digest)}", range_line)
            if status not in (200, 206):
                raise NotServed(str(status))
            if data:
                yield memoryview(data)
            left, buffer = length - len(data), memoryview(bytearray(_SLICE_BYTES))
            while left and (count := connection.recv_into(buffer)):
                left -= count
                yield buffer[:count]
            if left:
                raise ConnectionResetError(f"{left} bytes are missing")

    def read_when_there(self, parent: Peer, line_key: str, digest: str) -> Iterator[memoryview]:
        """The same from a parent that may have nothing yet."""
        ends = time.monotonic() + _SECONDS
        while True:
            try:
                yield from self.read(parent, line_key, digest)
            except (NotServed, ConnectionRefusedError):
                if time.monotonic() > ends:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                return

    def say_done(self, parent: Peer, line_key: str) -> int:
        """Tell the parent that the node is warm; the status of its answer."""
        with self._connect(parent) as connection:
            return self._ask(connection, parent, f"POST {done_path(line_key)}", "")[0]

    def _connect(self, parent: Peer) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        host, _, port = parent.address.rpartition(":")
        return context.wrap_socket(socket.create_connection((host, int(port)), timeout=_SECONDS))

    def _ask(self, connection: ssl.SSLSocket, parent: Peer, request: str, more: str) -> tuple[int, int, bytes]:
        """Status, the length of the body, and what came of the body with the head."""
        headers = {
            "Host": parent.address,
            "Authorization": f"Bearer {self.token}",
            KEY_HEADER: self.key.public,
            PROOF_HEADER: sign_proof(self.key, parent.key, self.token),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"{request} HTTP/1.1\r\n{lines}{more}\r\n".encode())
        head, rest = _read_head(connection)
        status, *fields = head.decode("latin-1").split("\r\n")
        lengths = [int(field.partition(":")[2]) for field in fields if field.lower().startswith("content-length:")]
        return int(status.split()[1]), lengths[0] if lengths else 0, rest


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head with its empty line, and what came after it; empty if the connection ended."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(_HEAD_MAX)
        if not data or len(received) > _HEAD_MAX:
            return b"", b""
        received += data
    head, end, rest = received.partition(b"\r\n\r\n")
    return head + end, rest
