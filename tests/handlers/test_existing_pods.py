"""With `pods.existing` the images of all Pods of the namespace are on all nodes of the policy."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from adapters.kubernetes import paths
from adapters.kubernetes.errors import Unavailable
from tests.handlers.test_admission import post
from tests.handlers.world import HOST, POLICIES, World, in_world, status
from tests.warmhook.test_admission_review import review
from warmhook.admission_review import read_review
from warmhook.policies import OBSERVED_MAX
from warmhook.status import find_condition

IMAGE: Final = f"{HOST}/shop/app:v1"
PODS: Final = paths.pods("shop")
DAY: Final = 86400


def existing(**labels: str) -> dict[str, Any]:
    return {"pods": {"selector": {"matchLabels": labels}, "existing": True}}


def image(name: str) -> str:
    return f"{HOST}/shop/{name}:v1"


@in_world(nodes="abc")
async def test_all_images_of_existing_pods_are_on_all_nodes_whatever_their_container(world: World) -> None:
    spec = {
        "initContainers": [{"name": "init", "image": image("init")}],
        "volumes": [{"name": "model", "image": {"reference": image("model")}}, {"name": "tmp", "emptyDir": {}}],
        "nodeSelector": {"kubernetes.io/hostname": "a"},
    }
    await world.add_pod("web-1", "a", spec=spec)
    await world.add_pod("job-1", "b", image("job"), phase="Succeeded")
    await world.add_policy(**existing())
    await world.sync()
    wanted = sorted(map(image, ("app", "init", "model", "job")))
    assert await world.lines() == dict.fromkeys("abc", wanted)


@in_world(nodes="ab")
async def test_a_changed_policy_takes_effect_at_once_and_its_template_narrows_the_nodes(world: World) -> None:
    await world.add_pod("web-1", "a")
    await world.add_policy(**existing(), template={"nodes": {"names": ["b"]}})
    await world.changed("WarmPolicy", "shop")
    (name,) = [obj["metadata"]["name"] for obj in (await world.warmimages()).values()]
    await world.changed("WarmImage", name)
    assert await world.lines() == {"b": [IMAGE]}
    await world.admin.patch(f"{POLICIES}/shop", {"spec": {"pods": {"existing": False}}})
    await world.changed("WarmPolicy", "shop")
    assert await world.warmimages() == {}


@in_world(nodes="a")
async def test_only_pods_of_the_selector_in_the_policys_own_namespace_count(world: World) -> None:
    await world.add_namespace("other")
    await world.add_pod("web-1", "a", app="web")
    await world.add_pod("db-1", "a", image("db"), app="db")
    await world.add_pod("web-1", "a", image("foreign"), app="web", namespace="other")
    await world.add_policy(**existing(app="web"))
    await world.sync()
    assert await world.lines() == {"a": [IMAGE]}


@in_world(nodes="a")
async def test_an_image_stays_a_week_after_its_last_pod_and_no_longer(world: World) -> None:
    await world.add_pod("web-1", "a")
    await world.add_policy(**existing())
    for _ in range(10):
        await world.sync()
        await asyncio.sleep(DAY)
    assert await world.lines() == {"a": [IMAGE]}
    await world.admin.delete(f"{PODS}/web-1")
    await asyncio.sleep(5 * DAY)
    await world.sync()
    assert await world.lines() == {"a": [IMAGE]}
    await asyncio.sleep(3 * DAY)
    await world.sync()
    assert await world.lines() == {"a": []}


@in_world(nodes="a")
async def test_pods_that_did_not_change_cost_no_write(world: World) -> None:
    for number in range(30):
        await world.add_pod(f"web-{number}", "a", owner=f"rs-{number % 12}")
    await world.add_policy(**existing())
    await world.sync()
    world.requests.clear()
    await asyncio.sleep(300)
    await world.sync()
    assert world.writes() == []


@in_world(nodes="a")
async def test_pods_of_one_owner_with_other_labels_and_other_images_cost_no_write(world: World) -> None:
    sidecar = {"name": "side", "image": image("side")}
    for number, role in enumerate(("primary", "replica", "replica")):
        containers = [{"name": "app", "image": image(f"app{number}")}, sidecar]
        await world.add_pod(f"db-{number}", "a", owner="rs", spec={"containers": containers}, role=role)
    await world.add_policy(**existing())
    await world.sync()
    world.requests.clear()
    await asyncio.sleep(300)
    await world.sync()
    assert world.writes() == []


@in_world(nodes="a")
async def test_images_stay_however_long_pods_cannot_be_read(world: World) -> None:
    await world.add_pod("web-1", "a")
    await world.add_policy(**existing())
    await world.sync()
    world.answer(status(403, "Forbidden"), "GET", "/pods")
    await asyncio.sleep(30 * DAY)
    await world.sync()
    assert await world.lines() == {"a": [IMAGE]}
    observed = find_condition((await world.admin.get(f"{POLICIES}/shop"))["status"], "Observed")
    assert observed["reason"] == "Forbidden"
    assert "--clusterrole=warmhook-pods" in observed["message"]


@in_world(nodes="a")
async def test_pods_that_are_never_answered_end_no_sync_early_and_delay_no_other_policy(world: World) -> None:
    await world.add_namespace("other")
    await world.add_pod("web-1", "a", namespace="other")
    await world.add_policy(namespace="other", **existing())
    for number in range(9):
        await world.add_policy(f"hangs-{number}", **existing(), rollouts={"selector": {}})
    world.answer(Unavailable("late"), "GET", "/shop/pods", after=3600)
    began = world.monotonic()
    await world.sync()
    assert world.monotonic() - began < 10
    assert await world.lines() == {"a": [IMAGE]}
    for number in range(9):
        policy = await world.admin.get(f"{POLICIES}/hangs-{number}")
        assert find_condition(policy["status"], "Observed")["reason"] == "Unavailable"


@in_world(nodes="a")
async def test_a_policy_has_so_many_images_and_its_status_counts_the_others(world: World) -> None:
    containers = [{"name": f"c{number}", "image": image(f"x{number}")} for number in range(OBSERVED_MAX // 2 + 10)]
    for number, part in enumerate((containers[:60], containers[60:])):
        for letter in "ab":
            spec = {"containers": [{**each, "image": f"{each['image']}{letter}"} for each in part]}
            await world.add_pod(f"web-{number}-{letter}", "a", spec=spec)
    await world.add_policy(**existing())
    for _ in range(2):
        await world.sync()
        assert len(await world.warmimages()) == OBSERVED_MAX
        observed = find_condition((await world.admin.get(f"{POLICIES}/shop"))["status"], "Observed")
        assert (observed["status"], observed["reason"]) == ("False", "TooManyImages")
        assert observed["message"].startswith("20 images are not kept")


@in_world(nodes="ab")
async def test_a_new_pod_of_the_policy_leads_to_the_same_object_before_the_sync(world: World) -> None:
    await world.add_policy(**existing())
    await post(world, read_review(review(metadata={"name": "web-1"}), "warmhook-system").outcome)
    before = await world.warmimages()
    assert len(before) == 1
    (seen,) = before
    await world.add_pod("web-1", "a", seen)
    await world.sync()
    assert {obj["metadata"]["uid"] for obj in (await world.warmimages()).values()} == {before[seen]["metadata"]["uid"]}
    assert await world.lines() == {"a": [seen], "b": [seen]}
