"""The real programs start, answer and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adapters.cri import open_runtime
from devcluster.registry.images import incompressible_image, write_image
from devcluster.registry.serve import serve_app, serve_registry
from tests.real.containerd import start_containerd
from tests.real.programs import eventually
from tests.real.registry import push_image, start_docker_registry

APP = incompressible_image(0.1, "app")


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.mark.containerd
def test_containerds_side_by_side_are_nodes_of_their_own(folder: Path) -> None:
    async def run() -> None:
        write_image(folder, "shop/app", "1", APP)
        async with (
            serve_registry(folder) as registry,
            start_containerd() as one,
            start_containerd() as two,
            open_runtime(one.endpoint) as first,
            open_runtime(two.endpoint) as second,
        ):
            await first.pull(f"{registry.host}/shop/app:1", timeout_seconds=30)
            assert len(await first.images()) == 1
            assert await second.images() == []

    asyncio.run(asyncio.wait_for(run(), 90))


@pytest.mark.containerd
def test_a_killed_containerd_keeps_its_images_and_leaves_nothing_behind_in_the_end(folder: Path) -> None:
    async def run() -> Path:
        write_image(folder, "shop/app", "1", APP)
        async with serve_registry(folder) as registry, start_containerd() as containerd:
            async with open_runtime(containerd.endpoint) as runtime:
                await runtime.pull(f"{registry.host}/shop/app:1", timeout_seconds=30)
            await containerd.kill()
            await containerd.start()
            async with open_runtime(containerd.endpoint) as runtime:
                assert [image.id for image in await runtime.images()] == [APP.config_digest]
            await containerd.kill()
        return containerd.root

    root = asyncio.run(asyncio.wait_for(run(), 90))
    assert not root.exists()
    assert str(root) not in Path("/proc/self/mounts").read_text()


@pytest.mark.containerd
def test_docker_registry_notifies_of_a_push() -> None:
    async def run() -> None:
        received: list[tuple[str, Any]] = []

        async def notified(request: Request) -> Response:
            received.append((request.headers.get("authorization", ""), json.loads(await request.body())))
            return Response(status_code=202)

        async with serve_app(Starlette(routes=[Route("/hook", notified, methods=["POST"])])) as host:
            url, headers = f"http://{host}/hook", {"Authorization": "Bearer token-token"}
            async with start_docker_registry(notify_url=url, headers=headers) as registry:
                await push_image(registry.host, "shop/app", "1", APP)

                def pushed() -> bool:
                    events = [event for _, body in received for event in body["events"]]
                    return any(event["action"] == "push" and event["target"].get("tag") == "1" for event in events)

                await eventually(pushed, what="the notification of the push")
                assert {authorization for authorization, _ in received} == {"Bearer token-token"}
                assert "shop/app" in registry.log()

    asyncio.run(asyncio.wait_for(run(), 90))
