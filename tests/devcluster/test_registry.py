"""The embedded registry does what only it can: faults, a log, and images made from nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from devcluster.registry.app import Access, Uplink, registry_app
from devcluster.registry.folder import Answer, Folder, digest_of
from devcluster.registry.images import build_image, build_index, incompressible_image, write_image
from devcluster.registry.serve import serve_registry
from tests.support.instant import instant

APP = incompressible_image(0.02, "app")
MANIFEST = "/v2/shop/app/manifests/1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a registry that holds one image."""
    write_image(tmp_path, "shop/app", "1", APP)
    return tmp_path


@pytest.fixture
def log() -> list[Access]:
    return []


Send = Callable[..., httpx.Response]


@pytest.fixture
def send(root: Path, log: list[Access]) -> Send:
    """Requests to the application, without sockets."""
    app = registry_app(root, log=log.append, answering=Counter())

    async def request(method: str, path: str, **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://registry") as client:
            return await client.request(method, path, **more)

    return lambda *given, **more: asyncio.run(request(*given, **more))


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


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_repository_below_another_is_a_repository_of_its_own(root: Path) -> None:
    write_image(root, "shop", "2", APP)
    folder = Folder(root)
    assert (folder.tags("shop"), folder.tags("shop/app"), folder.tags("sho")) == (["2"], ["1"], None)


@pytest.mark.parametrize("name", ["../x", "Shop", "a//b", "_tags", "a/../b", ""])
def test_a_name_that_is_no_repository_is_not_looked_up_on_disk(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no repository"):
        Folder(tmp_path).tags(name)


@pytest.mark.parametrize("reference", ["../../x", "sha256:zz", "sha256:../../x", ".new-1"])
def test_a_reference_that_is_neither_tag_nor_digest_names_nothing(root: Path, reference: str) -> None:
    assert Folder(root).manifest("shop/app", reference) is None
    assert Folder(root).blob(reference) is None


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(429, "TOOMANYREQUESTS"), (503, "UNKNOWN")])
def test_one_repository_can_refuse_while_others_answer(root: Path, send: Send, status: int, code: str) -> None:
    write_image(root, "shop/other", "1", APP)
    Folder(root).write_answer("shop/app", Answer(status=status))
    refused = send("GET", MANIFEST)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (status, code)
    assert send("GET", "/v2/shop/other/manifests/1").status_code == 200


def test_a_private_repository_demands_its_credentials(root: Path, send: Send) -> None:
    Folder(root).write_answer("shop/app", Answer(username="puller", password="right"))
    refused = send("GET", MANIFEST)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic")
    statuses = [send("GET", MANIFEST, auth=("puller", password)).status_code for password in ("wrong", "right")]
    assert statuses == [401, 200]


def test_an_impossible_repository_name_is_refused(send: Send) -> None:
    assert send("GET", "/v2/Shop/App/manifests/1").json()["errors"][0]["code"] == "NAME_INVALID"


def test_a_push_is_not_supported(send: Send) -> None:
    answer = send("PUT", MANIFEST, content=APP.manifest)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (405, "UNSUPPORTED")


def test_every_request_is_logged_with_the_bytes_of_its_body(send: Send, log: list[Access]) -> None:
    for method in ("GET", "HEAD"):
        send(method, MANIFEST)
    sizes = {"GET": len(APP.manifest), "HEAD": 0}
    assert log == [Access(method, MANIFEST, 200, size) for method, size in sizes.items()]


def test_a_stalled_answer_does_not_delay_the_end_of_the_registry(root: Path, log: list[Access]) -> None:
    async def run() -> None:
        Folder(root).write_answer("shop/app", Answer(stall=True))
        async with httpx.AsyncClient() as client:
            async with serve_registry(root, log=log.append) as registry:
                url = f"http://{registry.host}/v2/shop/app/blobs/{digest_of(APP.blobs[1])}"
                async with client.stream("GET", url) as answer:
                    assert answer.status_code == 200
            assert [each.bytes < len(APP.blobs[1]) for each in log] == [True]

    asyncio.run(asyncio.wait_for(run(), 20))


@pytest.mark.slow
def test_the_program_prints_its_host_logs_json_and_ends_on_sigterm(root: Path) -> None:
    command = [sys.executable, "-m", "devcluster.registry", "--port", "0", "--root", str(root)]
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


@instant
async def test_all_answers_share_the_uplink(root: Path) -> None:
    app = registry_app(root, log=lambda _access: None, answering=Counter(), uplink=Uplink(10_000))
    layer = APP.blobs[1]
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://registry") as client:
        began = loop.time()
        answers = await asyncio.gather(*(client.get(f"/v2/shop/app/blobs/{digest_of(layer)}") for _ in range(3)))
    assert [answer.content for answer in answers] == [layer] * 3
    assert loop.time() - began == pytest.approx(3 * len(layer) / 10_000)
