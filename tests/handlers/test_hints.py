"""Hints say from which node each node gets an image: they are written with lines, and go with them."""

from __future__ import annotations

import asyncio
from typing import Any

from adapters.kubernetes import paths
from tests.handlers.world import DIGEST, HOST, NAMESPACE, WARMIMAGES, World, digest, in_world, logged, status
from warmhook.hints import Hint, hint_key
from warmhook.node_lines import MAX_BYTES, desired_name, line_key, read_line, versions
from warmhook.node_report import LineReport
from warmhook.ports import Response
from warmhook.warmimages import ObjectKey

NODES = "abcdefgh"
MANY = [f"{first}{second}" for first in "abcdef" for second in "abcdefghij"]
PEERS = {"mode": "peers"}
KEY = line_key(ObjectKey("shop", "x"))
CONFIGMAPS = paths.configmaps(NAMESPACE)


def configmap(node: str) -> str:
    return paths.configmaps(NAMESPACE, desired_name(node))


async def project(world: World, *names: str) -> int:
    return (await world.changed("WarmImage", *names)).status_code


async def want(world: World, name: str = "x", **spec: Any) -> None:
    """A WarmImage whose digest is known, and which nodes get from each other."""
    await world.add_warmimage(name, f"{HOST}/shop/{name}:v1", **{"digest": DIGEST, "source": PEERS, **spec})


async def change(world: World, name: str = "x", **spec: Any) -> None:
    await world.admin.patch(f"{WARMIMAGES}/{name}", {"spec": spec})
    assert await project(world, name) == 204


async def warm(world: World, *nodes: str) -> None:
    """All lines of these nodes are warm."""
    for node in nodes:
        labels = (await world.desired(node) or {"metadata": {}})["metadata"].get("labels") or {}
        held = {key: LineReport(version, "warm") for key, version in versions(labels).items()}
        await world.serve(node, states=held)


def agree(hints: dict[str, Hint]) -> bool:
    """Whether each parent lists its children, and no others."""
    asked = {(peer.node, node) for node, hint in hints.items() for peer in hint.parents}
    return asked == {(node, child.node) for node, hint in hints.items() for child in hint.children}


def ours(world: World) -> list[tuple[str, str]]:
    """The ConfigMaps of nodes that were written since the last time."""
    return [(method, path) for method, path in world.writes() if path.startswith(CONFIGMAPS)]


def refuse_reports(world: World) -> None:
    """Lists of reports are refused from now on."""
    request = world.transport.request

    async def refusing(method: str, path: str, **more: Any) -> Response:
        asked = (more.get("query") or {}).get("labelSelector", "")
        return status(500) if "kind=report" in asked else await request(method, path, **more)

    world.transport.request = refusing  # type: ignore[method-assign]


# --- with the lines ---------------------------------------------------------------------------------------------------


@in_world(nodes=NODES)
async def test_a_hint_costs_no_second_write_of_a_node(world: World) -> None:
    await want(world, "other", source={"mode": "registry"})
    await project(world, "other")
    await world.serve(*NODES)
    await want(world)
    world.requests.clear()
    assert await project(world, "x") == 204
    assert sorted(ours(world)) == [("PATCH", configmap(node)) for node in NODES]
    hints = await world.hints("x")
    assert set(hints) == set(NODES)
    assert agree(hints)
    assert sum(not hint.parents for hint in hints.values()) == 1
    assert await world.hints("other") == {}


@in_world(nodes=NODES)
async def test_nodes_whose_lines_are_as_they_should_be_cost_no_write_for_hints(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    await warm(world, *NODES)
    await asyncio.sleep(60)
    world.requests.clear()
    await project(world, "x")
    await world.changed("WarmImage", "x", resourceVersion="1")
    await world.sync()
    assert ours(world) == []


@in_world(nodes=NODES)
async def test_a_line_that_a_sync_sends_again_keeps_its_hint(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    before = await world.hints("x")
    await world.serve(*NODES, key="n")
    await asyncio.sleep(60)
    world.requests.clear()
    await world.sync()
    assert len(ours(world)) == len(NODES)
    assert await world.hints("x") == before


@in_world(nodes=NODES)
async def test_a_node_is_written_after_the_nodes_that_it_gets_the_image_from(world: World) -> None:
    await world.serve(*NODES)
    await want(world, "other", source={"mode": "registry"})
    await project(world, "other")
    await want(world)
    world.requests.clear()
    await project(world, "x")
    written = [path for _, path in ours(world)]
    for node, hint in (await world.hints("x")).items():
        if hint.parents:
            assert written.index(configmap(hint.parents[0].node)) < written.index(configmap(node))


@in_world(nodes=NODES)
async def test_a_node_without_a_configmap_gets_it_with_its_hint(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    assert set(await world.hints("x")) == set(NODES)
    for node in NODES:
        await world.admin.delete(configmap(node))
    await world.sync()
    hints = await world.hints("x")
    assert set(hints) == set(NODES)
    assert agree(hints)


@in_world(nodes=NODES)
async def test_the_digest_is_in_the_hint_only_if_the_line_has_none(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    assert {hint.digest for hint in (await world.hints("x")).values()} == {""}
    assert read_line(KEY, (await world.admin.get(configmap("a")))["data"][KEY]).digest == DIGEST


@in_world(nodes=NODES)
async def test_an_image_without_a_digest_or_from_the_registry_has_no_hints_and_costs_no_read(world: World) -> None:
    await world.serve(*NODES)
    await want(world, "tag", digest=None)
    await want(world, "registry", source={"mode": "registry"})
    refuse_reports(world)
    await project(world, "tag", "registry")
    assert not logged("peers-not-read")
    assert await world.hints("tag") == await world.hints("registry") == {}


@in_world(nodes=NODES)
async def test_a_node_that_does_not_serve_is_nobody_s_parent_and_has_none(world: World) -> None:
    await world.serve(*"abcd")
    await world.report("e")
    await world.serve("f")
    await world.report("f", seen=world.now().replace(year=2025))
    await want(world)
    await project(world, "x")
    hints = await world.hints("x")
    assert set(hints) == set("abcd")
    assert {peer.node for hint in hints.values() for peer in hint.parents} <= set("abcd")


@in_world(nodes=NODES)
async def test_a_node_with_a_new_key_is_planned_with_it_at_the_next_write(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    await world.serve(*NODES, key="n")
    await asyncio.sleep(31)
    await change(world, digest=digest("b"))
    hints = await world.hints("x")
    assert {peer.key for hint in hints.values() for peer in hint.parents} == {"n" * 43}
    assert agree(hints)


@in_world(nodes=NODES)
async def test_lines_are_written_without_hints_while_reports_cannot_be_read(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    refuse_reports(world)
    assert await project(world, "x") == 204
    assert set(await world.lines()) == set(NODES)
    assert await world.hints("x") == {}
    assert logged("peers-not-read")


@in_world(nodes=NODES)
async def test_what_was_planned_is_counted(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await want(world, "y", source={"mode": "auto"}, nodes={"names": ["a"]})
    await project(world, "x", "y")
    assert world.metric("warmhook_plans_total", outcome="Peers") == 1
    assert world.metric("warmhook_plans_total") == 2


# --- their end --------------------------------------------------------------------------------------------------------


@in_world(nodes=NODES)
async def test_a_removed_line_takes_its_hint_along(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    await world.admin.delete(f"{WARMIMAGES}/x")
    world.requests.clear()
    await project(world, "x")
    assert len(ours(world)) == len(NODES)
    assert (await world.admin.get(configmap("a"))).get("data", {}) == {}
    assert await world.hints("x") == {}


@in_world(nodes=NODES)
async def test_suspended_and_purged_images_have_no_hints(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    await change(world, suspend=True)
    assert await world.hints("x") == {}
    await change(world, suspend=False)
    assert set(await world.hints("x")) == set(NODES)
    await world.admin.patch(f"{WARMIMAGES}/x", {"metadata": {"annotations": {"warmhook.dev/purge": "true"}}})
    await project(world, "x")
    assert await world.hints("x") == {}
    assert set(await world.lines()) == set(NODES)


@in_world(nodes=NODES)
async def test_hints_go_at_once_when_an_image_has_to_come_from_the_registry(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    await change(world, source={"mode": "registry"})
    assert await world.hints("x") == {}
    world.requests.clear()
    await project(world, "x")
    assert ours(world) == []


@in_world(nodes=NODES)
async def test_a_new_push_replaces_the_hints(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    first = await world.hints("x")
    await asyncio.sleep(5)
    await change(world, digest=digest("b"))
    second = await world.hints("x")
    assert agree(second)
    assert all(second[node].expires_at > first[node].expires_at for node in NODES)


@in_world(nodes=NODES)
async def test_an_expired_hint_goes_with_the_next_write_of_its_node_and_costs_none(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    await asyncio.sleep(1900)
    world.requests.clear()
    await world.sync()
    assert ours(world) == []
    await want(world, "y", source={"mode": "registry"}, nodes={"names": ["a"]})
    await want(world, "z", source={"mode": "registry"}, nodes={"names": ["a"]})
    await project(world, "x", "y", "z")
    assert ours(world) == [("PATCH", configmap("a"))]
    assert set(await world.hints("x")) == set(NODES) - {"a"}


@in_world(nodes=NODES)
async def test_no_time_of_a_hint_keeps_lines_from_nodes(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    for node, time in zip(NODES, ("9" * 5000, "soon", "", "-1"), strict=False):
        annotations = {f"hint.warmhook.dev/{KEY}": time}
        await world.admin.patch(configmap(node), {"metadata": {"annotations": annotations}})
    await want(world, "y")
    assert await project(world, "x", "y") == 204
    assert {node: len(lines) for node, lines in (await world.lines()).items()} == dict.fromkeys(NODES, 2)
    assert set(await world.hints("y")) == set(NODES)


# --- projections that take several rounds -----------------------------------------------------------------------------


def refuse_writes(world: World, first: int) -> list[str]:
    """The API server takes so many writes of nodes that get hints, and refuses the others until the list is cleared."""
    request, taken, refused = world.transport.request, list[str](), ["yes"]

    async def refusing(method: str, path: str, **more: Any) -> Response:
        if method != "PATCH" or ".hint" not in str(more.get("body")) or not refused:
            return await request(method, path, **more)
        if path not in taken and len(taken) >= first:
            return status(403)
        taken.append(path)
        return await request(method, path, **more)

    world.transport.request = refusing  # type: ignore[method-assign]
    return refused


@in_world(nodes="abcdefghijklmnopqrstuvwxyz")
async def test_the_rest_of_a_fleet_gets_the_image_from_the_nodes_that_were_written_before(world: World) -> None:
    nodes = "abcdefghijklmnopqrstuvwxyz"
    await world.serve(*nodes)
    await want(world, "other", source={"mode": "registry"})
    await project(world, "other")
    await want(world)
    refused = refuse_writes(world, 10)
    await project(world, "x")
    first = await world.hints("x")
    assert len(first) == 10
    refused.clear()
    world.requests.clear()
    await asyncio.sleep(20)
    await project(world, "x")
    assert sorted(ours(world)) == sorted(("PATCH", configmap(node)) for node in set(nodes) - first.keys())
    hints = await world.hints("x")
    assert {node: hints[node] for node in first} == first
    assert agree(hints)
    assert sum(not hint.parents for hint in hints.values()) == 1


@in_world(nodes=NODES)
async def test_a_node_that_joins_during_a_transfer_is_made_known_to_its_parents(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    before = await world.hints("x")
    await world.add_nodes("z")
    await world.serve("z")
    await asyncio.sleep(31)
    world.requests.clear()
    await project(world, "x")
    hints = await world.hints("x")
    parents = {peer.node for peer in hints["z"].parents}
    assert 0 < len(parents) <= 2
    for node in NODES:
        assert hints[node].parents == before[node].parents
        children = {child.node for child in hints[node].children} - {child.node for child in before[node].children}
        assert children == ({"z"} if node in parents else set())


@in_world(nodes=NODES)
async def test_a_parent_that_is_written_for_another_image_keeps_its_children(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    before = await world.hints("x")
    await world.add_nodes("z")
    await world.serve("z")
    await want(world, "y")
    await asyncio.sleep(31)
    world.requests.clear()
    await world.sync()
    assert sorted(path for method, path in ours(world) if method == "PATCH") == [*map(configmap, [*NODES, "z"])]
    hints = await world.hints("x")
    for node, hint in hints.items():
        assert all(node in {child.node for child in hints[peer.node].children} for peer in hint.parents)
    assert {node: hints[node].parents for node in NODES} == {node: before[node].parents for node in NODES}
    assert agree(await world.hints("y"))


# --- nodes that join --------------------------------------------------------------------------------------------------


@in_world(nodes=NODES)
async def test_nodes_that_have_the_image_learn_of_a_node_that_joins(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    before = await world.hints("x")
    await warm(world, *NODES)
    await asyncio.sleep(31)
    await world.add_nodes("z")
    await world.serve("z")
    world.requests.clear()
    await world.changed("Node", "z")
    parents = [peer.node for peer in (await world.hints("x"))["z"].parents]
    assert parents
    assert sorted(set(ours(world))) == sorted(
        {*(("PATCH", configmap(node)) for node in {*parents, "z"}), ("POST", CONFIGMAPS)}
    )
    after = await world.hints("x")
    for node in parents:
        assert {child.node for child in after[node].children} == {child.node for child in before[node].children} | {"z"}
    assert all(after[node] == before[node] for node in set(NODES) - set(parents))


@in_world(nodes=NODES)
async def test_a_node_that_joins_for_many_images_costs_few_writes_of_others(world: World) -> None:
    await world.add_nodes(*"ijklmnopqrstuv")
    names = [f"x{number}" for number in range(20)]
    for name in names:
        await want(world, name)
    await world.serve(*"abcdefghijklmnopqrstuv")
    await project(world, *names)
    await warm(world, *"abcdefghijklmnopqrstuv")
    await asyncio.sleep(31)
    await world.add_nodes("z")
    await world.serve("z")
    world.requests.clear()
    await world.changed("Node", "z")
    written = {path for method, path in ours(world) if method == "PATCH"} - {configmap("z")}
    assert 0 < len(written) <= 8
    for name in names:
        assert (await world.hints(name))["z"].parents


@in_world(nodes=NODES)
async def test_a_node_that_joins_takes_parents_of_its_own_zone(world: World) -> None:
    zone = {"topology.kubernetes.io/zone": "far"}
    await world.add_nodes("i", "j", "k", **zone)
    await world.serve(*"abcdefghijk")
    await want(world)
    await project(world, "x")
    await warm(world, *"abcdefghijk")
    await asyncio.sleep(31)
    await world.add_nodes("z", **zone)
    await world.serve("z")
    await world.changed("Node", "z")
    assert {peer.node for peer in (await world.hints("x"))["z"].parents[:1]} <= set("ijk")


@in_world(nodes=NODES)
async def test_a_parent_whose_configmap_is_gone_keeps_no_node_from_joining(world: World) -> None:
    await world.serve(*NODES)
    await want(world)
    await project(world, "x")
    await warm(world, *NODES)
    await asyncio.sleep(31)
    for node in NODES:
        await world.admin.delete(configmap(node))
    await world.add_nodes("z")
    await world.serve("z")
    assert (await world.changed("Node", "z")).status_code == 204
    assert "z" in await world.lines()


@in_world(nodes=NODES, registry_rate=10_000_000)
async def test_a_node_that_joins_waits_for_none_that_has_the_image(world: World) -> None:
    for node in NODES:
        await world.report(node)
    await want(world)
    await project(world, "x")
    assert {hint.wait_seconds for hint in (await world.hints("x")).values()} != {0}
    for node in NODES:
        held = versions((await world.desired(node) or {})["metadata"]["labels"])
        await world.report(node, {key: LineReport(version, "warm") for key, version in held.items()})
    await asyncio.sleep(121)
    await world.add_nodes("r")
    await world.report("r")
    await project(world, "x")
    assert "r" in await world.lines()
    assert "r" not in await world.hints("x")


@in_world(nodes="abcl")
async def test_a_node_that_should_not_have_an_image_serves_it_to_none_whatever_it_says(world: World) -> None:
    await want(world, nodes={"names": [*"abc"]})
    await project(world, "x")
    version = versions((await world.desired("a") or {})["metadata"]["labels"])[KEY]
    await world.serve(*"abl", states={KEY: LineReport(version, "warm")})
    await world.add_nodes("q", "r")
    await world.serve("q", "r")
    await asyncio.sleep(121)
    await change(world, nodes={"names": [*"abcqr"]})
    parents = {peer.node for node in "qr" for peer in (await world.hints("x"))[node].parents}
    assert parents
    assert "l" not in parents


@in_world(nodes=MANY)
async def test_many_nodes_that_join_during_the_life_of_a_hint_get_parents_that_know_them(world: World) -> None:
    await world.serve(*MANY)
    await want(world, nodes={"names": MANY[:40]})
    await project(world, "x")
    await warm(world, *MANY[:40])
    await asyncio.sleep(60)
    world.requests.clear()
    await change(world, nodes={"names": MANY})
    hints, joined = await world.hints("x"), set(MANY[40:])
    asked = {(peer.node, node) for node in joined for peer in hints[node].parents}
    assert all(hints[node].parents for node in joined)
    assert asked <= {(node, child.node) for node, hint in hints.items() for child in hint.children}
    assert len({path for _, path in ours(world)} - set(map(configmap, joined))) <= 8


# --- room -------------------------------------------------------------------------------------------------------------


@in_world(nodes="ab")
async def test_on_a_full_node_hints_make_room_for_lines(world: World) -> None:
    await world.serve(*"ab")
    await want(world)
    await project(world, "x")
    wide = {"data": {hint_key(KEY): "x" * 2 * MAX_BYTES}}
    await world.admin.patch(configmap("a"), wide)
    await want(world, "y", source={"mode": "registry"})
    assert await project(world, "y") == 204
    assert {node: len(lines) for node, lines in (await world.lines()).items()} == {"a": 2, "b": 2}
    assert set(await world.hints("x")) == {"b"}
    assert "warmhook.dev/refused" not in (await world.admin.get(configmap("a")))["metadata"]["annotations"]


@in_world(nodes="abc")
async def test_more_hints_than_have_room_cost_no_second_write_and_keep_no_line_from_a_node(world: World) -> None:
    await world.serve(*"abc")
    await want(world, "first", source={"mode": "registry"})
    await project(world, "first")
    names = [f"x{number}" for number in range(150)]
    for name in names:
        await want(world, name)
    world.requests.clear()
    assert await project(world, *names) == 204
    assert not any(method == "GET" and "warmhook-desired-" in path for method, path in world.requests)
    assert sorted(ours(world)) == [("PATCH", configmap(node)) for node in "abc"]
    assert {node: len(lines) for node, lines in (await world.lines()).items()} == dict.fromkeys("abc", 151)
    hinted = [name for name in names if await world.hints(name)]
    assert 20 < len(hinted) < 150
    for name in hinted:
        assert agree(await world.hints(name))


async def want_many(world: World) -> None:
    """More images of another namespace than hints have room."""
    await world.add_namespace("loud")
    for number in range(100):
        image, name = f"{HOST}/loud/app:{number}", f"loud-{number:03}"
        await world.add_warmimage(name, image, namespace="loud", digest=DIGEST, source=PEERS)


@in_world(nodes="abc")
async def test_a_namespace_with_many_images_takes_no_hints_of_others(world: World) -> None:
    await world.serve(*"abc")
    await want_many(world)
    await want(world)
    await world.sync()
    assert {node: len(lines) for node, lines in (await world.lines()).items()} == dict.fromkeys("abc", 101)
    assert set(await world.hints("x")) == set("abc")


@in_world(nodes="abc")
async def test_a_namespace_whose_hints_take_all_room_keeps_none_from_the_next_push_of_another(world: World) -> None:
    await world.serve(*"abc")
    await want_many(world)
    await want(world, source={"mode": "registry"})
    await world.sync()
    await asyncio.sleep(60)
    world.requests.clear()
    await change(world, digest=digest("b"), source=PEERS)
    assert set(await world.hints("x")) == set("abc")
    assert sorted(ours(world)) == [("PATCH", configmap(node)) for node in "abc"]


# --- refreshes --------------------------------------------------------------------------------------------------------


@in_world(nodes=NODES)
async def test_nodes_that_only_look_whether_a_tag_moved_get_no_hints(world: World) -> None:
    await world.serve(*NODES)
    await world.add_policy(push=[{"repository": f"{HOST}/shop/**"}], template={"source": PEERS})
    await world.push()
    ((name, path),) = [
        (obj["metadata"]["name"], f"{WARMIMAGES}/{obj['metadata']['name']}")
        for obj in (await world.warmimages()).values()
    ]
    await project(world, name)
    assert set(await world.hints(name)) == set(NODES)
    await asyncio.sleep(60)
    await world.admin.patch(path, {"metadata": {"annotations": {"warmhook.dev/refresh": "now"}}})
    await project(world, name)
    key = line_key(ObjectKey("shop", name))
    assert read_line(key, (await world.admin.get(configmap("a")))["data"][key]).refreshed_at
    assert await world.hints(name) == {}
    await warm(world, *NODES)
    await world.add_nodes("z")
    await world.serve("z")
    await asyncio.sleep(31)
    await world.changed("Node", "z")
    assert (await world.hints(name))["z"].parents
    await world.push(content=digest("b"))
    await project(world, name)
    assert set(await world.hints(name)) == {*NODES, "z"}
