"""Run a case of the runtime contract on a fresh node: in memory, with the embedded runtime, or with containerd.

With `WARMHOOK_TEST_CRI` also on the runtime at that socket, which the cases do not start or stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.cri import open_runtime
from adapters.runtime_traits import RuntimeTraits, runtime_traits
from devcluster.cri.server import serve_cri
from devcluster.registry.app import Access
from devcluster.registry.folder import Answer, Folder, digest_of
from devcluster.registry.images import Image, write_image
from devcluster.registry.serve import Registry, serve_registry
from tests.real.containerd import AT_SOCKET, REGISTRY_PORT, start_containerd, start_runtime
from tests.real.programs import eventually
from tests.support.cases import as_test
from tests.support.instant import instantly
from tests.support.runtime import MemoryRuntime
from warmhook.platforms import Platform
from warmhook.ports import ImageConfig, PullFailed, Runtime, RuntimeImage, RuntimeUnreachable

__all__ = [
    "Node",
    "RegistryNode",
    "Site",
    "on_each_runtime",
    "on_each_runtime_with_a_registry",
    "open_node",
    "open_site",
]

_CASE_SECONDS = 90
AS_CONTAINERD = runtime_traits("containerd 1.6.20")
"""The traits of the runtimes that imitate containerd."""
_PLATFORM = "linux/amd64"
"""Of every node, whatever machine runs the tests, like the images that are pushed."""


class Node(ABC):
    """One node under test."""

    runtime: Runtime
    host: str
    """Of the registry, as references name it."""
    endpoint: str
    """Of the runtime, as errors name it."""
    content: str
    """What the path of the runtime's content begins with."""
    traits: RuntimeTraits

    @abstractmethod
    def push(self, name: str, image: Image) -> str:
        """Put an image into the registry as `repository:tag` and return its reference."""

    @abstractmethod
    def stall(self, reference: str) -> None:
        """Let the registry send half of the image's layer, and then nothing."""

    @abstractmethod
    def resume(self, reference: str) -> None:
        """Let the registry send whole layers again."""

    @abstractmethod
    async def half_sent(self, reference: str, image: Image) -> None:
        """Return once the pull of an image that is stalled has begun."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop the runtime."""

    async def pull(self, reference: str, seconds: float = 30) -> str:
        """Pull without credentials and return the image ID."""
        image = await self.runtime.image(await self.runtime.pull(reference, timeout_seconds=seconds))
        assert image
        return image.id

    def id_of(self, image: Image) -> str:
        """How this runtime writes the ID of an image."""
        return self.traits.id_prefix + image.config_digest.removeprefix("sha256:")

    def only(self, runtime: str, reason: str) -> None:
        """Skip the test on the runtimes at other sockets."""
        if self.traits.runtime != runtime:
            pytest.skip(f"{self.traits.runtime}: {reason}")

    async def failure(self, reference: str, seconds: float = 30) -> PullFailed:
        """How the pull fails; it must."""
        with pytest.raises(PullFailed) as caught:
            await self.pull(reference, seconds)
        return caught.value

    async def cancel_half_way(self, reference: str, image: Image) -> None:
        """Begin a pull that stalls, and cancel it."""
        self.stall(reference)
        pull = asyncio.create_task(self.pull(reference), name="pull to cancel")
        await self.half_sent(reference, image)
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull

    async def only_image(self) -> RuntimeImage:
        """The one image that is there."""
        (image,) = await self.runtime.images()
        return image


class MemoryNode(Node):
    """A node whose runtime and registry are in memory."""

    host, endpoint, content = "registry.example:5000", "memory://", "/var/lib/memory"

    def __init__(self) -> None:
        self.runtime: MemoryRuntime = MemoryRuntime()
        self.traits = AS_CONTAINERD

    def push(self, name: str, image: Image) -> str:
        reference = f"{self.host}/{name}"
        self.runtime.registry[reference] = image.digest
        runnable = next((child for child in image.children if child.platform == _PLATFORM), image)
        for each in {image, runnable}:
            self.runtime.ids[each.digest] = runnable.config_digest
            system, _, architecture = runnable.platform.partition("/")
            self.runtime.configs[each.digest] = ImageConfig(Platform(system, architecture), len(runnable.blobs) - 1)
        if image.platform == "unknown/unknown":
            self.runtime.fail(reference, "NotRunnable")
        return reference

    def stall(self, reference: str) -> None:
        self.runtime.hanging.add(reference)

    def resume(self, reference: str) -> None:
        self.runtime.hanging.remove(reference)

    async def half_sent(self, reference: str, image: Image) -> None:
        await eventually(lambda: self.runtime.running > 0, what=f"{reference} is being pulled")

    async def stop(self) -> None:
        self.runtime.unreachable = True


@dataclass(slots=True)
class RegistryNode(Node):
    """A node whose runtime pulls from a registry over HTTP."""

    runtime: Runtime
    host: str
    endpoint: str
    registry: Registry
    restart: Callable[[], Awaitable[None]]
    """Stop and start the runtime on the same content."""
    end: Callable[[], Awaitable[None]]
    requests: list[Access]
    """What the registry has answered, in order."""
    traits: RuntimeTraits
    content: str = "/" if AT_SOCKET else "/tmp/wh"

    @property
    def folder(self) -> Folder:
        """The registry's content."""
        return Folder(self.registry.root)

    def push(self, name: str, image: Image) -> str:
        repository, _, tag = name.partition(":")
        write_image(self.folder.root, repository, tag, image)
        return f"{self.host}/{name}"

    def answer(self, reference: str, answer: Answer) -> None:
        """Change how the registry answers requests for the repository."""
        self.folder.write_answer(reference.removeprefix(f"{self.host}/").partition(":")[0], answer)

    def stall(self, reference: str) -> None:
        self.answer(reference, Answer(stall=True))

    def resume(self, reference: str) -> None:
        self.answer(reference, Answer())

    async def half_sent(self, reference: str, image: Image) -> None:
        layer = digest_of(image.blobs[1])
        sending = self.registry.answering
        await eventually(
            lambda: any(sending[path] > 0 for path in tuple(sending) if path.endswith(layer)),
            what=f"the layer of {reference} is being sent",
        )

    async def stop(self) -> None:
        await self.end()

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
    serving = serve_registry(root, port=REGISTRY_PORT, log=requests.append)
    try:
        with asyncio.Runner() as runner:
            registry = runner.run(serving.__aenter__())
            yield Site(runner, registry, requests)
            runner.run(serving.__aexit__(None, None, None))
    finally:
        shutil.rmtree(root)


_KINDS = [pytest.param("embedded", marks=pytest.mark.slow), pytest.param("containerd", marks=pytest.mark.containerd)]
if AT_SOCKET:
    _KINDS.append(pytest.param("socket", marks=pytest.mark.containerd))


def on_each_runtime(case: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test that runs in memory, on a fresh embedded runtime and on a fresh containerd."""
    test: Callable[..., None] = pytest.mark.parametrize("kind", ["memory", *_KINDS])(
        as_test(case, _run, "kind", "request")
    )
    return test


def on_each_runtime_with_a_registry(case: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test that runs on a fresh embedded runtime and on a fresh containerd; the case takes a `RegistryNode`."""
    test: Callable[..., None] = pytest.mark.parametrize("kind", _KINDS)(as_test(case, _run, "kind", "request"))
    return test


def _run(case: Callable[[Node], Awaitable[None]], kind: str, request: pytest.FixtureRequest) -> None:
    async def on_a_node(site: Site) -> None:
        async with open_node(kind, site) as node:
            await case(node)

    async def in_memory() -> None:
        await case(MemoryNode())

    if kind == "memory":
        instantly(in_memory())
    else:
        site: Site = request.getfixturevalue("site")
        site.runner.run(asyncio.wait_for(on_a_node(site), _CASE_SECONDS))


@contextlib.asynccontextmanager
async def open_node(kind: str, site: Site, *, parent: Path = Path("/tmp")) -> AsyncIterator[RegistryNode]:
    """A fresh node of that kind on the site's emptied registry, its content below `parent`."""
    for path in site.registry.root.iterdir():
        shutil.rmtree(path)
    runtime = {"embedded": _embedded, "containerd": _containerd, "socket": _at_socket}[kind](parent)
    async with runtime as (endpoint, restart, stop), open_runtime(endpoint) as opened:
        traits = AS_CONTAINERD if kind == "embedded" else runtime_traits(await opened.version())
        site.requests.clear()
        yield RegistryNode(opened, site.registry.host, endpoint, site.registry, restart, stop, site.requests, traits)


_Handles = tuple[str, Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]


@contextlib.asynccontextmanager
async def _containerd(parent: Path) -> AsyncIterator[_Handles]:
    async with start_containerd(parent=parent) as containerd:
        yield containerd.endpoint, containerd.restart, containerd.stop


@contextlib.asynccontextmanager
async def _at_socket(parent: Path) -> AsyncIterator[_Handles]:
    async with start_runtime(parent=parent) as runtime:
        yield runtime.endpoint, runtime.restart, runtime.stop


@contextlib.asynccontextmanager
async def _embedded(parent: Path) -> AsyncIterator[_Handles]:
    root = Path(tempfile.mkdtemp(prefix="wh", dir=parent))
    endpoint = f"unix://{root}/s"
    async with contextlib.AsyncExitStack() as running:

        async def start() -> None:
            await running.enter_async_context(serve_cri(root / "s", root / "content", platform=_PLATFORM))

        async def restart() -> None:
            await running.aclose()
            await start()

        try:
            await start()
            yield endpoint, restart, running.aclose
        finally:
            await running.aclose()
            shutil.rmtree(root)
