"""Does the embedded registry do what only it can: faults, limits, a log, and images made from nothing?"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from devcluster.registry.app import Access, registry_app
from devcluster.registry.egress import Egress
from devcluster.registry.folder import Answer, Folder, digest_of
from devcluster.registry.images import (
    build_artifact,
    build_image,
    build_index,
    incompressible_image,
    layer_of,
    write_image,
)
from devcluster.registry.serve import serve_registry

APP = incompressible_image(0.02, "app")


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def _ask(
    root: Path, case: Callable[[httpx.AsyncClient, list[Access], Clock], Awaitable[None]], rate: float = 0
) -> None:
    """Run a case against the application, without sockets."""

    async def run() -> None:
        log: list[Access] = []
        clock = Clock()
        egress = Egress(rate, monotonic=clock.monotonic, sleep=clock.sleep)
        app = registry_app(root, egress=egress, log=log.append, answering=Counter(), sleep=clock.sleep)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://registry") as client:
            await case(client, log, clock)

    asyncio.run(run())


# --- images ----------------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_image() -> None:
    assert incompressible_image(0.02, "app") == APP
    assert incompressible_image(0.02, "other").digest != APP.digest


def test_an_incompressible_image_has_the_size_asked_for_and_does_not_shrink() -> None:
    image = incompressible_image(0.3, "size", layers=3)
    compressed = sum(map(len, image.blobs[1:]))
    assert len(image.blobs) == 4
    assert 300_000 <= compressed < 345_000
    assert len(gzip.compress(image.blobs[1])) > 0.9 * len(image.blobs[1])


def test_a_config_names_what_its_layers_unpack_to() -> None:
    diff_ids = json.loads(APP.blobs[0])["rootfs"]["diff_ids"]
    assert diff_ids == [digest_of(gzip.decompress(layer)) for layer in APP.blobs[1:]]


def test_a_manifest_names_its_blobs_by_digest_and_size() -> None:
    manifest = json.loads(APP.manifest)
    described = [(part["digest"], part["size"]) for part in (manifest["config"], *manifest["layers"])]
    assert described == [(digest_of(blob), len(blob)) for blob in APP.blobs]


def test_a_layer_holds_the_files_it_was_given() -> None:
    layer = layer_of({"etc/motd": b"hello"})
    with tarfile.open(fileobj=io.BytesIO(layer.blob)) as tar:
        file = tar.extractfile("etc/motd")
        assert file is not None
        assert file.read() == b"hello"


def test_an_index_has_a_platform_for_each_image_and_none_for_attestations() -> None:
    arm = build_image(b"arm", platform="linux/arm64")
    entries = json.loads(build_index([APP, arm], attestation=True).manifest)["manifests"]
    platforms = [f"{each['platform']['os']}/{each['platform']['architecture']}" for each in entries]
    assert platforms == ["linux/amd64", "linux/arm64", "unknown/unknown", "unknown/unknown"]
    assert [each["annotations"]["vnd.docker.reference.digest"] for each in entries[2:]] == [APP.digest, arm.digest]


def test_a_note_makes_another_image_of_the_same_layers() -> None:
    plain, noted = build_image(b"x"), build_image(b"x", note="y")
    assert plain.blobs[1:] == noted.blobs[1:]
    assert plain.config_digest != noted.config_digest


def test_a_chart_says_that_it_is_no_image() -> None:
    assert "helm" in json.loads(build_artifact("helm").manifest)["config"]["mediaType"]


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_tag_moves_and_the_old_manifest_stays_by_digest(tmp_path: Path) -> None:
    write_image(tmp_path, "shop/app", "1", APP)
    moved = write_image(tmp_path, "shop/app", "1", build_image(b"new"))
    folder = Folder(tmp_path)
    manifest, old = folder.manifest("shop/app", "1"), folder.manifest("shop/app", APP.digest)
    assert manifest is not None
    assert old is not None
    assert (manifest.digest, old.body) == (moved, APP.manifest)


def test_a_repository_below_another_is_a_repository_of_its_own(tmp_path: Path) -> None:
    write_image(tmp_path, "shop", "1", APP)
    write_image(tmp_path, "shop/app", "2", APP)
    folder = Folder(tmp_path)
    assert (folder.tags("shop"), folder.tags("shop/app"), folder.tags("sho")) == (["1"], ["2"], None)


def test_a_removed_tag_is_gone(tmp_path: Path) -> None:
    write_image(tmp_path, "shop/app", "1", APP)
    Folder(tmp_path).remove_tag("shop/app", "1")
    assert Folder(tmp_path).manifest("shop/app", "1") is None


@pytest.mark.parametrize("name", ["../x", "Shop", "a//b", "_tags", "a/../b", ""])
def test_what_is_no_repository_is_not_looked_for_on_disk(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no repository"):
        Folder(tmp_path).tags(name)


@pytest.mark.parametrize("reference", ["../../x", "sha256:zz", "sha256:../../x", ".new-1"])
def test_what_is_neither_tag_nor_digest_is_not_there(tmp_path: Path, reference: str) -> None:
    write_image(tmp_path, "shop/app", "1", APP)
    folder = Folder(tmp_path)
    assert folder.manifest("shop/app", reference) is None
    assert folder.blob(reference) is None


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(429, "TOOMANYREQUESTS"), (503, "UNKNOWN")])
def test_a_repository_can_be_told_to_refuse(tmp_path: Path, status: int, code: str) -> None:
    async def case(client: httpx.AsyncClient, *_: object) -> None:
        write_image(tmp_path, "shop/app", "1", APP)
        write_image(tmp_path, "shop/other", "1", APP)
        Folder(tmp_path).write_answer("shop/app", Answer(status=status))
        answer = await client.get("/v2/shop/app/manifests/1")
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code)
        assert (await client.get("/v2/shop/other/manifests/1")).status_code == 200

    _ask(tmp_path, case)


def test_a_private_repository_asks_for_its_credentials(tmp_path: Path) -> None:
    async def case(client: httpx.AsyncClient, *_: object) -> None:
        write_image(tmp_path, "shop/app", "1", APP)
        Folder(tmp_path).write_answer("shop/app", Answer(username="puller", password="right"))
        refused = await client.get("/v2/shop/app/manifests/1")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert (await client.get("/v2/shop/app/manifests/1", auth=("puller", "wrong"))).status_code == 401
        assert (await client.get("/v2/shop/app/manifests/1", auth=("puller", "right"))).status_code == 200

    _ask(tmp_path, case)


def test_a_client_that_takes_no_index_is_given_none(tmp_path: Path) -> None:
    async def case(client: httpx.AsyncClient, *_: object) -> None:
        write_image(tmp_path, "shop/app", "1", build_index([APP]))
        accept = {"accept": APP.media_type}
        assert (await client.get("/v2/shop/app/manifests/1", headers=accept)).status_code == 404

    _ask(tmp_path, case)


def test_referrers_of_an_image_are_listed(tmp_path: Path) -> None:
    async def case(client: httpx.AsyncClient, *_: object) -> None:
        write_image(tmp_path, "shop/app", "1", APP)
        body = json.dumps({"schemaVersion": 2, "subject": {"digest": APP.digest}}).encode()
        digest = Folder(tmp_path).write_manifest("shop/app", body, APP.media_type)
        answer = await client.get(f"/v2/shop/app/referrers/{APP.digest}")
        assert [each["digest"] for each in answer.json()["manifests"]] == [digest]

    _ask(tmp_path, case)


def test_an_impossible_repository_name_is_refused(tmp_path: Path) -> None:
    async def case(client: httpx.AsyncClient, *_: object) -> None:
        answer = await client.get("/v2/Shop/App/manifests/1")
        assert answer.json()["errors"][0]["code"] == "NAME_INVALID"

    _ask(tmp_path, case)


def test_pushing_is_not_supported(tmp_path: Path) -> None:
    async def case(client: httpx.AsyncClient, *_: object) -> None:
        answer = await client.put("/v2/shop/app/manifests/1", content=APP.manifest)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (405, "UNSUPPORTED")

    _ask(tmp_path, case)


def test_every_request_is_logged_with_the_bytes_of_its_body(tmp_path: Path) -> None:
    async def case(client: httpx.AsyncClient, log: list[Access], _: Clock) -> None:
        write_image(tmp_path, "shop/app", "1", APP)
        agent = {"user-agent": "puller/1"}
        await client.get("/v2/shop/app/manifests/1", headers=agent)
        await client.head("/v2/shop/app/manifests/1", headers=agent)
        path = "/v2/shop/app/manifests/1"
        assert log == [
            Access("GET", path, 200, len(APP.manifest), "puller/1"),
            Access("HEAD", path, 200, 0, "puller/1"),
        ]

    _ask(tmp_path, case)


def test_egress_is_limited_over_all_answers_together(tmp_path: Path) -> None:
    async def case(client: httpx.AsyncClient, log: list[Access], clock: Clock) -> None:
        write_image(tmp_path, "shop/app", "1", APP)
        path = f"/v2/shop/app/blobs/{digest_of(APP.blobs[1])}"
        await asyncio.gather(client.get(path), client.get(path))
        assert sum(each.bytes for each in log) == 2 * len(APP.blobs[1])
        assert clock.now >= 2 * len(APP.blobs[1]) / 1000

    _ask(tmp_path, case, rate=1000)


def test_without_a_limit_nobody_waits(tmp_path: Path) -> None:
    async def case(client: httpx.AsyncClient, _: list[Access], clock: Clock) -> None:
        write_image(tmp_path, "shop/app", "1", APP)
        await client.get(f"/v2/shop/app/blobs/{digest_of(APP.blobs[1])}")
        assert clock.now == 0

    _ask(tmp_path, case)


def test_a_stalled_answer_does_not_delay_the_end_of_the_registry(tmp_path: Path) -> None:
    async def run() -> None:
        write_image(tmp_path, "shop/app", "1", APP)
        Folder(tmp_path).write_answer("shop/app", Answer(stall=True))
        log: list[Access] = []
        async with httpx.AsyncClient() as client:
            async with serve_registry(tmp_path, log=log.append) as registry:
                url = f"http://{registry.host}/v2/shop/app/blobs/{digest_of(APP.blobs[1])}"
                async with client.stream("GET", url) as answer:
                    assert answer.status_code == 200
            assert [each.bytes < len(APP.blobs[1]) for each in log] == [True]

    asyncio.run(asyncio.wait_for(run(), 20))


def test_the_program_says_where_it_is_logs_json_and_ends_when_told_to(tmp_path: Path) -> None:
    write_image(tmp_path, "shop/app", "1", APP)
    command = [sys.executable, "-m", "devcluster.registry", "--port", "0", "--root", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["event"] == "ready"
            assert httpx.get(f"http://{ready['host']}/v2/shop/app/tags/list").json()["tags"] == ["1"]
            access = json.loads(process.stdout.readline())
            assert (access["method"], access["path"], access["status"]) == ("GET", "/v2/shop/app/tags/list", 200)
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
