"""Images with `nodes.runningPods` are on the nodes that run such Pods, and nowhere else."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from adapters.kubernetes import paths
from adapters.kubernetes.errors import Unavailable
from tests.handlers.world import HOST, NAMESPACE, POLICIES, SOURCES, World, in_world, logged, status
from warmhook.api import DROPPED_ANNOTATION
from warmhook.limits import LINES_PER_NODE
from warmhook.node_lines import desired_name, line_key
from warmhook.status import find_condition
from warmhook.warmimages import ObjectKey

IMAGE: Final = f"{HOST}/shop/app:v1"
OTHER: Final = f"{HOST}/shop/other:v1"
PODS: Final = paths.pods("shop")


def on_pods_of(app: str, **more: Any) -> Any:
    return {"runningPods": {"matchLabels": {"app": app}}, **more}


async def lines(world: World) -> dict[str, list[str]]:
    """Only of nodes that have lines."""
    return {node: images for node, images in (await world.lines()).items() if images}


@in_world(nodes="abc")
async def test_only_nodes_that_run_such_pods_get_the_image(world: World) -> None:
    await world.add_namespace("other")
    await world.add_pod("web-1", "a", app="web")
    await world.add_pod("db-1", "b", app="db")
    await world.add_pod("web-1", "c", app="web", namespace="other")
    await world.add_warmimage("x", nodes=on_pods_of("web"))
    await world.changed("WarmImage", "x")
    assert await lines(world) == {"a": [IMAGE]}


@in_world(nodes="abc")
async def test_pods_that_have_ended_or_have_no_node_do_not_count(world: World) -> None:
    for number, phase in enumerate(("Succeeded", "Failed")):
        await world.add_pod(f"ended-{number}", "a", app="web", phase=phase)
    await world.add_pod("unscheduled", app="web", phase="Pending")
    await world.add_pod("starting", "b", app="web", phase="Pending")
    await world.add_warmimage("x", nodes=on_pods_of("web"))
    await world.changed("WarmImage", "x")
    assert await lines(world) == {"b": [IMAGE]}


@in_world(nodes="abc")
async def test_the_other_conditions_of_nodes_hold_as_well(world: World) -> None:
    for node in "abc":
        await world.add_pod(f"web-{node}", node, app="web")
    await world.add_warmimage("x", nodes=on_pods_of("web", names=["a", "b"], limit=1))
    await world.changed("WarmImage", "x")
    assert len(await lines(world)) == 1
    assert (await lines(world)).keys() <= {"a", "b"}


@in_world(nodes="ab")
async def test_a_sync_follows_the_pods(world: World) -> None:
    await world.add_pod("web-1", "a", app="web")
    await world.add_warmimage("x", nodes=on_pods_of("web"))
    await world.sync()
    assert await lines(world) == {"a": [IMAGE]}
    await world.add_pod("web-2", "b", app="web")
    await world.admin.delete(f"{PODS}/web-1")
    await world.sync()
    assert await lines(world) == {"b": [IMAGE]}


@in_world(nodes="ab")
async def test_lines_stay_while_pods_cannot_be_read_and_other_images_are_projected(world: World) -> None:
    await world.add_pod("web-1", "a", app="web")
    await world.add_warmimage("x", nodes=on_pods_of("web"))
    await world.sync()
    await world.admin.delete(f"{PODS}/web-1")
    world.answer(status(503), "GET", "/pods")
    await world.add_warmimage("y", OTHER)
    assert (await world.changed("WarmImage", "x", "y")).status_code == 503
    assert await lines(world) == {"a": [IMAGE, OTHER], "b": [OTHER]}
    await world.sync()
    assert await lines(world) == {"a": [IMAGE, OTHER], "b": [OTHER]}
    world.faults.clear()
    await world.sync()
    assert await lines(world) == {"a": [OTHER], "b": [OTHER]}


@in_world(nodes="a")
async def test_a_configmap_made_while_pods_cannot_be_read_names_the_lines_that_it_may_lack(world: World) -> None:
    """An agent removes no image of a line that it is told of as wanted without room."""
    await world.add_pod("web-1", "a", app="web")
    await world.add_warmimage("x", nodes=on_pods_of("web"))
    await world.add_warmimage("y", OTHER)
    await world.sync()
    key = line_key(ObjectKey("shop", "x"))
    path = paths.configmaps(NAMESPACE, desired_name("a"))
    world.answer(status(503), "GET", "/pods")
    await world.admin.delete(path)
    for _ in range(2):
        await world.sync()
        assert await lines(world) == {"a": [OTHER]}
        assert (await world.admin.get(path))["metadata"]["annotations"][DROPPED_ANNOTATION] == key
    world.faults.clear()
    await world.sync()
    assert await lines(world) == {"a": [IMAGE, OTHER]}
    assert DROPPED_ANNOTATION not in (await world.admin.get(path))["metadata"]["annotations"]


@in_world(nodes="a")
async def test_pods_that_are_never_answered_delay_no_other_image(world: World) -> None:
    await world.add_warmimage("x", nodes=on_pods_of("web"))
    world.answer(Unavailable("late"), "GET", "/pods", after=3600)
    await world.add_warmimage("y", OTHER)
    written: list[float] = []
    world.once(lambda: _note(written, world), "POST", paths.configmaps(NAMESPACE))
    began = world.monotonic()
    assert (await world.changed("WarmImage", "x", "y")).status_code == 503
    assert written[0] - began < 2
    assert world.monotonic() - began < 10


async def _note(written: list[float], world: World) -> None:
    written.append(world.monotonic())


@in_world(nodes="a")
async def test_a_refusal_is_logged_once_and_the_image_and_its_policy_say_what_to_run(world: World) -> None:
    await world.add_policy(images=[IMAGE], template={"nodes": on_pods_of("web")})
    world.answer(status(403, "Forbidden"), "GET", "/pods")
    for _ in range(3):
        await world.sync()
    command = (
        "kubectl -n shop create rolebinding warmhook-pods --clusterrole=warmhook-pods"
        " --serviceaccount=warmhook-system:warmhook-handlers"
    )
    (line,) = logged("pods-not-read")
    assert command in line["hint"]
    policy = await world.admin.get(f"{POLICIES}/shop")
    observed = find_condition(policy["status"], "Observed")
    assert (observed["status"], observed["reason"]) == ("False", "Forbidden")
    assert command in observed["message"]
    ready = find_condition((await world.warmimages())[IMAGE]["status"], "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "PodsUnknown")
    world.faults.clear()
    await asyncio.sleep(300)
    await world.sync()
    policy = await world.admin.get(f"{POLICIES}/shop")
    assert find_condition(policy["status"], "Observed")["reason"] == "Read"
    ready = find_condition((await world.warmimages())[IMAGE]["status"], "Ready")
    assert ready["reason"] == "NoNodes"


@in_world(nodes="a", policy=True)
async def test_a_policy_that_depends_on_no_pods_reads_none_and_has_no_such_condition(world: World) -> None:
    await world.admin.patch(f"{POLICIES}/shop", {"spec": {"template": {"nodes": on_pods_of("web")}}})
    await world.sync()
    await world.admin.patch(f"{POLICIES}/shop", {"spec": {"template": None}})
    world.requests.clear()
    await world.sync()
    assert not [path for _, path in world.requests if "/pods" in path]
    policy = await world.admin.get(f"{POLICIES}/shop")
    assert [each["type"] for each in policy["status"]["conditions"]] == ["Ready"]


@in_world(nodes="ab")
async def test_many_selectors_of_a_namespace_cost_one_list_of_its_pods(world: World) -> None:
    for number in range(9):
        await world.add_pod(f"web-{number}", "ab"[number % 2], app=f"web-{number}")
        await world.add_warmimage(f"x{number}", f"{HOST}/shop/app:{number}", nodes=on_pods_of(f"web-{number}"))
    world.requests.clear()
    await world.sync()
    assert [path for _, path in world.requests if path.startswith(PODS)].count(PODS) == 1
    assert {node: len(images) for node, images in (await lines(world)).items()} == {"a": 5, "b": 4}
    assert all(obj["status"]["desired"] == 1 for obj in (await world.warmimages()).values())


@in_world(nodes="a", sources=SOURCES + "namespaces: []\n")
async def test_lines_that_stay_because_pods_cannot_be_read_take_the_room_of_their_namespace(world: World) -> None:
    await world.add_namespace("other")
    world.answer(status(403, "Forbidden"), "GET", "/pods")
    for turn in range(3):
        for number in range(LINES_PER_NODE):
            await world.add_warmimage(f"w{turn}-{number}", f"{HOST}/w:{turn}-{number}", namespace="other")
        await world.sync()
        for number in range(LINES_PER_NODE):
            path = paths.warmimages(ObjectKey("other", f"w{turn}-{number}"))
            await world.admin.patch(path, {"spec": {"nodes": on_pods_of("hidden")}})
    await world.sync()
    assert len(((await world.desired("a")) or {})["data"]) == LINES_PER_NODE
    world.requests.clear()
    await world.sync()
    assert world.writes() == []


@in_world(nodes="ab")
async def test_nodes_that_change_one_after_another_cost_one_list_of_pods_in_a_second(world: World) -> None:
    await world.add_pod("web-1", "a", app="web")
    await world.add_warmimage("x", nodes=on_pods_of("web"))
    await world.sync()
    await asyncio.sleep(60)
    world.requests.clear()
    for _ in range(10):
        await world.changed("Node", "a")
    assert [path for _, path in world.requests].count(PODS) == 1
    assert await lines(world) == {"a": [IMAGE]}
