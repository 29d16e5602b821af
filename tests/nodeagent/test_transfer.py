"""A node gets the blobs of an image from other nodes or the registry, whatever happens to these."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from devcluster.registry.images import Image, build_image, build_index
from nodeagent.peers.parents import SLOW_SECONDS
from nodeagent.peers.transfer import fetch_image
from tests.support.content import MemoryContentStore, unreachable
from tests.support.exchange import EXPIRES, PIECE, START, Node, Source, blobs_of, layers_of
from tests.support.instant import instant, until
from warmhook.image_blobs import chain_ids
from warmhook.ports import Busy, PullFailed, RuntimeUnreachable, SourceFailed

SIZES = (30_000, 40_000, 50_000, 60_000)
IMAGE = build_image(*(bytes(size) + os.urandom(8) for size in SIZES))
LAYERS = layers_of(IMAGE)
LAYER = LAYERS[1]


def size_of(image: Image) -> int:
    return sum(map(len, blobs_of(image).values()))


def give(image: Image, *sources: Source) -> None:
    for source in sources:
        source.blobs |= blobs_of(image)


# --- all is well -----------------------------------------------------------------------------------------------------


@instant
async def test_a_child_gets_every_blob_from_its_parent_and_none_from_the_registry(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert node.has(IMAGE)
    assert (fetched.peer_bytes, fetched.registry_bytes, fetched.fallbacks) == (size_of(IMAGE), 0, 0)
    assert fetched.parents == {"parent"}
    assert node.registry.requests == []
    assert node.progress == sorted(node.progress)
    assert node.progress[-1] == size_of(IMAGE)


@instant
async def test_the_time_of_the_layers_begins_with_their_first_byte(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    node.parents[0].piece_seconds, node.parents[0].expects = 0.1, True
    asyncio.get_running_loop().call_later(7, give, IMAGE, *node.parents)
    fetched = await node.fetch(IMAGE)
    assert 0 < fetched.layers_seconds <= fetched.seconds - 7


@instant
async def test_a_seed_reads_the_registry(tmp_path: Path) -> None:
    node = Node(tmp_path, children=["child"])
    give(IMAGE, node.registry)
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert node.has(IMAGE)
    assert (fetched.peer_bytes, fetched.registry_bytes, fetched.fallbacks) == (0, size_of(IMAGE), 0)


@instant
async def test_of_an_index_only_what_the_node_runs_is_fetched(tmp_path: Path) -> None:
    other = build_image(b"for arm", platform="linux/arm64")
    index = build_index([other, IMAGE], attestation=True)
    node = Node(tmp_path, ["parent"])
    give(index, *node.parents)
    assert (await node.fetch(index)).complete
    assert node.has(IMAGE)
    assert set(node.content.blobs) == {index.digest, *blobs_of(IMAGE)}


@instant
async def test_layers_that_are_there_are_kept_and_not_fetched(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    node.content.blobs[LAYER] = blobs_of(IMAGE)[LAYER]
    assert (await node.fetch(IMAGE)).complete
    assert node.has(IMAGE)
    assert LAYER not in [digest for digest, _ in node.parents[0].requests]


@instant
async def test_layers_that_are_unpacked_are_not_fetched(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    node.content.snapshots |= {("overlayfs", chain) for chain in chain_ids(IMAGE.blobs[0], len(LAYERS))[:2]}
    assert (await node.fetch(IMAGE)).complete
    assert set(node.content.blobs) == {IMAGE.digest, IMAGE.config_digest, *LAYERS[2:]}


@instant
async def test_a_second_fetch_fetches_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    await node.fetch(IMAGE)
    before = list(node.parents[0].requests)
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert fetched.peer_bytes == 0
    assert node.parents[0].requests == before


@instant
async def test_three_layers_come_at_the_same_time(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    open_now, most = set[str](), 0

    def after_piece(digest: str, offset: int) -> None:
        nonlocal most
        open_now.add(digest)
        most = max(most, len(open_now))
        if offset == len(blobs_of(IMAGE)[digest]):
            open_now.discard(digest)

    node.parents[0].after_piece, node.parents[0].piece_seconds = after_piece, 0.01
    await node.fetch(IMAGE)
    assert most == 3


@instant
async def test_two_images_share_one_download_of_a_layer(tmp_path: Path) -> None:
    both = build_image(*(bytes(size) for size in (20_000, 90_000))), build_image(bytes(20_000), bytes(5_000))
    node = Node(tmp_path, ["parent"])
    give(both[0], *node.parents)
    give(both[1], *node.parents)
    node.parents[0].piece_seconds = 0.01
    fetched = await asyncio.gather(*map(node.fetch, both))
    assert [each.complete for each in fetched] == [True, True]
    shared = layers_of(both[0])[0]
    assert node.parents[0].sent[shared] == len(blobs_of(both[0])[shared])


# --- other nodes get it meanwhile ------------------------------------------------------------------------------------


@instant
async def test_a_node_forwards_the_first_byte_of_a_layer_before_it_has_the_last(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"], children=["child"])
    give(IMAGE, *node.parents)
    node.parents[0].piece_seconds = 0.1
    events: list[str] = []

    async def child() -> bytes:
        await until(lambda: node.incoming.get(LAYER) is not None, step=0.01)
        blob, read = node.incoming.get(LAYER), bytearray()
        assert blob is not None
        while len(read) < blob.size_bytes - 1 and await blob.wait_beyond(len(read)):
            read += blob.read(len(read), PIECE)
            events.append("forwarded")
        return bytes(read)

    def came(digest: str, offset: int) -> None:
        if digest == LAYER and offset == len(blobs_of(IMAGE)[LAYER]):
            events.append("last byte")

    node.parents[0].after_piece = came
    reading = asyncio.create_task(child())
    await node.fetch(IMAGE)
    read = await reading
    assert events.index("forwarded") < events.index("last byte")
    assert blobs_of(IMAGE)[LAYER].startswith(read)
    assert node.incoming.get(LAYER) is None


@instant
async def test_nothing_is_spooled_without_children(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    await node.fetch(IMAGE)
    assert not (tmp_path / "incoming").exists()


@instant
async def test_a_disk_without_room_for_what_others_want_keeps_no_image_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    node = Node(tmp_path, ["parent"], children=["child"])
    give(IMAGE, *node.parents)
    assert (await node.fetch(IMAGE)).complete
    assert node.has(IMAGE)


# --- parents that fail -----------------------------------------------------------------------------------------------


@instant
async def test_another_parent_goes_on_at_the_byte_where_one_broke_off(tmp_path: Path) -> None:
    node = Node(tmp_path, ["first", "second"])
    first, second = node.parents
    give(IMAGE, first, second)
    first.breaks_after[LAYER] = 12_345
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert (LAYER, 12_345) in second.requests
    assert node.content.written[LAYER] == len(blobs_of(IMAGE)[LAYER])
    assert node.registry.requests == []
    assert fetched.parents == {"first", "second"}


@instant
async def test_a_parent_that_dies_is_replaced_at_once_and_asked_no_more(tmp_path: Path) -> None:
    node = Node(tmp_path, ["first", "second"])
    first, second = node.parents
    give(IMAGE, first, second)
    first.piece_seconds = second.piece_seconds = 0.01

    def die(digest: str, offset: int) -> None:
        if digest == LAYER and offset >= 10 * PIECE:
            first.error = SourceFailed("connection refused")

    first.after_piece = die
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert fetched.fallbacks == 0
    assert fetched.seconds < 5
    written = sum(node.content.written.values())
    assert written == size_of(IMAGE)


@instant
async def test_without_any_parent_left_the_registry_goes_on_at_that_byte(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, node.parents[0], node.registry)
    node.parents[0].breaks_after[LAYER] = 12_345
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert (LAYER, 12_345) in node.registry.requests
    assert fetched.fallbacks >= 1
    assert node.content.written[LAYER] == len(blobs_of(IMAGE)[LAYER])
    assert fetched.peer_bytes + fetched.registry_bytes == size_of(IMAGE)
    assert fetched.seconds < 10


@instant
async def test_wrong_bytes_come_again_from_another_parent_and_their_sender_is_asked_no_more(tmp_path: Path) -> None:
    node = Node(tmp_path, ["liar", "honest"])
    liar, honest = node.parents
    give(IMAGE, liar, honest)
    liar.corrupt.add(LAYER)
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert node.has(IMAGE)
    assert node.content.written[LAYER] == 2 * len(blobs_of(IMAGE)[LAYER])
    asked = [digest for digest, _ in liar.requests]
    assert asked.count(LAYER) == 1
    assert asked[-1] != LAYERS[-1] or len(LAYERS) > 3
    assert node.registry.requests == []


@instant
async def test_a_parent_that_was_itself_sent_wrong_bytes_and_breaks_off_is_asked_again(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    parent = node.parents[0]
    give(IMAGE, parent, node.registry)
    parent.corrupt.add(LAYER)
    parent.breaks_after[LAYER] = len(blobs_of(IMAGE)[LAYER]) - 1

    def begin_again(digest: str, offset: int) -> None:
        if digest == LAYER and offset == parent.breaks_after.get(LAYER):
            parent.corrupt.clear()
            parent.breaks_after.clear()

    parent.after_piece = begin_again
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert node.has(IMAGE)
    assert node.registry.requests == []
    # The whole layer with a wrong byte, then once more; nothing else came twice.
    assert sum(node.content.written.values()) == size_of(IMAGE) + len(blobs_of(IMAGE)[LAYER])


@instant
async def test_parents_that_send_wrong_bytes_in_parts_are_left_in_the_end(tmp_path: Path) -> None:
    node = Node(tmp_path, ["first", "second"])
    first, second = node.parents
    give(IMAGE, first, second, node.registry)
    for parent in node.parents:
        parent.corrupt.add(LAYER)
        parent.breaks_after[LAYER] = 20_000
    first.breaks_after[LAYER] = 10_000
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert node.has(IMAGE)
    assert node.content.written[LAYER] <= 4 * len(blobs_of(IMAGE)[LAYER])


@instant
async def test_wrong_manifests_are_noticed_before_they_are_stored(tmp_path: Path) -> None:
    node = Node(tmp_path, ["liar"])
    give(IMAGE, node.parents[0], node.registry)
    node.parents[0].corrupt.add(IMAGE.digest)
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert node.content.written[IMAGE.digest] == len(IMAGE.manifest)
    assert len(node.parents[0].requests) == 1


@instant
@pytest.mark.parametrize("digest", [IMAGE.digest, IMAGE.config_digest], ids=["manifest", "configuration"])
async def test_a_parent_that_sends_an_empty_manifest_or_configuration_is_left(tmp_path: Path, digest: str) -> None:
    node = Node(tmp_path, ["liar"])
    liar = node.parents[0]
    give(IMAGE, liar, node.registry)
    liar.blobs[digest] = b""
    async with asyncio.timeout(10):
        fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert len([asked for asked, _ in liar.requests if asked == digest]) <= 3
    assert {asked for asked, _ in node.registry.requests} >= {digest}


@instant
async def test_a_layer_that_claims_to_be_empty_is_left_to_the_runtime(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    lying = replace(IMAGE, manifest=IMAGE.manifest.replace(f'"size":{len(IMAGE.blobs[2])}'.encode(), b'"size":0'))
    assert b'"size":0' in lying.manifest
    give(lying, node.parents[0], node.registry)
    async with asyncio.timeout(10):
        fetched = await node.fetch(lying)
    assert not fetched.complete
    assert node.content.locked == set()


@instant
async def test_a_parent_that_expects_a_blob_is_asked_again_until_it_has_it(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    parent = node.parents[0]
    parent.expects = True
    fetching = asyncio.create_task(node.fetch(IMAGE))
    await asyncio.sleep(15)
    give(IMAGE, parent)
    assert (await fetching).complete
    assert node.registry.requests == []
    assert 15 <= len(parent.requests) <= 30


@instant
async def test_a_parent_that_learns_late_of_its_child_is_asked_again(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    fetching = asyncio.create_task(node.fetch(IMAGE))
    await asyncio.sleep(4)
    give(IMAGE, node.parents[0])
    assert (await fetching).complete
    assert node.registry.requests == []


@instant
async def test_a_parent_that_neither_has_nor_expects_a_blob_is_left_soon(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, node.registry)
    fetched = await node.fetch(IMAGE)
    assert fetched.registry_bytes == size_of(IMAGE)
    assert 5 <= fetched.seconds <= 10


@instant
async def test_the_second_parent_is_spared_while_the_first_expects_a_blob(tmp_path: Path) -> None:
    node = Node(tmp_path, ["near", "far"])
    near, far = node.parents
    near.expects = True
    give(IMAGE, far)
    fetching = asyncio.create_task(node.fetch(IMAGE))
    await asyncio.sleep(2)
    give(IMAGE, near)
    assert (await fetching).complete
    assert far.requests == []


@instant
async def test_the_second_parent_is_asked_when_nothing_comes_for_a_while(tmp_path: Path) -> None:
    node = Node(tmp_path, ["near", "far"])
    node.parents[0].expects = True
    give(IMAGE, node.parents[1])
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert fetched.parents == {"far"}
    assert fetched.seconds <= 15


@instant
async def test_layers_that_the_runtime_of_a_parent_pulls_by_itself_are_waited_for(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    parent = node.parents[0]
    parent.expects = True
    parent.blobs |= {digest: blob for digest, blob in blobs_of(IMAGE).items() if digest not in LAYERS}
    fetching = asyncio.create_task(node.fetch(IMAGE))
    await asyncio.sleep(80)
    give(IMAGE, parent)
    fetched = await fetching
    assert fetched.complete
    assert node.registry.requests == []


@instant
async def test_layers_that_a_parent_promises_for_ever_come_from_the_registry_after_two_minutes(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    parent = node.parents[0]
    parent.expects = True
    parent.blobs |= {digest: blob for digest, blob in blobs_of(IMAGE).items() if digest not in LAYERS}
    give(IMAGE, node.registry)
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert 80 <= fetched.seconds <= 170


@instant
async def test_a_parent_that_never_has_what_it_expects_is_left_after_half_a_minute_for_all_blobs(
    tmp_path: Path,
) -> None:
    node = Node(tmp_path, ["parent"])
    node.parents[0].expects = True
    give(IMAGE, node.registry)
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert fetched.registry_bytes == size_of(IMAGE)
    assert fetched.fallbacks == len(blobs_of(IMAGE))
    assert 20 <= fetched.seconds <= 45


@instant
async def test_one_blob_that_no_parent_has_comes_from_the_registry(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, node.parents[0], node.registry)
    del node.parents[0].blobs[LAYER]
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert fetched.fallbacks == 1
    assert {digest for digest, _ in node.registry.requests} == {LAYER}


@instant
async def test_a_parent_that_trickles_is_left(tmp_path: Path) -> None:
    node = Node(tmp_path, ["trickling", "other"])
    trickling, other = node.parents
    give(IMAGE, trickling, other)
    trickling.piece_seconds, trickling.piece_bytes = 5.0, 1
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert "other" in fetched.parents
    assert fetched.seconds < 4 * SLOW_SECONDS


@instant
async def test_a_parent_that_breaks_off_after_each_byte_is_left_soon(tmp_path: Path) -> None:
    node = Node(tmp_path, ["dripping"])
    dripping, image = node.parents[0], build_image(os.urandom(10_000))
    give(image, dripping, node.registry)
    (layer,) = layers_of(image)
    dripping.piece_bytes = dripping.breaks_after[layer] = 1

    def break_off(digest: str, offset: int) -> None:
        if digest == layer:
            dripping.breaks_after[layer] = offset + 1

    dripping.after_piece = break_off
    fetched = await node.fetch(image)
    assert fetched.complete
    assert node.has(image)
    assert fetched.seconds < 45


@instant
async def test_a_parent_that_would_not_be_done_before_the_hint_ends_is_left_for_the_registry(tmp_path: Path) -> None:
    node = Node(tmp_path, ["trickling"])
    trickling, image = node.parents[0], build_image(os.urandom(4_000_000))
    give(image, trickling, node.registry)
    node.hint = replace(node.hint, expires_at=int(START.timestamp()) + 300)
    node.registry.piece_bytes = 100_000
    # More than `SLOW_BYTES` in half a minute.
    trickling.piece_bytes, trickling.piece_seconds = 16_500, 1
    fetched = await node.fetch(image)
    assert fetched.complete
    assert fetched.seconds < 2 * SLOW_SECONDS


@instant
async def test_a_slow_parent_that_waits_for_another_is_asked_again(tmp_path: Path) -> None:
    node = Node(tmp_path, ["near", "hostile"])
    near, hostile, image = *node.parents, build_image(os.urandom(4_000_000))
    give(image, near, hostile, node.registry)
    node.hint = replace(node.hint, expires_at=int(START.timestamp()) + 300)
    for parent in node.parents:
        parent.piece_bytes, parent.piece_seconds = 16_500, 1

    def faster() -> None:
        near.piece_bytes, near.piece_seconds = 100_000, 0.1

    asyncio.get_running_loop().call_later(SLOW_SECONDS + 1, faster)
    fetched = await node.fetch(image)
    assert fetched.complete
    assert fetched.registry_bytes == 0
    assert fetched.seconds < 4 * SLOW_SECONDS


@instant
async def test_a_parent_that_announces_another_size_is_left(tmp_path: Path) -> None:
    node = Node(tmp_path, ["liar", "honest"])
    liar, honest = node.parents
    give(IMAGE, liar, honest)
    liar.blobs[LAYER] += b"more"
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert fetched.fallbacks == 0


# --- what is left to the runtime -------------------------------------------------------------------------------------


@instant
async def test_what_nobody_gives_is_left_to_the_runtime_and_kept_when_it_comes(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, node.parents[0])
    last = LAYERS[-1]
    node.parents[0].breaks_after[last] = 12_345
    fetched = await node.fetch(IMAGE)
    assert not fetched.complete
    assert fetched.fallbacks == 1
    assert last in node.leased
    assert set(node.content.blobs) == set(blobs_of(IMAGE)) - {last}
    # The runtime would go on after the bytes of a peer, and could never have the layer if they are wrong.
    assert node.content.ingests == {}


@instant
async def test_an_image_without_a_manifest_is_left_to_the_runtime(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    node.parents[0].error = SourceFailed("connection refused")
    fetched = await node.fetch(IMAGE)
    assert not fetched.complete
    assert fetched.fallbacks == 1
    assert fetched.peer_bytes == fetched.registry_bytes == 0


@instant
async def test_an_index_that_the_runtime_may_read_in_another_way_is_left_to_it(tmp_path: Path) -> None:
    index = build_index([build_image(b"for 32 bits", platform="linux/386")])
    node = Node(tmp_path, ["parent"])
    give(index, *node.parents)
    fetched = await node.fetch(index)
    assert fetched.left == "the index has no manifest for exactly linux/amd64"
    assert set(node.content.blobs) == {index.digest}


# --- the runtime itself ----------------------------------------------------------------------------------------------


@instant
async def test_a_transfer_goes_on_where_it_was_when_containerd_restarts(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"], children=["child"])
    give(IMAGE, *node.parents)
    node.parents[0].piece_seconds = 0.05

    async def restart() -> None:
        await asyncio.sleep(1)
        node.content.error = unreachable()
        await asyncio.sleep(10)
        node.content.error = None

    restarting = asyncio.create_task(restart())
    fetched = await node.fetch(IMAGE)
    await restarting
    assert fetched.complete
    assert node.has(IMAGE)
    assert sum(node.content.written.values()) == size_of(IMAGE)


@instant
async def test_containerd_that_stays_away_ends_the_transfer(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    node.content.error = unreachable()
    with pytest.raises(RuntimeUnreachable):
        await asyncio.wait_for(node.fetch(IMAGE), 60)


@instant
async def test_a_full_disk_ends_the_transfer_and_its_lease(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    node.content.free_bytes = 100_000
    with pytest.raises(PullFailed) as failure:
        await node.fetch(IMAGE)
    assert failure.value.reason == "DiskFull"
    assert node.content.held == {}
    assert not any(node.content.ingests.values())


@instant
async def test_a_layer_that_the_kubelet_pulls_is_waited_for(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    node.content.locked.add(f"layer-{LAYER}")
    fetching = asyncio.create_task(node.fetch(IMAGE))
    await asyncio.sleep(100)
    assert not fetching.done()
    node.content.blobs[LAYER] = blobs_of(IMAGE)[LAYER]
    assert (await fetching).complete
    assert node.content.written[LAYER] == 0


@instant
async def test_a_kubelet_never_waits_for_a_layer_of_which_nothing_comes(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    parent = node.parents[0]
    give(IMAGE, parent)
    layers = {digest: parent.blobs.pop(digest) for digest in layers_of(IMAGE)}
    parent.expects = True
    fetching = asyncio.create_task(node.fetch(IMAGE))
    await asyncio.sleep(20)
    assert node.content.locked == set()
    # A pull of the kubelet takes one of them, and the transfer the others.
    node.content.have(layers[LAYER])
    parent.blobs.update(layers)
    assert (await fetching).complete
    assert node.content.written[LAYER] == 0


@instant
async def test_a_layer_that_a_kubelet_began_meanwhile_is_fetched_from_its_byte_on(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    parent = node.parents[0]
    give(IMAGE, parent)
    layer = parent.blobs.pop(LAYER)
    parent.expects = True
    fetching = asyncio.create_task(node.fetch(IMAGE))
    await asyncio.sleep(20)
    node.content.ingests[f"layer-{LAYER}"] = bytearray(layer[:7_000])
    parent.blobs[LAYER] = layer
    assert (await fetching).complete
    assert (LAYER, 7_000) in parent.requests
    assert node.has(IMAGE)


@instant
async def test_a_layer_that_the_kubelet_gave_up_is_fetched_from_its_byte_on(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    node.content.ingests[f"layer-{LAYER}"] = bytearray(blobs_of(IMAGE)[LAYER][:7_000])
    assert (await node.fetch(IMAGE)).complete
    assert (LAYER, 7_000) in node.parents[0].requests


@instant
async def test_wrong_bytes_of_an_earlier_attempt_put_no_blame_on_a_parent(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    node.content.ingests[f"layer-{LAYER}"] = bytearray(7_000)
    node.content.ingests[f"layer-{LAYER}"][3] = 77
    fetched = await node.fetch(IMAGE)
    assert fetched.complete
    assert fetched.fallbacks == 0


@instant
async def test_a_cancelled_transfer_leaves_no_lease_and_no_bytes_of_peers(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"], children=["child"])
    give(IMAGE, *node.parents)
    node.parents[0].piece_seconds = 0.1
    fetching = asyncio.create_task(node.fetch(IMAGE))
    await until(lambda: len(node.content.ingests.get(f"layer-{LAYER}", b"")) > 10 * PIECE)
    fetching.cancel()
    await asyncio.wait([fetching])
    assert fetching.cancelled()
    assert node.content.held == {}
    assert not any(node.content.ingests.values())
    assert list((tmp_path / "incoming").iterdir()) == []


class SlowToAbort(MemoryContentStore):
    """Takes a second for what another client may do meanwhile."""

    async def abort(self, ref: str) -> None:
        await asyncio.sleep(1)
        await super().abort(ref)


@instant
async def test_a_cancelled_transfer_takes_nothing_from_a_kubelet_that_waits_for_the_layer(tmp_path: Path) -> None:
    node, content = Node(tmp_path, ["parent"]), SlowToAbort()
    node.exchange = replace(node.exchange, content=content)
    give(IMAGE, *node.parents)
    node.parents[0].piece_seconds = 0.1
    body, ref = blobs_of(IMAGE)[LAYER], f"layer-{LAYER}"
    await content.create_lease("kubelet", START)

    async def kubelet() -> None:
        while True:
            with contextlib.suppress(Busy):
                async with content.open_writer(ref, LAYER, len(body), "kubelet") as writer:
                    for start in range(writer.offset, len(body), PIECE):
                        await writer.write(body[start : start + PIECE])
                        await asyncio.sleep(0.1)
                    await writer.commit({})
                    return
            await asyncio.sleep(0.01)

    fetching = asyncio.create_task(node.fetch(IMAGE))
    await until(lambda: len(content.ingests.get(ref, b"")) > 10 * PIECE)
    pulling = asyncio.create_task(kubelet())
    await asyncio.sleep(1)
    fetching.cancel()
    await pulling
    assert content.blobs[LAYER] == body


@instant
async def test_the_lease_ends_with_the_hint(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    await node.fetch(IMAGE)
    assert [end.timestamp() for end in node.content.expires_at.values()] == [EXPIRES]
    later = replace(node.order(IMAGE), hint=replace(node.hint, expires_at=EXPIRES + 600))
    await fetch_image(node.exchange, later, lambda _fetched: None)
    assert sorted(end.timestamp() for end in node.content.expires_at.values()) == [EXPIRES, EXPIRES + 600]


@instant
async def test_a_hint_without_a_sensible_end_is_no_reason_to_fail(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    give(IMAGE, *node.parents)
    node.hint = replace(node.hint, expires_at=2**40)
    assert (await node.fetch(IMAGE)).complete
    assert [end.year for end in node.content.expires_at.values()] == [9999]


@instant
async def test_a_transfer_whose_lease_has_ended_with_its_hint_is_over_at_once(tmp_path: Path) -> None:
    node = Node(tmp_path, ["parent"])
    node.hint = replace(node.hint, expires_at=int(START.timestamp()) + 10)
    node.parents[0].expects = True
    loop = asyncio.get_running_loop()
    loop.call_later(11, lambda: node.content.collect(node.clock.utcnow()))
    loop.call_later(15, give, IMAGE, *node.parents)
    began = node.clock.monotonic()
    with pytest.raises(RuntimeUnreachable):
        await node.fetch(IMAGE)
    assert node.clock.monotonic() - began < 20
