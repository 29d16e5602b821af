"""The status of a WarmImage follows the reports of nodes, soon, at a limited rate and cleaned."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.warmimage import read_warmimage
from tests.handlers.world import DIGEST, HOST, NAMESPACE, World, digest, in_world, status
from warmhook.api import TRANSFERS_ANNOTATION
from warmhook.node_lines import line_of
from warmhook.node_report import LineReport, LineState, report_name
from warmhook.peers import Transfer, encode_transfers
from warmhook.secret_access import forbidden_message, grant_command
from warmhook.warmimages import ObjectKey

X = ObjectKey("shop", "x")


async def told(world: World, name: str = "x") -> dict[str, Any]:
    found: dict[str, Any] = (await world.admin.get(paths.warmimages(ObjectKey("shop", name)))).get("status") or {}
    return found


async def say(world: World, node: str, state: LineState, name: str = "x", **more: Any) -> None:
    """The agent of a node says that the line is in this state."""
    line = line_of(read_warmimage(await world.admin.get(paths.warmimages(ObjectKey("shop", name)))))
    seen = more.pop("seen", None)
    await world.report(node, {line.key: LineReport(line.version, state, **more)}, seen=seen)


def counts(obj: dict[str, Any]) -> dict[str, int]:
    return {name: obj[name] for name in ("warm", "pulling", "waiting", "failed", "unreachable") if obj.get(name)}


@in_world(nodes="abcd", warmimage="x")
async def test_a_status_counts_the_nodes_by_what_they_report(world: World) -> None:
    await asyncio.sleep(600)
    await say(world, "a", "warm")
    await say(world, "b", "pulling")
    await say(world, "c", "failed", reason="NotFound", message="no\nsuch\x1b[31m tag")
    await world.reported("x")
    found = await told(world)
    assert counts(found) == {"warm": 1, "pulling": 1, "failed": 1, "unreachable": 1}
    assert found["desired"] == 4
    assert found["failures"] == [
        {"node": "c", "reason": "NotFound", "message": "no such [31m tag"},
        {"node": "d", "reason": "NoAgent", "message": "no word from its agent for 10 minutes"},
    ]


@in_world(nodes="abcdef")
async def test_nodes_that_fell_back_to_the_registry_are_in_the_status_and_an_event(world: World) -> None:
    await world.add_warmimage("x", digest=DIGEST)
    version = line_of(read_warmimage(await world.admin.get(paths.warmimages(X)))).version
    for node, fallbacks in zip("abcd", (0, 0, 1, 1), strict=True):
        await say(world, node, "warm")
        text = encode_transfers([Transfer(version, 1000, 24 * (node != "b"), 1500, 700, fallbacks)])
        path = paths.configmaps(NAMESPACE, report_name(node))
        await world.admin.patch(path, {"metadata": {"annotations": {TRANSFERS_ANNOTATION: text}}})
    await world.reported("x")
    found = (await told(world))["distribution"]
    assert (found["digest"], found["nodes"], found["seeds"], found["fallbacks"]) == (DIGEST, 4, 1, 2)
    assert (found["bytesFromPeers"], found["bytesFromRegistry"]) == (4000 * 1024, 72 * 1024)
    assert (found["slowestTransferSeconds"], found["slowestUnpackSeconds"]) == (2, 1)
    events = [event["message"] for event in (await world.admin.list(paths.events("shop"))).items]
    assert "2 of 4 nodes fell back to the registry: is port 9465 open between nodes?" in events
    world.requests.clear()
    await world.reported("x")
    assert world.writes() == []


@in_world(nodes="ab", policy=True)
async def test_a_digest_that_a_node_says_is_not_there_is_not_published(world: World) -> None:
    await world.push()
    (name,) = [obj["metadata"]["name"] for obj in (await world.warmimages()).values()]
    await say(world, "a", "warm", name)
    await world.reported(name)
    assert (await told(world, name))["digest"] == DIGEST
    await asyncio.sleep(1)
    await say(world, "b", "warm", name, moved=digest("b"))
    await world.reported(name)
    found = await told(world, name)
    assert counts(found) == {"warm": 2}
    assert "digest" not in found


@in_world(nodes="ab", warmimage="x")
async def test_the_text_of_a_hostile_node_is_cut_and_put_into_the_closed_list(world: World) -> None:
    for node in ("a", "b"):
        await say(world, node, "failed", reason="NotFound")
    data = {"a": json.dumps({"reason": "<script>", "message": "x" * 9999}), "b": "no json"}
    key = line_of(read_warmimage(await world.admin.get(paths.warmimages(X)))).key
    for node, text in data.items():
        await world.admin.patch(paths.configmaps(NAMESPACE, report_name(node)), {"data": {key: text}})
    await world.reported("x")
    first, second = (await told(world))["failures"]
    assert (first["reason"], len(first["message"])) == ("RuntimeError", 200)
    assert second["reason"] == "RuntimeError"


@in_world(nodes="ab")
async def test_a_secret_that_agents_may_not_read_brings_the_command_to_run_for_the_secrets_of_the_spec(
    world: World,
) -> None:
    await world.add_warmimage("x", pull={"secrets": ["regcred"], "sharePrivate": True})
    await say(world, "a", "failed", reason="Unauthorized", message=forbidden_message("regcred"))
    await say(world, "b", "failed", reason="Unauthorized", message=forbidden_message("admin-token"))
    await world.reported("x")
    first, second = (await told(world))["failures"]
    assert first["message"].endswith(f"; run: {grant_command('shop', 'regcred')}")
    assert second["message"] == forbidden_message("admin-token")


@in_world()
async def test_the_first_ten_failures_are_named(world: World) -> None:
    names = [f"n{i:02}" for i in range(14)]
    await world.add_nodes(*names)
    await world.add_warmimage("x")
    for name in names:
        await say(world, name, "failed", reason="Network")
    await world.reported("x")
    found = await told(world)
    assert found["failed"] == 14
    assert [failure["node"] for failure in found["failures"]] == names[:10]


@in_world(nodes="a", warmimage="x")
async def test_a_status_is_written_only_when_it_differs(world: World) -> None:
    await say(world, "a", "warm")
    await world.reported("x")
    world.requests.clear()
    for _ in range(3):
        await asyncio.sleep(2)
        await world.reported("x")
        await world.sync()
    assert [path for _, path in world.writes() if path.endswith("/status")] == []


@in_world(nodes="a", warmimage="x")
async def test_a_status_is_written_at_most_once_a_second(world: World) -> None:
    moments: list[float] = []

    def note(method: str, path: str) -> None:
        if method == "PATCH" and path.endswith("warmimages/x/status"):
            moments.append(world.monotonic())

    world.faults.append(note)
    for _ in range(4):
        await say(world, "a", "pulling")
        await world.reported("x")
        await say(world, "a", "warm")
        await asyncio.gather(world.reported("x"), world.sync())
    assert len(moments) >= 4
    assert all(later - earlier >= 1 for earlier, later in pairwise(moments))
    assert counts(await told(world)) == {"warm": 1}


@in_world(nodes="ab", warmimage="x")
async def test_a_node_that_was_not_heard_for_ten_minutes_is_unreachable_at_the_next_sync(world: World) -> None:
    await say(world, "a", "warm")
    await say(world, "b", "warm", seen=world.now() + timedelta(minutes=5))
    await world.sync()
    assert counts(await told(world)) == {"warm": 2}
    await asyncio.sleep(601)
    await world.sync()
    assert counts(await told(world)) == {"warm": 1, "unreachable": 1}
    await say(world, "a", "warm")
    await world.reported("x")
    assert counts(await told(world)) == {"warm": 2}


@pytest.mark.slow
@in_world(nodes="a")
async def test_a_line_without_room_has_failed_whoever_judges(world: World) -> None:
    await world.report("a")
    for number in range(300):
        await world.add_warmimage(f"w{number:03}", f"{HOST}/{'x' * 240}/{number:03}:v1")
    await world.sync()
    await world.sync()
    failed = [
        obj["metadata"]["name"]
        for obj in (await world.warmimages()).values()
        if obj["status"]["failures"] and obj["status"]["failures"][0]["reason"] == "TooManyLines"
    ]
    assert failed
    world.requests.clear()
    await asyncio.sleep(2)
    await world.reported(*failed[:3])
    assert world.writes() == []


@in_world(nodes="a")
async def test_one_status_that_is_refused_does_not_keep_the_others_from_being_written(world: World) -> None:
    for name in ("w", "x", "y"):
        await world.add_warmimage(name, f"{HOST}/shop/{name}:v1")

    world.answer(status(422), part="/w/status")
    await world.reported("w", "x", "y")
    assert [bool(await told(world, name)) for name in ("w", "x", "y")] == [False, True, True]


@in_world(nodes="a", policy=True)
async def test_from_push_to_warm_is_measured_once_per_push(world: World) -> None:
    await world.push()
    (obj,) = (await world.warmimages()).values()
    name = obj["metadata"]["name"]
    await world.reported(name)
    await asyncio.sleep(20)
    await say(world, "a", "warm", name)
    await world.reported(name)
    assert world.metric("warmhook_push_to_warm_seconds_count") == 1
    assert world.metric("warmhook_push_to_warm_seconds_sum") == 20
    await world.add_nodes("b")
    await asyncio.sleep(1000)
    await world.reported(name)
    for node in ("a", "b"):
        await say(world, node, "warm", name)
    await asyncio.sleep(2)
    await world.reported(name)
    assert counts(await told(world, name)) == {"warm": 2}
    await world.admin.patch(paths.warmimages(ObjectKey("shop", name)), {"spec": {"pull": {"priority": 3}}})
    for node in ("a", "b"):
        await say(world, node, "warm", name)
    await asyncio.sleep(2)
    await world.reported(name)
    assert world.metric("warmhook_push_to_warm_seconds_count") == 1


@in_world(nodes="a")
async def test_a_warmimage_that_is_gone_has_no_status_to_write(world: World) -> None:
    await world.reported("gone")
    assert world.writes() == []
