"""An agent reads blobs of another agent, and shows its token to nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path

import pytest

from adapters import peer_client
from adapters.peer_client import open_peers
from adapters.peer_key import PeerKey, new_peer_key, read_proof, server_tls
from warmhook.hints import Peer
from warmhook.peer_requests import PeerRequest, read_request
from warmhook.ports import NotHere, PeerBlobs, SourceFailed

DIGEST = "sha256:" + "a" * 64
LINE = "0123456789abcdef"
BLOB = bytes(range(256)) * 4000
OWN, PARENT, OTHER = new_peer_key(), new_peer_key(), new_peer_key()

Answer = Callable[[PeerRequest, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Server:
    """Another agent, and what it saw."""

    address: str
    requests: list[PeerRequest] = field(default_factory=list)
    connections: int = 0
    unread: bytes = b""
    """What came without being a request."""

    def peer(self, key: PeerKey = PARENT) -> Peer:
        return Peer("parent", self.address, key.name)


def answer(status: str, body: bytes = b"", *headers: str, cut: int = 0) -> Answer:
    """The same answer to every request; `cut`: bytes that are missing at its end, when the connection is closed."""

    async def send(_request: PeerRequest, writer: asyncio.StreamWriter) -> None:
        head = "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""])
        writer.write(head.encode() + body[: len(body) - cut])
        await writer.drain()
        if cut:
            raise ConnectionAbortedError

    return send


async def give(request: PeerRequest, writer: asyncio.StreamWriter) -> None:
    """The part of the blob that is wanted."""
    body = BLOB[request.start :]
    await answer("206 Partial Content" if request.start else "200 OK", body)(request, writer)


@contextlib.asynccontextmanager
async def serve(answers: Answer = give, key: PeerKey = PARENT) -> AsyncIterator[Server]:
    handlers = set[asyncio.Task[None]]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        served.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError as error:
                    served.unread += error.partial
                    raise
                request = read_request(head)
                assert request is not None, head
                served.requests.append(request)
                await answers(request, writer)

    async with await asyncio.start_server(handle, "127.0.0.1", 0, ssl=server_tls(key)) as listener:
        served = Server("127.0.0.1:{1}".format(*listener.sockets[0].getsockname()))
        yield served
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)


def token_file(folder: Path, token: str = "a.token") -> Path:
    file = folder / "token"
    file.write_text(token + "\n")
    return file


async def read(peers: PeerBlobs, peer: Peer, offset: int = 0) -> bytes:
    async with peers.read(peer, LINE, DIGEST, offset) as part:
        assert part.size_bytes == len(BLOB)
        return b"".join([piece async for piece in part.data])


def on_sockets(test: Callable[[Path], Coroutine[None, None, None]]) -> Callable[[Path], None]:
    """Run a test on an ordinary event loop."""

    @wraps(test)
    def run(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    return run


@on_sockets
async def test_a_blob_is_read_whole_or_from_any_byte_on_over_one_connection(tmp_path: Path) -> None:
    async with serve() as parent, open_peers(OWN, token_file(tmp_path), allow_local=True) as peers:
        assert await read(peers, parent.peer()) == BLOB
        assert await read(peers, parent.peer(), 12_345) == BLOB[12_345:]
    assert [(request.method, request.line_key, request.digest, request.start) for request in parent.requests] == [
        ("GET", LINE, DIGEST, 0),
        ("GET", LINE, DIGEST, 12_345),
    ]
    assert parent.connections == 1


@on_sockets
async def test_each_request_proves_who_sends_it_to_this_parent_alone(tmp_path: Path) -> None:
    async with serve() as parent, open_peers(OWN, token_file(tmp_path), allow_local=True) as peers:
        await read(peers, parent.peer())
    (request,) = parent.requests
    assert request.token == "a.token"
    assert read_proof(request.public, request.proof, PARENT.name, request.token) == OWN.name
    assert read_proof(request.public, request.proof, OTHER.name, request.token) != OWN.name


@on_sockets
async def test_whoever_has_another_key_than_the_hint_names_gets_no_byte_of_a_request(tmp_path: Path) -> None:
    async with serve(key=OTHER) as impostor, open_peers(OWN, token_file(tmp_path), allow_local=True) as peers:
        with pytest.raises(SourceFailed, match="ServerFingerprintMismatch"):
            await read(peers, impostor.peer(PARENT))
        with pytest.raises(SourceFailed):
            await read(peers, impostor.peer(PARENT))
        assert await read(peers, impostor.peer(OTHER)) == BLOB
    assert len(impostor.requests) == 1
    assert impostor.unread == b""


@on_sockets
async def test_a_new_token_is_shown_from_the_next_request_on(tmp_path: Path) -> None:
    async with serve() as parent, open_peers(OWN, token_file(tmp_path), allow_local=True) as peers:
        await read(peers, parent.peer())
        token_file(tmp_path, "another.token")
        await read(peers, parent.peer())
    assert [request.token for request in parent.requests] == ["a.token", "another.token"]
    last = parent.requests[-1]
    assert read_proof(last.public, last.proof, PARENT.name, "another.token") == OWN.name


@on_sockets
async def test_without_a_token_nobody_is_asked(tmp_path: Path) -> None:
    async with serve() as parent, open_peers(OWN, tmp_path / "none", allow_local=True) as peers:
        for text in (None, "", "not\nprintable"):
            if text is not None:
                (tmp_path / "none").write_text(text)
            with pytest.raises(SourceFailed):
                await read(peers, parent.peer())
    assert parent.connections == 0


@on_sockets
async def test_a_parent_that_has_nothing_or_is_busy_may_have_it_later(tmp_path: Path) -> None:
    for status in ("404 Not Found", "503 Service Unavailable"):
        async with serve(answer(status)) as parent, open_peers(OWN, token_file(tmp_path), allow_local=True) as peers:
            for _ in range(2):
                with pytest.raises(NotHere):
                    await read(peers, parent.peer())
            assert parent.connections == 1


@on_sockets
async def test_other_answers_are_failures_and_redirects_are_not_followed(tmp_path: Path) -> None:
    async with serve() as target:
        redirect = answer("307 Temporary Redirect", b"", f"location: https://{target.address}/x")
        for answers in (redirect, answer("500 Internal Server Error"), answer("206 Partial Content", BLOB)):
            async with serve(answers) as parent, open_peers(OWN, token_file(tmp_path), allow_local=True) as peers:
                with pytest.raises(SourceFailed):
                    await read(peers, parent.peer())
        assert target.connections == 0


@on_sockets
async def test_a_parent_that_breaks_off_is_noticed(tmp_path: Path) -> None:
    async with (
        serve(answer("200 OK", BLOB, cut=1000)) as parent,
        open_peers(OWN, token_file(tmp_path), allow_local=True) as peers,
    ):
        with pytest.raises(SourceFailed, match="ClientPayloadError"):
            await read(peers, parent.peer())


def test_a_parent_that_stops_sending_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_client, "STALL_SECONDS", 0.1)

    async def stall(_request: PeerRequest, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1024000\r\n\r\n" + BLOB[:5000])
        await asyncio.Event().wait()

    async def run() -> None:
        async with serve(stall) as parent, open_peers(OWN, token_file(tmp_path), allow_local=True) as peers:
            with pytest.raises(SourceFailed, match="Timeout"):
                await read(peers, parent.peer())

    asyncio.run(run())


@on_sockets
async def test_an_address_of_this_node_is_not_asked(tmp_path: Path) -> None:
    async with serve() as parent, open_peers(OWN, token_file(tmp_path), allow_local=False) as peers:
        for address in (parent.address, "169.254.169.254:80", "[::1]:9465", "0.0.0.0:9465", "name:9465", "10.0.0.5"):
            with pytest.raises(SourceFailed):
                await read(peers, Peer("parent", address, PARENT.name))
    assert parent.connections == 0


@on_sockets
async def test_a_reader_that_is_slow_holds_the_parent_back(tmp_path: Path) -> None:
    sent, much = 0, bytes(64 * 1024)

    async def stream(_request: PeerRequest, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {2**30}\r\n\r\n".encode())
        while True:
            writer.write(much)
            await writer.drain()
            sent += len(much)

    async with (
        serve(stream) as parent,
        open_peers(OWN, token_file(tmp_path), allow_local=True) as peers,
        peers.read(parent.peer(), LINE, DIGEST, 0) as part,
    ):
        async for _piece in part.data:
            before = -1
            while sent > before:
                before = sent
                await asyncio.sleep(0.05)
            # Most of it is in the buffers of the two sockets.
            assert sent < 32 * 1024 * 1024
            return


@on_sockets
async def test_a_node_that_is_done_says_so_and_does_not_mind_the_answer(tmp_path: Path) -> None:
    async with open_peers(OWN, token_file(tmp_path), allow_local=True) as peers:
        async with serve(answer("404 Not Found")) as parent:
            await peers.done(parent.peer(), LINE)
        assert [(request.method, request.line_key) for request in parent.requests] == [("POST", LINE)]
        await peers.done(parent.peer(), LINE)


@on_sockets
async def test_the_keys_of_agents_that_were_started_again_are_forgotten(tmp_path: Path) -> None:
    async with open_peers(OWN, tmp_path / "no-token", allow_local=False) as peers:
        for number in range(1000):
            with pytest.raises(SourceFailed):
                async with peers.read(Peer("parent", "10.0.0.5:9465", f"{number:043}"), LINE, DIGEST, 0):
                    pass
        gc.collect()
        assert sum(isinstance(each, peer_client._Pin) for each in gc.get_objects()) <= 256
