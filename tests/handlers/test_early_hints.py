"""Nodes that have the last image of a repository are told which blobs of the next one are pushed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from adapters.kubernetes import paths
from tests.handlers.test_early_blobs import SOURCES, blob_event, push_blobs
from tests.handlers.world import HOST, NAMESPACE, WARMIMAGES, World, digest, in_world, status
from warmhook.early_blobs import EarlyBlobs, early_hints, encode_early_blobs
from warmhook.hints import Early, Hint, Peer, early_key, read_early
from warmhook.images import parse_reference
from warmhook.node_lines import MAX_BYTES, desired_name, line_key
from warmhook.ports import Response
from warmhook.warmimages import ObjectKey, PolicyKey, warmimage_name

MIB = 1024 * 1024
NODES = "abcdef"
PEERS = {"source": {"mode": "peers"}}
IMAGE = parse_reference(f"{HOST}/shop/app")
BLOBS = EarlyBlobs(500, {digest("c"): MIB})


async def early(world: World, tag: str = "v1") -> dict[str, Early]:
    """By node what it is told at the image with that tag; data and metadata must tell the same."""
    image = parse_reference(f"{HOST}/shop/app:{tag}")
    key = line_key(ObjectKey("shop", warmimage_name(PolicyKey("shop", "shop"), image)))
    found = {}
    for one in await world.cluster.desired():
        text = ((await world.desired(one.node) or {}).get("data") or {}).get(early_key(key))
        assert one.early.get(key) == (read_early(text).expires_at if text else None)
        if text:
            found[one.node] = read_early(text)
    return found


async def pushed_image(world: World, *serving: str, **template: object) -> None:
    """An image is on all nodes, of which these can get blobs from each other."""
    push = [{"repository": f"{HOST}/shop/**"}]
    await world.add_policy(push=push, template=template or PEERS)
    for node in serving:
        await world.serve(node)
    await world.push("v1", ago=60)
    await project(world)
    assert len(await world.lines()) == len(NODES)


async def project(world: World) -> None:
    names = [obj["metadata"]["name"] for obj in (await world.warmimages()).values()]
    assert (await world.changed("WarmImage", *names)).status_code == 204


@in_world(nodes=NODES, sources=SOURCES)
async def test_each_node_is_told_the_blobs_and_its_place_in_the_tree(world: World) -> None:
    await pushed_image(world, *NODES)
    await push_blobs(world, blob_event("c"), blob_event("d", 2 * MIB))
    await project(world)
    found = await early(world)
    assert found.keys() == set(NODES)
    for told in found.values():
        assert (told.host, told.repository) == (HOST, "shop/app")
        assert told.blobs == {digest("c"): 5 * MIB, digest("d"): 2 * MIB}
    assert len([node for node, told in found.items() if not told.parents]) == 1
    asked = {(peer.node, node) for node, told in found.items() for peer in told.parents}
    assert asked == {(node, child.node) for node, told in found.items() for child in told.children}


@in_world(nodes=NODES, sources=SOURCES)
async def test_the_seed_of_the_blobs_is_that_of_the_image(world: World) -> None:
    await pushed_image(world, *NODES)
    await push_blobs(world, blob_event("c"))
    await project(world)
    seeds = {node for node, told in (await early(world)).items() if not told.parents}
    await world.push("v2", content=digest("e"))
    await project(world)
    (key,) = {key for one in await world.cluster.desired() for key in one.hints}
    hints = [((await world.desired(node) or {}).get("data") or {}).get(f"{key}.hint", "") for node in seeds]
    assert all(hint and '"p"' not in hint for hint in hints)


@in_world(nodes=NODES, sources=SOURCES)
async def test_known_blobs_cost_no_write_of_a_node(world: World) -> None:
    await pushed_image(world, *NODES)
    await push_blobs(world, blob_event("c"))
    await project(world)
    world.requests.clear()
    await project(world)
    assert world.writes() == []


@in_world(nodes=NODES, sources=SOURCES)
async def test_another_blob_is_told_with_those_that_are_known(world: World) -> None:
    await pushed_image(world, *NODES)
    for letter in "cd":
        await push_blobs(world, blob_event(letter))
        await project(world)
    assert all(len(told.blobs) == 2 for told in (await early(world)).values())


@in_world(nodes=NODES, sources=SOURCES)
async def test_what_was_told_goes_with_the_line_of_the_old_image(world: World) -> None:
    await pushed_image(world, *NODES)
    await push_blobs(world, blob_event("c"))
    await project(world)
    world.requests.clear()
    await world.push("v2", content=digest("e"))
    await project(world)
    assert set(map(tuple, (await world.lines()).values())) == {(f"{HOST}/shop/app:v2",)}
    for node in NODES:
        data = (await world.desired(node) or {})["data"]
        assert not [key for key in data if key.endswith(early_key(""))]
    patches = [path for method, path in world.writes() if path.startswith(paths.configmaps(NAMESPACE))]
    assert len(patches) == len(NODES)


@in_world(nodes=NODES, sources=SOURCES)
async def test_what_was_told_goes_with_a_push_of_the_same_tag(world: World) -> None:
    await pushed_image(world, *NODES)
    await push_blobs(world, blob_event("c"))
    await project(world)
    await world.push("v1", content=digest("e"))
    await project(world)
    assert await early(world) == {}


@in_world(nodes=NODES, sources=SOURCES)
async def test_nodes_that_serve_nobody_are_told_nothing(world: World) -> None:
    await pushed_image(world, "a", "b")
    await push_blobs(world, blob_event("c"))
    await project(world)
    assert (await early(world)).keys() == {"a", "b"}


@in_world(nodes=NODES, sources=SOURCES, early_nodes=4)
async def test_of_many_nodes_only_seeds_are_told(world: World) -> None:
    await pushed_image(world, *NODES)
    await push_blobs(world, blob_event("c"))
    await project(world)
    found = await early(world)
    assert len(found) == 1
    assert all(not told.parents and not told.children for told in found.values())


@in_world(nodes=NODES, sources=SOURCES)
async def test_a_node_that_cannot_be_written_keeps_no_line_from_another(world: World) -> None:
    await pushed_image(world, *NODES)
    await push_blobs(world, blob_event("c"))
    world.answer(status(403), "PATCH", desired_name("a"))
    await project(world)
    assert (await early(world)).keys() == set(NODES) - {"a"}


@in_world(nodes=NODES, sources=SOURCES)
async def test_blobs_that_expired_are_told_to_nobody(world: World) -> None:
    await pushed_image(world, *NODES)
    await push_blobs(world, blob_event("c"))
    await world.clock.sleep(301)
    for node in NODES:
        await world.serve(node)
    await project(world)
    assert await early(world) == {}


@in_world(nodes=NODES, sources=SOURCES)
async def test_blobs_that_no_handler_noted_are_told_to_nobody(world: World) -> None:
    await pushed_image(world, *NODES)
    await push_blobs(world, blob_event("c"))
    (obj,) = (await world.warmimages()).values()
    for_ever = encode_early_blobs(EarlyBlobs(int(world.now().timestamp()) + 86400, {digest("d"): MIB}))
    path = f"{WARMIMAGES}/{obj['metadata']['name']}"
    await world.admin.patch(path, {"metadata": {"annotations": {"warmhook.dev/early-blobs": for_ever}}})
    await project(world)
    assert await early(world) == {}
    await push_blobs(world, blob_event("e"))
    await project(world)
    assert [set(told.blobs) for told in (await early(world)).values()] == [{digest("e")}] * len(NODES)


@in_world(nodes=NODES, sources=SOURCES)
async def test_blobs_of_a_push_that_lasts_delay_no_line(world: World) -> None:
    await pushed_image(world, *NODES)
    await push_blobs(world, blob_event("c"))
    await world.add_warmimage("other", f"{HOST}/other:v1")
    await asyncio.sleep(121)
    request, before, written = world.transport.request, world.monotonic(), list[float]()

    async def hanging(method: str, path: str, **more: Any) -> Response:
        if "kind=report" in (more.get("query") or {}).get("labelSelector", ""):
            await asyncio.sleep(3600)
        if method == "PATCH" and "warmhook-desired-" in path:
            written.append(world.monotonic())
        return await request(method, path, **more)

    world.transport.request = hanging  # type: ignore[method-assign]
    names = [obj["metadata"]["name"] for obj in (await world.warmimages()).values()]
    assert (await world.changed("WarmImage", *names)).status_code == 204
    assert written == [before] * len(NODES)


@in_world(nodes=NODES, sources=SOURCES)
async def test_on_a_full_node_blobs_make_room_for_lines(world: World) -> None:
    await pushed_image(world, *NODES)
    await push_blobs(world, blob_event("c"))
    await project(world)
    (key,) = next(one.early for one in await world.cluster.desired() if one.node == "a")
    path = paths.configmaps(NAMESPACE, desired_name("a"))
    await world.admin.patch(path, {"data": {early_key(key): "x" * 2 * MAX_BYTES}})
    await world.add_warmimage("other", f"{HOST}/other:v1")
    await world.changed("WarmImage", "other")
    assert {len(lines) for lines in (await world.lines()).values()} == {2}
    assert (await early(world)).keys() == set(NODES) - {"a"}


def told(plan: Mapping[str, Hint | None], most_nodes: int) -> dict[str, Early]:
    return early_hints(BLOBS, IMAGE, plan, most_nodes)


def test_without_a_tree_each_node_reads_the_registry() -> None:
    found = told({"a": None, "b": None}, 2)
    assert found.keys() == {"a", "b"}
    assert found["a"] == Early(500, HOST, "shop/app", BLOBS.sizes)


def test_without_a_tree_many_nodes_are_left_alone() -> None:
    assert told({"a": None, "b": None, "c": None}, 2) == {}


def test_of_many_nodes_only_so_many_seeds_are_told() -> None:
    parents = (Peer("a", "10.0.0.1:9465", "k" * 43),)
    plan = {"a": None, "b": None, "c": None, "d": Hint(0, parents=parents), "e": Hint(0, wait_seconds=5)}
    found = told(plan, 2)
    assert found.keys() == {"a", "b"}
    assert found["a"].seeds == 3
