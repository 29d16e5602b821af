"""What the API server refuses to one namespace, or to one object, no other notices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from adapters.kubernetes import paths
from handlers.reconcile.objects import read_warmimages
from tests.handlers.test_statuses import say
from tests.handlers.world import HOST, NAMESPACE, POLICIES, WARMIMAGES, WRITES, World, digest, in_world, status
from warmhook.delivery_records import CONFIGMAP
from warmhook.limits import NO_RULES
from warmhook.node_lines import REFUSED_MAX, desired_name, line_key, node_patch, noted_refusals
from warmhook.node_report import LineReport, report_name
from warmhook.ports import Object, Response
from warmhook.status import find_condition
from warmhook.timestamps import format_time
from warmhook.warmimages import ObjectKey

CHANGED = "dev.warmhook.objects.changed.v1"
IMAGE = f"{HOST}/shop/app:v1"
OTHERS = "/namespaces/other/warmimages"
QUOTA = status(403, "exceeded quota: images")
EVERYTHING = [{"repository": f"{HOST}/**"}]


async def add_other(world: World, name: str = "greedy", **spec: Any) -> str:
    """A policy of another namespace that takes everything; its path."""
    await world.add_namespace("other")
    await world.add_policy(name, namespace="other", **spec or {"push": EVERYTHING})
    return f"{POLICIES.replace('/shop/', '/other/')}/{name}"


def hang(world: World, methods: str) -> None:
    """A webhook of the other namespace that concerns such requests about WarmImages gives no answer."""
    world.answer(status(500, "failed calling webhook"), methods, OTHERS, after=10)


async def add_others(world: World, count: int, *, first: int = 0, **spec: Any) -> list[str]:
    """WarmImages in the other namespace that a person made; their names."""
    names = [f"x{number}" for number in range(first, first + count)]
    for name in names:
        await world.add_warmimage(name, f"{HOST}/other/{name}:v1", namespace="other", **spec)
    return names


async def only(world: World) -> Object:
    """The one WarmImage."""
    (obj,) = (await world.warmimages()).values()
    return obj


async def condition(world: World, path: str, kind: str) -> tuple[str, str]:
    found = find_condition((await world.admin.get(path)).get("status") or {}, kind)
    return found.get("status", ""), found.get("reason", "")


# --- a push ----------------------------------------------------------------------------------------------------------


@in_world(policy=True, patterns=False)
async def test_a_quota_of_one_namespace_is_shown_on_its_policy_and_decides_no_answer(world: World) -> None:
    other = await add_other(world)
    world.answer(QUOTA, "POST", OTHERS)
    for number in range(5):
        assert (await world.push(f"v{number}", ago=9 - number)).status_code == 202
        await asyncio.sleep(0.05)
    assert world.metric("warmhook_deliveries_total", result="accepted") == 5
    assert await condition(world, other, "Degraded") == ("True", "WriteRefused")
    assert await condition(world, f"{POLICIES}/shop", "Degraded") == ("", "")
    written = [path for method, path in world.requests if (method, path) == ("PATCH", f"{other}/status")]
    assert len(written) == 1


@in_world(patterns=False)
async def test_a_push_that_no_policy_can_take_is_skipped_as_refused(world: World) -> None:
    other = await add_other(world)
    world.answer(QUOTA, "POST", OTHERS)
    assert (await world.push()).status_code == 202
    assert world.metric("warmhook_deliveries_total", result="skipped", reason="refused") == 1
    assert (await condition(world, other, "Degraded"))[0] == "True"
    world.faults.clear()
    await asyncio.sleep(1)
    assert (await world.push("v2")).status_code == 202
    assert (await condition(world, other, "Degraded"))[0] == "False"


@in_world(policy=True, patterns=False)
async def test_a_refusal_that_cannot_be_shown_decides_nothing_either(world: World) -> None:
    await add_other(world)
    world.answer(QUOTA, "POST", OTHERS)
    world.answer(status(500), "PATCH", "/status")
    assert (await world.push()).status_code == 202
    assert IMAGE in await world.warmimages()
    world.faults.pop()
    world.answer(None, "PATCH", "/status", after=5)
    assert (await world.push("v2")).status_code == 202


@pytest.mark.parametrize("hangs", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@in_world(policy=True, patterns=False)
async def test_a_namespace_whose_writes_fail_or_hang_keeps_senders_for_a_minute_at_most(
    world: World, hangs: bool, shared: bool
) -> None:
    other = await add_other(world, push=EVERYTHING if shared else [{"repository": f"{HOST}/other/**"}])
    problem = status(500, 'failed calling webhook "policy.example"')
    world.answer(problem, "POST", OTHERS, after=10 if hangs else 0)
    answers = []
    for number in range(8):
        await world.push(f"v{number}")
        answers.append((await world.push(f"v{number}", repository="other/app")).status_code)
        await asyncio.sleep(15)
    assert answers[0] == 503
    assert answers[-2:] == [202, 202]
    assert await condition(world, other, "Degraded") == ("True", "WriteRefused")
    world.faults.clear()
    await world.push("v9", repository="other/app")
    assert f"{HOST}/other/app:v9" in await world.warmimages()


@in_world(policy=True, patterns=False)
async def test_forty_policies_of_a_namespace_whose_writes_hang_keep_no_push_from_another(world: World) -> None:
    await add_other(world)
    for number in range(40):
        await world.add_policy(f"greedy{number}", namespace="other", push=EVERYTHING)
    hang(world, "POST")
    answers = []
    for number in range(10):
        answers.append((await world.push(f"v{number}")).status_code)
        # The sender may hear otherwise for a minute, but what can be written is.
        assert f"{HOST}/shop/app:v{number}" in await world.warmimages()
        await asyncio.sleep(15)
    assert answers[-4:] == [202] * 4


@in_world(policy=True, patterns=False)
async def test_while_nothing_can_be_written_for_anybody_senders_are_asked_to_repeat(world: World) -> None:
    world.answer(status(500, "failed calling webhook"), "POST", "/warmimages")
    for number in range(10):
        assert (await world.push(f"v{number}")).status_code == 503
        await asyncio.sleep(30)


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"warmhook.dev/policy": None}}},
        {"metadata": {"labels": {"warmhook.dev/repository": None}}},
        {"metadata": {"labels": None}},
        {"spec": {"nodes": {"limit": "200%"}}},
        {"spec": {"image": "NOT AN IMAGE"}},
    ],
    ids=["no-policy", "no-repository", "no-labels", "unusable", "another-image"],
)
@in_world(policy=True, patterns=False)
async def test_a_warmimage_that_somebody_has_changed_by_hand_is_the_policys_again_at_the_next_push(
    world: World, change: Object
) -> None:
    await world.push(content=digest("a"), ago=60)
    before = await only(world)
    await world.admin.patch(f"{WARMIMAGES}/{before['metadata']['name']}", change)
    assert (await world.push(content=digest("b"))).status_code == 202
    now = await only(world)
    assert (now["spec"]["image"], now["spec"]["digest"]) == (IMAGE, digest("b"))
    assert now["metadata"]["labels"] == before["metadata"]["labels"]
    # An image cannot be changed back.
    created_again = now["metadata"]["uid"] != before["metadata"]["uid"]
    assert created_again == ("image" in change.get("spec", {}))


@in_world(policy=True, patterns=False)
async def test_the_word_of_an_unusable_warmimage_on_a_later_push_is_kept(world: World) -> None:
    await world.push(content=digest("b"), ago=10)
    name = (await only(world))["metadata"]["name"]
    await world.admin.patch(f"{WARMIMAGES}/{name}", {"spec": {"image": "NOT AN IMAGE"}})
    assert (await world.push(content=digest("a"), ago=60)).status_code == 202
    now = await only(world)
    assert (now["spec"]["image"], now["spec"]["digest"]) == (IMAGE, digest("b"))


@in_world(policy=True, patterns=False)
async def test_a_warmimage_that_a_finalizer_keeps_sends_senders_away_for_a_minute_at_most(world: World) -> None:
    await world.push(ago=60)
    path = f"{WARMIMAGES}/{(await only(world))['metadata']['name']}"
    await world.admin.patch(path, {"metadata": {"finalizers": ["example.com/slow"]}})
    await world.admin.delete(path)
    assert (await world.push(content=digest("b"))).status_code == 503
    await asyncio.sleep(70)
    assert (await world.push(content=digest("b"))).status_code == 202
    assert world.metric("warmhook_deliveries_total", result="skipped", reason="refused") == 1
    await world.admin.patch(path, {"metadata": {"finalizers": None}})
    assert (await world.push(content=digest("b"))).status_code == 202
    assert (await only(world))["spec"]["digest"] == digest("b")


# --- a sync ----------------------------------------------------------------------------------------------------------


async def made_by_hand(world: World, name: str, **metadata: Any) -> None:
    """A WarmImage that has expired."""
    moment = format_time(world.now() - timedelta(days=1))
    lifetime = {"expireAfterSeconds": 60}
    await world.add_warmimage(name, "nginx:1", metadata=metadata, pushedAt=moment, lifetime=lifetime)


@pytest.mark.parametrize("labels", [{}, {"warmhook.dev/policy": "0123456789abcdef"}], ids=["by-hand", "of-no-policy"])
@in_world(nodes="a", patterns=False)
async def test_a_warmimage_that_may_not_be_deleted_ends_no_sync_and_is_not_counted_as_handled(
    world: World, labels: Object
) -> None:
    missed = {"warmhook.dev/policy-gone-since": "2026-03-01T11:00:00Z"}
    await made_by_hand(world, "protected", labels=labels, annotations=missed)
    await world.add_policy("good", images=[IMAGE])
    world.answer(QUOTA, "DELETE", "/protected")
    for _ in range(2):
        await world.sync()
    assert IMAGE in (await world.lines())["a"]
    assert (await world.warmimages())[IMAGE]["status"]["desired"] == 1
    assert world.metric("warmhook_events_total", result="denied") == 2
    assert world.metric("warmhook_events_total", result="handled") == 0


@in_world(nodes="a", warmimage="x", patterns=False)
async def test_a_namespace_whose_writes_get_no_answer_holds_up_no_sync(world: World) -> None:
    await add_other(world, images=[f"{HOST}/slow/{number}:v1" for number in range(30)])
    hang(world, "POST")
    await world.sync_in_part()
    assert await world.lines() == {"a": [IMAGE]}
    assert (await world.admin.get(f"{WARMIMAGES}/x"))["status"]["desired"] == 1
    assert world.monotonic() < 10


@in_world()
async def test_deletes_that_hang_in_one_namespace_keep_nothing_expired_in_another(world: World) -> None:
    await world.add_namespace("other")
    await add_others(world, 30, lifetime={"expireAfterSeconds": 10})
    await world.add_warmimage("mine", lifetime={"expireAfterSeconds": 10})
    await asyncio.sleep(60)
    hang(world, "DELETE")
    await world.sync_in_part()
    assert IMAGE not in await world.warmimages()


@in_world(nodes="a")
async def test_a_namespace_in_which_every_write_hangs_holds_up_no_line_and_no_policy_of_another(world: World) -> None:
    other = await add_other(world)
    for name in await add_others(world, 10):
        path = f"{WARMIMAGES.replace('/shop/', '/other/')}/{name}"
        await world.admin.patch(path, {"metadata": {"labels": {"warmhook.dev/policy": "0123456789abcdef"}}})
    await add_others(world, 10, first=10, lifetime={"expireAfterSeconds": 10})
    await asyncio.sleep(60)
    await world.admin.patch(other, {"spec": {"images": [f"{HOST}/slow/{number}:v1" for number in range(30)]}})
    await world.add_policy(images=[IMAGE])
    hang(world, WRITES)
    began = world.monotonic()
    await world.sync_in_part()
    assert IMAGE in (await world.lines())["a"]
    assert world.monotonic() - began < 25


@pytest.mark.parametrize("kind", ["dev.warmhook.report.changed.v1", "dev.warmhook.sync.v1"])
@in_world(nodes="a")
async def test_statuses_that_hang_in_one_namespace_keep_no_other_from_being_written(world: World, kind: str) -> None:
    await world.add_namespace("other")
    names = await add_others(world, 40)
    await world.add_warmimage("mine")
    hang(world, "PATCH")
    named = [*(f"other/{name}" for name in names), "shop/mine"]
    assert (await world.event(kind, {"warmimages": named})).status_code == 503
    assert (await world.admin.get(f"{WARMIMAGES}/mine"))["status"]["desired"] == 1
    assert world.monotonic() < 26


ODD_PODS = {
    "owners": [{"kind": "Deployment", "name": "web"}],
    "affinity": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "pool", "operator": "In"}]}]},
}
ODD: dict[str, Callable[[World], Awaitable[object]]] = {
    "affinity-that-means-nothing": lambda world: world.add_warmimage("odd", pods=ODD_PODS),
    "limit-of-thousands-of-digits": lambda world: world.add_warmimage("odd", nodes={"limit": "1" * 5000}),
}


@pytest.mark.parametrize("odd", ODD)
@in_world(nodes="a", patterns=False)
async def test_a_warmimage_that_nobody_can_read_is_invalid_and_ends_no_sync(world: World, odd: str) -> None:
    await ODD[odd](world)
    await world.add_policy("good", images=[IMAGE])
    await world.sync()
    assert (await world.lines())["a"] == [IMAGE]
    assert await condition(world, f"{WARMIMAGES}/odd", "Ready") == ("False", "Invalid")


@pytest.mark.parametrize("kind", ["desired", "report"])
@in_world(nodes="a", warmimage="x", patterns=False)
async def test_a_configmap_under_a_name_that_means_nothing_is_nobodys(world: World, kind: str) -> None:
    for name, said in (("no-node", {}), ("copied", {"warmhook.dev/node": "a"})):
        metadata = {"name": name, "labels": {"warmhook.dev/kind": kind}, "annotations": said}
        await world.admin.create(paths.configmaps(NAMESPACE), {"metadata": metadata, "data": {}})
    await world.sync()
    assert (await world.lines())["a"] == [IMAGE]
    assert not [path for _, path in world.requests if path == f"{paths.NODES}/"]
    found = {obj["metadata"]["name"] for obj in (await world.admin.list(paths.configmaps(NAMESPACE))).items}
    assert found == {"no-node", "copied", desired_name("a"), CONFIGMAP}


@pytest.mark.slow
@in_world(nodes="a", patterns=False)
async def test_every_warmimage_has_its_status_after_a_few_syncs_that_had_too_little_time(world: World) -> None:
    for number in range(60):
        await world.add_warmimage(f"w{number:02}", f"{HOST}/shop/app:v{number}")
    world.answer(None, "PATCH", "/status", after=6)
    answers = [(await world.event("dev.warmhook.sync.v1")).status_code for _ in range(6)]
    assert answers[0] == 503
    assert answers[-1] == 204
    assert all(obj.get("status") for obj in (await world.warmimages()).values())


@in_world(nodes="a", warmimage="x", patterns=False)
async def test_a_line_that_no_label_names_is_removed_once_the_agent_tells_of_it(world: World) -> None:
    await world.sync()
    stray = "0123456789abcdef"
    path = paths.configmaps(NAMESPACE, desired_name("a"))
    await world.admin.patch(path, {"data": {stray: '{"i":"a/b:c","w":"shop/gone"}'}})
    await world.report("a")
    labels = {"metadata": {"labels": {f"line.warmhook.dev/{stray}": "failed-01234567"}}}
    await world.admin.patch(paths.configmaps(NAMESPACE, report_name("a")), labels)
    await world.sync()
    assert (await world.lines())["a"] == [IMAGE]


# --- a policy --------------------------------------------------------------------------------------------------------


@in_world(patterns=False)
async def test_one_write_that_is_refused_keeps_a_policy_from_none_of_its_others(world: World) -> None:
    names = [f"{HOST}/shop/app:v{number}" for number in range(7)]
    await world.add_policy(images=names)
    await world.changed("WarmPolicy", "shop")
    bad = (await world.warmimages())[names[2]]["metadata"]["name"]
    world.answer(QUOTA, "PATCH", f"/{bad}")
    spec = {"images": names[:6], "template": {"pull": {"priority": 5}}}
    await world.admin.patch(f"{POLICIES}/shop", {"spec": spec})
    assert (await world.changed("WarmPolicy", "shop")).status_code == 204
    found = await world.warmimages()
    assert {image: obj["spec"]["pull"]["priority"] for image, obj in found.items()} == {
        image: 0 if image == names[2] else 5 for image in names[:6]
    }
    policy = (await world.admin.get(f"{POLICIES}/shop"))["status"]
    assert policy["images"] == 6
    assert find_condition(policy, "Degraded")["reason"] == "WriteRefused"
    assert world.metric("warmhook_events_total", type=CHANGED, result="denied") == 1


@in_world(nodes="a", policy=True, patterns=False)
async def test_writes_of_one_namespace_that_hang_hold_up_no_line_of_another(world: World) -> None:
    other = await add_other(world)
    await world.push(ago=10)
    await world.sync()
    await world.admin.patch(other, {"spec": {"template": {"pull": {"priority": 5}}}})
    await world.push("v2")
    world.answer(None, WRITES, OTHERS, after=60)
    listed = [obj["metadata"] for obj in (await world.admin.list(paths.warmimages())).items]
    objects = [{"kind": "WarmImage", "namespace": it["namespace"], "name": it["name"]} for it in listed]
    began = world.monotonic()
    assert (await world.event(CHANGED, {"objects": objects})).status_code == 503
    assert world.monotonic() - began < 10
    assert f"{HOST}/shop/app:v2" in (await world.lines())["a"]


@in_world(patterns=False)
async def test_deletes_make_room_in_a_quota_before_anything_is_created(world: World) -> None:
    await world.add_policy(images=[f"{HOST}/shop/app:v{number}" for number in range(3)])
    await world.changed("WarmPolicy", "shop")

    async def quota(method: str, path: str) -> Response | None:
        full = len(await world.warmimages()) >= 3
        return status(403, "exceeded quota") if (method, path) == ("POST", WARMIMAGES) and full else None

    world.faults.append(quota)
    wanted = [f"{HOST}/shop/new:v{number}" for number in range(3)]
    await world.admin.patch(f"{POLICIES}/shop", {"spec": {"images": wanted}})
    await world.changed("WarmPolicy", "shop")
    assert sorted(await world.warmimages()) == wanted


@in_world(patterns=False)
async def test_a_named_image_whose_labels_were_removed_is_the_policys_again(world: World) -> None:
    await world.add_policy(images=[IMAGE])
    await world.changed("WarmPolicy", "shop")
    before = await only(world)
    await world.admin.patch(f"{WARMIMAGES}/{before['metadata']['name']}", {"metadata": {"labels": None}})
    for _ in range(2):
        await world.changed("WarmPolicy", "shop")
    assert (await only(world))["metadata"]["labels"] == before["metadata"]["labels"]
    assert (await world.changed("WarmPolicy", "shop")).status_code == 204


@in_world(patterns=False)
async def test_a_delete_that_conflicts_for_ever_is_given_up(world: World) -> None:
    await made_by_hand(world, "old")
    world.answer(status(409, "Conflict"), "DELETE", "/old")
    await world.sync_in_part()
    assert sum(method == "DELETE" for method, _ in world.requests) == 1


@in_world(nodes="a", patterns=False)
async def test_conditions_that_others_wrote_stay(world: World) -> None:
    await world.add_policy(images=[IMAGE])
    await world.sync()
    moment = "2026-01-01T00:00:00Z"
    foreign = {"type": "Reviewed", "status": "True", "reason": "ByHand", "message": "", "lastTransitionTime": moment}
    for path in (f"{POLICIES}/shop", f"{WARMIMAGES}/{(await only(world))['metadata']['name']}"):
        before = (await world.admin.get(path))["status"]["conditions"]
        await world.admin.patch(paths.status(path), {"status": {"conditions": [*before, foreign]}})
    await world.admin.patch(f"{POLICIES}/shop", {"spec": {"images": [IMAGE, "nginx:1"]}})
    await world.report("a")
    for _ in range(2):
        await asyncio.sleep(2)
        await world.changed("WarmPolicy", "shop")
        await world.sync()
    policy = (await world.admin.get(f"{POLICIES}/shop"))["status"]
    assert (policy["images"], find_condition(policy, "Reviewed")) == (2, foreign)
    assert find_condition((await world.warmimages())[IMAGE]["status"], "Reviewed") == foreign


# --- a WarmImage that cannot be used ---------------------------------------------------------------------------------


async def events_of_many_nodes(world: World) -> None:
    names = [f"n{number:02}" for number in range(20)]
    await world.add_nodes(*names)
    assert (await world.changed("Node", "a", *names)).status_code == 204


EVENTS: dict[str, Callable[[World], Awaitable[object]]] = {
    "its own": lambda world: world.changed("WarmImage", "x"),
    "of its node": lambda world: world.changed("Node", "a"),
    "of many nodes": events_of_many_nodes,
    "a sync": World.sync,
}


@pytest.mark.parametrize("event", EVENTS)
@in_world(nodes="ab", warmimage="x", patterns=False)
async def test_a_warmimage_that_cannot_be_used_keeps_its_lines(world: World, event: str) -> None:
    await world.changed("WarmImage", "x")
    await world.admin.patch(f"{WARMIMAGES}/x", {"spec": {"image": "NOT AN IMAGE"}})
    await EVENTS[event](world)
    lines = await world.lines()
    assert (lines["a"], lines["b"]) == ([IMAGE], [IMAGE])


@pytest.mark.parametrize("by_sync", [True, False])
@in_world(nodes="a", patterns=False)
async def test_a_warmimage_that_cannot_be_used_says_so_in_its_status_and_in_one_event(
    world: World, by_sync: bool
) -> None:
    await world.add_warmimage("x", f"{HOST}/Shop/Web:1")
    for _ in range(3):
        await asyncio.sleep(2)
        await (world.sync() if by_sync else world.reported("x"))
    found = (await world.admin.get(f"{WARMIMAGES}/x"))["status"]
    ready = find_condition(found, "Ready")
    assert (found["observedGeneration"], ready["status"], ready["reason"]) == (1, "False", "Invalid")
    assert "spec.image" in ready["message"]
    (event,) = (await world.admin.list(paths.events("shop"))).items
    assert (event["reason"], event["type"], event["involvedObject"]["name"]) == ("Invalid", "Warning", "x")


# --- nodes -----------------------------------------------------------------------------------------------------------


def hear(world: World, listen: Callable[[str, Mapping[str, str]], Response | None]) -> None:
    """Show path and query of every request of `web`; an answer replaces the server's."""
    request = world.transport.request

    async def heard(method: str, path: str, **more: Any) -> Response:
        return listen(path, more.get("query") or {}) or await request(method, path, **more)

    world.transport.request = heard  # type: ignore[method-assign]


@pytest.mark.slow
@in_world(patterns=False, write_bytes=0)
async def test_hundreds_of_new_nodes_are_written_in_one_go(world: World) -> None:
    names = [f"n{number:03}" for number in range(500)]
    await world.add_nodes(*names)
    await world.add_warmimage("x")
    world.answer(None, after=0.06)
    assert (await world.changed("Node", *names)).status_code == 204
    assert len(await world.lines()) == 500


@in_world(patterns=False)
async def test_a_selector_too_long_for_a_url_is_compared_here_and_keeps_no_other_image(world: World) -> None:
    await world.add_nodes("a", pool="web")
    await world.add_nodes("b")
    values = ["web", *(f"{'x' * 50}{number}" for number in range(200))]
    selector = {"matchExpressions": [{"key": "pool", "operator": "In", "values": values}]}
    await world.add_warmimage("x", nodes={"selector": selector})
    await world.add_warmimage("y", f"{HOST}/shop/other:v1")
    asked: list[int] = []
    hear(world, lambda _path, query: asked.append(len(query.get("labelSelector", ""))))
    for name in ("x", "y"):
        await world.changed("WarmImage", name)
        await world.reported(name)
    assert max(asked) < 5000
    assert await world.lines() == {"a": [IMAGE, f"{HOST}/shop/other:v1"], "b": [f"{HOST}/shop/other:v1"]}
    assert (await world.admin.get(f"{WARMIMAGES}/x"))["status"]["desired"] == 1


@in_world(patterns=False)
async def test_a_selector_that_the_api_server_refuses_keeps_no_other_image(world: World) -> None:
    await world.add_nodes("a", pool="web")
    await world.add_nodes("b")
    await world.add_warmimage("x", nodes={"selector": {"matchLabels": {"pool": "web"}}})
    await world.add_warmimage("y", f"{HOST}/shop/other:v1")
    refusal = status(431, "request header fields too large")
    hear(world, lambda _path, query: refusal if "pool" in query.get("labelSelector", "") else None)
    assert (await world.changed("WarmImage", "x", "y")).status_code == 204
    assert await world.lines() == {"a": [IMAGE, f"{HOST}/shop/other:v1"], "b": [f"{HOST}/shop/other:v1"]}


@in_world(nodes="a", policy=True, patterns=False)
async def test_the_version_of_a_warmimage_is_asked_of_no_other_resource(world: World) -> None:
    for number in range(20):
        await world.push(f"v{number}", repository=f"shop/app{number}", ago=30 - number)
    asked: list[tuple[str, str]] = []

    def note(path: str, query: Mapping[str, str]) -> None:
        if (version := query.get("resourceVersion", "0")) != "0":
            asked.append((path.rpartition("/")[2], version))

    hear(world, note)
    objects = [obj["metadata"] for obj in (await world.warmimages()).values()]
    newest = max(int(it["resourceVersion"]) for it in objects)
    named = {"kind": "WarmImage", "namespace": "shop", "resourceVersion": str(newest)}
    data = [named | {"name": it["name"]} for it in objects]
    data.append({"kind": "Node", "namespace": "", "name": "a", "resourceVersion": str(newest + 10**6)})
    answer = await world.event(CHANGED, {"objects": data})
    assert answer.status_code == 204
    assert set(asked) == {("warmimages", str(newest))}
    assert len((await world.lines())["a"]) == 20


# --- statuses and events ---------------------------------------------------------------------------------------------


@in_world(nodes="a", warmimage="x", patterns=False)
async def test_an_image_that_becomes_warm_or_fails_has_one_event_for_each_change(world: World) -> None:
    for state in ("waiting", "failed", "failed", "warm", "warm"):
        await asyncio.sleep(2)
        await say(world, "a", state, reason="NotFound" if state == "failed" else "")
        await world.reported("x")
    events = (await world.admin.list(paths.events("shop"))).items
    assert sorted((it["reason"], it["type"]) for it in events) == [("Failed", "Warning"), ("Warm", "Normal")]
    assert {it["involvedObject"]["kind"] for it in events} == {"WarmImage"}


@pytest.mark.parametrize(("namespaces", "each", "events"), [(1, 70, 20), (5, 14, 60)], ids=["one", "several"])
@in_world(nodes="a", patterns=False)
async def test_events_are_bounded_and_one_that_is_refused_changes_nothing(
    world: World, namespaces: int, each: int, events: int
) -> None:
    for namespace in (f"bad{number}" for number in range(namespaces)):
        await world.add_namespace(namespace)
        for number in range(each):
            await world.add_warmimage(f"w{number:02}", f"{HOST}/Bad/{number}:v1", namespace=namespace)
    world.answer(QUOTA, "POST", "/events")
    await world.sync()
    assert sum(path.endswith("/events") for _, path in world.requests) == events
    assert all(obj["status"]["conditions"][0]["reason"] == "Invalid" for obj in (await world.warmimages()).values())


@in_world(patterns=False)
async def test_a_policy_that_cannot_be_used_has_one_event(world: World) -> None:
    await world.add_policy(push=[{"repository": "**", "semver": "nonsense"}])
    for _ in range(3):
        await world.changed("WarmPolicy", "shop")
    (event,) = (await world.admin.list(paths.events("shop"))).items
    assert (event["reason"], event["involvedObject"]["kind"]) == ("Invalid", "WarmPolicy")


async def events_of_the_policy(world: World) -> list[tuple[str, str]]:
    events = (await world.admin.list(paths.events("shop"))).items
    return sorted((it["reason"], it["type"]) for it in events if it["involvedObject"]["kind"] == "WarmPolicy")


@in_world(policy=True, patterns=False)
async def test_a_policy_that_can_be_used_again_has_one_event_more(world: World) -> None:
    good = (await world.admin.get(f"{POLICIES}/shop"))["spec"]["push"]
    await world.sync()
    assert await events_of_the_policy(world) == []
    for push in ([{"repository": "**", "semver": "nonsense"}], good):
        await world.admin.patch(f"{POLICIES}/shop", {"spec": {"push": push}})
        await world.changed("WarmPolicy", "shop")
    assert await events_of_the_policy(world) == [("Invalid", "Warning"), ("Usable", "Normal")]


@in_world(policy=True, patterns=False)
async def test_a_push_that_the_api_server_refused_is_an_event_of_its_policy_at_the_next_sync(world: World) -> None:
    world.answer(QUOTA, "POST", "/warmimages")
    await world.push()
    assert await events_of_the_policy(world) == []
    for _ in range(3):
        await world.sync()
    assert await events_of_the_policy(world) == [("WriteRefused", "Warning")]
    world.faults.clear()
    await world.admin.patch(f"{POLICIES}/shop", {"spec": {"images": [IMAGE]}})
    await world.changed("WarmPolicy", "shop")
    assert await events_of_the_policy(world) == [("WriteRefused", "Warning"), ("WritesTaken", "Normal")]


@in_world(nodes="ab", warmimage="x", patterns=False)
async def test_a_newcomer_is_waiting_and_no_image_is_ready_before_it_has_spoken(world: World) -> None:
    await say(world, "a", "warm")
    await world.reported("x")
    found = (await world.admin.get(f"{WARMIMAGES}/x"))["status"]
    assert (found["desired"], found["warm"], found["waiting"]) == (2, 1, 1)
    assert find_condition(found, "Ready")["status"] == "False"
    await asyncio.sleep(601)
    await say(world, "a", "warm")
    await world.sync()
    found = (await world.admin.get(f"{WARMIMAGES}/x"))["status"]
    assert (found["desired"], found["warm"], found["unreachable"]) == (2, 1, 1)
    assert find_condition(found, "Ready")["reason"] == "ReachableWarm"
    assert find_condition(found, "Degraded")["reason"] == "NodesUnreachable"


def test_a_note_of_more_lines_than_annotations_can_hold_is_cut() -> None:
    keys = {line_key(ObjectKey("shop", str(number))) for number in range(20_000)}
    note = node_patch("a", "uid", {}, keys)["metadata"]["annotations"]["warmhook.dev/refused"]
    assert len(note) < 256 * 1024 / 2
    assert note.split(",") == noted_refusals(keys) == sorted(keys)[:REFUSED_MAX]


@in_world(nodes="a", patterns=False)
async def test_an_agent_with_lines_of_old_is_told_that_there_are_none_although_another_warmimage_cannot_be_used(
    world: World,
) -> None:
    await world.report("a", {"0" * 16: LineReport("0" * 8, "warm")})
    await world.add_warmimage("unusable", image=f"{HOST}/Shop/Web:1")
    await world.sync()
    desired = await world.desired("a")
    assert desired is not None
    assert not desired.get("data")


@in_world()
async def test_others_go_on_while_many_warmimages_are_read(world: World) -> None:
    await world.add_namespace("other")
    await add_others(world, 40)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    objects = (await world.admin.list(paths.warmimages())).items
    task = asyncio.create_task(others(), name="others")
    found = await read_warmimages(objects, NO_RULES)
    assert (len(found.usable), turns > 30) == (40, True)
    task.cancel()
    await asyncio.wait({task})


@in_world()
async def test_a_mark_of_a_missing_policy_that_is_in_the_future_counts_from_now(world: World) -> None:
    gone = {"warmhook.dev/policy-gone-since": "2099-01-01T00:00:00Z"}
    await made_by_hand(world, "left", labels={"warmhook.dev/policy": "0123456789abcdef"}, annotations=gone)
    await world.sync()
    assert len(await world.warmimages()) == 1
    await asyncio.sleep(300)
    await world.sync()
    assert await world.warmimages() == {}
