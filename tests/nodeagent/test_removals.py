"""An agent removes what it brought and nobody wants, and keeps everything of which it does not know that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.kubernetes.paths import configmaps
from nodeagent.image_use import ALLOW_PODS
from tests.support.agents import NAMESPACE, WEB, Bench, a_push, on_node, push_warm, warm
from tests.support.instant import until
from tests.support.runtime import MemoryRuntime
from warmhook.images import parse_reference
from warmhook.node_lines import Line, desired_name
from warmhook.pins import PIN, PINNED
from warmhook.ports import RuntimeUnreachable
from warmhook.warmimages import Pull

HOUR = 3600.0
PODS = "/api/v1/namespaces/shop/pods"
SECOND_NAME = "registry.example.com/shop/web:stable"
Obstacle = Callable[[Bench, Line], Awaitable[None] | None]


async def warm_for_deletion(b: Bench, image: str = WEB, content: str = "first") -> Line:
    """A warm line with `onRemoval: Delete` whose image the agent pulled."""
    line = replace(a_push(b, image, content), on_removal="Delete")
    await b.want(line)
    await warm(b, line)
    return line


def has(b: Bench, image: str = WEB) -> bool:
    return image in b.runtime.listed


async def gone(b: Bench, image: str = WEB, seconds: float = 150) -> float:
    """Let time pass until the runtime has the image no more; returns how many seconds that took."""
    return await until(lambda: not has(b, image), seconds=seconds, step=0.5)


async def stays(b: Bench, image: str = WEB, seconds: float = HOUR) -> None:
    await asyncio.sleep(seconds)
    assert has(b, image)
    assert b.runtime.removals == []


def kept_because(b: Bench) -> list[str]:
    return [event["reason"] for event in b.events("image-kept")]


def counted(b: Bench) -> dict[str, float]:
    """Removals by result."""
    families = text_string_to_metric_families(b.metrics.exposition().decode())
    return {
        sample.labels["result"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "warmhook_removals_total"
    }


async def add_pod(b: Bench, spec: dict[str, Any], node: str = "node-1") -> None:
    if b.server.handle("GET", "/api/v1/namespaces/shop", {}, {}).status != 200:
        await b.kubernetes.create(
            "/api/v1/namespaces", {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "shop"}}
        )
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"nodeName": node, **spec}}
    await b.kubernetes.create(PODS, body)


def containers(image: str) -> dict[str, Any]:
    return {"containers": [{"name": "web", "image": image}]}


# --- what is removed -------------------------------------------------------------------------------------------------


@on_node
async def test_an_image_goes_a_minute_after_its_only_line(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        await b.want(without=(line,))
        assert 60 <= await gone(b) <= 95
        assert b.runtime.listed == {}
        (image_id,) = b.runtime.removals
        (event,) = b.events("removal")
        assert (event["image"], event["id"], event["result"], event["reason"]) == (
            WEB,
            image_id,
            "removed",
            "NotWanted",
        )
        assert counted(b) == {"removed": 1}
        assert b.events("image-removed") == []


@on_node
async def test_an_image_of_two_lines_goes_with_the_second(b: Bench) -> None:
    async with b.agent():
        one, other = (
            replace(a_push(b), on_removal="Delete", warmimage=replace(a_push(b).warmimage, name=name)) for name in "ab"
        )
        await b.want(one, other)
        await warm(b, one, other)
        await b.want(without=(one,))
        await stays(b)
        await b.want(without=(other,))
        await gone(b)


@on_node
async def test_two_tags_of_one_image_go_together(b: Bench) -> None:
    async with b.agent():
        one, two = await warm_for_deletion(b), await warm_for_deletion(b, SECOND_NAME)
        await b.want(without=(one,))
        await stays(b)
        await b.want(without=(two,))
        await gone(b)
        assert len(b.runtime.removals) == 1


@on_node
async def test_two_tags_of_a_new_image_that_are_pulled_at_once_go_together(b: Bench) -> None:
    async with b.agent():
        lines = tuple(replace(a_push(b, image), on_removal="Delete") for image in (WEB, SECOND_NAME))
        await b.want(*lines)
        await warm(b, *lines)
        assert b.runtime.most_running == 2
        await b.want(without=lines)
        await gone(b)


@on_node
async def test_what_a_moved_tag_left_behind_goes_and_the_new_image_stays(b: Bench) -> None:
    async with b.agent():
        old = await warm_for_deletion(b)
        old_id = b.runtime.listed[WEB]
        new = await warm_for_deletion(b, content="second")
        await until(lambda: old_id not in b.runtime.listed.values(), seconds=150)
        assert b.state(new) == "warm"
        assert f"{parse_reference(WEB).name}@{old.digest}" not in b.runtime.listed
        assert [event["reason"] for event in b.events("removal")] == ["TagMoved"]


@on_node
async def test_a_purged_image_goes_although_its_line_stays_and_is_pulled_again_after_the_purge(b: Bench) -> None:
    async with b.agent():
        line = await push_warm(b)
        purged = replace(line, purged=True)
        await b.want(purged)
        await gone(b)
        await asyncio.sleep(HOUR)
        assert b.state(purged) == "waiting"
        assert json.loads(b.detail(purged))["message"] == "purged: the image is not on the node"
        assert len(b.runtime.pulls) == 1
        assert [event["reason"] for event in b.events("removal")] == ["Purged"]
        await b.want(line)
        await warm(b, line)
        assert b.runtime.removals == [b.runtime.listed[WEB]]


@on_node
async def test_the_report_of_a_purged_line_says_why_the_image_stays(b: Bench) -> None:
    async with b.agent():
        line = await push_warm(b)
        b.runtime.used.add(WEB)
        purged = replace(line, purged=True)
        await b.want(purged)
        await until(lambda: "a container" in b.detail(purged), seconds=600)
        assert b.state(purged) == "warm"
        b.runtime.used.clear()
        await gone(b, seconds=900)
        await until(lambda: b.state(purged) == "waiting")


@on_node
async def test_a_purge_of_a_line_ends_its_pull(b: Bench) -> None:
    async with b.agent():
        line = a_push(b)
        b.runtime.hanging.add(WEB)
        await b.want(line)
        await until(lambda: b.runtime.running == 1)
        await b.want(replace(line, purged=True))
        await until(lambda: b.runtime.cancelled == [WEB])


@on_node
async def test_an_edit_to_delete_counts_for_an_image_that_was_pulled_before_it(b: Bench) -> None:
    async with b.agent():
        line = await push_warm(b)
        edited = replace(line, on_removal="Delete")
        await b.want(edited)
        await warm(b, edited)
        await b.want(without=(edited,))
        await gone(b)


@on_node
async def test_the_record_outlives_the_agent_and_both_looks_are_made_again(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
    await b.want(without=(line,))
    async with b.agent():
        await asyncio.sleep(50)
    async with b.agent():
        assert 60 <= await gone(b) <= 95


@pytest.mark.parametrize("purged", [False, True])
@on_node
async def test_an_image_that_its_own_line_pinned_goes_after_its_pin(b: Bench, purged: bool) -> None:
    b.runtime.honours_pins, b.containerd.absent = True, False
    async with b.agent():
        line = replace(a_push(b, pull=Pull(pinned=True)), on_removal="Delete")
        await b.want(line)
        await until(lambda: PIN in b.runtime.labels[WEB])
        await asyncio.sleep(60)
        await b.want(*([replace(line, purged=True)] if purged else []), without=() if purged else (line,))
        await gone(b, seconds=200)


@on_node
async def test_an_image_that_a_container_used_goes_when_the_container_is_gone(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        b.runtime.used.add(b.runtime.listed[WEB])
        await b.want(without=(line,))
        await stays(b)
        assert kept_because(b) == ["InUse"]
        b.runtime.used.clear()
        await gone(b, seconds=800)


# --- what is kept ----------------------------------------------------------------------------------------------------


def use_by_container(b: Bench, _line: Line) -> None:
    b.runtime.used.add(WEB)


def use_by_id(b: Bench, _line: Line) -> None:
    b.runtime.used.add(b.runtime.listed[WEB].removeprefix("sha256:"))


def pin(b: Bench, _line: Line) -> None:
    b.runtime.honours_pins = True
    b.runtime.labels[WEB][PIN] = PINNED[PIN]


def second_name(b: Bench, line: Line) -> None:
    b.runtime.registry[SECOND_NAME] = line.digest
    b.runtime.have(SECOND_NAME)


def hide_containers(b: Bench, _line: Line) -> None:
    b.runtime.use_error = RuntimeUnreachable("a container has no image")


def forbid_pods(b: Bench, _line: Line) -> None:
    b.refuse("GET", "/api/v1/pods", 403, "Forbidden")


def break_pods(b: Bench, _line: Line) -> None:
    b.refuse("GET", "/api/v1/pods", 500, "InternalError")


def hide_configmap(b: Bench, _line: Line) -> None:
    b.refuse("GET", configmaps(NAMESPACE, desired_name(b.node)), 503, "ServiceUnavailable")


async def pod_by_name(b: Bench, _line: Line) -> None:
    await add_pod(b, containers(WEB))


async def pod_by_digest(b: Bench, line: Line) -> None:
    await add_pod(b, containers(f"mirror.example.com/any:7@{line.digest}"))


async def pod_by_init_container(b: Bench, _line: Line) -> None:
    await add_pod(b, {**containers("other:1"), "initContainers": [{"name": "init", "image": WEB}]})


async def pod_by_ephemeral_container(b: Bench, _line: Line) -> None:
    await add_pod(b, {**containers("other:1"), "ephemeralContainers": [{"name": "debug", "image": WEB}]})


async def pod_by_volume(b: Bench, _line: Line) -> None:
    await add_pod(b, {**containers("other:1"), "volumes": [{"name": "data", "image": {"reference": WEB}}]})


async def pod_by_short_name(b: Bench, _line: Line) -> None:
    await add_pod(b, containers("shop/web:1"))


async def unreadable_pod(b: Bench, _line: Line) -> None:
    await add_pod(b, containers("::not a reference::"))


async def malformed_line(b: Bench, _line: Line) -> None:
    await b.patch_desired({"metadata": {}, "data": {"f" * 16: "{"}})


async def line_without_room(b: Bench, line: Line) -> None:
    await b.patch_desired({"metadata": {"annotations": {"warmhook.dev/refused": line.key}}, "data": {}})


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [
        (use_by_container, "InUse"),
        (use_by_id, "InUse"),
        (pin, "Pinned"),
        (second_name, "OtherName"),
        (pod_by_name, "NamedByPod"),
        (pod_by_digest, "NamedByPod"),
        (pod_by_init_container, "NamedByPod"),
        (pod_by_ephemeral_container, "NamedByPod"),
        (pod_by_volume, "NamedByPod"),
        (pod_by_short_name, "NamedByPod"),
        (line_without_room, "NoRoom"),
        (hide_containers, "runtime"),
        (forbid_pods, "pods-forbidden"),
        (break_pods, "pods-not-listed"),
        (unreadable_pod, "pod-unreadable"),
        (hide_configmap, "configmap-not-read"),
        (malformed_line, "configmap-unreadable"),
    ],
)
@on_node
async def test_an_image_stays_and_the_log_says_why(b: Bench, obstacle: Obstacle, reason: str) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        if (pending := obstacle(b, line)) is not None:
            await pending
        await b.want(without=(line,))
        await stays(b)
        held = [event["reason"] for event in b.events("removals-held")]
        assert kept_because(b) + held == [reason]
        assert counted(b) == {}


@on_node
async def test_the_log_has_the_command_that_allows_agents_to_list_pods_once(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        forbid_pods(b, line)
        await b.want(without=(line,))
        await asyncio.sleep(6 * HOUR)
        (event,) = b.events("removals-held")
        assert ALLOW_PODS in event["hint"]
        b.answers.clear()
        await gone(b, seconds=900)
        assert len(b.events("removals-held-over")) == 1


@on_node
async def test_a_pod_of_another_node_keeps_nothing(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        await add_pod(b, containers(WEB), node="node-2")
        await b.want(without=(line,))
        await gone(b)


@on_node
async def test_an_image_that_was_there_before_stays(b: Bench) -> None:
    b.runtime.push(WEB, "first")
    b.runtime.have(WEB)
    async with b.agent():
        line = await warm_for_deletion(b)
        await b.want(without=(line,))
        await stays(b)
        assert kept_because(b) == ["NotPulledHere"]


@on_node
async def test_an_image_that_another_client_pulled_since_the_last_check_stays(b: Bench) -> None:
    async with b.agent():
        await asyncio.sleep(10)
        line = replace(a_push(b), on_removal="Delete")
        b.runtime.failures[WEB].append(RuntimeError("the first pull comes to nothing"))
        await b.want(line)
        await until(lambda: len(b.runtime.pulls) == 1)
        b.runtime.have(WEB)
        await warm(b, line)
        await b.want(without=(line,))
        await stays(b)


@on_node
async def test_an_image_stays_whose_line_said_retain_or_was_edited_to_it(b: Bench) -> None:
    other = "registry.example.com/shop/other:1"
    async with b.agent():
        line, edited = await push_warm(b), await warm_for_deletion(b, other, "other")
        await b.want(retained := replace(edited, on_removal="Retain"))
        await warm(b, retained)
        await b.want(without=(line, edited))
        await stays(b)
        assert has(b, other)


@on_node
async def test_an_image_stays_that_one_of_two_lines_retained(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        other = replace(line, on_removal="Retain", warmimage=replace(line.warmimage, name="other"))
        await b.want(other)
        await warm(b, other)
        await b.want(without=(other,))
        await asyncio.sleep(60)
        await b.want(without=(line,))
        await stays(b)
        assert kept_because(b) == ["Retained"]


@on_node
async def test_a_suspended_line_keeps_its_image_also_from_a_purge(b: Bench) -> None:
    async with b.agent():
        line = await push_warm(b)
        await b.want(replace(line, suspended=True, purged=True))
        await stays(b)


@on_node
async def test_a_configmap_that_vanishes_removes_nothing(b: Bench) -> None:
    async with b.agent():
        kept, gone_before = await warm_for_deletion(b), await warm_for_deletion(b, SECOND_NAME, "other")
        await b.want(without=(gone_before,))
        await asyncio.sleep(1)
        await b.kubernetes.delete(configmaps(NAMESPACE, desired_name(b.node)))
        await stays(b)
        assert has(b, SECOND_NAME)
        assert [event["reason"] for event in b.events("removals-held")] == ["configmap-missing"]
        await b.want(kept)
        await gone(b, SECOND_NAME, seconds=900)
        assert has(b)


@on_node
async def test_nothing_is_removed_while_the_api_server_is_down(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        await b.want(without=(line,))
        await asyncio.sleep(40)
        b.down = True
        await stays(b)
        b.down = False
        await gone(b, seconds=900)


@on_node
async def test_an_api_server_that_hangs_removes_nothing(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        await b.want(without=(line,))
        await asyncio.sleep(1)
        b.hangs = True
        await stays(b)


@pytest.mark.parametrize("content", [b"{", b'{"format":1,"node":"node-1","images":{}}', b"[]"])
@on_node
async def test_without_a_usable_record_nothing_is_removed(b: Bench, content: bytes) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
    (b.state_dir / "removals.json").write_bytes(content)
    async with b.agent():
        await b.want(without=(line,))
        await stays(b)
        assert (b.state_dir / "removals.unusable").read_bytes() == content
        assert len(b.events("state-set-aside")) == 1


@on_node
async def test_nothing_is_removed_while_the_record_cannot_be_written(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        (b.state_dir / "removals.tmp").mkdir()
        await b.want(replace(line, warmimage=replace(line.warmimage, name="other")))
        await asyncio.sleep(5)
        await b.want(without=(line,))
        await stays(b)
        assert len(b.events("removals-not-written")) >= 1


class _NamesAtTheSecondLook(MemoryRuntime):
    """Another client gives the image a name just after the images were listed for the second look."""

    looks = 0

    async def used_images(self) -> frozenset[str]:
        self.looks += 1
        if self.looks == 2:
            self.have(SECOND_NAME)
        return await super().used_images()


@on_node
async def test_an_image_stays_that_gets_another_name_during_the_last_look(b: Bench) -> None:
    b.runtime = runtime = _NamesAtTheSecondLook()
    async with b.agent():
        line = await warm_for_deletion(b)
        runtime.registry[SECOND_NAME] = line.digest
        await b.want(without=(line,))
        await stays(b)
        assert runtime.looks >= 2
        assert kept_because(b) == ["OtherName"]


# --- pulls and failures ----------------------------------------------------------------------------------------------


@on_node
async def test_a_line_that_returns_between_the_looks_keeps_its_image(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        await b.want(without=(line,))
        await asyncio.sleep(50)
        await b.want(line)
        await stays(b)
        assert len(b.runtime.pulls) == 1


@on_node
async def test_a_pull_of_the_repository_puts_a_removal_off(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        await b.want(without=(line,))
        await asyncio.sleep(45)
        other = a_push(b, "registry.example.com/shop/web:2", "second")
        b.runtime.hanging.add(other.image)
        await b.want(other)
        await stays(b, seconds=500)
        await b.want(without=(other,))
        assert await gone(b) >= 60


@on_node
async def test_a_line_that_comes_during_the_removal_is_pulled_after_it(b: Bench) -> None:
    b.runtime.remove_seconds = 30
    async with b.agent():
        line = await warm_for_deletion(b)
        await b.want(without=(line,))
        await until(lambda: len(b.runtime.removals) == 1, seconds=150)
        again = replace(line, digest="", pushed_at="2026-05-01T00:00:00Z")
        await b.want(again)
        await asyncio.sleep(20)
        assert len(b.runtime.pulls) == 1
        await until(lambda: len(b.runtime.pulls) == 2, seconds=60)
        assert not [event for event in b.events("pull") if event["result"] != "pulled"]
        await warm(b, again)


@on_node
async def test_a_removal_that_hangs_is_given_up_and_delays_neither_pulls_nor_other_removals(b: Bench) -> None:
    b.runtime.remove_seconds = 10 * HOUR
    async with b.agent():
        line = await warm_for_deletion(b)
        await b.want(without=(line,))
        await until(lambda: len(b.runtime.removals) == 1, seconds=150)
        assert (await warm(b, await _other(b))) < 10
        await until(lambda: counted(b) == {"failed": 1}, seconds=200, step=5)
        (event,) = b.events("removal")
        assert event["level"] == "warning"
        b.runtime.remove_seconds = 0
        await gone(b, seconds=600)


async def _other(b: Bench) -> Line:
    line = a_push(b, "registry.example.com/team/other:1", "other")
    await b.want(line)
    return line


@on_node
async def test_a_look_decides_about_no_removal_that_it_is_too_old_for(b: Bench) -> None:
    b.runtime.remove_seconds = 60
    other = "registry.example.com/team/other:1"
    async with b.agent():
        lines = (await warm_for_deletion(b), await warm_for_deletion(b, other, "other"))
        await b.want(without=lines)
        await until(lambda: len(b.runtime.removals) == 1, seconds=150)
        b.runtime.used |= {WEB, other}
        await asyncio.sleep(HOUR)
        assert len(b.runtime.removals) == 1
        assert has(b) != has(b, other)


@on_node
async def test_a_bug_in_a_look_removes_nothing_and_stops_no_pull(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        b.runtime.use_error = ZeroDivisionError("a bug")
        await b.want(without=(line,))
        await stays(b)
        assert len(b.events("removal-crashed")) >= 1
        await warm(b, await _other(b))


@on_node
async def test_an_agent_without_deletions_asks_for_no_pods_and_no_containers(b: Bench) -> None:
    async with b.agent():
        line = await push_warm(b)
        await b.want(without=(line,))
        await asyncio.sleep(6 * HOUR)
        assert not [path for _, _, path in b.requests if path.endswith("/pods")]


@on_node
async def test_an_image_that_is_kept_costs_two_requests_in_ten_minutes(b: Bench) -> None:
    async with b.agent():
        line = await warm_for_deletion(b)
        await add_pod(b, containers(WEB))
        await b.want(without=(line,))
        await asyncio.sleep(5 * HOUR)
        lists = [path for _, _, path in b.requests if path.endswith("/pods")]
        assert 25 <= len(lists) <= 35


@pytest.mark.parametrize("forbidden", [False, True])
@on_node
async def test_many_images_that_went_one_by_one_are_looked_at_together(b: Bench, forbidden: bool) -> None:
    images = [f"registry.example.com/shop/app{number}:1" for number in range(30)]
    async with b.agent():
        lines = [replace(a_push(b, image, image), on_removal="Delete") for image in images]
        await b.want(*lines)
        await warm(b, *lines, seconds=600)
        await add_pod(
            b, {"containers": [{"name": f"c{number}", "image": image} for number, image in enumerate(images)]}
        )
        if forbidden:
            forbid_pods(b, lines[0])
        for line in lines:
            await b.want(without=(line,))
            await asyncio.sleep(20)
        before = len(b.requests)
        await asyncio.sleep(5 * HOUR)
        lists = [path for _, _, path in b.requests[before:] if path.endswith("/pods")]
        assert 25 <= len(lists) <= 35
