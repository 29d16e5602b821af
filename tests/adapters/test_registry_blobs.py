"""An agent reads the blobs of an image at its registry with the credentials of the pull, or is refused."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime

import httpx
import pytest

from adapters.registry_blobs import RegistryAccess
from tests.support.instant import instant, loop_clock
from warmhook.images import parse_reference
from warmhook.ports import Credentials, Part, RegistryBlobs, SourceFailed, SourceRefuses

HOST = "registry.example.com"
DIGEST = "sha256:" + "a" * 64
BLOB = bytes(range(256)) * 5000
BASIC = {"www-authenticate": 'Basic realm="r"'}
SHOP = Credentials(f"https://{HOST}", "shop", "shop-pa55word")
OTHER = Credentials(f"https://{HOST}", "other", "other-pa55word")

Answer = Callable[[httpx.Request], httpx.Response]


def part(request: httpx.Request) -> httpx.Response:
    """The part of the blob that is wanted."""
    if (wanted := request.headers.get("range")) is None:
        return httpx.Response(200, content=BLOB)
    return httpx.Response(206, content=BLOB[int(wanted.removeprefix("bytes=").removesuffix("-")) :])


def login_of(request: httpx.Request) -> str:
    header = request.headers.get("authorization", "")
    return base64.b64decode(header.removeprefix("Basic ")).decode().partition(":")[0]


class Registry:
    """A registry that answers by a function, and what was asked of it."""

    def __init__(self, answer: Answer = part, *, allow_local: bool = False, plain: str = "") -> None:
        self.requests: list[httpx.Request] = []
        self._answer = answer
        transport = httpx.MockTransport(self._handle)
        clock = loop_clock(datetime(2026, 3, 1, tzinfo=UTC))
        self.access = RegistryAccess(clock, frozenset({plain}), None, allow_local, transport)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer(request)

    async def read(
        self, offset: int = 0, credentials: Sequence[Credentials] = (), image: str = f"{HOST}/a/b:1"
    ) -> bytes:
        """The blob from `offset` on."""
        async with self.access.open(parse_reference(image), credentials) as blobs:
            return await read(blobs, offset)


async def read(blobs: RegistryBlobs, offset: int = 0) -> bytes:
    async with blobs.blob(DIGEST, offset) as found:
        return await joined(found)


async def joined(found: Part) -> bytes:
    assert found.size_bytes == len(BLOB)
    return b"".join([piece async for piece in found.data])


@instant
async def test_a_blob_is_read_from_any_byte_on() -> None:
    registry = Registry()
    assert await registry.read() == BLOB
    assert await registry.read(12_345) == BLOB[12_345:]
    paths = {f"{request.method} {request.url}" for request in registry.requests}
    assert paths == {f"GET https://{HOST}/v2/a/b/blobs/{DIGEST}"}


@instant
async def test_a_manifest_is_read_as_one() -> None:
    registry = Registry()
    async with registry.access.open(parse_reference(f"{HOST}/a/b:1"), ()) as blobs, blobs.manifest(DIGEST) as found:
        assert await joined(found) == BLOB
    (request,) = registry.requests
    assert request.url.path == f"/v2/a/b/manifests/{DIGEST}"
    assert "application/vnd.oci.image.index.v1+json" in request.headers["accept"]


@instant
async def test_images_of_docker_hub_are_read_at_its_api() -> None:
    registry = Registry()
    await registry.read(image="nginx")
    assert str(registry.requests[0].url) == f"https://registry-1.docker.io/v2/library/nginx/blobs/{DIGEST}"


@instant
async def test_the_first_credentials_that_work_are_used_for_all_blobs() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return part(request) if login_of(request) == "shop" else httpx.Response(401, headers=BASIC)

    registry = Registry(answer)
    async with registry.access.open(parse_reference(f"{HOST}/a/b:1"), (OTHER, SHOP)) as blobs:
        assert await read(blobs) == BLOB
        before = len(registry.requests)
        assert await read(blobs) == BLOB
        assert len(registry.requests) == before + 1


@instant
async def test_a_registry_that_accepts_none_of_the_credentials_is_read_without_any() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(403) if login_of(request) else part(request)

    def wants_login(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401, headers=BASIC)

    assert await Registry(answer).read(credentials=(SHOP,)) == BLOB
    with pytest.raises(SourceRefuses) as refused:
        await Registry(wants_login).read(credentials=(SHOP,))
    assert "pa55word" not in str(refused.value)


@instant
async def test_identity_tokens_are_left_to_the_runtime() -> None:
    registry = Registry(lambda _request: httpx.Response(401, headers=BASIC))
    with pytest.raises(SourceRefuses):
        await registry.read(credentials=(Credentials(f"https://{HOST}", "", "", "identity"),))
    assert all("authorization" not in request.headers for request in registry.requests)


@instant
async def test_credentials_do_not_follow_a_redirect_and_the_range_does() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host != HOST:
            return part(request)
        if not login_of(request):
            return httpx.Response(401, headers=BASIC)
        return httpx.Response(307, headers={"location": "https://cdn.example.com/blob"})

    registry = Registry(answer)
    assert await registry.read(12_345, (SHOP,)) == BLOB[12_345:]
    last = registry.requests[-1]
    assert "authorization" not in last.headers
    assert last.headers["range"] == "bytes=12345-"


@pytest.mark.parametrize("location", ["http://cdn.example.com/x", "https://169.254.169.254/x", "https://localhost/x"])
def test_redirects_to_other_places_are_refused(location: str) -> None:
    @instant
    async def run() -> None:
        registry = Registry(lambda _request: httpx.Response(307, headers={"location": location}))
        with pytest.raises(SourceRefuses):
            await registry.read()
        assert len(registry.requests) == 1

    run()


@pytest.mark.parametrize("status", [404, 429, 403, 400, 416])
def test_a_registry_that_refuses_is_left_to_the_runtime(status: int) -> None:
    @instant
    async def run() -> None:
        with pytest.raises(SourceRefuses):
            await Registry(lambda _request: httpx.Response(status)).read()

    run()


@instant
async def test_a_registry_without_parts_of_blobs_is_left_to_the_runtime() -> None:
    registry = Registry(lambda _request: httpx.Response(200, content=BLOB))
    with pytest.raises(SourceRefuses):
        await registry.read(5)


@instant
async def test_a_registry_that_fails_may_be_asked_again() -> None:
    def refuse(_request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    for answer in (refuse, lambda _request: httpx.Response(503)):
        with pytest.raises(SourceFailed):
            await Registry(answer).read()


@instant
async def test_a_registry_that_breaks_off_in_a_blob_fails() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield BLOB[:300_000]
        raise httpx.ReadError("reset")

    registry = Registry(
        lambda _request: httpx.Response(200, content=broken(), headers={"content-length": str(len(BLOB))})
    )
    with pytest.raises(SourceFailed):
        await registry.read()


@instant
async def test_a_registry_of_this_node_is_read_only_if_that_is_allowed() -> None:
    image = "127.0.0.1:5000/a/b:1"
    registry = Registry()
    with pytest.raises(SourceRefuses):
        await registry.read(image=image)
    assert registry.requests == []
    allowed = Registry(allow_local=True, plain="127.0.0.1:5000")
    assert await allowed.read(image=image) == BLOB
    assert allowed.requests[0].url.scheme == "http"
