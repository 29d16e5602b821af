"""Does a registry answer as runtimes rely on? One suite for the embedded registry and Debian's docker-registry."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from devcluster.registry.folder import digest_of
from devcluster.registry.images import build_image, build_index, incompressible, incompressible_image, write_image
from devcluster.registry.serve import serve_registry
from tests.real.registry import push_image, start_docker_registry

APP = incompressible_image(0.05, "app")
ARM = incompressible_image(0.05, "arm", platform="linux/arm64")
INDEX = build_index([APP, ARM])
DOCKER = build_image(incompressible(5000, "docker"), docker=True)
PUSHED = (("shop/app", "1", INDEX), ("shop/app", "0", APP), ("shop/docker", "1", DOCKER))
LAYER = APP.blobs[1]
LAYER_DIGEST = digest_of(LAYER)
ABSENT = "sha256:" + "0" * 64
ANY_MANIFEST = {
    "accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
}


@dataclass(frozen=True, slots=True)
class Client:
    """Asks the registry under test, one request at a time."""

    runner: asyncio.Runner
    http: httpx.AsyncClient

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.runner.run(self.http.get(path, headers=ANY_MANIFEST | headers))

    def status(self, path: str, **headers: str) -> int:
        """Of the answer alone: docker-registry 2.8 announces a refused range's body with the blob's length."""

        async def ask() -> int:
            async with self.http.stream("GET", path, headers=headers) as answer:
                return answer.status_code

        return self.runner.run(ask())

    def head(self, path: str) -> httpx.Response:
        return self.runner.run(self.http.head(path, headers=ANY_MANIFEST))


@pytest.fixture(scope="module", params=["embedded", pytest.param("docker-registry", marks=pytest.mark.containerd)])
def registry(request: pytest.FixtureRequest) -> Iterator[Client]:
    serving = _embedded() if request.param == "embedded" else _real()
    with asyncio.Runner() as runner:
        host = runner.run(serving.__aenter__())
        http = httpx.AsyncClient(base_url=f"http://{host}", trust_env=False)
        yield Client(runner, http)
        runner.run(http.aclose())
        runner.run(serving.__aexit__(None, None, None))


@contextlib.asynccontextmanager
async def _embedded() -> AsyncIterator[str]:
    root = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    for repository, tag, image in PUSHED:
        write_image(root, repository, tag, image)
    try:
        async with serve_registry(root) as registry:
            yield registry.host
    finally:
        shutil.rmtree(root)


@contextlib.asynccontextmanager
async def _real() -> AsyncIterator[str]:
    async with start_docker_registry() as registry:
        for repository, tag, image in PUSHED:
            await push_image(registry.host, repository, tag, image)
        yield registry.host


def test_the_base_says_that_it_is_a_registry(registry: Client) -> None:
    answer = registry.get("/v2/")
    assert answer.status_code == 200
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


def test_a_manifest_by_tag_is_what_was_pushed(registry: Client) -> None:
    answer = registry.get("/v2/shop/app/manifests/0")
    assert answer.status_code == 200
    assert answer.content == APP.manifest
    assert answer.headers["content-type"] == APP.media_type
    assert answer.headers["docker-content-digest"] == APP.digest


def test_a_manifest_by_digest_is_the_same(registry: Client) -> None:
    assert registry.get(f"/v2/shop/app/manifests/{APP.digest}").content == APP.manifest


def test_an_index_is_answered_as_an_index(registry: Client) -> None:
    answer = registry.get("/v2/shop/app/manifests/1")
    assert answer.content == INDEX.manifest
    assert answer.headers["content-type"] == INDEX.media_type


@pytest.mark.parametrize("child", [APP, ARM], ids=["amd64", "arm64"])
def test_the_children_of_an_index_are_there_by_digest(registry: Client, child: Any) -> None:
    assert registry.get(f"/v2/shop/app/manifests/{child.digest}").content == child.manifest


def test_docker_media_types_are_kept(registry: Client) -> None:
    answer = registry.get("/v2/shop/docker/manifests/1")
    assert answer.headers["content-type"] == "application/vnd.docker.distribution.manifest.v2+json"


def test_head_of_a_manifest_gives_digest_type_and_length_without_a_body(registry: Client) -> None:
    answer = registry.head("/v2/shop/app/manifests/0")
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["docker-content-digest"] == APP.digest
    assert answer.headers["content-type"] == APP.media_type
    assert int(answer.headers["content-length"]) == len(APP.manifest)


def test_a_blob_is_its_content(registry: Client) -> None:
    answer = registry.get(f"/v2/shop/app/blobs/{LAYER_DIGEST}")
    assert answer.status_code == 200
    assert answer.content == LAYER
    assert answer.headers["docker-content-digest"] == LAYER_DIGEST
    assert answer.headers["content-type"] == "application/octet-stream"


def test_the_config_is_a_blob(registry: Client) -> None:
    assert registry.get(f"/v2/shop/app/blobs/{APP.config_digest}").content == APP.blobs[0]


def test_head_of_a_blob_gives_its_length_without_a_body(registry: Client) -> None:
    answer = registry.head(f"/v2/shop/app/blobs/{LAYER_DIGEST}")
    assert answer.status_code == 200
    assert answer.content == b""
    assert int(answer.headers["content-length"]) == len(LAYER)
    assert answer.headers["accept-ranges"] == "bytes"


def test_the_rest_of_a_blob_can_be_asked_for(registry: Client) -> None:
    answer = registry.get(f"/v2/shop/app/blobs/{LAYER_DIGEST}", range="bytes=1000-")
    assert answer.status_code == 206
    assert answer.content == LAYER[1000:]
    assert answer.headers["content-range"] == f"bytes 1000-{len(LAYER) - 1}/{len(LAYER)}"


def test_a_part_of_a_blob_can_be_asked_for(registry: Client) -> None:
    answer = registry.get(f"/v2/shop/app/blobs/{LAYER_DIGEST}", range="bytes=10-19")
    assert answer.status_code == 206
    assert answer.content == LAYER[10:20]


def test_a_range_behind_the_end_is_refused(registry: Client) -> None:
    assert registry.status(f"/v2/shop/app/blobs/{LAYER_DIGEST}", range=f"bytes={len(LAYER)}-") == 416


def test_tags_are_listed_in_order(registry: Client) -> None:
    assert registry.get("/v2/shop/app/tags/list").json() == {"name": "shop/app", "tags": ["0", "1"]}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v2/shop/app/manifests/none", "MANIFEST_UNKNOWN"),
        (f"/v2/shop/app/manifests/{ABSENT}", "MANIFEST_UNKNOWN"),
        ("/v2/shop/none/manifests/1", "MANIFEST_UNKNOWN"),
        (f"/v2/shop/app/blobs/{ABSENT}", "BLOB_UNKNOWN"),
        ("/v2/shop/none/tags/list", "NAME_UNKNOWN"),
    ],
)
def test_what_is_not_there_is_404_with_the_code_of_the_specification(registry: Client, path: str, code: str) -> None:
    answer = registry.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("application/json")
    assert [error["code"] for error in answer.json()["errors"]] == [code]


@pytest.mark.parametrize("path", ["/v2/shop/none/manifests/1", f"/v2/shop/app/blobs/{ABSENT}"])
def test_head_of_what_is_not_there_is_404(registry: Client, path: str) -> None:
    assert registry.head(path).status_code == 404
