"""Does an agent of a real containerd call warm what a Pod would find there?"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

import pytest

from adapters.cri import open_runtime
from devcluster.registry.images import build_index, incompressible_image, write_image
from devcluster.registry.serve import serve_registry
from tests.real.containerd import start_containerd
from tests.support.agents import bench
from tests.support.instant import until
from warmhook.lines import Line
from warmhook.warmimages import ObjectKey

pytestmark = pytest.mark.containerd


def test_pull_heal_move_and_a_killed_runtime() -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="wh", dir="/tmp") as folder:
            root = Path(folder)
            async with (
                serve_registry(root, port=0) as registry,
                start_containerd() as containerd,
                open_runtime(containerd.endpoint) as runtime,
                bench() as b,
                b.agent(runtime=runtime, check_seconds=1),
            ):
                index = build_index([incompressible_image(1, "one", platform="linux/amd64")])
                image = f"{registry.host}/shop/web:1"
                line = Line(ObjectKey("shop", "web"), image, write_image(root, "shop/web", "1", index))
                await b.want(line)
                await until(lambda: b.state(line) == "warm", seconds=30)
                listed = await runtime.image(image)
                assert listed
                assert listed.digests == (f"{registry.host}/shop/web@{line.digest}",)

                await runtime.remove(image)
                await until(lambda: len(b.events("pull")) == 2 and b.state(line) == "warm", seconds=30)

                digest = write_image(root, "shop/web", "2", incompressible_image(1, "two"))
                moved = Line(ObjectKey("shop", "two"), f"{registry.host}/shop/web:2", line.digest)
                await b.want(moved)
                await until(lambda: b.state(moved) == "warm", seconds=30)
                assert json.loads(b.detail(moved)) == {"moved": digest}

                await containerd.kill()
                await until(lambda: b.state(line) == "waiting", seconds=30)
                await containerd.start()
                await until(lambda: b.state(line) == b.state(moved) == "warm", seconds=60)
                assert len(b.events("pull")) == 3

    asyncio.run(main())
