"""A registry answers as runtimes rely on: one suite for the embedded registry and Debian's docker-registry."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

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
DOCKER_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
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


def test_the_base_names_the_version_of_the_protocol(registry: Client) -> None:
    answer = registry.get("/v2/")
    assert answer.status_code == 200
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


_MANIFESTS = "/v2/shop/app/manifests"
_BLOBS = "/v2/shop/app/blobs"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "content", "media_type", "digest"),
    [
        pytest.param(f"{_MANIFESTS}/0", APP.manifest, APP.media_type, APP.digest, id="manifest by tag"),
        pytest.param(f"{_MANIFESTS}/{APP.digest}", APP.manifest, APP.media_type, APP.digest, id="manifest by digest"),
        pytest.param(f"{_MANIFESTS}/1", INDEX.manifest, INDEX.media_type, INDEX.digest, id="index"),
        pytest.param(f"{_MANIFESTS}/{ARM.digest}", ARM.manifest, ARM.media_type, ARM.digest, id="child of an index"),
        pytest.param("/v2/shop/docker/manifests/1", DOCKER.manifest, DOCKER_TYPE, DOCKER.digest, id="Docker's types"),
        pytest.param(f"{_BLOBS}/{LAYER_DIGEST}", LAYER, "application/octet-stream", LAYER_DIGEST, id="layer"),
        pytest.param(
            f"{_BLOBS}/{APP.config_digest}", APP.blobs[0], "application/octet-stream", APP.config_digest, id="config"
        ),
    ],
)
def test_a_pushed_manifest_or_blob_is_answered_with_type_digest_and_length(
    registry: Client, method: str, path: str, content: bytes, media_type: str, digest: str
) -> None:
    answer = registry.get(path) if method == "GET" else registry.head(path)
    assert answer.status_code == 200
    assert answer.content == (content if method == "GET" else b"")
    assert answer.headers["content-type"] == media_type
    assert answer.headers["docker-content-digest"] == digest
    assert int(answer.headers["content-length"]) == len(content)


def test_a_blob_may_be_read_in_ranges(registry: Client) -> None:
    assert registry.head(f"{_BLOBS}/{LAYER_DIGEST}").headers["accept-ranges"] == "bytes"


def test_the_rest_of_a_blob_can_be_requested(registry: Client) -> None:
    answer = registry.get(f"/v2/shop/app/blobs/{LAYER_DIGEST}", range="bytes=1000-")
    assert answer.status_code == 206
    assert answer.content == LAYER[1000:]
    assert answer.headers["content-range"] == f"bytes 1000-{len(LAYER) - 1}/{len(LAYER)}"


def test_a_part_of_a_blob_can_be_requested(registry: Client) -> None:
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
def test_an_absent_name_is_404_with_the_code_of_the_specification(registry: Client, path: str, code: str) -> None:
    answer = registry.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("application/json")
    assert [error["code"] for error in answer.json()["errors"]] == [code]


@pytest.mark.parametrize("path", ["/v2/shop/none/manifests/1", f"/v2/shop/app/blobs/{ABSENT}"])
def test_head_of_an_absent_name_is_404(registry: Client, path: str) -> None:
    assert registry.head(path).status_code == 404
