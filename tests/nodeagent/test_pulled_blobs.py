"""A node keeps for others what its runtime pulls by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

from devcluster.registry.images import build_image, build_index
from nodeagent.peers.pulled_blobs import keep_pulled_blobs
from tests.support.content import unreachable
from tests.support.exchange import Node, blobs_of
from tests.support.instant import instant, until

IMAGE = build_image(b"one", b"two")
OTHER = build_image(b"for arm", platform="linux/arm64")
INDEX = build_index([OTHER, IMAGE])


@instant
async def test_layers_are_kept_from_when_their_manifest_is_known(tmp_path: Path) -> None:
    node = Node(tmp_path, children=["child"])
    keeping = asyncio.create_task(keep_pulled_blobs(node.exchange, node.order(INDEX)))
    await until(lambda: INDEX.digest in node.leased)
    node.content.blobs[INDEX.digest] = INDEX.manifest
    await until(lambda: IMAGE.digest in node.leased)
    assert node.leased == {INDEX.digest, IMAGE.digest}
    node.content.blobs[IMAGE.digest] = IMAGE.manifest
    await keeping
    assert node.leased == {INDEX.digest, *blobs_of(IMAGE)}


@instant
async def test_containerd_may_restart_meanwhile(tmp_path: Path) -> None:
    node = Node(tmp_path, children=["child"])
    node.content.error = unreachable()
    keeping = asyncio.create_task(keep_pulled_blobs(node.exchange, node.order(IMAGE)))
    await asyncio.sleep(20)
    node.content.error = None
    node.content.blobs[IMAGE.digest] = IMAGE.manifest
    await keeping
    assert node.leased == set(blobs_of(IMAGE))


@instant
async def test_nothing_is_kept_of_what_cannot_be_read(tmp_path: Path) -> None:
    node = Node(tmp_path, children=["child"])
    index = build_index([OTHER])
    node.content.blobs |= blobs_of(index)
    await keep_pulled_blobs(node.exchange, node.order(index))
    assert node.leased == {index.digest}
