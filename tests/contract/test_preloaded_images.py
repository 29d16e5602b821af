"""An image whose blobs were written into containerd's content store is pulled with one request, and kept afterwards.

Also while the runtime pulls it, while its lease ends, and after containerd or the agent was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from adapters.containerd_calls import Calls
from adapters.containerd_content import open_content_store
from adapters.cri import open_channel, open_runtime
from devcluster.registry.app import Access
from devcluster.registry.folder import Answer, Folder, digest_of
from devcluster.registry.images import (
    Image,
    build_image,
    build_index,
    incompressible,
    incompressible_image,
    write_image,
)
from devcluster.registry.serve import Registry, serve_registry
from tests.real.containerd import Containerd, start_containerd
from tests.real.programs import eventually, real_time
from warmhook.ports import Busy, ContentStore, Credentials, PullFailed, Runtime, RuntimeImage, RuntimeUnreachable

pytestmark = pytest.mark.containerd

APP = incompressible_image(4, "preloaded", layers=2)
INDEX = build_index([incompressible_image(1, "arm", platform="linux/arm64"), APP])
DOCKER = build_index([APP], docker=True)
# containerd 2 reads the setting from such a file only if it names a runtime too.
DISCARD = """
[plugins."io.containerd.grpc.v1.cri".containerd]
discard_unpacked_layers = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""
LEASE = "warmhook-0123-1"
OTHER = "warmhook-4567-1"


@dataclass(frozen=True, slots=True)
class Place:
    """A registry and a containerd."""

    registry: Registry
    requests: list[Access]
    containerd: Containerd
    runtime: Runtime
    store: ContentStore

    def push(self, image: Image, name: str = "shop/app") -> str:
        write_image(self.registry.root, name, "1", image)
        return f"{self.registry.host}/{name}:1"

    async def pull(self, reference: str) -> RuntimeImage:
        await self.runtime.pull(reference, timeout_seconds=30)
        found = await self.runtime.image(reference)
        assert found
        return found

    async def lease(self, name: str = LEASE, *, seconds: float = 3600) -> None:
        await self.store.create_lease(name, datetime.now(UTC) + timedelta(seconds=seconds))

    async def write(self, kind: str, blob: bytes, lease: str = LEASE) -> None:
        digest = digest_of(blob)
        await self.store.add_to_lease(lease, digest)
        async with self.store.open_writer(f"{kind}-{digest}", digest, len(blob), lease) as writer:
            await writer.write(blob)
            await writer.commit({})

    async def preload(self, image: Image, lease: str = LEASE) -> None:
        """Write what a pull would fetch."""
        await self.lease(lease)
        if image.children:
            await self.write("index", image.manifest, lease)
        image = next((child for child in image.children if child.platform == "linux/amd64"), image)
        await self.write("manifest", image.manifest, lease)
        await self.write("config", image.blobs[0], lease)
        for layer in image.blobs[1:]:
            await self.write("layer", layer, lease)

    async def collected(self) -> None:
        """Return once containerd has collected its garbage."""
        lease = "collected"
        await self.lease(lease)
        async with open_channel(self.containerd.endpoint) as (address, channel):
            # A `DeleteRequest` with `sync`.
            request = b"\x0a" + bytes([len(lease)]) + lease.encode() + b"\x10\x01"
            await Calls(address, channel).call("leases.v1.Leases/Delete", request, "Empty")

    async def lacks(self, blob: bytes) -> bool:
        return await self.store.info(digest_of(blob)) is None

    async def has(self, blob: bytes) -> bool:
        return not await self.lacks(blob)

    async def answers(self) -> bool:
        try:
            await self.store.leases()
        except RuntimeUnreachable:
            return False
        return True

    def asked(self) -> list[tuple[str, str]]:
        """Method and path of each request since the last time."""
        asked = [(each.method, each.path) for each in self.requests]
        self.requests.clear()
        return asked


@contextlib.asynccontextmanager
async def place(tmp_path_factory: pytest.TempPathFactory, *, more: str = "") -> AsyncIterator[Place]:
    requests: list[Access] = []
    async with (
        serve_registry(tmp_path_factory.mktemp("registry"), log=requests.append) as registry,
        start_containerd(more=more) as containerd,
        open_runtime(containerd.endpoint) as runtime,
        open_content_store(containerd.endpoint) as store,
    ):
        yield Place(registry, requests, containerd, runtime, store)


# --- the pull --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", ["", DISCARD], ids=["keep-layers", "discard-layers"])
@pytest.mark.parametrize("image", [APP, INDEX, DOCKER], ids=["manifest", "index", "docker-list"])
@real_time
async def test_a_pull_of_a_preloaded_image_asks_for_its_tag_alone(
    image: Image, more: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with place(tmp_path_factory, more=more) as here:
        reference = here.push(image)
        await here.preload(image)
        await here.collected()
        found = await here.pull(reference)
        assert here.asked() == [("HEAD", "/v2/shop/app/manifests/1")]
        assert found.tags == (reference,)
        assert found.digests == (f"{here.registry.host}/shop/app@{image.digest}",)
        assert found.id == APP.config_digest


@pytest.mark.parametrize("more", ["", DISCARD], ids=["keep-layers", "discard-layers"])
@real_time
async def test_a_pulled_image_needs_no_lease_and_layers_stay_as_after_any_pull(
    more: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with place(tmp_path_factory, more=more) as here:
        reference = here.push(INDEX)
        await here.preload(INDEX)
        await here.pull(reference)
        assert not [layer for layer in APP.blobs if await here.lacks(layer)], "the lease keeps the layers"
        await here.store.delete_lease(LEASE)
        await here.collected()
        for blob in (INDEX.manifest, APP.manifest, APP.blobs[0]):
            assert not await here.lacks(blob)
        assert [await here.lacks(layer) for layer in APP.blobs[1:]] == [bool(more)] * 2
        config = await here.runtime.config(reference)
        assert config
        assert config.layers == 2
        here.asked()
        await here.pull(reference)
        assert here.asked() == [("HEAD", "/v2/shop/app/manifests/1")]


@real_time
async def test_a_preloaded_private_image_is_pulled_with_the_credentials_of_its_registry_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with place(tmp_path_factory) as here:
        reference = here.push(APP)
        Folder(here.registry.root).write_answer("shop/app", Answer(username="puller", password="right-pass"))
        await here.preload(APP)
        with pytest.raises(PullFailed) as refused:
            await here.pull(reference)
        assert refused.value.reason == "Unauthorized"
        assert await here.runtime.images() == []
        here.asked()
        credentials = Credentials(here.registry.host, "puller", "right-pass")
        await here.runtime.pull(reference, timeout_seconds=30, credentials=credentials)
        assert {method for method, _ in here.asked()} == {"HEAD"}


@real_time
async def test_layers_that_another_image_has_unpacked_are_snapshots_and_are_not_fetched(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Also if containerd has discarded their blobs."""
    async with place(tmp_path_factory, more=DISCARD) as here:
        await here.pull(here.push(APP))
        await here.collected()
        assert await here.lacks(APP.blobs[1])
        (system,) = await here.runtime.filesystems()
        assert system.mountpoint.endswith("io.containerd.snapshotter.v1.overlayfs")
        chain = json.loads(APP.blobs[0])["rootfs"]["diff_ids"][0]
        assert await here.store.has_snapshot("overlayfs", chain)
        other = build_image(incompressible(2_000_000, "preloaded/0"), b"other")
        await here.lease()
        await here.write("manifest", other.manifest)
        await here.write("config", other.blobs[0])
        await here.write("layer", other.blobs[2])
        reference = here.push(other, "shop/other")
        here.asked()
        await here.pull(reference)
        assert here.asked() == [("HEAD", "/v2/shop/other/manifests/1")]


# --- both at once ----------------------------------------------------------------------------------------------------


@real_time
async def test_a_pull_waits_for_the_layer_that_we_write_and_takes_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with place(tmp_path_factory) as here:
        reference = here.push(APP)
        await here.lease()
        layer, digest = APP.blobs[1], digest_of(APP.blobs[1])
        async with here.store.open_writer(f"layer-{digest}", digest, len(layer), LEASE) as writer:
            await writer.write(layer[:1_500_000])
            pull = asyncio.create_task(here.pull(reference), name="pull")
            # The other layer is fetched meanwhile.
            await eventually(lambda: here.has(APP.blobs[2]), what="the pull fetches the other layer")
            await writer.write(layer[1_500_000:])
            await writer.commit({})
        assert (await pull).id == APP.config_digest
        assert ("GET", f"/v2/shop/app/blobs/{digest}") not in here.asked()


@real_time
async def test_a_pull_goes_on_with_the_layer_that_we_left(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with place(tmp_path_factory) as here:
        reference = here.push(APP)
        await here.lease()
        layer, digest = APP.blobs[1], digest_of(APP.blobs[1])
        async with here.store.open_writer(f"layer-{digest}", digest, len(layer), LEASE) as writer:
            await writer.write(layer[:1_500_000])
        assert (await here.pull(reference)).id == APP.config_digest
        (sent,) = [each.bytes for each in here.requests if each.method == "GET" and each.path.endswith(digest)]
        assert sent == len(layer) - 1_500_000


@real_time
async def test_what_we_left_wrong_fails_every_pull_until_it_is_dropped(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with place(tmp_path_factory) as here:
        reference = here.push(APP)
        await here.lease()
        digest = digest_of(APP.blobs[1])
        async with here.store.open_writer(f"layer-{digest}", digest, len(APP.blobs[1]), LEASE) as writer:
            await writer.write(b"wrong bytes")
        for _ in range(2):
            with pytest.raises(PullFailed):
                await here.pull(reference)
        await here.store.abort(f"layer-{digest}")
        assert (await here.pull(reference)).id == APP.config_digest


@real_time
async def test_a_layer_that_a_pull_fetches_is_busy_for_us_and_there_afterwards(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with place(tmp_path_factory) as here:
        reference = here.push(APP)
        await here.lease()
        Folder(here.registry.root).write_answer("shop/app", Answer(stall=True))
        pull = asyncio.create_task(here.pull(reference), name="pull")
        digest = digest_of(APP.blobs[1])
        path = f"/v2/shop/app/blobs/{digest}"
        await eventually(lambda: here.registry.answering[path] > 0, what="the pull fetches the layer")
        with pytest.raises(Busy):
            async with here.store.open_writer(f"layer-{digest}", digest, len(APP.blobs[1]), LEASE):
                pytest.fail("opened")
        await here.store.add_to_lease(LEASE, digest)
        Folder(here.registry.root).write_answer("shop/app", Answer())
        await pull
        await here.runtime.remove(reference)
        await here.collected()
        assert await here.has(APP.blobs[1]), "the lease keeps what the pull fetched"


# --- ends ------------------------------------------------------------------------------------------------------------


@real_time
async def test_blobs_go_with_the_last_lease(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with place(tmp_path_factory) as here:
        await here.preload(APP)
        await here.lease(OTHER)
        await here.store.add_to_lease(OTHER, digest_of(APP.blobs[1]))
        await here.collected()
        assert not [blob for blob in APP.blobs if await here.lacks(blob)]
        await here.store.delete_lease(LEASE)
        await here.collected()
        assert [await here.lacks(blob) for blob in APP.blobs] == [True, False, True]


@real_time
async def test_a_lease_that_is_over_goes_with_the_next_garbage_and_so_does_what_was_half_written(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """As after `kill -9` of an agent: nothing of it is left."""
    async with place(tmp_path_factory) as here:
        await here.lease(seconds=2)
        await here.write("layer", APP.blobs[1])
        digest = digest_of(APP.blobs[2])
        async with here.store.open_writer(f"layer-{digest}", digest, len(APP.blobs[2]), LEASE) as writer:
            await writer.write(APP.blobs[2][:1_500_000])

        async def gone() -> bool:
            await here.collected()
            return await here.store.leases() == [] and await here.lacks(APP.blobs[1])

        await eventually(gone, what="the lease and its blob are gone")
        await here.lease(OTHER)
        async with here.store.open_writer(f"layer-{digest}", digest, len(APP.blobs[2]), OTHER) as writer:
            assert writer.offset == 0


@real_time
async def test_a_killed_containerd_still_has_the_lease_its_blobs_and_what_was_half_written(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with place(tmp_path_factory) as here:
        await here.lease()
        await here.write("layer", APP.blobs[1])
        layer, digest = APP.blobs[2], digest_of(APP.blobs[2])
        ref = f"layer-{digest}"
        async with here.store.open_writer(ref, digest, len(layer), LEASE) as writer:
            await writer.write(layer[:1_500_000])
        async with here.store.open_writer(ref, digest, len(layer), LEASE) as writer:
            await here.containerd.kill()
            with pytest.raises(RuntimeUnreachable):
                await writer.commit({})
        await here.containerd.start()
        await eventually(here.answers, what="the restarted containerd answers")
        await here.collected()
        assert await here.store.leases() == [LEASE]
        assert await here.has(APP.blobs[1])
        async with here.store.open_writer(ref, digest, len(layer), LEASE) as writer:
            assert writer.offset == 1_500_000
            await writer.write(layer[writer.offset :])
            await writer.commit({})
        assert await here.has(layer)
