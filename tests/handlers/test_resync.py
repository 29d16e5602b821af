"""A sync repairs every difference, and writes nothing that is correct."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.warmimage import read_warmimage
from tests.handlers.world import HOST, NAMESPACE, WARMIMAGES, World, in_world, status
from tests.support.crds import without_patterns
from warmhook.node_lines import desired_name, line_key, line_of
from warmhook.node_report import LineReport, report_name
from warmhook.ports import Object
from warmhook.timestamps import format_time
from warmhook.warmimages import ObjectKey, policy_label

IMAGE = f"{HOST}/shop/app:v1"
POLICY_SPEC: dict[str, Any] = {"images": [f"{HOST}/shop/base:v1"], "push": [{"repository": f"{HOST}/**"}]}
POLICY = "/apis/warmhook.dev/v1alpha1/namespaces/shop/warmpolicies/shop"


def configmap(node: str) -> str:
    return paths.configmaps(NAMESPACE, desired_name(node))


async def healthy(world: World) -> None:
    """Two nodes, a policy, a named and a pushed image; all warm and all said."""
    await world.add_nodes("a", "b")
    await world.add_policy(**POLICY_SPEC)
    await world.push()
    await world.sync()
    warmimages = [read_warmimage(obj) for obj in (await world.warmimages()).values()]
    lines = [line_of(warmimage) for warmimage in warmimages]
    for node in ("a", "b"):
        await world.report(node, {line.key: LineReport(line.version, "warm") for line in lines})
    await asyncio.sleep(2)
    await world.sync()
    world.requests.clear()


@dataclass(frozen=True)
class Found:
    """All that a sync answers for, without what changes with every write."""

    lines: dict[str, list[str]]
    configmaps: dict[str, tuple[str, bool, frozenset[str]]]
    """Owner, whether fields are tracked, and what was refused."""
    specs: dict[str, Object]
    statuses: list[Object]
    images: list[int]
    """What the policies say of themselves."""


async def look(world: World) -> Found:
    objects = await world.warmimages()
    return Found(
        lines=await world.lines(),
        configmaps={one.node: (one.owner_uid, one.tracked, one.refused) for one in await world.cluster.desired()},
        specs={image: obj["spec"] for image, obj in objects.items()},
        statuses=[obj["status"] for obj in objects.values()],
        images=[obj["status"]["images"] for obj in (await world.admin.list(paths.warmpolicies())).items],
    )


Divergence = Callable[[World], Awaitable[Callable[[], Awaitable[None]] | None]]
"""Makes something diverge; what it returns happens after the first sync."""


@in_world()
async def test_a_sync_of_what_is_as_it_should_be_writes_nothing_and_lists_each_kind_once(world: World) -> None:
    await healthy(world)
    await world.sync()
    assert sorted(world.requests) == [
        ("GET", "/api/v1/namespaces/warmhook-system/configmaps"),
        ("GET", "/api/v1/nodes"),
        ("GET", "/apis/warmhook.dev/v1alpha1/warmimages"),
        ("GET", "/apis/warmhook.dev/v1alpha1/warmpolicies"),
    ]


async def no_configmap(world: World) -> None:
    await world.admin.delete(configmap("a"))


async def lost_line(world: World) -> None:
    key = line_key(ObjectKey("shop", next(iter((await world.warmimages()).values()))["metadata"]["name"]))
    patch = {"metadata": {"labels": {f"line.warmhook.dev/{key}": None}}, "data": {key: None}}
    await world.admin.patch(configmap("a"), patch)


async def strange_line(world: World) -> None:
    patch = {
        "metadata": {"labels": {"line.warmhook.dev/0123456789abcdef": "01234567"}},
        "data": {"0123456789abcdef": '{"i":"a/b:c","w":"shop/gone"}'},
    }
    await world.admin.patch(configmap("b"), patch)


async def label_that_disagrees(world: World) -> Callable[[], Awaitable[None]]:
    """The data is not what the label says: the agent, which reads the data, does not know that version."""
    warmimages = [read_warmimage(obj) for obj in (await world.warmimages()).values()]
    lines = [line_of(warmimage) for warmimage in warmimages]
    await world.admin.patch(configmap("a"), {"data": {lines[0].key: '{"i":"a/b:c","w":"x/y"}'}})
    await world.admin.delete(paths.configmaps(NAMESPACE, report_name("a")))
    await world.report("a", {line.key: LineReport(line.version, "warm") for line in lines[1:]})

    async def warm_again() -> None:
        await world.report("a", {line.key: LineReport(line.version, "warm") for line in lines})

    return warm_again


async def another_owner(world: World) -> None:
    owner = {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "somebody-else"}
    await world.admin.patch(configmap("a"), {"metadata": {"ownerReferences": [owner]}})


async def no_owner(world: World) -> None:
    await world.admin.patch(configmap("a"), {"metadata": {"ownerReferences": None}})


async def tracked_fields(world: World) -> None:
    obj = await world.admin.get(configmap("a"))
    await world.admin.delete(configmap("a"))
    metadata = {key: obj["metadata"][key] for key in ("name", "labels", "annotations", "ownerReferences")}
    await world.admin.create(paths.configmaps(NAMESPACE), {"metadata": metadata, "data": obj["data"]})
    assert "managedFields" in (await world.admin.get(configmap("a")))["metadata"]


async def named_image_missing(world: World) -> None:
    name = (await world.warmimages())[f"{HOST}/shop/base:v1"]["metadata"]["name"]
    await world.admin.delete(paths.warmimages(ObjectKey("shop", name)))


async def template_overruled(world: World) -> None:
    name = (await world.warmimages())[IMAGE]["metadata"]["name"]
    await world.admin.patch(paths.warmimages(ObjectKey("shop", name)), {"spec": {"pull": {"priority": 9}}})


async def node_left_behind(world: World) -> None:
    labels, annotations = {"warmhook.dev/kind": "desired"}, {"warmhook.dev/node": "gone"}
    metadata = {"name": desired_name("gone"), "labels": labels, "annotations": annotations}
    await world.admin.create(paths.configmaps(NAMESPACE), {"metadata": metadata})


async def status_lost(world: World) -> None:
    for obj in (await world.warmimages()).values():
        await world.admin.patch(f"{WARMIMAGES}/{obj['metadata']['name']}/status", {"status": {"warm": 77}})
    await world.admin.patch(paths.status(POLICY), {"status": {"images": 77}})


async def beyond_keep(world: World) -> None:
    """An older push that should not be there any more."""
    labels = (await world.warmimages())[IMAGE]["metadata"]["labels"]
    moment = format_time(world.now() - timedelta(days=1))
    image = f"{HOST}/shop/app:v0"
    await world.add_warmimage("app-0000000000", image, metadata={"labels": labels}, pushedAt=moment)


async def with_another_policy_name(world: World) -> None:
    """A person has edited what is for people."""
    name = (await world.warmimages())[IMAGE]["metadata"]["name"]
    await world.admin.patch(f"{WARMIMAGES}/{name}", {"spec": {"policyName": "other"}})


async def of_no_policy(world: World) -> Callable[[], Awaitable[None]]:
    """Its policy may be on its way, so it goes at the next sync."""
    labels = {"warmhook.dev/policy": policy_label(ObjectKey("shop", "gone")), "warmhook.dev/repository": "0" * 16}
    await world.add_warmimage("of-no-policy", "nginx:1", metadata={"labels": labels})

    async def an_interval_later() -> None:
        await asyncio.sleep(world.settings.sync_seconds)

    return an_interval_later


async def expired_by_hand(world: World) -> None:
    moment = format_time(world.now() - timedelta(days=1))
    await world.add_warmimage("old", "nginx:1", pushedAt=moment, lifetime={"expireAfterSeconds": 60})


DIVERGENCES: list[Divergence] = [
    no_configmap,
    lost_line,
    strange_line,
    label_that_disagrees,
    another_owner,
    no_owner,
    tracked_fields,
    named_image_missing,
    template_overruled,
    node_left_behind,
    status_lost,
    beyond_keep,
    with_another_policy_name,
    of_no_policy,
    expired_by_hand,
]


@pytest.mark.parametrize("diverge", DIVERGENCES, ids=lambda it: it.__name__)
@in_world()
async def test_a_sync_puts_right(world: World, diverge: Divergence) -> None:
    await healthy(world)
    before = await look(world)
    then = await diverge(world)
    await asyncio.sleep(2)
    await world.sync()
    if then is not None:
        await then()
    await asyncio.sleep(2)
    await world.sync()
    after = await look(world)
    assert (after.lines, after.configmaps) == (before.lines, before.configmaps)
    assert after.specs == before.specs
    assert [(it["warm"], it["desired"]) for it in after.statuses] == [(2, 2)] * 2
    assert after.images == [2]
    world.requests.clear()
    await asyncio.sleep(2)
    await world.sync()
    assert world.writes() == []


@in_world()
async def test_all_divergences_at_once_are_put_right(world: World) -> None:
    await healthy(world)
    before = await world.lines()
    chosen = [it for it in DIVERGENCES if it not in {no_configmap, label_that_disagrees, of_no_policy}]
    random.Random(4).shuffle(chosen)
    for diverge in chosen:
        await diverge(world)
    await asyncio.sleep(2)
    await world.sync()
    assert await world.lines() == before


@in_world(nodes="a", policy=True)
async def test_a_policy_that_cannot_be_used_keeps_what_it_led_to_and_says_why(world: World) -> None:
    await world.push()
    await world.change_crds(without_patterns)
    await world.admin.patch(POLICY, {"spec": {"push": [{"repository": "**", "semver": "nonsense"}]}})
    for _ in range(2):
        await world.sync()
        await world.changed("WarmPolicy", "shop")
    assert await world.lines() == {"a": [IMAGE]}
    found = (await world.admin.get(POLICY))["status"]
    assert found["images"] == 1
    (ready,) = found["conditions"]
    assert (ready["status"], ready["reason"]) == ("False", "Invalid")
    assert "semver" in ready["message"]


@in_world(nodes="a")
async def test_a_rule_that_cannot_be_read_costs_the_other_rules_no_push(world: World) -> None:
    await world.change_crds(without_patterns)
    rules = [{"repository": f"{HOST}/shop/**"}, {"repository": "ghcr.io/**", "semver": ">=1.2 <"}]
    await world.add_policy(push=rules)
    await world.push()
    await world.sync()
    assert await world.lines() == {"a": [IMAGE]}
    (ready,) = (await world.admin.get(POLICY))["status"]["conditions"]
    assert (ready["status"], ready["reason"]) == ("False", "Invalid")
    assert ready["message"].startswith("spec.push[1].semver")


@in_world(nodes="abc")
async def test_a_limit_leaves_a_node_that_is_not_ready_for_ten_minutes_and_comes_back(world: World) -> None:
    await world.add_policy(push=[{"repository": f"{HOST}/**"}], template={"nodes": {"limit": 1}})
    await world.push()
    await world.sync()
    (first,) = (name for name, images in (await world.lines()).items() if images)

    async def ready(status: str) -> None:
        since = format_time(world.now())
        condition = {"type": "Ready", "status": status, "lastTransitionTime": since}
        await world.admin.patch(paths.status(paths.node(first)), {"status": {"conditions": [condition]}})

    await ready("Unknown")
    await asyncio.sleep(599)
    await world.sync()
    assert (await world.lines())[first] == [IMAGE]
    await asyncio.sleep(1)
    await world.sync()
    assert sorted(name for name, images in (await world.lines()).items() if images) != [first]
    assert sum(map(len, (await world.lines()).values())) == 1
    await ready("True")
    await world.sync()
    assert [name for name, images in (await world.lines()).items() if images] == [first]


@in_world(nodes="a")
async def test_one_policy_that_cannot_be_applied_does_not_keep_the_rest_from_being_put_right(world: World) -> None:
    await world.add_policy("bad", images=["nginx:1"])
    await world.add_policy("good", images=["nginx:2"])
    await world.add_warmimage("x")

    world.answer(status(403), "PATCH", "warmpolicies/bad/status")
    await world.sync()
    assert len((await world.lines())["a"]) == 3


# --- races -----------------------------------------------------------------------------------------------------------


LISTS = [paths.configmaps(NAMESPACE), paths.warmimages(), paths.warmpolicies(), paths.NODES]


@pytest.mark.parametrize("path", LISTS, ids=lambda it: it.rpartition("/")[2])
@in_world()
async def test_a_warmimage_that_is_made_and_projected_between_the_lists_keeps_its_lines(
    world: World, path: str
) -> None:
    await healthy(world)
    other = world.new_client(world.new_app())

    async def make() -> None:
        await world.add_warmimage("new", "nginx:1")
        assert (await world.changed("WarmImage", "new", client=other)).status_code == 204

    world.once(make, "GET", path)
    await world.sync()
    assert all("docker.io/library/nginx:1" in lines for lines in (await world.lines()).values())


@pytest.mark.parametrize("path", LISTS, ids=lambda it: it.rpartition("/")[2])
@in_world()
async def test_a_warmimage_that_is_deleted_between_the_lists_is_gone_after_its_event_and_the_next_sync(
    world: World, path: str
) -> None:
    await healthy(world)
    await world.add_warmimage("new", "nginx:1")
    await world.sync()
    world.once(lambda: world.admin.delete(paths.warmimages(ObjectKey("shop", "new"))), "GET", path)
    await world.sync()
    await world.changed("WarmImage", "new", deleted=True)
    assert not any("docker.io/library/nginx:1" in lines for lines in (await world.lines()).values())


@in_world()
async def test_a_status_written_in_the_middle_saves_no_warmimage_that_nobody_wants(world: World) -> None:
    await healthy(world)
    await world.admin.patch(POLICY, {"spec": {"images": [], "push": []}})
    pending = {obj["metadata"]["name"] for obj in (await world.warmimages()).values()}

    async def status_first(method: str, path: str) -> None:
        name = path.rpartition("/")[2]
        if method == "DELETE" and name in pending:
            pending.remove(name)
            written = {"status": {"waiting": 7}}
            await world.admin.patch(paths.status(paths.warmimages(ObjectKey("shop", name))), written)

    world.faults.append(status_first)
    await world.sync()
    assert pending == set()
    assert await world.warmimages() == {}


@pytest.mark.parametrize("away", [0.02, 2, 290])
@in_world()
async def test_a_policy_that_is_deleted_and_made_again_keeps_every_push(world: World, away: float) -> None:
    await healthy(world)
    before = await world.lines()
    uids = {obj["metadata"]["uid"] for obj in (await world.warmimages()).values()}
    async with world.watching():
        await asyncio.sleep(1)
        await world.admin.delete(POLICY)
        await asyncio.sleep(away)
        await world.add_policy(**POLICY_SPEC)
        await asyncio.sleep(900)
    assert await world.lines() == before
    after = (await world.warmimages()).values()
    assert {obj["metadata"]["uid"] for obj in after} == uids
    assert not any("warmhook.dev/policy-gone-since" in obj["metadata"].get("annotations", {}) for obj in after)


@in_world()
async def test_a_policy_that_is_gone_for_a_sync_interval_takes_its_warmimages_with_it(world: World) -> None:
    await healthy(world)
    async with world.watching():
        await asyncio.sleep(1)
        await world.admin.delete(POLICY)
        await asyncio.sleep(290)
        marked = await world.warmimages()
        versions = {name: obj["metadata"]["resourceVersion"] for name, obj in marked.items()}
        assert all("warmhook.dev/policy-gone-since" in obj["metadata"]["annotations"] for obj in marked.values())
        await asyncio.sleep(8)
        again = await world.warmimages()
        assert {name: obj["metadata"]["resourceVersion"] for name, obj in again.items()} == versions
        await asyncio.sleep(400)
    assert await world.warmimages() == {}
    assert await world.lines() == {"a": [], "b": []}


@in_world()
async def test_warmimages_that_a_backup_brings_before_their_policies_stay(world: World) -> None:
    await healthy(world)
    objects = (await world.admin.list(paths.warmimages())).items
    await world.admin.delete(POLICY)
    for obj in objects:
        await world.admin.delete(paths.warmimages(ObjectKey("shop", obj["metadata"]["name"])))
        kept = {key: obj["metadata"][key] for key in ("name", "labels", "annotations") if key in obj["metadata"]}
        await world.admin.create(paths.warmimages_in("shop"), {**obj, "metadata": kept})
    await world.sync()
    await asyncio.sleep(200)
    await world.add_policy(**POLICY_SPEC)
    await world.sync()
    await asyncio.sleep(400)
    await world.sync()
    assert len(await world.warmimages()) == 2


@in_world()
async def test_a_copy_in_another_namespace_is_not_changed_and_goes_as_one_without_its_policy(world: World) -> None:
    await healthy(world)
    await world.add_namespace("other")
    obj = (await world.warmimages())[IMAGE]
    name, labels = obj["metadata"]["name"], obj["metadata"]["labels"]
    spec = {**obj["spec"], "pull": {"priority": 5}}
    made = await world.add_warmimage(name, namespace="other", metadata={"labels": labels}, **spec)
    await world.sync()
    assert (await world.admin.get(paths.warmimages(ObjectKey("other", name))))["spec"] == made["spec"]
    await asyncio.sleep(301)
    await world.sync()
    found = (await world.admin.list(paths.warmimages())).items
    assert {it["metadata"]["namespace"] for it in found} == {"shop"}


@pytest.mark.parametrize("path", LISTS[1:3], ids=lambda it: it.rpartition("/")[2])
@in_world()
async def test_a_policy_that_comes_back_in_the_middle_keeps_its_warmimages(world: World, path: str) -> None:
    await healthy(world)
    await world.admin.delete(POLICY)
    world.once(lambda: world.add_policy(**POLICY_SPEC), "GET", path)
    await world.sync()
    assert len(await world.warmimages()) == 2


@in_world()
async def test_a_policy_that_changes_in_the_middle_is_not_overruled_by_what_it_said_before(world: World) -> None:
    await healthy(world)

    async def change() -> None:
        await world.admin.patch(POLICY, {"spec": {"template": {"pull": {"priority": 7}}}})
        await world.changed("WarmPolicy", "shop")

    world.once(change, "GET", paths.warmpolicies())
    await world.sync()
    assert {obj["spec"]["pull"]["priority"] for obj in (await world.warmimages()).values()} == {7}


@in_world(policy=True)
async def test_a_push_that_was_accepted_under_an_old_policy_catches_up_with_the_new_one(world: World) -> None:
    async def change() -> None:
        await world.admin.patch(POLICY, {"spec": {"template": {"pull": {"priority": 7}}}})
        await world.changed("WarmPolicy", "shop")

    world.once(change, "POST", WARMIMAGES)
    await world.push()
    (obj,) = (await world.warmimages()).values()
    await world.changed("WarmImage", obj["metadata"]["name"])
    (obj,) = (await world.warmimages()).values()
    assert obj["spec"]["pull"]["priority"] == 7
