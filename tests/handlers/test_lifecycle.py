"""Images are refreshed, suspended, purged and completed as spec and annotations say, on the handlers' side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.errors import NotFound
from adapters.kubernetes.warmimage import read_warmimage
from devcluster.registry.images import build_image
from tests.handlers.test_statuses import say
from tests.handlers.world import DIGEST, HOST, SOURCES, World, digest, in_world, logged, run_in_world, status
from tests.support.registry import InProcessRegistry
from warmhook.ports import Object
from warmhook.status import find_condition
from warmhook.warmimages import ObjectKey

A, B = (build_image(name.encode() * 100) for name in "ab")
IMAGE = f"{HOST}/shop/app:v1"
LIMITED = SOURCES + "namespaces: []\n"
"""The configuration of handlers whose namespaces have the default limits."""
NIGHT = {"schedule": "0 2 * * *", "durationSeconds": 3600}
X = paths.warmimages(ObjectKey("shop", "x"))
POLICY = paths.warmpolicies(ObjectKey("shop", "shop"))
REFRESH, PURGE = "warmhook.dev/refresh", "warmhook.dev/purge"


async def line(world: World, node: str = "a") -> dict[str, Any]:
    """The only line of a node; empty if there is none."""
    texts = ((await world.desired(node) or {}).get("data") or {}).values()
    (text,) = texts or ("{}",)
    found: dict[str, Any] = json.loads(text)
    return found


async def annotate(world: World, path: str = X, **annotations: str | None) -> None:
    """A person annotates an object, and `watch` sees it."""
    named = {f"warmhook.dev/{name}": value for name, value in annotations.items()}
    await world.admin.patch(path, {"metadata": {"annotations": named}})
    await world.changed("WarmPolicy" if "warmpolicies" in path else "WarmImage", path.rpartition("/")[2])


async def edit(world: World, path: str = X, **spec: Any) -> None:
    await world.admin.patch(path, {"spec": spec})
    await world.changed("WarmPolicy" if "warmpolicies" in path else "WarmImage", path.rpartition("/")[2])


async def stored(world: World, name: str = "x") -> Object:
    found = await world.admin.get(paths.warmimages(ObjectKey("shop", name)))
    return {"status": {}, **found}


async def ready(world: World, name: str = "x") -> tuple[str, str]:
    found = find_condition((await stored(world, name))["status"], "Ready")
    return found["status"], found["reason"]


async def complete(world: World, name: str = "x") -> tuple[str, str]:
    found = find_condition((await stored(world, name))["status"], "Complete")
    return (found["status"], found["reason"]) if found else ("", "")


async def said(world: World) -> str:
    """What the policy says of itself."""
    await world.sync()
    message: str = find_condition((await world.admin.get(POLICY))["status"], "Ready")["message"]
    return message


async def all_changed(world: World) -> None:
    """`watch` sees every WarmImage."""
    await world.changed("WarmImage", *(obj["metadata"]["name"] for obj in (await world.warmimages()).values()))


# --- suspended -------------------------------------------------------------------------------------------------------


@in_world(nodes="ab", warmimage="x")
async def test_the_lines_of_a_suspended_warmimage_say_so_until_it_is_resumed(world: World) -> None:
    await world.changed("WarmImage", "x")
    assert "z" not in await line(world)
    await edit(world, suspend=True)
    assert (await line(world))["z"] is True
    await world.reported("x")
    assert await ready(world) == ("False", "Suspended")
    await edit(world, suspend=None)
    assert "z" not in await line(world)


@in_world(nodes="a", warmimage="x")
async def test_a_suspended_warmimage_whose_nodes_are_warm_is_ready(world: World) -> None:
    await edit(world, suspend=True)
    await say(world, "a", "warm")
    await world.reported("x")
    assert await ready(world) == ("True", "AllWarm")


@in_world(nodes="a")
async def test_a_suspended_policy_suspends_its_images_and_goes_on_recording_pushes(world: World) -> None:
    await world.add_policy(push=[{"repository": f"{HOST}/shop/**"}], suspend=True)
    assert (await world.push()).status_code == 202
    await all_changed(world)
    assert (await line(world))["z"] is True
    assert (await line(world))["d"] == DIGEST
    assert await said(world) == "1 image wanted, suspended"
    await edit(world, POLICY, suspend=False)
    await all_changed(world)
    assert "z" not in await line(world)


@in_world(nodes="a", patterns=False)
async def test_a_policy_is_suspended_though_its_template_cannot_be_read(world: World) -> None:
    await world.add_policy()
    await world.push()
    await edit(world, POLICY, suspend=True, template={"nodes": {"limit": "some"}})
    await all_changed(world)
    assert (await line(world))["z"] is True


# --- purged ----------------------------------------------------------------------------------------------------------


@in_world(nodes="a", warmimage="x")
async def test_a_purged_warmimage_is_not_wanted_on_nodes_until_the_annotation_goes(world: World) -> None:
    await annotate(world, purge="true")
    assert (await line(world))["x"] is True
    await say(world, "a", "warm")
    await world.reported("x")
    assert await ready(world) == ("False", "Purged")
    message = find_condition((await stored(world))["status"], "Ready")["message"]
    assert message == "not wanted on nodes for now; 1 of 1 nodes have the image"
    await annotate(world, purge="false")
    assert "x" not in await line(world)
    await annotate(world, purge="")
    assert (await line(world))["x"] is True
    await annotate(world, purge=None)
    assert "x" not in await line(world)


@in_world(nodes="a", policy=True)
async def test_a_purged_policy_purges_its_images_and_those_of_later_pushes(world: World) -> None:
    await world.push()
    await annotate(world, POLICY, purge="true")
    await all_changed(world)
    assert (await line(world))["x"] is True
    await asyncio.sleep(60)
    await world.push("v2", content=digest("b"))
    await all_changed(world)
    assert (await line(world))["i"].endswith(":v2")
    assert (await line(world))["x"] is True
    assert await said(world) == "1 image wanted, purged"
    await annotate(world, POLICY, purge=None)
    await all_changed(world)
    assert "x" not in await line(world)


@in_world(nodes="a", warmimage="x", sources=LIMITED)
async def test_a_purge_in_a_namespace_that_may_not_delete_changes_nothing_and_is_named(world: World) -> None:
    await annotate(world, purge="true")
    assert "x" not in await line(world)
    await world.reported("x")
    found = find_condition((await stored(world))["status"], "Allowed")
    assert (found["status"], found["reason"]) == ("False", "BeyondLimits")
    assert found["message"] == "annotation warmhook.dev/purge: Delete is not allowed in namespace shop"
    await annotate(world, refresh="one")
    assert "f" in await line(world)


@in_world(nodes="a", warmimage="x")
async def test_a_purge_that_comes_while_lines_are_written_is_in_them_afterwards(world: World) -> None:
    async def purge() -> None:
        await world.admin.patch(X, {"metadata": {"annotations": {PURGE: "true"}}})

    world.once(purge, "PATCH", "/api/v1/namespaces/warmhook-system/configmaps")
    await world.changed("WarmImage", "x")
    assert (await line(world))["x"] is True


@in_world(nodes="a", warmimage="x")
async def test_watch_tells_of_annotations_at_once(world: World) -> None:
    async with world.watching():
        await asyncio.sleep(30)
        await world.admin.patch(X, {"metadata": {"annotations": {PURGE: "true"}}})
        await asyncio.sleep(5)
        assert (await line(world))["x"] is True
        await world.admin.patch(X, {"metadata": {"annotations": {PURGE: None, REFRESH: "now"}}})
        await asyncio.sleep(5)
        found = await line(world)
        assert "x" not in found
        assert found["f"] == (await stored(world))["status"]["refreshedAt"]


# --- refreshed -------------------------------------------------------------------------------------------------------


@in_world(nodes="ab", warmimage="x")
async def test_each_value_of_the_annotation_makes_every_node_pull_once_more(world: World) -> None:
    await world.changed("WarmImage", "x")
    seen = [await line(world)]
    for value in ("one", "one", "two", "", "two"):
        await asyncio.sleep(60)
        await annotate(world, refresh=value or None)
        await world.sync()
        seen.append(await line(world, "b"))
    versions = [found.get("f", "") for found in seen]
    assert versions[0] == ""
    assert versions[1] == versions[2] < versions[3] == versions[4] == versions[5]
    found = (await stored(world))["status"]
    assert (found["refreshHandled"], found["refreshedBy"], found["refreshedAt"]) == ("two", "Nodes", versions[5])
    assert [event["cause"] for event in logged("refreshed")] == ["requested", "requested"]


@in_world(nodes="a", warmimage="x")
async def test_a_refresh_stays_in_the_status_when_nodes_report(world: World) -> None:
    await annotate(world, refresh="one")
    await say(world, "a", "warm")
    await world.reported("x")
    found = (await stored(world))["status"]
    assert (found["warm"], found["refreshHandled"]) == (1, "one")
    before = await line(world)
    await asyncio.sleep(2)
    await world.sync()
    assert await line(world) == before


@in_world(nodes="a", policy=True)
async def test_the_annotation_of_a_policy_refreshes_its_images_once_and_no_later_push(world: World) -> None:
    await world.push()
    await all_changed(world)
    await world.sync()
    await asyncio.sleep(60)
    await annotate(world, POLICY, refresh="one")
    await all_changed(world)
    first = (await line(world))["f"]
    await world.sync()
    assert (await line(world))["f"] == first
    await asyncio.sleep(60)
    await world.push("v2", content=digest("b"))
    await all_changed(world)
    await world.sync()
    await world.sync()
    assert "f" not in await line(world)
    (after,) = (await world.warmimages()).values()
    assert after["status"]["policyRefreshHandled"] == "one"


@in_world(nodes="a")
async def test_an_interval_refreshes_at_the_sync_after_it(world: World) -> None:
    await world.add_warmimage("x", pull={"refreshIntervalSeconds": 3600})
    await world.sync()
    assert "f" not in await line(world)
    moments = []
    for _ in range(36):
        await asyncio.sleep(300)
        await world.sync()
        moments.append((await line(world)).get("f", ""))
    changes = [moment for moment in dict.fromkeys(moments) if moment]
    assert len(changes) in (2, 3)


@in_world(nodes="a")
async def test_a_window_refreshes_once(world: World) -> None:
    await world.add_warmimage("x", pull={"refreshWindows": [NIGHT]})
    moments = []
    for _ in range(48):
        await asyncio.sleep(1800)
        await world.sync()
        moments.append((await line(world)).get("f", ""))
    (moment,) = {moment for moment in moments if moment}
    assert moment.startswith("2026-03-02T02:")


@in_world(nodes="a")
async def test_scheduled_refreshes_are_a_hundred_at_a_time(world: World) -> None:
    for number in range(120):
        await world.add_warmimage(f"w{number:03}", f"{HOST}/w:{number}", pull={"refreshIntervalSeconds": 300})
    await asyncio.sleep(1000)
    await world.sync()
    assert len(logged("refreshed")) == 100
    await world.sync()
    assert len(logged("refreshed")) == 120


@in_world(nodes="a")
async def test_a_namespace_whose_statuses_cannot_be_written_keeps_no_other_from_its_refreshes(world: World) -> None:
    await world.add_namespace("other")
    for number in range(120):
        often = {"refreshIntervalSeconds": 300}
        await world.add_warmimage(f"w{number:03}", f"{HOST}/w:{number}", namespace="other", pull=often)
    await world.add_warmimage("x", pull={"refreshIntervalSeconds": 300})
    await asyncio.sleep(1000)
    await world.admin.patch(paths.status(X), {"status": {"refreshedAt": "2026-03-01T12:00:01Z"}})
    world.answer(status(422), "PATCH", "/namespaces/other/warmimages")
    await world.sync()
    assert [entry["warmimage"] for entry in logged("refreshed")] == ["shop/x"]


@in_world(nodes="a", warmimage="x")
async def test_a_suspended_warmimage_is_refreshed_when_it_is_resumed(world: World) -> None:
    await edit(world, suspend=True)
    await annotate(world, refresh="one")
    assert "f" not in await line(world)
    await edit(world, suspend=None)
    assert "f" in await line(world)


@in_world(nodes="a", warmimage="x")
async def test_a_refresh_whose_status_cannot_be_written_keeps_no_line_from_its_node(world: World) -> None:
    await world.admin.patch(X, {"metadata": {"annotations": {REFRESH: "one"}}})
    world.answer(status(422), part="/x/status", times=1)
    await world.changed("WarmImage", "x")
    assert (await line(world))["i"] == IMAGE
    await world.sync()
    assert "f" in await line(world)


@in_world(nodes="a", warmimage="x")
async def test_a_refresh_that_meets_another_writer_is_done_all_the_same(world: World) -> None:
    await world.changed("WarmImage", "x")

    async def report() -> None:
        await world.admin.patch(paths.status(X), {"status": {"warm": 0}})

    world.once(report, "PATCH", f"{X}/status")
    await annotate(world, refresh="one")
    assert "f" in await line(world)


@in_world(nodes="a", patterns=False)
async def test_a_window_that_cannot_be_read_is_named_and_changes_nothing(world: World) -> None:
    await world.add_warmimage("x")
    await world.changed("WarmImage", "x")
    for window, problem in (
        ({"schedule": "0 0 30 2 *"}, "spec.pull.refreshWindows[0]: '0 0 30 2 *' never comes"),
        ({"schedule": "@daily", "timeZone": "Europe/Atlantis"}, "'Europe/Atlantis' is no time zone"),
        ({"schedule": "@daily", "timeZone": "../../etc/passwd"}, "'../../etc/passwd' is no time zone"),
    ):
        await asyncio.sleep(2)
        await edit(world, pull={"refreshWindows": [window]})
        await world.reported("x")
        found = find_condition((await stored(world))["status"], "Ready")
        assert found["reason"] == "Invalid"
        assert problem.removeprefix("spec.") in found["message"]
        assert (await line(world))["i"] == IMAGE


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    """Run a case in a world with a registry that `web` may ask, which has the tag of an image on a node."""

    def run(case: Callable[[World, InProcessRegistry], Coroutine[Any, Any, None]]) -> None:
        async def in_world(world: World) -> None:
            registry = InProcessRegistry(HOST, tmp_path)
            registry.put("shop/app", "v1", A)
            world.registries = registry.client(world.clock)
            world.restart()
            await world.changed("WarmImage", "x")
            await asyncio.sleep(20)
            registry.requests.clear()
            await case(world, registry)

        run_in_world(in_world, nodes="ab", warmimage="x")

    return run


def test_a_refresh_asks_the_registry_once_and_changes_lines_only_if_the_tag_has_moved(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        await world.sync()
        before = await line(world)
        assert before["d"] == A.digest
        await annotate(world, refresh="one")
        assert await line(world) == before
        assert [request.split()[0] for request in registry.requests] == ["HEAD"]
        found = (await stored(world))["status"]
        assert (found["refreshedBy"], found["refreshHandled"]) == ("Registry", "one")
        registry.put("shop/app", "v1", B)
        await annotate(world, refresh="two")
        assert (await line(world))["d"] == (await line(world, "b"))["d"] == B.digest
        assert "f" not in await line(world)

    run(case)


@pytest.mark.parametrize("fault", ["down", "hangs", "401", "429", "500"])
def test_nodes_pull_once_more_if_the_registry_does_not_answer(run: Callable[..., None], fault: str) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        await world.sync()
        registry.down = fault == "down"
        registry.answers_after = 3600.0 if fault == "hangs" else 0.0
        registry.status = int(fault) if fault.isdigit() else 0
        await annotate(world, refresh="one")
        found = (await stored(world))["status"]
        assert found["refreshedBy"] == "Nodes"
        assert (await line(world))["f"] == found["refreshedAt"]
        assert (await line(world))["d"] == A.digest

    run(case)


def test_a_registry_that_hangs_delays_no_other_line(run: Callable[..., None]) -> None:
    async def case(world: World, registry: InProcessRegistry) -> None:
        registry.answers_after = 3600.0
        for number in range(40):
            metadata = {"annotations": {REFRESH: "one"}}
            await world.add_warmimage(f"w{number}", f"{HOST}/shop/app:{number}", metadata=metadata)
        began = world.monotonic()
        refreshing = asyncio.create_task(world.changed("WarmImage", *(f"w{number}" for number in range(40))))
        await asyncio.sleep(1)
        assert len((await world.lines())["a"]) == 41
        await refreshing
        assert world.monotonic() - began < 6
        assert {event["by"] for event in logged("refreshed")} == {"Nodes"}
        assert len(logged("refreshed")) == 40

    run(case)


# --- once ------------------------------------------------------------------------------------------------------------


async def add_once(world: World, **lifetime: int) -> None:
    await world.add_warmimage("x", lifetime={"type": "Once", **lifetime})
    await world.changed("WarmImage", "x")
    await world.reported("x")
    await asyncio.sleep(2)


async def say_warm(world: World, *nodes: str) -> None:
    for node in nodes:
        await say(world, node, "warm")
    await world.reported("x")
    await asyncio.sleep(2)


@in_world(nodes="ab")
async def test_what_is_warmed_once_leaves_the_nodes_when_all_are_warm_and_reaches_no_new_one(world: World) -> None:
    await add_once(world)
    assert await complete(world) == ("False", "NotAllWarm")
    await say_warm(world, "a", "b")
    assert await complete(world) == ("True", "AllWarm")
    assert await world.lines() == {"a": [], "b": []}
    before = (await stored(world))["status"]
    await world.report("a")
    await world.report("b")
    await world.add_nodes("c")
    await world.changed("Node", "c")
    await world.reported("x")
    await world.sync()
    assert await world.lines() == {"a": [], "b": []}
    assert (await stored(world))["status"] == before
    assert (before["warm"], before["desired"]) == (2, 2)


@in_world(nodes="ab")
async def test_an_edit_of_the_spec_starts_it_anew(world: World) -> None:
    await add_once(world)
    await say_warm(world, "a", "b")
    await edit(world, pull={"priority": 1})
    assert await world.lines() == {"a": [IMAGE], "b": [IMAGE]}
    await world.reported("x")
    assert await complete(world) == ("False", "NotAllWarm")
    await asyncio.sleep(2)
    await edit(world, lifetime={"type": "Keep"})
    await say_warm(world, "a", "b")
    assert await complete(world) == ("", "")
    assert await ready(world) == ("True", "AllWarm")


@in_world(nodes="a")
async def test_a_new_push_starts_it_anew_and_a_repeat_of_the_old_one_does_not(world: World) -> None:
    await world.add_policy(push=[{"repository": f"{HOST}/shop/**"}], template={"lifetime": {"type": "Once"}})
    await world.push(ago=60)
    (obj,) = (await world.warmimages()).values()
    name = obj["metadata"]["name"]
    await all_changed(world)
    await say(world, "a", "warm", name)
    await world.reported(name)
    assert await world.lines() == {"a": []}
    await world.push(ago=60)
    await all_changed(world)
    await world.sync()
    assert await world.lines() == {"a": []}
    await world.push()
    await all_changed(world)
    assert await world.lines() == {"a": [IMAGE]}


@in_world(nodes="a")
async def test_a_purge_reaches_what_is_complete_and_starts_it_anew_afterwards(world: World) -> None:
    await add_once(world)
    await say_warm(world, "a")
    assert await line(world) == {}
    await annotate(world, purge="true")
    assert (await line(world))["x"] is True
    await world.reported("x")
    assert await complete(world) == ("False", "Purged")
    await annotate(world, purge=None)
    assert "x" not in await line(world)
    await asyncio.sleep(2)
    await say_warm(world, "a")
    assert await complete(world) == ("True", "AllWarm")


@in_world(nodes="ab")
async def test_a_deadline_gives_nodes_up_at_the_next_sync(world: World) -> None:
    await add_once(world, deadlineSeconds=600)
    await say_warm(world, "a")
    await asyncio.sleep(300)
    await world.sync()
    assert await complete(world) == ("False", "NotAllWarm")
    await asyncio.sleep(300)
    await world.sync()
    assert await complete(world) == ("True", "DeadlineExceeded")
    assert await world.lines() == {"a": [], "b": []}
    reasons = [event["reason"] for event in (await world.admin.list(paths.events("shop"))).items]
    assert "DeadlineExceeded" in reasons


@in_world(nodes="a")
async def test_lines_that_a_stopped_process_left_go_at_the_next_sync(world: World) -> None:
    await add_once(world)
    world.answer(status(503), "PATCH", "/configmaps/", times=1)
    await say(world, "a", "warm")
    await world.event("dev.warmhook.report.changed.v1", {"warmimages": ["shop/x"]})
    assert await complete(world) == ("True", "AllWarm")
    await world.sync()
    assert await world.lines() == {"a": []}


@in_world(nodes="a")
async def test_a_warmimage_made_by_hand_is_deleted_a_while_after_it_completed(world: World) -> None:
    await add_once(world, ttlSecondsAfterFinished=3600)
    await say_warm(world, "a")
    await asyncio.sleep(3500)
    await world.sync()
    assert read_warmimage(await stored(world)).complete
    await asyncio.sleep(100)
    await world.sync()
    try:
        await stored(world)
    except NotFound:
        deleted = True
    assert deleted
    assert [event["why"] for event in logged("warmimage-deleted")] == ["finished"]


@in_world(nodes="a")
async def test_the_deadline_counts_anew_after_a_purge(world: World) -> None:
    await add_once(world, deadlineSeconds=600)
    await say_warm(world, "a")
    await asyncio.sleep(3600)
    await annotate(world, purge="true")
    await world.reported("x")
    await asyncio.sleep(2)
    await annotate(world, purge=None)
    await world.reported("x")
    assert await complete(world) == ("False", "NotAllWarm")
    assert await world.lines() == {"a": [IMAGE]}


@in_world(nodes="a")
async def test_the_deadline_of_an_edit_counts_from_when_its_pods_could_be_read(world: World) -> None:
    await add_once(world, deadlineSeconds=600)
    await asyncio.sleep(500)
    world.answer(status(403, "Forbidden"), "GET", "/pods")
    await edit(world, nodes={"runningPods": {"matchLabels": {"app": "web"}}})
    await world.reported("x")
    assert await ready(world) == ("False", "PodsUnknown")
    await asyncio.sleep(500)
    world.faults.clear()
    await world.reported("x")
    assert await complete(world) == ("False", "NotAllWarm")


@in_world(nodes="a")
async def test_what_is_complete_stays_ready_and_costs_no_list_of_pods(world: World) -> None:
    await world.add_pod("web-1", "a", app="web")
    await add_once(world)
    await edit(world, nodes={"runningPods": {"matchLabels": {"app": "web"}}})
    await say_warm(world, "a")
    assert await complete(world) == ("True", "AllWarm")
    world.answer(status(403, "Forbidden"), "GET", "/pods")
    await asyncio.sleep(300)
    world.requests.clear()
    await world.sync()
    assert await ready(world) == ("True", "AllWarm")
    assert [path for _, path in world.requests if path.endswith("/pods")] == []
