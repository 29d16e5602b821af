"""What belongs to an image is what its manifests name, read once, and no more than an image can have."""

from __future__ import annotations

import asyncio
import json

import pytest

from nodeagent.peers.image_digests import ImageDigests
from tests.support.content import MemoryContentStore, unreachable
from tests.support.instant import instant, loop_clock
from tests.support.peers import START, digest_of, index, manifest
from warmhook.ports import Content, RuntimeUnreachable

CONFIG, LAYER = b"a configuration", b"a layer"
IMAGE = manifest(CONFIG, LAYER)


class Counting(MemoryContentStore):
    """Counts the questions."""

    asked = 0

    async def info(self, digest: str) -> Content | None:
        self.asked += 1
        return await super().info(digest)


def digests(*blobs: bytes) -> tuple[Counting, ImageDigests]:
    store = Counting()
    for blob in blobs:
        store.have(blob)
    return store, ImageDigests(store, loop_clock(START))


@instant
async def test_manifests_are_read_once() -> None:
    store, known = digests(IMAGE)
    for _ in range(100):
        assert await known.belongs(digest_of(LAYER), digest_of(IMAGE))
        assert not await known.belongs(digest_of(b"another"), digest_of(IMAGE))
    assert store.asked == 1
    assert known.all_known(digest_of(IMAGE))


@instant
async def test_manifests_that_are_not_there_are_looked_for_ten_times_a_second_at_most() -> None:
    store, known = digests(index(IMAGE))
    root = digest_of(index(IMAGE))
    for _ in range(100):
        await asyncio.gather(*(known.belongs(digest_of(LAYER), root) for _ in range(5)))
        await asyncio.sleep(0.01)
    assert store.asked <= 13
    assert not known.all_known(root)
    store.have(IMAGE)
    await asyncio.sleep(1)
    assert await known.belongs(digest_of(LAYER), root)
    assert known.all_known(root)


@instant
async def test_an_index_of_many_manifests_that_never_come_costs_the_runtime_no_more_than_a_small_one() -> None:
    many = [json.dumps({"layers": [], "number": number}).encode() for number in range(900)]
    store, known = digests(index(*many))
    for _ in range(600):
        assert not await known.belongs(digest_of(LAYER), digest_of(index(*many)))
        await asyncio.sleep(0.1)
    assert store.asked <= 8000


@instant
async def test_a_store_that_does_not_answer_is_asked_again() -> None:
    store, known = digests(IMAGE)
    store.error = unreachable()
    with pytest.raises(RuntimeUnreachable):
        await known.belongs(digest_of(LAYER), digest_of(IMAGE))
    store.error = None
    await asyncio.sleep(1)
    assert await known.belongs(digest_of(LAYER), digest_of(IMAGE))


@instant
async def test_a_manifest_that_names_more_than_an_image_has_adds_nothing() -> None:
    several = [manifest(CONFIG, *(f"{number}/{i}".encode() for i in range(900))) for number in range(5)]
    store, known = digests(index(*several), *several)
    root = digest_of(index(*several))
    belonging = [await known.belongs(digest_of(f"{number}/0".encode()), root) for number in range(5)]
    assert belonging == [True, True, False, False, False]
    assert all([await known.belongs(digest_of(each), root) for each in several])
    assert store.asked == 6


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        b"[]",
        b"{}",
        json.dumps({"layers": [], "manifests": [{"digest": digest_of(LAYER)}]}).encode(),
        json.dumps({"layers": {"digest": digest_of(LAYER)}}).encode(),
        json.dumps({"layers": [digest_of(LAYER), {"digest": 7}, {"digest": "sha256:0"}, None]}).encode(),
        json.dumps({"layers": [{"digest": digest_of(LAYER)}], "x": [[]] * 200_000}).encode(),
        json.dumps({"layers": [{"digest": digest_of(LAYER)}], "x": "x" * 5_000_000}).encode(),
    ],
    ids=["no JSON", "a list", "empty", "both kinds", "no list", "no digests", "many values", "large"],
)
def test_what_is_no_manifest_names_nothing(body: bytes) -> None:
    @instant
    async def read() -> None:
        _, known = digests(body)
        assert not await known.belongs(digest_of(LAYER), digest_of(body))
        assert await known.belongs(digest_of(body), digest_of(body))

    read()


@instant
async def test_an_index_that_names_itself_in_others_ends() -> None:
    inner = index(IMAGE)
    outer = index(inner, inner, IMAGE)
    _, known = digests(IMAGE, inner, outer)
    assert await known.belongs(digest_of(LAYER), digest_of(outer))
