"""A real docker-registry reports layers before their manifest, and its notifications are read as such."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adapters.registries import Delivery, Outcome, Source, find_adapter
from devcluster.registry.images import incompressible_image
from devcluster.registry.serve import serve_app
from tests.real.programs import eventually
from tests.real.registry import DockerRegistry, push_image, start_docker_registry
from warmhook.events import BlobPushed, Pushed

ADAPTER = find_adapter("distribution")
MIB = 1024 * 1024


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@asynccontextmanager
async def notifying_registry() -> AsyncIterator[tuple[DockerRegistry, list[Outcome]]]:
    """A registry, and what its notifications were read as so far."""
    outcomes: list[Outcome] = []

    async def notified(request: Request) -> Response:
        delivery = Delivery(await request.body(), datetime.now(UTC), dict(request.headers))
        outcomes.extend(ADAPTER.parse(delivery, Source("test", early_blobs=True)))
        return Response(status_code=202)

    app = Starlette(routes=[Route("/hook", notified, methods=["POST"])])
    async with serve_app(app) as host, start_docker_registry(notify_url=f"http://{host}/hook") as registry:
        yield registry, outcomes


def blobs(outcomes: list[Outcome]) -> dict[str, int]:
    return {str(one.blob): one.size_bytes for one in outcomes if isinstance(one, BlobPushed)}


def run(case: Callable[[DockerRegistry, list[Outcome]], Awaitable[None]]) -> None:
    async def main() -> None:
        async with notifying_registry() as (registry, outcomes):
            await case(registry, outcomes)

    asyncio.run(asyncio.wait_for(main(), 90))


async def upload(client: httpx.AsyncClient, repository: str, data: bytes, chunks: int) -> None:
    """Push a blob in so many chunks."""
    started = await client.post(f"/v2/{repository}/blobs/uploads/")
    location, step = started.headers["location"], -(-len(data) // chunks)
    for offset in range(0, len(data), step):
        part = data[offset : offset + step]
        headers = {
            "content-type": "application/octet-stream",
            "content-range": f"{offset}-{offset + len(part) - 1}",
        }
        location = (await client.patch(location, content=part, headers=headers)).headers["location"]
    ended = await client.put(httpx.URL(location).copy_merge_params({"digest": digest_of(data)}))
    assert ended.status_code == 201


@pytest.mark.slow
def test_every_layer_of_a_push_is_reported_before_its_manifest() -> None:
    image = incompressible_image(3.0, "app", layers=2)
    layers = [f"/shop/app@{digest_of(blob)}" for blob in image.blobs[1:]]

    async def case(registry: DockerRegistry, outcomes: list[Outcome]) -> None:
        await push_image(registry.host, "shop/app", "1", image)
        await eventually(lambda: any(isinstance(one, Pushed) for one in outcomes), what="the push")
        manifest = next(number for number, one in enumerate(outcomes) if isinstance(one, Pushed))
        before = blobs(outcomes[:manifest])
        assert {registry.host + layer for layer in layers} <= before.keys()
        assert [before[registry.host + layer] for layer in layers] == [len(blob) for blob in image.blobs[1:]]

    run(case)


@pytest.mark.slow
def test_a_chunked_upload_is_one_blob_and_a_mount_needs_no_upload() -> None:
    data = b"x" * 3 * MIB

    async def case(registry: DockerRegistry, outcomes: list[Outcome]) -> None:
        async with httpx.AsyncClient(base_url=f"http://{registry.host}") as client:
            await upload(client, "base/debian", data, chunks=3)
            query = {"mount": digest_of(data), "from": "base/debian"}
            mounted = await client.post("/v2/shop/app/blobs/uploads/", params=query)
            assert mounted.status_code == 201
        repositories = [f"{registry.host}/{name}@{digest_of(data)}" for name in ("base/debian", "shop/app")]
        await eventually(lambda: len(blobs(outcomes)) == 2, what="both notifications")
        assert blobs(outcomes) == dict.fromkeys(repositories, 3 * MIB)

    run(case)


@pytest.mark.slow
def test_layers_that_the_repository_has_are_not_reported_again() -> None:
    image = incompressible_image(3.0, "app", layers=2)

    async def case(registry: DockerRegistry, outcomes: list[Outcome]) -> None:
        await push_image(registry.host, "shop/app", "1", image)
        await eventually(lambda: any(isinstance(one, Pushed) for one in outcomes), what="the first push")
        outcomes.clear()
        await push_image(registry.host, "shop/app", "2", image)
        await eventually(lambda: any(isinstance(one, Pushed) for one in outcomes), what="the second push")
        assert blobs(outcomes) == {}

    run(case)
