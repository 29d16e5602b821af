"""The embedded runtime keeps its content whole, through cancelled pulls, removals and kills."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cri_api.v1 import api_pb2 as cri
from cri_api.v1.api_pb2_grpc import RuntimeServiceStub

from adapters.cri import open_runtime
from devcluster.cri.pull import host_platform
from devcluster.cri.server import serve_cri
from devcluster.cri.store import Named, open_store
from devcluster.registry.folder import Answer, Folder, digest_of
from devcluster.registry.images import build_index, incompressible_image, write_image
from devcluster.registry.serve import Registry, serve_registry
from tests.real.programs import eventually, stop
from tests.support.cases import as_test
from warmhook.ports import Runtime

pytestmark = pytest.mark.slow

APP = incompressible_image(0.1, "app")
BIG = incompressible_image(1, "big")
ID = "sha256:" + "1" * 64


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="wh", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@contextlib.asynccontextmanager
async def _node(folder: Path, platform: str = "linux/amd64") -> AsyncIterator[Runtime]:
    async with (
        serve_cri(folder / "s", folder / "node", platform=platform),
        open_runtime(f"unix://{folder}/s") as runtime,
    ):
        yield runtime


def in_a_folder(case: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a case that needs the folder."""

    def run(case: Callable[[Path], Awaitable[None]], folder: Path) -> None:
        asyncio.run(asyncio.wait_for(case(folder), 60))

    return as_test(case, run, "folder")


def _blobs(folder: Path) -> set[str]:
    return {f"sha256:{path.name}" for path in (folder / "node" / "blobs" / "sha256").iterdir()}


# --- the store -------------------------------------------------------------------------------------------------------


def test_a_store_opened_again_has_the_same_names(tmp_path: Path) -> None:
    named = Named(ID, 10, (ID,))
    open_store(tmp_path).name("h/a:1", named)
    assert open_store(tmp_path).names == {"h/a:1": named}


def test_half_written_files_are_gone_after_a_start(tmp_path: Path) -> None:
    path, file = open_store(tmp_path).ingest()
    file.write(b"half")
    file.close()
    open_store(tmp_path)
    assert not path.exists()


def test_blobs_that_no_name_needs_are_gone_after_a_start(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    path, file = store.ingest()
    file.close()
    store.commit(path, ID)
    assert not open_store(tmp_path).has(ID)


# --- pulls -----------------------------------------------------------------------------------------------------------


@in_a_folder
async def test_removal_deletes_the_blobs_that_no_other_image_needs(folder: Path) -> None:
    root = folder / "registry"
    write_image(root, "shop/app", "1", APP)
    write_image(root, "shop/big", "1", BIG)
    async with serve_registry(root) as registry, _node(folder) as runtime:
        for name in ("app", "big"):
            await runtime.pull(f"{registry.host}/shop/{name}:1", timeout_seconds=20)
        await runtime.remove(f"{registry.host}/shop/big:1")
    assert _blobs(folder) == {APP.digest, *map(digest_of, APP.blobs)}


@in_a_folder
async def test_the_platform_can_be_chosen(folder: Path) -> None:
    arm = incompressible_image(0.01, "arm", platform="linux/arm64")
    write_image(folder / "registry", "shop/app", "1", build_index([APP, arm]))
    async with serve_registry(folder / "registry") as registry, _node(folder, platform="linux/arm64") as runtime:
        reference = f"{registry.host}/shop/app:1"
        assert await runtime.pull(reference, timeout_seconds=20) == arm.config_digest


def test_the_platform_is_named_as_images_name_it() -> None:
    system, _, architecture = host_platform().partition("/")
    assert system == "linux"
    assert architecture not in ("x86_64", "aarch64", "")


@in_a_folder
async def test_a_cancelled_pull_deletes_what_it_has_half_written(folder: Path) -> None:
    async with _stalled(folder) as registry, _node(folder) as runtime:
        pull = asyncio.create_task(_pull_big(runtime, registry), name="pull")
        await _half_written(folder)
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        await eventually(lambda: not any((folder / "node" / "ingest").iterdir()), what="the file is deleted")


@in_a_folder
async def test_two_pulls_share_a_layer_and_the_second_goes_on_if_the_first_is_cancelled(folder: Path) -> None:
    async with _stalled(folder) as registry, _node(folder) as runtime:
        first = asyncio.create_task(_pull_big(runtime, registry), name="first")
        second = asyncio.create_task(_pull_big(runtime, registry), name="second")
        await _half_written(folder)
        first.cancel()
        Folder(folder / "registry").write_answer("shop/big", Answer())
        assert await second == BIG.config_digest
        await asyncio.gather(first, return_exceptions=True)


@in_a_folder
async def test_the_rest_of_cri_is_unimplemented(folder: Path) -> None:
    async with _node(folder), grpc.aio.insecure_channel(f"unix://{folder}/s") as channel:
        stub = RuntimeServiceStub(channel)
        status = await stub.Status(cri.StatusRequest(), timeout=10)
        assert all(condition.status for condition in status.status.conditions)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.RunPodSandbox(cri.RunPodSandboxRequest(), timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.slow
@in_a_folder
async def test_a_killed_program_takes_no_half_written_file_for_a_blob(folder: Path) -> None:
    async with _stalled(folder) as registry:
        process = await _program(folder)
        async with open_runtime(f"unix://{folder}/s") as runtime:
            pull = asyncio.create_task(_pull_big(runtime, registry), name="pull")
            await _half_written(folder)
            await stop(process, signal.SIGKILL)
            await asyncio.gather(pull, return_exceptions=True)
        Folder(folder / "registry").write_answer("shop/big", Answer())
        process = await _program(folder)
        try:
            async with open_runtime(f"unix://{folder}/s") as runtime:
                assert await runtime.images() == []
                assert await _pull_big(runtime, registry) == BIG.config_digest
        finally:
            await stop(process)
        assert process.returncode == 0
    assert _blobs(folder) == {BIG.digest, *map(digest_of, BIG.blobs)}


@contextlib.asynccontextmanager
async def _stalled(folder: Path) -> AsyncIterator[Registry]:
    """A registry that sends half of the big image's layer."""
    write_image(folder / "registry", "shop/big", "1", BIG)
    Folder(folder / "registry").write_answer("shop/big", Answer(stall=True))
    async with serve_registry(folder / "registry") as registry:
        yield registry


async def _pull_big(runtime: Runtime, registry: Registry) -> str:
    return await runtime.pull(f"{registry.host}/shop/big:1", timeout_seconds=30)


async def _half_written(folder: Path) -> None:
    def half_written() -> bool:
        config_is_there = (folder / "node" / "blobs" / "sha256" / BIG.config_digest[7:]).exists()
        return config_is_there and any((folder / "node" / "ingest").iterdir())

    await eventually(half_written, what="a layer is being written")


async def _program(folder: Path) -> asyncio.subprocess.Process:
    """`python -m devcluster.cri`, ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "devcluster.cri", "--socket", str(folder / "s"), "--root", str(folder / "node"),
        stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    ready = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
    assert ready == {"event": "ready", "socket": str(folder / "s")}
    return process
