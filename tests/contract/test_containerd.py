"""containerd's own services, and their twin in memory, behave as pins and time limits rely on.

Another runtime is told from containerd.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest

from adapters.containerd import open_containerd
from devcluster.registry.folder import digest_of
from devcluster.registry.images import build_index, incompressible_image
from tests.contract.nodes import MemoryNode, Node, RegistryNode, Site, open_node, open_site
from tests.real.programs import eventually
from tests.support.cases import as_test
from tests.support.containerd import MemoryContainerd
from tests.support.instant import instantly
from warmhook.ports import Containerd, NotContainerd, RuntimeUnreachable

APP = incompressible_image(0.2, "app", layers=2)
BIG = incompressible_image(3, "big")
OTHER = incompressible_image(3, "other")
OURS = {"warmhook.example/pinned": "true", "io.example.two": "2"}


@dataclass(frozen=True, slots=True)
class Both:
    """A node, and the services of containerd on its socket."""

    node: Node
    containerd: Containerd

    async def labels(self, name: str) -> dict[str, str]:
        """The labels of one name."""
        (found,) = [image for image in await self.containerd.images() if image.name == name]
        return dict(found.labels)

    @contextlib.asynccontextmanager
    async def stalled(self, reference: str) -> AsyncIterator[None]:
        """A pull whose layer stays half sent."""
        self.node.stall(reference)
        pull = asyncio.create_task(self.node.pull(reference), name="stalled pull")
        try:
            yield
        finally:
            pull.cancel()
            await asyncio.wait((pull,))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with open_site() as site:
        yield site


_Case = Callable[[Both], Awaitable[None]]


def _run(case: _Case, kind: str, site: Site) -> None:
    async def on_a_node() -> None:
        async with open_node(kind, site) as node, open_containerd(node.endpoint) as containerd:
            await case(Both(node, containerd))

    site.runner.run(asyncio.wait_for(on_a_node(), 60))


def on_containerd(case: _Case) -> Callable[..., None]:
    """Make a test that runs on a fresh containerd."""

    def run(case: _Case, site: Site) -> None:
        _run(case, "containerd", site)

    test: Callable[..., None] = pytest.mark.containerd(as_test(case, run, "site"))
    return test


def on_both(case: _Case) -> Callable[..., None]:
    """Make a test that runs in memory and on a fresh containerd."""

    def run(case: _Case, kind: str, request: pytest.FixtureRequest) -> None:
        async def in_memory() -> None:
            node = MemoryNode()
            await case(Both(node, MemoryContainerd(node.runtime)))

        if kind == "memory":
            instantly(in_memory())
        else:
            _run(case, kind, request.getfixturevalue("site"))

    kinds = ["memory", pytest.param("containerd", marks=pytest.mark.containerd)]
    test: Callable[..., None] = pytest.mark.parametrize("kind", kinds)(as_test(case, run, "kind", "request"))
    return test


@on_both
async def test_a_pulled_image_has_its_tag_its_digest_and_its_id_as_names(both: Both) -> None:
    reference = both.node.push("shop/app:1", APP)
    await both.node.pull(reference)
    names = {image.name for image in await both.containerd.images()}
    assert names == {reference, f"{both.node.host}/shop/app@{APP.digest}", APP.config_digest}


@on_both
async def test_labels_are_set_beside_others_and_an_empty_value_removes_one(both: Both) -> None:
    reference = both.node.push("shop/app:1", APP)
    await both.node.pull(reference)
    before, image = await both.labels(reference), await both.node.only_image()
    assert await both.containerd.set_labels(reference, OURS)
    assert await both.labels(reference) == before | OURS
    assert await both.containerd.set_labels(reference, {"io.example.two": ""})
    assert await both.labels(reference) == before | {"warmhook.example/pinned": "true"}
    assert await both.node.only_image() == image


@on_both
async def test_a_name_that_is_not_there_gets_no_labels_and_is_not_created(both: Both) -> None:
    assert not await both.containerd.set_labels("registry.example.com/shop/absent:1", OURS)
    assert await both.containerd.images() == []


@on_both
async def test_a_pull_of_a_tag_takes_its_labels_away(both: Both) -> None:
    reference = both.node.push("shop/app:1", APP)
    await both.node.pull(reference)
    await both.containerd.set_labels(reference, OURS)
    await both.node.pull(reference)
    assert not OURS.keys() & (await both.labels(reference)).keys()


@on_containerd
async def test_a_restarted_containerd_still_has_the_labels(both: Both) -> None:
    reference = both.node.push("shop/app:1", APP)
    await both.node.pull(reference)
    await both.containerd.set_labels(reference, OURS)
    assert isinstance(both.node, RegistryNode)
    await both.node.restarted()
    await eventually(lambda: _answers(both.containerd), what="the restarted containerd answers")
    assert OURS.items() <= (await both.labels(reference)).items()


@on_containerd
async def test_a_download_shows_its_bytes_to_the_pulls_of_its_repository_alone(both: Both) -> None:
    """Also from an index: a child that was not named by the pull."""
    big = both.node.push("shop/big:1", build_index([BIG]))
    other = both.node.push("shop/other:1", OTHER)
    layers = {big: BIG.blobs[1], other: OTHER.blobs[1]}
    assert await both.containerd.downloads(big) == []
    async with both.stalled(big), both.stalled(other):
        for reference, layer in layers.items():
            # The small configuration is soon complete.
            await eventually(lambda name=reference, whole=layer: _has_part(both, name, whole), what="a part")
        unrelated = f"{both.node.host}/shop/unrelated:1"
        assert await both.containerd.downloads(unrelated) == []


@pytest.mark.slow
def test_the_stand_in_of_another_runtime_is_not_containerd(site: Site) -> None:
    async def case(both: Both) -> None:
        for call in (both.containerd.images(), both.containerd.set_labels("a", OURS), both.containerd.downloads("a:1")):
            with pytest.raises(NotContainerd):
                await call

    _run(case, "embedded", site)


@pytest.mark.slow
def test_a_stopped_runtime_is_unreachable_and_named(site: Site) -> None:
    async def case(both: Both) -> None:
        await both.node.stop()
        with pytest.raises(RuntimeUnreachable, match=both.node.endpoint):
            await both.containerd.images()

    _run(case, "embedded", site)


async def _has_part(both: Both, reference: str, layer: bytes) -> bool:
    """Whether the layer is all that is being downloaded, and a part of it has come, in steps of 1 MiB."""
    downloads = await both.containerd.downloads(reference)
    found = [(each.digest, each.total_bytes) for each in downloads]
    return found == [(digest_of(layer), len(layer))] and 0 < downloads[0].offset_bytes <= len(layer) // 2


async def _answers(containerd: Containerd) -> bool:
    try:
        await containerd.images()
    except RuntimeUnreachable:
        return False
    return True
