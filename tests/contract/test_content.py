"""containerd's content store and leases, and their twin in memory, behave as the exchange of images relies on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from adapters.containerd_content import open_content_store
from devcluster.registry.folder import digest_of
from devcluster.registry.images import incompressible
from tests.contract.nodes import MemoryNode, Node, Site, open_node, open_site
from tests.support.cases import as_test
from tests.support.content import MemoryContentStore
from tests.support.instant import instantly
from warmhook.ports import AlreadyThere, Busy, ContentStore, NotContainerd, RuntimeUnreachable, WrongDigest

BLOB = incompressible(3_000_000, "blob")
DIGEST = digest_of(BLOB)
REF = f"layer-{DIGEST}"
LEASE = "warmhook-0123-1"
LATER = datetime.now(UTC) + timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Both:
    """A node, and the content store of its containerd."""

    node: Node
    store: ContentStore

    async def put(self, blob: bytes, lease: str = LEASE) -> str:
        """Write a blob; returns its digest."""
        digest = digest_of(blob)
        async with self.store.open_writer(f"layer-{digest}", digest, len(blob), lease) as writer:
            await writer.write(blob)
            await writer.commit({})
        return digest

    async def content(self, digest: str) -> bytes:
        """All of a blob."""
        found = await self.store.info(digest)
        assert found
        return b"".join([piece async for piece in self.store.read(digest, 0, found.size_bytes)])

    async def part(self, count: int) -> None:
        """Write a part of `BLOB`, and go away."""
        async with self.store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
            await writer.write(BLOB[:count])


_Case = Callable[[Both], Awaitable[None]]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with open_site() as site:
        yield site


def _run(case: _Case, kind: str, site: Site) -> None:
    async def on_a_node() -> None:
        async with open_node(kind, site) as node, open_content_store(node.endpoint) as store:
            await case(Both(node, store))

    site.runner.run(asyncio.wait_for(on_a_node(), 60))


def on_containerd(case: _Case) -> Callable[..., None]:
    """Make a test that runs on a fresh containerd."""

    def run(case: _Case, site: Site) -> None:
        _run(case, "containerd", site)

    test: Callable[..., None] = pytest.mark.containerd(as_test(case, run, "site"))
    return test


def on_both(case: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test that runs in memory and on a fresh containerd."""

    def run(case: _Case, kind: str, request: pytest.FixtureRequest) -> None:
        if kind == "memory":
            instantly(case(Both(MemoryNode(), MemoryContentStore())))  # type: ignore[arg-type]
        else:
            _run(case, kind, request.getfixturevalue("site"))

    kinds = ["memory", pytest.param("containerd", marks=pytest.mark.containerd)]
    test: Callable[..., None] = pytest.mark.parametrize("kind", kinds)(as_test(case, run, "kind", "request"))
    return test


# --- blobs -----------------------------------------------------------------------------------------------------------


@on_both
async def test_a_blob_that_was_written_is_there_with_its_labels(both: Both) -> None:
    store = both.store
    assert await store.info(DIGEST) is None
    await store.create_lease(LEASE, LATER)
    async with store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
        for first in range(0, len(BLOB), 700_000):
            assert writer.offset == first
            await writer.write(memoryview(BLOB)[first : first + 700_000])
        await writer.commit({"example.com/one": "1"})
    found = await store.info(DIGEST)
    assert found
    assert (found.digest, found.size_bytes) == (DIGEST, len(BLOB))
    assert found.labels["example.com/one"] == "1"
    assert await both.content(DIGEST) == BLOB


@on_both
async def test_what_was_written_may_be_changed_afterwards(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    async with both.store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
        for first in range(0, len(BLOB), 1_500_000):
            piece = bytearray(BLOB[first : first + 1_500_000])
            await writer.write(piece)
            piece[:] = bytes(len(piece))
        await writer.commit({})
    assert await both.content(DIGEST) == BLOB


@on_both
async def test_any_part_of_a_blob_is_read(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    await both.put(BLOB)
    for offset, size in ((0, 1), (1, 2_500_000), (len(BLOB) - 1, 1), (1_048_575, 2), (5, 0), (len(BLOB), 0)):
        read = b"".join([piece async for piece in both.store.read(DIGEST, offset, size)])
        assert read == BLOB[offset : offset + size]


@on_both
async def test_an_empty_blob_is_a_blob(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    digest = await both.put(b"")
    found = await both.store.info(digest)
    assert found
    assert found.size_bytes == 0


@on_both
async def test_a_blob_that_is_not_there_cannot_be_read(both: Both) -> None:
    with pytest.raises(RuntimeUnreachable):
        await anext(aiter(both.store.read(DIGEST, 0, 1)))


@on_both
async def test_a_reader_may_leave_early(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    await both.put(BLOB)
    async for piece in both.store.read(DIGEST, 0, len(BLOB)):
        assert BLOB.startswith(piece)
        break
    assert await both.content(DIGEST) == BLOB


@on_both
async def test_a_writer_goes_on_where_the_former_one_ended(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    await both.part(1_700_000)
    assert await both.store.info(DIGEST) is None
    async with both.store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
        assert writer.offset == 1_700_000
        await writer.write(BLOB[writer.offset :])
        await writer.commit({})
    assert await both.content(DIGEST) == BLOB


@on_both
async def test_a_writer_begins_again_at_the_first_byte(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    await both.part(1_700_000)
    async with both.store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
        await writer.write(b"more of it")
        await writer.restart()
        assert writer.offset == 0
        await writer.write(BLOB[:10])
        await writer.restart()
        await writer.write(BLOB)
        await writer.commit({})
    assert await both.content(DIGEST) == BLOB


@pytest.mark.parametrize("wrong", [BLOB[::-1], BLOB[:-1], BLOB + b"!"], ids=["other", "shorter", "longer"])
@on_both
async def test_wrong_bytes_are_refused_and_dropped(both: Both, wrong: bytes) -> None:
    await both.store.create_lease(LEASE, LATER)
    async with both.store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
        await writer.write(wrong)
        with pytest.raises(WrongDigest):
            await writer.commit({})
    assert await both.store.info(DIGEST) is None
    async with both.store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
        assert writer.offset == 0
        await writer.write(BLOB)
        await writer.commit({})
    assert await both.content(DIGEST) == BLOB


@on_both
async def test_two_writers_of_one_ref_exclude_each_other(both: Both) -> None:
    store = both.store
    await store.create_lease(LEASE, LATER)
    async with store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
        await writer.write(BLOB[:10])
        with pytest.raises(Busy):
            async with store.open_writer(REF, DIGEST, len(BLOB), LEASE):
                pytest.fail("opened")
        await writer.write(BLOB[10:])
        await writer.commit({})
    with pytest.raises(AlreadyThere):
        async with store.open_writer(REF, DIGEST, len(BLOB), LEASE):
            pytest.fail("opened")


@on_both
async def test_a_writer_that_left_has_freed_its_ref(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    for count in range(1, 10):
        async with both.store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
            assert writer.offset == count - 1
            await writer.write(BLOB[count - 1 : count])


@on_both
async def test_a_cancelled_writer_frees_its_ref(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    opened = asyncio.Event()
    writing = asyncio.create_task(_endless(both.store, opened), name="writer")
    await opened.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    async with both.store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
        assert writer.offset >= 0


@on_both
async def test_what_a_cancelled_writer_wrote_is_dropped_by_its_ref(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    for _ in range(10):
        opened = asyncio.Event()
        writing = asyncio.create_task(_endless(both.store, opened), name="writer")
        await opened.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await both.store.abort(REF)
        async with both.store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
            assert writer.offset == 0
    await both.put(BLOB)
    assert await both.content(DIGEST) == BLOB


@on_both
async def test_a_cancelled_writer_drops_what_it_wrote_before_others_can_go_on_from_it(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    for _ in range(20):
        begun = asyncio.Event()
        writing = asyncio.create_task(_endless(both.store, begun, drop=True))
        await begun.wait()
        writing.cancel()
        await asyncio.wait([writing])
        assert writing.cancelled()
        async with both.store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
            assert writer.offset == 0
    assert await both.put(BLOB) == DIGEST


@on_both
async def test_several_blobs_are_written_at_the_same_time(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    blobs = [incompressible(2_500_000, f"side {number}") for number in range(4)]
    digests = await asyncio.gather(*map(both.put, blobs))
    assert [await both.content(digest) for digest in digests] == blobs


@on_both
async def test_an_aborted_ref_has_nothing(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    await both.part(1_700_000)
    await both.store.abort(REF)
    await both.store.abort(REF)
    async with both.store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
        assert writer.offset == 0


async def _endless(store: ContentStore, begun: asyncio.Event, *, drop: bool = False) -> None:
    """Write the same bytes until it is cancelled; then drop them if `drop` says so."""
    async with store.open_writer(REF, DIGEST, len(BLOB), LEASE) as writer:
        try:
            while True:
                await writer.write(BLOB)
                begun.set()
        finally:
            if drop:
                await writer.restart()


# --- leases ----------------------------------------------------------------------------------------------------------


@on_both
async def test_leases_are_listed_until_they_are_deleted_also_if_that_is_repeated(both: Both) -> None:
    assert await both.store.leases() == []
    for lease in (LEASE, "warmhook-4567-1", LEASE):
        await both.store.create_lease(lease, LATER)
    assert await both.store.leases() == [LEASE, "warmhook-4567-1"]
    for _ in range(2):
        await both.store.delete_lease(LEASE)
    assert await both.store.leases() == ["warmhook-4567-1"]


@on_both
async def test_a_lease_takes_digests_before_their_blobs_are_there_also_twice(both: Both) -> None:
    await both.store.create_lease(LEASE, LATER)
    for _ in range(2):
        await both.store.add_to_lease(LEASE, DIGEST)
    await both.put(BLOB)
    assert await both.store.info(DIGEST)


@on_both
async def test_without_its_lease_nothing_is_written_or_kept(both: Both) -> None:
    with pytest.raises(RuntimeUnreachable):
        await both.store.add_to_lease(LEASE, DIGEST)
    with pytest.raises(RuntimeUnreachable):
        await both.put(BLOB)
    assert await both.store.info(DIGEST) is None


@on_both
async def test_an_unknown_snapshot_or_snapshotter_is_not_there(both: Both) -> None:
    assert not await both.store.has_snapshot("overlayfs", DIGEST)
    assert not await both.store.has_snapshot("unknown", DIGEST)


# --- other runtimes --------------------------------------------------------------------------------------------------


def _calls(store: ContentStore) -> list[Awaitable[object]]:
    return [
        store.info(DIGEST),
        anext(aiter(store.read(DIGEST, 0, 1))),
        store.open_writer(REF, DIGEST, len(BLOB), LEASE).__aenter__(),
        store.abort(REF),
        store.create_lease(LEASE, LATER),
        store.add_to_lease(LEASE, DIGEST),
        store.delete_lease(LEASE),
        store.leases(),
        store.has_snapshot("overlayfs", DIGEST),
    ]


@pytest.mark.slow
def test_the_stand_in_of_another_runtime_is_not_containerd(site: Site) -> None:
    async def case(both: Both) -> None:
        for call in _calls(both.store):
            with pytest.raises(NotContainerd):
                await call

    _run(case, "embedded", site)


@pytest.mark.slow
def test_a_stopped_runtime_is_unreachable_and_named(site: Site) -> None:
    async def case(both: Both) -> None:
        await both.node.stop()
        for call in _calls(both.store):
            with pytest.raises(RuntimeUnreachable, match=both.node.endpoint):
                await call

    _run(case, "embedded", site)


@pytest.mark.parametrize("error", [NotContainerd("no"), RuntimeUnreachable("no")], ids=["other", "unreachable"])
def test_every_call_of_the_twin_has_the_fault_of_its_runtime(error: Exception) -> None:
    async def case() -> None:
        for call in _calls(MemoryContentStore(error=error)):
            with pytest.raises(type(error)):
                await call

    instantly(case())
