"""A registry with a certificate of its own CA is asked only if that CA is configured, and follows a rotation."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from adapters.certificates import Pair, make_pair
from adapters.clock import real_clock
from adapters.oci_registry import OciRegistries, digest_of
from adapters.registry_settings import EndpointSettings, RegistrySettings
from tests.real.programs import real_time
from warmhook.images import Reference
from warmhook.manifests import Resolved
from warmhook.ports import Registries

MANIFEST = json.dumps({"config": {}, "layers": []}).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.oci.image.manifest.v1+json\r\nconnection: close\r\n"


@contextlib.asynccontextmanager
async def serving(pair: Pair, folder: Path) -> AsyncIterator[str]:
    """A server with that certificate, whatever is asked of it; gives its host."""
    for name, content in (("crt", pair.certificate), ("key", pair.key)):
        (folder / name).write_bytes(content)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "crt", folder / "key")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(MANIFEST) + MANIFEST)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def digest(registries: Registries, host: str) -> str:
    """What the registry says, or its problem."""
    answer = await registries.resolve(Reference(host, "shop/app", "v1"))
    return answer.digest if isinstance(answer, Resolved) else answer.problem


@pytest.mark.slow
@real_time
async def test_a_certificate_of_an_own_ca_is_trusted_if_it_is_configured_and_also_after_a_rotation(
    tmp_path: Path,
) -> None:
    pair, other = (make_pair(["127.0.0.1"], datetime.now(UTC)) for _ in range(2))
    ca_file = tmp_path / "ca"
    async with serving(pair, tmp_path) as host:
        unknown = OciRegistries({host: RegistrySettings(EndpointSettings(host))}, real_clock())
        assert await digest(unknown, host) == "Network"
        registries = OciRegistries({host: RegistrySettings(EndpointSettings(host, ca_file=ca_file))}, real_clock())
        ca_file.write_bytes(other.authority)
        assert await digest(registries, host) == "Network"
        ca_file.write_bytes(pair.authority)
        # Whatever the resolution of the file system's clock.
        os.utime(ca_file, (1, 1))
        assert await digest(registries, host) == digest_of(MANIFEST)
        await registries.close()
        await unknown.close()
