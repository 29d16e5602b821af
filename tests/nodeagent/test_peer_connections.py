"""Other nodes connect to the port of an agent by TLS; nobody keeps them out by connecting as well."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

import pytest

from adapters.clock import real_clock
from adapters.listener import open_listener_at
from adapters.peer_key import certificate_key_name, server_tls
from nodeagent.peers.connections import KNOWN_MAX, STRANGERS_MAX, STRANGERS_PER_ADDRESS_MAX, Connections
from tests.real.programs import real_time
from tests.support.instant import until
from tests.support.peers import Parent, a_parent, digest_of, manifest

pytestmark = pytest.mark.slow

CONFIG = b"a configuration"
IMAGE = manifest(CONFIG)
SECONDS = 10


def client_tls(*, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """TLS that verifies nothing: a child compares the key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, newest
    return context


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[tuple[Parent, int]]:
    """A parent with the image, and its port on 127.0.0.1."""
    async with a_parent(real_clock()) as parent:
        parent.have(IMAGE, CONFIG)
        parent.serve(digest_of(IMAGE), "child")
        with open_listener_at("127.0.0.1", 0) as listener:
            listener.listen()
            connections = Connections(server_tls(parent.key), parent.server.handle)
            accepting = asyncio.create_task(connections.accept(listener))
            try:
                yield parent, listener.getsockname()[1]
            finally:
                accepting.cancel()
                await asyncio.wait((accepting,))


async def received(reader: asyncio.StreamReader, end: bytes) -> bytes:
    async with asyncio.timeout(SECONDS):
        return await reader.readuntil(end)


async def silent(port: int, count: int, address: str) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connections from that address that send nothing."""
    return [await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0)) for _ in range(count)]


async def ask(parent: Parent, port: int, node: str = "child") -> bytes:
    """What a node gets that asks for the configuration; empty if it does not get through."""
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_tls())
            writer.write(await parent.request(node, digest_of(CONFIG)))
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(len(CONFIG) if b" 200 " in head else 0)
    except (OSError, asyncio.IncompleteReadError):
        return b""
    writer.close()
    return head + body


@real_time
async def test_a_child_gets_blobs_by_tls_from_the_agent_with_the_key_in_the_hint() -> None:
    async with listening() as (parent, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_tls())
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.3"
        assert certificate_key_name(tls.getpeercert(binary_form=True) or b"") == parent.key.name
        for _ in range(2):
            writer.write(await parent.request("child", digest_of(CONFIG)))
            async with asyncio.timeout(SECONDS):
                assert (await reader.readuntil(CONFIG)).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


@real_time
async def test_older_tls_and_plain_http_get_no_answer() -> None:
    async with listening() as (parent, port):
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=client_tls(newest=ssl.TLSVersion.TLSv1_2))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(await parent.request("child", digest_of(CONFIG)))
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(SECONDS):
                assert b"HTTP" not in await reader.read()
        writer.close()


@real_time
async def test_silent_connections_are_few_and_keep_no_child_out() -> None:
    async with listening() as (parent, port):
        # An address of its own, and many of them.
        crowds = [await silent(port, 4 * STRANGERS_PER_ADDRESS_MAX, "127.0.0.2")]
        assert (await ask(parent, port)).endswith(CONFIG)
        crowds += [await silent(port, STRANGERS_PER_ADDRESS_MAX, f"127.0.1.{number}") for number in range(1, 20)]
        assert (await ask(parent, port)).endswith(CONFIG)
        ended = [asyncio.create_task(reader.read()) for crowd in crowds for reader, _ in crowd]
        await until(lambda: sum(not task.done() for task in ended) <= STRANGERS_MAX, seconds=SECONDS)
        for _, writer in (each for crowd in crowds for each in crowd):
            writer.close()
        await asyncio.gather(*ended, return_exceptions=True)


@real_time
async def test_a_child_with_many_connections_loses_its_own_and_not_those_of_others() -> None:
    async with listening() as (parent, port):
        parent.serve(digest_of(IMAGE), "child", "greedy")
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_tls())
        writer.write(await parent.request("child", digest_of(CONFIG)))
        await reader.readuntil(CONFIG)
        asked, many = await parent.request("greedy", digest_of(CONFIG)), []
        for _ in range(KNOWN_MAX + 5):
            many.append(await asyncio.open_connection("127.0.0.1", port, ssl=client_tls()))
            many[-1][1].write(asked)
            await many[-1][0].readuntil(CONFIG)
        writer.write(await parent.request("child", digest_of(CONFIG)))
        async with asyncio.timeout(SECONDS):
            await reader.readuntil(CONFIG)
        with contextlib.suppress(ConnectionError):
            assert await many[0][0].read() == b""
        for _, each in (*many, (reader, writer)):
            each.close()


@real_time
async def test_a_child_that_goes_away_in_the_middle_holds_nothing() -> None:
    async with listening() as (parent, port):
        digest = "sha256:" + "a" * 64
        parent.serve("", "child", blobs=frozenset({digest}))
        async with parent.incoming.receiving(digest, 100) as blob:
            await blob.receive(0, b"x")
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_tls())
            writer.write(await parent.request("child", digest))
            await reader.readuntil(b"\r\n\r\nx")
            assert parent.server.sending == {"child": 1}
            writer.transport.abort()
            await until(lambda: not parent.server.sending, seconds=SECONDS)
