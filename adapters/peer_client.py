"""Read blobs of other agents over HTTPS, from whoever has the key that a hint names.

The key is checked after the handshake, before the first byte of the request: whoever is not the peer never sees the
token of this node. No proxy, no redirect and no cookie counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from adapters.peer_key import PeerKey, certificate_key_name, sign_proof
from warmhook.hints import Peer
from warmhook.localhosts import is_local_host
from warmhook.peer_requests import KEY_HEADER, PROOF_HEADER, blob_path, done_path
from warmhook.peers import peer_address
from warmhook.ports import NotHere, NotYet, Part, PeerBlobs, SourceFailed

CONNECT_SECONDS: Final = 3.0
STALL_SECONDS: Final = 10.0
"""Without a byte; then the peer is left."""
_DONE_SECONDS: Final = 5.0
_CONNECTIONS: Final = 32
_PINS_MAX: Final = 256
"""Keys that are remembered: agents make new ones at each start."""
_IDLE_SECONDS: Final = 15.0
_BUFFER_BYTES: Final = 512 * 1024
"""A connection holds twice as much at most; then the peer has to wait."""
_SMALL_BYTES: Final = 64 * 1024
_SMALL_PAUSE_SECONDS: Final = 0.01
_TOKEN_MAX: Final = 16 * 1024
_BROKEN: Final = (aiohttp.ClientError, ssl.SSLError, OSError, TimeoutError, ValueError)


@contextlib.asynccontextmanager
async def open_peers(key: PeerKey, token_file: Path, *, allow_local: bool) -> AsyncIterator[PeerBlobs]:
    """The other agents, asked with this key and the token in that file. Opening sends no request.

    `allow_local`: peers may have addresses of this machine.
    """
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=_IDLE_SECONDS)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=_BUFFER_BYTES,
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent"),
        timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=STALL_SECONDS),
    ) as session:
        yield _PeerClient(session, _Login(key, token_file), allow_local=allow_local)


class _PeerClient:
    """`PeerBlobs` over an aiohttp session."""

    def __init__(self, session: aiohttp.ClientSession, login: _Login, *, allow_local: bool) -> None:
        self._session, self._login, self._allow_local = session, login, allow_local
        self._pins: dict[str, _Pin] = {}
        """By key: connections are kept for each pin."""

    @contextlib.asynccontextmanager
    async def read(self, peer: Peer, line_key: str, digest: str, offset: int) -> AsyncIterator[Part]:
        """As `PeerBlobs.read`."""
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        response = await self._send("GET", peer, blob_path(line_key, digest), wanted)
        try:
            if response.status in (404, 503):
                raise (NotHere if response.status == 404 else NotYet)(peer.node)
            length = response.content_length
            if response.status != (206 if offset else 200) or length is None:
                raise SourceFailed(f"{peer.node}: answered {response.status}, or without a length")
            yield Part(offset + length, _data(peer, response))
        finally:
            # Ends the connection unless everything was read.
            response.close()

    async def done(self, peer: Peer, line_key: str) -> None:
        """As `PeerBlobs.done`."""
        with contextlib.suppress(SourceFailed, TimeoutError):
            async with asyncio.timeout(_DONE_SECONDS):
                response = await self._send("POST", peer, done_path(line_key), {})
                response.close()

    async def _send(self, method: str, peer: Peer, path: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        address = peer_address(peer.address)
        if address is None:
            raise SourceFailed(f"{peer.node}: has no address")
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        if is_local_host(host) and not self._allow_local:
            raise SourceFailed(f"{peer.node}: has an address of this node")
        if len(self._pins) >= _PINS_MAX:
            self._pins.clear()
        pin = self._pins.setdefault(peer.key, _Pin(peer.key))
        try:
            sent = {**self._login.headers(peer.key), **headers}
            async with asyncio.timeout(CONNECT_SECONDS + STALL_SECONDS):
                return await self._session.request(
                    method, f"https://{host}:{address[1]}{path}", headers=sent, ssl=pin, allow_redirects=False
                )
        except _BROKEN as error:
            raise SourceFailed(f"{peer.node}: {type(error).__name__}") from error


class _Pin(aiohttp.Fingerprint):
    """Accepts the certificate of one key, over TLS 1.3. It is self-signed, and nothing else in it counts."""

    def __init__(self, key: str) -> None:
        super().__init__(bytes(32))
        self._key = key

    def check(self, transport: asyncio.BaseTransport) -> None:
        """Raises `aiohttp.ServerFingerprintMismatch` for another key."""
        connection: Any = transport.get_extra_info("ssl_object")
        certificate = connection.getpeercert(binary_form=True) or b""
        if connection.version() != "TLSv1.3" or certificate_key_name(certificate) != self._key:
            host, port, *_ = transport.get_extra_info("peername")
            raise aiohttp.ServerFingerprintMismatch(b"", b"", host, port)


class _Login:
    """The headers by which a parent knows this node. A changed token file is read again."""

    def __init__(self, key: PeerKey, token_file: Path) -> None:
        self._key, self._token_file = key, token_file
        self._read: tuple[int, int] | None = None
        self._token = ""
        self._proofs: dict[str, str] = {}
        """By key of the parent, for this token."""

    def headers(self, parent: str) -> dict[str, str]:
        """Raises `OSError` or `ValueError` without a usable token."""
        found = self._token_file.stat()
        seen = found.st_mtime_ns, found.st_size
        if seen != self._read:
            token = self._token_file.read_bytes()[:_TOKEN_MAX].decode("ascii").strip()
            if not token or not token.isprintable():
                raise ValueError("the token file has no token")
            self._token, self._read = token, seen
            self._proofs.clear()
        if parent not in self._proofs:
            self._proofs[parent] = sign_proof(self._key, parent, self._token)
        return {
            "Authorization": f"Bearer {self._token}",
            KEY_HEADER: self._key.public,
            PROOF_HEADER: self._proofs[parent],
        }


async def _data(peer: Peer, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for data in response.content.iter_any():
            yield data
            if len(data) < _SMALL_BYTES:
                # A small piece takes as much work as a large one: let some more arrive.
                await asyncio.sleep(_SMALL_PAUSE_SECONDS)
    except _BROKEN as error:
        raise SourceFailed(f"{peer.node}: {type(error).__name__}") from error
