"""Nodes get exactly the wanted lines, whatever fails on the way."""

from __future__ import annotations

import asyncio
import json

import pytest

from adapters.kubernetes import paths
from tests.handlers.world import HOST, NAMESPACE, WARMIMAGES, WRITES, World, in_world, status
from warmhook.delivery_records import CONFIGMAP
from warmhook.node_lines import MAX_BYTES, MAX_LINES, desired_name, line_key
from warmhook.ports import Response, Unreachable
from warmhook.status import find_condition
from warmhook.warmimages import ObjectKey

IMAGE = f"{HOST}/shop/app:v1"
OTHER = f"{HOST}/shop/other:v1"
CONFIGMAPS = paths.configmaps(NAMESPACE)


def configmap(node: str) -> str:
    return paths.configmaps(NAMESPACE, desired_name(node))


async def project(world: World, *names: str) -> int:
    """Tell of these WarmImages; the answer's status."""
    return (await world.changed("WarmImage", *names)).status_code


@in_world(nodes="a", warmimage="x")
async def test_a_node_without_a_configmap_gets_one_with_all_its_lines_and_nothing_tracks_its_fields(
    world: World,
) -> None:
    await world.add_warmimage("y", OTHER)
    assert await project(world, "x") == 204
    assert await world.lines() == {"a": [IMAGE, OTHER]}
    obj = await world.admin.get(configmap("a"))
    metadata = obj["metadata"]
    uid = (await world.admin.get(paths.node("a")))["metadata"]["uid"]
    assert metadata["ownerReferences"] == [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": uid}]
    assert metadata["annotations"] == {"warmhook.dev/node": "a"}
    assert metadata["labels"]["warmhook.dev/kind"] == "desired"
    assert "managedFields" not in metadata


@in_world(nodes="ab")
async def test_several_lines_of_a_node_go_into_one_patch(world: World) -> None:
    await world.add_warmimage("first")
    await project(world, "first")
    for name in ("x", "y", "z"):
        await world.add_warmimage(name, f"{HOST}/shop/{name}:v1")
    world.requests.clear()
    await project(world, "x", "y", "z")
    assert sorted(world.writes()) == [("PATCH", configmap("a")), ("PATCH", configmap("b"))]


@in_world(nodes="ab", warmimage="x")
async def test_nodes_that_are_as_they_should_be_cost_no_write(world: World) -> None:
    await project(world, "x")
    world.requests.clear()
    await project(world, "x")
    assert world.writes() == []


@in_world(nodes="ab", warmimage="x")
async def test_a_deleted_warmimage_takes_its_lines_with_it_and_leaves_the_others(world: World) -> None:
    await world.add_warmimage("y", OTHER)
    await project(world, "x", "y")
    await world.admin.delete(f"{WARMIMAGES}/x")
    await project(world, "x")
    assert await world.lines() == {"a": [OTHER], "b": [OTHER]}


@in_world()
async def test_a_changed_selector_moves_the_line(world: World) -> None:
    await world.add_nodes("a", pool="web")
    await world.add_nodes("b", pool="db")
    await world.add_warmimage("x", nodes={"selector": {"matchLabels": {"pool": "web"}}})
    await project(world, "x")
    assert await world.lines() == {"a": [IMAGE]}
    patch = {"spec": {"nodes": {"selector": {"matchLabels": {"pool": "db"}}}}}
    await world.admin.patch(f"{WARMIMAGES}/x", patch)
    await project(world, "x")
    assert await world.lines() == {"a": [], "b": [IMAGE]}


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
@in_world(nodes="abc")
async def test_a_limit_holds_also_when_nodes_come_and_go(world: World, limit: int) -> None:
    await world.add_warmimage("x", nodes={"limit": limit})
    await project(world, "x")
    await world.add_nodes("d")
    await world.changed("Node", "d")
    assert sum(map(len, (await world.lines()).values())) == min(limit, 4)
    for name in ("a", "b"):
        await world.admin.delete(paths.node(name))
        await world.changed("Node", name, deleted=True)
    lines = await world.lines()
    assert set(lines) <= {"c", "d"}
    assert sum(map(len, lines.values())) == min(limit, 2)


@in_world(warmimage="x")
async def test_a_new_node_gets_every_line_that_is_wanted_there(world: World) -> None:
    await world.add_warmimage("y", OTHER, nodes={"names": ["b"]})
    await world.add_nodes("a", "b")
    await world.changed("Node", "a")
    assert await world.lines() == {"a": [IMAGE]}
    await world.changed("Node", "b")
    assert await world.lines() == {"a": [IMAGE], "b": [IMAGE, OTHER]}


@in_world(nodes="a", warmimage="x")
async def test_a_node_that_is_gone_loses_both_configmaps(world: World) -> None:
    await project(world, "x")
    await world.report("a")
    await world.admin.delete(paths.node("a"))
    await world.changed("Node", "a", deleted=True)
    assert [obj["metadata"]["name"] for obj in (await world.admin.list(CONFIGMAPS)).items] == [CONFIGMAP]


@in_world(nodes="a", warmimage="x")
async def test_a_node_registered_again_adopts_its_configmap_before_the_garbage_collector_takes_it(world: World) -> None:
    await project(world, "x")
    await world.admin.delete(paths.node("a"))
    await world.add_nodes("a")
    await world.changed("Node", "a")
    world.server.collect()
    assert await world.lines() == {"a": [IMAGE]}


# --- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [status(409), status(429), status(500), status(503), status(504), Unreachable("cut"), Unreachable("slow")],
)
@in_world(nodes="a", warmimage="x")
async def test_a_write_that_may_work_later_is_repeated(world: World, trouble: Response | Exception) -> None:
    await project(world, "x")
    await world.add_warmimage("y", OTHER)
    world.answer(trouble, WRITES, configmap("a"), times=3)
    assert await project(world, "y") == 204
    assert len((await world.lines())["a"]) == 2
    assert 0 < world.monotonic() < 5


@pytest.mark.parametrize("trouble", [status(429), status(503), Unreachable("cut")])
@in_world(nodes="a", warmimage="x")
async def test_a_create_that_may_work_later_is_repeated(world: World, trouble: Response | Exception) -> None:
    world.answer(trouble, "POST", CONFIGMAPS, times=1)
    assert await project(world, "x") == 204
    assert await world.lines() == {"a": [IMAGE]}


@in_world(nodes="a", warmimage="x")
async def test_a_configmap_that_somebody_else_created_meanwhile_is_patched(world: World) -> None:
    empty = {"metadata": {"name": desired_name("a")}}
    world.once(lambda: world.admin.create(CONFIGMAPS, empty), "POST", CONFIGMAPS)
    assert await project(world, "x") == 204
    assert await world.lines() == {"a": [IMAGE]}


@in_world(nodes="a", warmimage="x")
async def test_the_wait_that_the_server_asks_for_is_kept(world: World) -> None:
    world.answer(status(429, retry_after="3"), "POST", CONFIGMAPS, times=1)
    assert await project(world, "x") == 204
    assert 3 <= world.monotonic() < 4


@pytest.mark.slow
@in_world()
async def test_one_bad_node_does_not_stop_the_others(world: World) -> None:
    names = [f"n{i:02}" for i in range(60)]
    await world.add_nodes(*names)
    await world.add_warmimage("x")
    await project(world, "x")
    await world.add_warmimage("y", OTHER)
    bad = {configmap(name) for name in names[:30]}
    done: list[float] = []

    def fault(method: str, path: str) -> Response | None:
        if method == "PATCH" and path in bad:
            return status(500)
        if method == "PATCH":
            done.append(world.monotonic())
        return None

    world.faults.append(fault)
    assert await project(world, "y") == 503
    assert sum(len(lines) == 2 for lines in (await world.lines()).values()) == 30
    assert max(done) - min(done) < 1
    assert world.monotonic() <= 21


@in_world(nodes="ab", warmimage="x")
async def test_a_node_that_is_refused_for_good_is_left_to_the_sync(world: World) -> None:
    await project(world, "x")
    await world.add_warmimage("y", OTHER)
    world.answer(status(422), WRITES, configmap("a"), times=1)
    assert await project(world, "y") == 204
    assert {node: len(lines) for node, lines in (await world.lines()).items()} == {"a": 1, "b": 2}
    world.faults.clear()
    await world.sync()
    assert {len(lines) for lines in (await world.lines()).values()} == {2}


@pytest.mark.slow
@in_world()
async def test_after_twenty_seconds_the_rest_is_left_to_the_repeat_which_patches_only_what_differs(
    world: World,
) -> None:
    names = [f"n{i:03}" for i in range(200)]
    await world.add_nodes(*names)
    await world.add_warmimage("x")
    world.answer(None, WRITES, after=3)
    assert await project(world, "x") == 503
    assert 20 <= world.monotonic() <= 27
    done = sum(len(lines) for lines in (await world.lines()).values())
    assert 24 <= done < 200
    world.requests.clear()
    assert await project(world, "x") == 503
    assert not {path for method, path in world.requests if method == "PATCH"} & {
        configmap(name) for name in names[: done // 2]
    }
    while await project(world, "x") != 204:
        assert world.monotonic() < 200
    assert sum(len(lines) for lines in (await world.lines()).values()) == 200


@in_world(write_bytes=10_000)
async def test_bytes_are_written_within_the_budget(world: World) -> None:
    await world.add_nodes(*(f"n{i:03}" for i in range(100)))
    await world.add_warmimage("x")
    while await project(world, "x") != 204:
        pass
    # A create is followed by one patch, whose answer of about 700 bytes is what counts.
    assert 3 <= world.monotonic() <= 10


@pytest.mark.slow
@in_world()
async def test_a_small_projection_does_not_wait_for_a_large_one(world: World) -> None:
    await world.add_nodes(*(f"n{i:03}" for i in range(300)))
    await world.add_warmimage("large")
    await world.add_warmimage("small", f"{HOST}/shop/small:v1", nodes={"names": ["n299"]})
    world.answer(None, WRITES, after=0.5)
    large = asyncio.create_task(project(world, "large"))
    await asyncio.sleep(1)
    began = world.monotonic()
    assert await project(world, "small") == 204
    assert world.monotonic() - began < 4
    assert not large.done()
    await large


# --- races -----------------------------------------------------------------------------------------------------------


@in_world(nodes="ab", warmimage="x")
async def test_a_warmimage_that_changes_while_it_is_projected_is_projected_again(world: World) -> None:
    await project(world, "x")
    path = f"{WARMIMAGES}/x"
    await world.admin.patch(path, {"spec": {"pull": {"priority": 1}}})
    world.once(lambda: world.admin.patch(path, {"spec": {"pull": {"priority": 2}}}), "PATCH", CONFIGMAPS)
    await project(world, "x")
    data = [(await world.desired(node) or {})["data"] for node in "ab"]
    assert [json.loads(text)["r"] for lines in data for text in lines.values()] == [2, 2]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@in_world(nodes="ab")
async def test_a_warmimage_that_is_deleted_while_it_is_projected_leaves_no_line(world: World, method: str) -> None:
    await world.add_warmimage("other", OTHER)
    if method == "PATCH":
        await project(world, "other")
    await world.add_warmimage("x")
    world.once(lambda: world.admin.delete(f"{WARMIMAGES}/x"), method, CONFIGMAPS)
    await project(world, "x")
    assert {image for lines in (await world.lines()).values() for image in lines} == {OTHER}


@in_world(nodes="a", warmimage="x")
async def test_a_warmimage_that_is_deleted_and_made_again_ends_as_it_is_now(world: World) -> None:
    await project(world, "x")
    await world.admin.delete(f"{WARMIMAGES}/x")
    world.once(lambda: world.add_warmimage("x", f"{HOST}/shop/again:v1"), "PATCH", CONFIGMAPS)
    await project(world, "x")
    assert await world.lines() == {"a": [f"{HOST}/shop/again:v1"]}


@pytest.mark.slow
@in_world(nodes="a")
async def test_a_configmap_that_vanishes_in_the_middle_comes_back_with_all_its_lines(world: World) -> None:
    for name in ("x", "y"):
        await world.add_warmimage(name, f"{HOST}/shop/{name}:v1")
    await project(world, "x", "y")
    await world.add_warmimage("z", f"{HOST}/shop/z:v1")
    world.once(lambda: world.admin.delete(configmap("a")), "PATCH", CONFIGMAPS)
    await project(world, "z")
    assert await world.lines() == {"a": [f"{HOST}/shop/{name}:v1" for name in "xyz"]}


# --- bounds ----------------------------------------------------------------------------------------------------------


async def fill(world: World, count: int) -> None:
    """So many large WarmImages on node `a`."""
    for number in range(count):
        repository = f"{'x' * 230}/{number:03}"
        await world.add_warmimage(f"w{number:03}", f"{HOST}/{repository}:v1")


@pytest.mark.slow
@in_world(nodes="a")
async def test_a_full_node_refuses_the_least_important_lines_and_takes_them_when_there_is_room(world: World) -> None:
    await fill(world, 320)
    await world.sync()
    obj = await world.admin.get(configmap("a"))
    assert len(json.dumps(obj["data"])) < MAX_BYTES
    taken = len(obj["data"])
    refused = obj["metadata"]["annotations"]["warmhook.dev/refused"].split(",")
    assert taken + len(refused) == 320
    await world.add_warmimage("urgent", IMAGE, pull={"priority": 10})
    await project(world, "urgent")
    obj = await world.admin.get(configmap("a"))
    assert line_key(ObjectKey("shop", "urgent")) in obj["data"]
    assert len(json.dumps(obj["data"])) < MAX_BYTES
    for number in range(200):
        await world.admin.delete(paths.warmimages(ObjectKey("shop", f"w{number:03}")))
    await world.sync()
    obj = await world.admin.get(configmap("a"))
    assert len(obj["data"]) == 121
    assert "warmhook.dev/refused" not in obj["metadata"]["annotations"]


@pytest.mark.slow
@in_world(nodes="a")
async def test_on_a_full_node_the_newest_has_room_and_a_loud_namespace_takes_none_of_another(world: World) -> None:
    await world.add_namespace("quiet")
    for number in range(300):
        await world.add_warmimage(f"w{number:03}", f"{HOST}/shop/{number}:v1", pull={"priority": 1000})
    for number in range(20):
        await world.add_warmimage(f"q{number}", f"{HOST}/quiet/{number}:v1", namespace="quiet")
    await world.sync()
    (images,) = (await world.lines()).values()
    assert len(images) == MAX_LINES
    assert sum(image.startswith(f"{HOST}/quiet/") for image in images) == 20
    await asyncio.sleep(1)
    await world.add_warmimage("new", IMAGE, pull={"priority": 1000})
    await project(world, "new")
    await world.sync()
    (images,) = (await world.lines()).values()
    assert len(images) == MAX_LINES
    assert IMAGE in images


@pytest.mark.slow
@in_world(nodes="a")
async def test_a_push_to_a_node_without_room_has_room_at_once(world: World) -> None:
    await fill(world, 320)
    await world.sync()
    for number in range(5):
        await asyncio.sleep(1)
        await world.add_warmimage(f"new{number}", f"{HOST}/shop/app:v{number}")
        await project(world, f"new{number}")
        (images,) = (await world.lines()).values()
        assert f"{HOST}/shop/app:v{number}" in images


@in_world(nodes="a", warmimage="x")
async def test_a_line_that_nobody_can_read_makes_room_for_others(world: World) -> None:
    await project(world, "x")
    await world.admin.patch(configmap("a"), {"data": {"0123456789abcdef": "x" * 2 * MAX_BYTES}})
    await world.add_warmimage("y", f"{HOST}/shop/y:v1")
    assert await project(world, "y") == 204
    assert await world.lines() == {"a": [IMAGE, f"{HOST}/shop/y:v1"]}


@in_world()
async def test_a_node_whose_name_is_too_long_gets_one_event_and_no_configmap(world: World) -> None:
    name = "n" + "x" * 236
    await world.add_nodes(name, "a")
    await world.add_warmimage("x")
    for _ in range(3):
        await project(world, "x")
        await world.changed("Node", name)
        await world.sync()
    assert list(await world.lines()) == ["a"]
    (event,) = (await world.admin.list(paths.events("default"))).items
    assert event["involvedObject"]["name"] == name
    assert (event["reason"], event["type"]) == ("NodeNameTooLong", "Warning")


_OF_TEAMS = """
sources: []
namespaces:
- {names: [shop], images: ["harbor.example.com/teams/**"], highestPriority: 5}
"""


@in_world(nodes="ab", sources=_OF_TEAMS)
async def test_what_a_namespace_may_not_have_is_on_no_node_and_its_status_says_so(world: World) -> None:
    await world.add_warmimage("other", IMAGE)
    await world.add_warmimage("loud", f"{HOST}/teams/web:v1", pull={"priority": 9})
    await world.sync()
    assert {image for lines in (await world.lines()).values() for image in lines} == {f"{HOST}/teams/web:v1"}
    statuses = {obj["metadata"]["name"]: obj["status"] for obj in (await world.admin.list(paths.warmimages())).items}
    assert find_condition(statuses["other"], "Ready")["reason"] == "BeyondLimits"
    refused = find_condition(statuses["loud"], "Allowed")
    assert (refused["status"], refused["message"]) == (
        "False",
        "spec.pull.priority: the highest of namespace shop is 5",
    )
    (line,) = {text for name in "ab" for text in (await world.admin.get(configmap(name)))["data"].values()}
    assert json.loads(line)["r"] == 5
    await world.admin.patch(paths.warmimages(ObjectKey("shop", "loud")), {"spec": {"pull": {"priority": 5}}})
    await world.sync()
    status = (await world.admin.get(paths.warmimages(ObjectKey("shop", "loud"))))["status"]
    assert find_condition(status, "Allowed")["reason"] == "WithinLimits"
