"""Run runtimes and a registry for a measurement, as one program that notes every pull.

`python -m tests.bench.runtimes --folder DIR --nodes 10 --repositories 1 --tags 30`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from devcluster.cri.server import serve_cri
from devcluster.nodes import architecture
from devcluster.programs import Program
from devcluster.registry.images import Image, incompressible_image, write_image
from devcluster.registry.serve import serve_registry
from tests.bench.place import Place
from warmhook.ports import Object

__all__ = ["Runtimes", "image_of", "repository_of", "start_runtimes"]

_REGISTRY: Final = 1


def repository_of(number: int) -> str:
    """Of 19 characters, so that with `127.0.0.1:<five digits>` and `:v1.0` a reference has 40."""
    return f"team-a/service-{number:04}"


def image_of(repository: str, tag: str) -> Image:
    """A small image of its own for each name."""
    return incompressible_image(0.001, f"{repository}:{tag}", platform=f"linux/{architecture()}")


@dataclass(frozen=True, slots=True)
class Runtimes:
    """The program, and where its sockets are."""

    program: Program
    host: str
    """Of its registry."""
    folder: Path

    @property
    def images(self) -> Path:
        """The folder that the registry serves."""
        return self.folder / "registry"

    def socket(self, node: int) -> Path:
        """Of the runtime of that node, counted from 0."""
        return self.folder / f"{node}.sock"

    def pulls(self) -> list[Object]:
        """Every pull so far: `node`, `image`, `at` in monotonic seconds."""
        return [each for each in map(json.loads, self.program.output().splitlines()) if each["event"] == "pull"]


async def start_runtimes(place: Place, *, nodes: int, repositories: int, tags: int) -> Runtimes:
    """Start the program; every repository has the tags `v1.0`, `v1.1`, ..."""
    folder = place.folder / "r"
    numbers = {"--nodes": nodes, "--repositories": repositories, "--tags": tags}
    options = [text for name, value in numbers.items() for text in (name, str(value))]
    command = (sys.executable, "-m", "tests.bench.runtimes", "--folder", str(folder), *options)
    program = await place.programs.start("runtimes", command, stage=_REGISTRY)
    await place.programs.prints(program, '"ready"')
    return Runtimes(program, json.loads(program.output().splitlines()[0])["host"], folder)


def _say(fields: Object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="tests.bench.runtimes", description="Runtimes and a registry.")
    parser.add_argument("--folder", type=Path, required=True, help="for content and sockets; created")
    for name in ("nodes", "repositories", "tags"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    asyncio.run(_serve(given.folder, given.nodes, given.repositories, given.tags))


async def _serve(folder: Path, nodes: int, repositories: int, tags: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    images = folder / "registry"
    images.mkdir(parents=True)
    for repository in map(repository_of, range(repositories)):
        for tag in (f"v1.{number}" for number in range(tags)):
            write_image(images, repository, tag, image_of(repository, tag))
    async with serve_registry(images) as registry, _runtimes(folder, nodes):
        _say({"event": "ready", "host": registry.host})
        await stop.wait()


@contextlib.asynccontextmanager
async def _runtimes(folder: Path, nodes: int) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        for node in range(nodes):
            serving = serve_cri(folder / f"{node}.sock", folder / str(node), on_pull=partial(_say_pull, node))
            await stack.enter_async_context(serving)
        yield


def _say_pull(node: int, name: str) -> None:
    _say({"event": "pull", "node": node, "image": name, "at": time.monotonic()})


if __name__ == "__main__":
    main()
