"""A replica keeps what it does not know: objects of a newer version lose nothing while both versions run."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.warmimage import read_warmimage
from tests.handlers.world import HOST, NAMESPACE, WARMIMAGES, World, digest, in_world
from warmhook.api import LINE_LABEL
from warmhook.node_lines import desired_name, line_of, version_of
from warmhook.ports import Object
from warmhook.status import find_condition

IMAGE: Final = f"{HOST}/shop/app:v1"
POLICY: Final = "/apis/warmhook.dev/v1alpha1/namespaces/shop/warmpolicies/shop"
SHOP: Final = [{"repository": f"{HOST}/shop/**"}]
OWNER: Final = {"kind": "Deployment", "name": "web"}
FUTURE: Final[dict[str, Object]] = {
    "field": {"forecast": {"days": 3}},
    "field-of-nodes": {"nodes": {"zones": ["a"]}},
    "field-of-a-selector": {"nodes": {"selector": {"matchFields": [{"key": "metadata.name", "operator": "Exists"}]}}},
    "field-of-a-toleration": {"nodes": {"tolerations": [{"key": "a", "seconds": 3}]}},
    "field-of-pull": {"pull": {"checksum": True}},
    "field-of-an-owner": {"pods": {"owners": [{**OWNER, "weight": 3}]}},
    "operator": {"nodes": {"selector": {"matchExpressions": [{"key": "a", "operator": "Matches", "values": ["x"]}]}}},
    "toleration-operator": {"nodes": {"tolerations": [{"key": "a", "operator": "Matches"}]}},
    "pull-policy": {"pull": {"policy": "Sometimes"}},
    "lifetime": {"lifetime": {"type": "Forever"}},
    "removal": {"onRemoval": "Archive"},
}
futures = pytest.mark.parametrize("future", FUTURE)


async def of_newer_replica(world: World, future: str) -> str:
    """A newer replica has written a WarmImage, its lines and its status; its name."""
    obj = await world.add_warmimage("x", IMAGE)
    line = line_of(read_warmimage(obj))
    await world.sync()
    text = json.dumps({**json.loads(line.encode()), "N": "z"}, sort_keys=True, separators=(",", ":"))
    patch = {"metadata": {"labels": {LINE_LABEL + line.key: version_of(text)}}, "data": {line.key: text}}
    for node in "ab":
        await world.admin.patch(paths.configmaps(NAMESPACE, desired_name(node)), patch)
    obj = await world.admin.patch(f"{WARMIMAGES}/x", {"spec": FUTURE[future]})
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Frozen",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {
        "observedGeneration": obj["metadata"]["generation"],
        "warm": 2,
        "conditions": [ready],
        "forecast": "sunny",
    }
    await world.admin.patch(f"{WARMIMAGES}/x/status", {"status": status})
    return "x"


async def everything(world: World) -> list[Object]:
    found = [await world.desired(node) for node in "ab"]
    return [*filter(None, found), *(await world.warmimages()).values()]


async def every_event(world: World) -> None:
    """All that makes a replica look at a WarmImage and its lines."""
    for _ in range(2):
        await world.changed("WarmImage", "x")
        await world.changed("Node", "a", "b")
        await world.event("dev.warmhook.report.changed.v1", {"warmimages": ["shop/x"]})
        await asyncio.sleep(2)
        await world.sync()


@futures
@in_world(newer=True, nodes="ab")
async def test_lines_and_status_of_a_newer_replica_stay_as_they_are(world: World, future: str) -> None:
    await of_newer_replica(world, future)
    before = await everything(world)
    await every_event(world)
    assert await everything(world) == before


@futures
@in_world(newer=True, nodes="ab", warmimage="other")
async def test_the_older_replica_goes_on_with_all_others(world: World, future: str) -> None:
    await of_newer_replica(world, future)
    await world.admin.patch(f"{WARMIMAGES}/other", {"spec": {"pull": {"priority": 7}}})
    await world.add_nodes("c")
    await every_event(world)
    data = [(await world.desired(node) or {})["data"] for node in "abc"]
    assert [[json.loads(text).get("r") for text in lines.values() if "other" in text] for lines in data] == [[7]] * 3


@futures
@in_world(newer=True, nodes="a", warmimage="x")
async def test_while_no_newer_replica_runs_the_status_names_what_is_unknown(world: World, future: str) -> None:
    await world.sync()
    await world.admin.patch(f"{WARMIMAGES}/x", {"spec": FUTURE[future]})
    await world.sync()
    ready = find_condition((await world.admin.get(f"{WARMIMAGES}/x"))["status"], "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "Invalid")
    assert ready["message"].startswith("spec.")
    assert ready["message"].endswith(": unknown to this version of Warmhook")
    assert await world.lines() == {"a": [IMAGE]}


@in_world(newer=True, nodes="a", policy=True)
async def test_a_push_reaches_a_warmimage_of_a_newer_version_and_changes_nothing_else_of_it(world: World) -> None:
    await world.push(content=digest("a"), ago=60)
    (obj,) = (await world.warmimages()).values()
    path, future = f"{WARMIMAGES}/{obj['metadata']['name']}", FUTURE["field-of-a-toleration"]
    before = await world.admin.patch(path, {"spec": future})
    assert (await world.push(content=digest("b"))).status_code == 202
    after = await world.admin.get(path)
    assert after["spec"] == before["spec"] | {"digest": digest("b"), "pushedAt": after["spec"]["pushedAt"]}
    assert after["spec"]["pushedAt"] > before["spec"]["pushedAt"]
    # One that came late is older than what is there.
    assert (await world.push(content=digest("c"), ago=30)).status_code == 202
    assert await world.admin.get(path) == after


@pytest.mark.parametrize(
    "future",
    [
        {"push": [], "charts": [{"repository": f"{HOST}/charts/**"}]},
        {"push": [{"repository": "elsewhere.example.com/**", "signedBy": "release"}]},
        {"push": [], "pods": {"selector": {}, "jobs": True}},
        {"push": [], "template": {"nodes": {"zones": ["a"]}}},
        {"push": [], "template": {"lifetime": {"type": "Forever"}}},
    ],
    ids=["field", "field-of-a-rule", "field-of-pods", "field-of-the-template", "lifetime"],
)
@in_world(newer=True, nodes="ab", policy=True)
async def test_nothing_of_a_policy_of_a_newer_version_is_deleted(world: World, future: Object) -> None:
    await world.push()
    await world.sync()
    before = await world.warmimages()
    assert await world.lines() == {"a": [IMAGE], "b": [IMAGE]}
    await world.admin.patch(POLICY, {"spec": future})
    await world.changed("WarmPolicy", "shop")
    await asyncio.sleep(300)
    await world.sync()
    assert {image: obj["spec"] for image, obj in (await world.warmimages()).items()} == {
        image: obj["spec"] for image, obj in before.items()
    }
    assert await world.lines() == {"a": [IMAGE], "b": [IMAGE]}


@in_world(newer=True, nodes="a", policy=True)
async def test_a_push_is_taken_by_a_rule_of_a_newer_version(world: World) -> None:
    await world.admin.patch(POLICY, {"spec": {"push": [{**SHOP[0], "signedBy": "release"}]}})
    assert (await world.push()).status_code == 202
    assert list(await world.warmimages()) == [IMAGE]


@in_world(newer=True, nodes="a", policy=True)
async def test_a_push_for_a_template_of_a_newer_version_is_kept_for_a_newer_replica(world: World) -> None:
    await world.admin.patch(POLICY, {"spec": {"template": {"nodes": {"zones": ["a"]}}}})
    assert (await world.push()).status_code == 202
    await world.sync()
    assert list(await world.warmimages()) == [IMAGE]
    assert await world.lines() == {}


@in_world(newer=True, policy=True)
async def test_the_status_of_a_policy_that_a_newer_replica_wrote_stays(world: World) -> None:
    policy = await world.admin.patch(POLICY, {"spec": {"charts": []}})
    status: dict[str, Any] = {
        "observedGeneration": policy["metadata"]["generation"],
        "images": 0,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Usable",
                "message": "0 images and 3 charts wanted",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
        "charts": 3,
    }
    before = await world.admin.patch(f"{POLICY}/status", {"status": status})
    await world.sync()
    assert await world.admin.get(POLICY) == before


@in_world(newer=True, nodes="a", warmimage="x", policy=True)
async def test_fields_of_a_status_that_are_unknown_stay_and_cost_no_writes(world: World) -> None:
    await world.sync()
    for path in (f"{WARMIMAGES}/x", POLICY):
        await world.admin.patch(f"{path}/status", {"status": {"forecast": "sunny"}})
    await world.admin.patch(f"{WARMIMAGES}/x", {"spec": {"nodes": {"names": ["b"]}}})
    await world.sync()
    found = [(await world.admin.get(path))["status"] for path in (f"{WARMIMAGES}/x", POLICY)]
    assert (found[0]["desired"], [status["forecast"] for status in found]) == (0, ["sunny"] * 2)
    world.requests.clear()
    await asyncio.sleep(2)
    await world.sync()
    assert world.writes() == []


@in_world(newer=True, nodes="a", warmimage="x")
async def test_what_a_registry_said_stays_for_an_older_replica_whatever_a_newer_one_adds(world: World) -> None:
    resolved = {
        "image": IMAGE,
        "checkedAt": "2026-03-01T12:00:00Z",
        "digest": digest("a"),
        "problem": "Bored",
        "cost": 3,
    }
    await world.admin.patch(f"{WARMIMAGES}/x/status", {"status": {"resolved": resolved}})
    warmimage = read_warmimage(await world.admin.get(f"{WARMIMAGES}/x"))
    assert warmimage.resolved is not None
    assert warmimage.resolved.digest == digest("a")
    await world.sync()
    assert (await world.admin.get(f"{WARMIMAGES}/x"))["status"]["resolved"] == resolved
