"""Where does a runtime case run? On a fresh node: a runtime, the embedded registry and the adapter between them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.cri import open_runtime
from devcluster.cri.server import serve_cri
from devcluster.registry.app import Access
from devcluster.registry.folder import Folder
from devcluster.registry.images import Image, write_image
from devcluster.registry.serve import Registry, serve_registry
from tests.real.containerd import start_containerd
from tests.real.programs import eventually
from tests.support.cases import as_test
from warmhook.ports import PullFailed, Runtime, RuntimeImage, RuntimeUnreachable

__all__ = ["Node", "Site", "on_each_runtime", "open_node", "open_site"]

_CASE_SECONDS = 90


@dataclass(slots=True)
class Node:
    """One node under test."""

    runtime: Runtime
    registry: Registry
    restart: Callable[[], Awaitable[None]]
    """Stop and start the runtime on the same content."""
    stop: Callable[[], Awaitable[None]]
    requests: list[Access]
    """What the registry has answered, in order."""

    @property
    def host(self) -> str:
        """The registry's host, as references name it."""
        return self.registry.host

    @property
    def folder(self) -> Folder:
        """The registry's content."""
        return Folder(self.registry.root)

    def push(self, name: str, image: Image) -> str:
        """Put an image into the registry as `repository:tag` and return its reference."""
        repository, _, tag = name.partition(":")
        write_image(self.folder.root, repository, tag, image)
        return f"{self.host}/{name}"

    async def pull(self, reference: str, seconds: float = 30) -> str:
        """Pull without credentials and return the image ID."""
        return await self.runtime.pull(reference, timeout_seconds=seconds)

    async def failure(self, reference: str, seconds: float = 30) -> PullFailed:
        """How the pull fails; it must."""
        with pytest.raises(PullFailed) as caught:
            await self.pull(reference, seconds)
        return caught.value

    async def only_image(self) -> RuntimeImage:
        """The one image that is there."""
        (image,) = await self.runtime.images()
        return image

    def fetched(self, digest: str) -> int:
        """How many requests for this blob's content the registry has answered."""
        return sum(each.method == "GET" and each.path.endswith(digest) for each in self.requests)

    async def restarted(self) -> None:
        """Restart the runtime and return once the adapter reaches it again."""
        await self.restart()
        await eventually(self._answers, what="the restarted runtime answers")

    async def _answers(self) -> bool:
        try:
            await self.runtime.images()
        except RuntimeUnreachable:
            return False
        return True


@dataclass(slots=True)
class Site:
    """What the cases of a module share: an event loop and a registry, emptied for each."""

    runner: asyncio.Runner
    registry: Registry
    requests: list[Access]


@contextlib.contextmanager
def open_site() -> Iterator[Site]:
    """Serve a registry for the cases of a module."""
    requests: list[Access] = []
    root = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    serving = serve_registry(root, log=requests.append)
    try:
        with asyncio.Runner() as runner:
            registry = runner.run(serving.__aenter__())
            yield Site(runner, registry, requests)
            runner.run(serving.__aexit__(None, None, None))
    finally:
        shutil.rmtree(root)


def on_each_runtime(case: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make of a case a test that runs on a fresh embedded runtime and on a fresh containerd."""

    def run(case: Callable[[Node], Awaitable[None]], kind: str, site: Site) -> None:
        async def on_a_node() -> None:
            async with open_node(kind, site) as node:
                await case(node)

        site.runner.run(asyncio.wait_for(on_a_node(), _CASE_SECONDS))

    kinds = ["embedded", pytest.param("containerd", marks=pytest.mark.containerd)]
    test: Callable[..., None] = pytest.mark.parametrize("kind", kinds)(as_test(case, run, "kind", "site"))
    return test


@contextlib.asynccontextmanager
async def open_node(kind: str, site: Site, *, parent: Path = Path("/tmp")) -> AsyncIterator[Node]:
    """A fresh node of that kind on the site's emptied registry, its content below `parent`."""
    for path in site.registry.root.iterdir():
        shutil.rmtree(path)
    runtime = _containerd(parent) if kind == "containerd" else _embedded(parent)
    async with runtime as (endpoint, restart, stop), open_runtime(endpoint) as opened:
        site.requests.clear()
        yield Node(opened, site.registry, restart, stop, site.requests)


_Handles = tuple[str, Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]


@contextlib.asynccontextmanager
async def _containerd(parent: Path) -> AsyncIterator[_Handles]:
    async with start_containerd(parent=parent) as containerd:
        yield containerd.endpoint, containerd.restart, containerd.stop


@contextlib.asynccontextmanager
async def _embedded(parent: Path) -> AsyncIterator[_Handles]:
    root = Path(tempfile.mkdtemp(prefix="wh", dir=parent))
    endpoint = f"unix://{root}/s"
    async with contextlib.AsyncExitStack() as running:

        async def start() -> None:
            # A node of one platform whatever machine runs the tests, like the images pushed to it.
            await running.enter_async_context(serve_cri(root / "s", root / "content", platform="linux/amd64"))

        async def restart() -> None:
            await running.aclose()
            await start()

        try:
            await start()
            yield endpoint, restart, running.aclose
        finally:
            await running.aclose()
            shutil.rmtree(root)
