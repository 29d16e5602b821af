"""The registry adapter on the embedded registry and on a real one: both answer alike."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.clock import real_clock
from adapters.oci_registry import OciRegistries, digest_of
from adapters.registry_settings import EndpointSettings, RegistrySettings
from devcluster.registry.images import Image, build_artifact, build_image, build_index, incompressible, write_image
from devcluster.registry.serve import serve_registry
from tests.real.registry import push_image, start_docker_registry
from warmhook.images import Reference
from warmhook.manifests import Resolved
from warmhook.resolutions import Unresolved

AMD64 = build_image(incompressible(3000, "a"), incompressible(2000, "b"), platform="linux/amd64")
ARM64 = build_image(incompressible(40_000, "c"), platform="linux/arm64")
WINDOWS = build_image(incompressible(90_000, "d"), platform="windows/amd64")
INDEX = build_index([AMD64, ARM64, WINDOWS])
DOCKER = build_index([build_image(b"x", docker=True)], docker=True)
CHART = build_artifact("helm")
PUSHED = {"single": AMD64, "index": INDEX, "docker": DOCKER, "chart": CHART}


@dataclass(frozen=True, slots=True)
class Registry:
    """The registry under test, and the adapter."""

    runner: asyncio.Runner
    host: str
    adapter: OciRegistries

    def resolve(self, tag: str = "", digest: str = "", known: Resolved | None = None) -> Resolved | Unresolved:
        image = Reference(self.host, "shop/app", tag, digest)
        return self.runner.run(self.adapter.resolve(image, known))


@pytest.fixture(scope="module", params=["embedded", pytest.param("docker-registry", marks=pytest.mark.containerd)])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    serving = _embedded() if request.param == "embedded" else _real()
    with asyncio.Runner() as runner:
        host = runner.run(serving.__aenter__())
        settings = RegistrySettings(EndpointSettings(host, plain_http=True))
        adapter = OciRegistries({host: settings}, real_clock())
        yield Registry(runner, host, adapter)
        runner.run(adapter.close())
        runner.run(serving.__aexit__(None, None, None))


@contextlib.asynccontextmanager
async def _embedded() -> AsyncIterator[str]:
    root = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    for tag, image in PUSHED.items():
        write_image(root, "shop/app", tag, image)
    try:
        async with serve_registry(root) as served:
            yield served.host
    finally:
        shutil.rmtree(root)


@contextlib.asynccontextmanager
async def _real() -> AsyncIterator[str]:
    async with start_docker_registry() as started:
        for tag, image in PUSHED.items():
            await push_image(started.host, "shop/app", tag, image)
        yield started.host


def layers(image: Image) -> int:
    return sum(map(len, image.blobs[1:]))


def test_a_single_image_has_the_platform_of_its_configuration(registry: Registry) -> None:
    expected = Resolved(AMD64.digest, AMD64.media_type, ("linux/amd64",), layers(AMD64))
    assert registry.resolve("single") == expected
    assert registry.resolve(digest=AMD64.digest) == expected


def test_an_index_has_the_platforms_of_its_images_and_the_size_of_the_largest_for_linux(registry: Registry) -> None:
    platforms = ("linux/amd64", "linux/arm64", "windows/amd64")
    assert registry.resolve("index") == Resolved(INDEX.digest, INDEX.media_type, platforms, layers(ARM64))


def test_media_types_of_docker_are_read(registry: Registry) -> None:
    size = layers(DOCKER.children[0])
    assert registry.resolve("docker") == Resolved(DOCKER.digest, DOCKER.media_type, ("linux/amd64",), size)


def test_a_chart_is_not_runnable(registry: Registry) -> None:
    found = registry.resolve("chart")
    assert isinstance(found, Resolved)
    assert (found.digest, found.runnable) == (CHART.digest, False)


def test_a_tag_that_did_not_move_gives_the_answer_that_is_known(registry: Registry) -> None:
    known = Resolved(AMD64.digest, "known before")
    assert registry.resolve("single", known=known) is known
    assert registry.resolve("index", known=known) == registry.resolve("index")


@pytest.mark.parametrize(
    "resolve",
    [
        lambda registry: registry.resolve("absent"),
        lambda registry: registry.resolve(digest="sha256:" + "0" * 64),
        lambda registry: registry.resolve("absent", known=Resolved(AMD64.digest, "")),
    ],
    ids=["tag", "digest", "a tag that was there"],
)
def test_what_a_registry_does_not_know_is_not_found(
    registry: Registry, resolve: Callable[[Registry], Resolved | Unresolved]
) -> None:
    found = resolve(registry)
    assert isinstance(found, Unresolved)
    assert found.problem == "NotFound"


def test_the_digest_of_the_content_is_that_of_the_registry(registry: Registry) -> None:
    found = registry.resolve("index")
    assert isinstance(found, Resolved)
    assert found.digest == digest_of(INDEX.manifest)
