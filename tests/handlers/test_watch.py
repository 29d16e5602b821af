"""Every change that matters reaches the handlers, once for many changes, and no other change does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.kubernetes import paths
from adapters.kubernetes.errors import Unavailable
from adapters.outages import WatchOutages
from devcluster.apiserver import InProcessTransport
from handlers.event_sink import Refused, RetryLater
from handlers.watch.change_filter import ChangeFilter
from handlers.watch.work_queue import WorkQueue
from tests.handlers.world import (
    HOST,
    NAMESPACE,
    POLICIES,
    WARMIMAGES,
    AsyncTest,
    World,
    giving,
    in_world,
    logged,
    run_in_world,
    status,
)
from warmhook.api import TRANSFERS_ANNOTATION
from warmhook.events import Changed, Event
from warmhook.node_lines import Line, desired_name, node_patch
from warmhook.node_report import LineReport, report_name
from warmhook.peers import Transfer, encode_transfers
from warmhook.ports import Response, Unreachable
from warmhook.warmimages import ObjectKey

CHANGED = "dev.warmhook.objects.changed.v1"
REPORTED = "dev.warmhook.report.changed.v1"
SYNC = "dev.warmhook.sync.v1"


@dataclass
class Told:
    """Handlers that only write down what they are told."""

    world: World
    posts: list[tuple[float, Event]] = field(default_factory=list)
    """When each event was taken."""
    tried: list[float] = field(default_factory=list)
    """When each event came."""
    seconds: float = 0
    """What an event takes."""
    problem: Exception | None = None
    """What every event meets."""
    answer: Callable[[Event], Awaitable[None]] | None = None

    async def post(self, event: Event) -> None:
        self.tried.append(self.world.monotonic())
        if self.answer is not None:
            await self.answer(event)
        await asyncio.sleep(self.seconds)
        if self.problem is not None:
            raise self.problem
        self.posts.append((self.world.monotonic(), event))

    async def settle(self) -> None:
        """Forget what led to the beginning of a test."""
        await asyncio.sleep(5)
        self.posts.clear()

    def types(self) -> list[str]:
        return [event.type for _, event in self.posts]

    def changes(self) -> list[tuple[str, str, bool]]:
        return [
            (one["kind"], one["name"], one["deleted"])
            for _, event in self.posts
            if event.type == CHANGED
            for one in event.data["objects"]
        ]

    def reported(self) -> list[str]:
        return [name for _, event in self.posts if event.type == REPORTED for name in event.data["warmimages"]]


def watched(**more: Any) -> Callable[[AsyncTest], Callable[..., None]]:
    """Run a test beside a watch that has sent its first sync."""

    def run(case: AsyncTest) -> None:
        async def in_its_world(world: World) -> None:
            told = Told(world)
            await world.add_nodes("a", "b")
            await world.add_warmimage("x")
            async with world.watching(told.post, **more):
                await asyncio.sleep(2)
                assert told.types() == [SYNC]
                told.posts.clear()
                await case(world, told)

        run_in_world(in_its_world)

    return giving(2, run)


async def set_desired(world: World, node: str, *names: str, uid: str = "") -> None:
    """A desired ConfigMap with these WarmImages' lines."""
    uid = uid or (await world.admin.get(paths.node(node)))["metadata"]["uid"]
    lines = [Line(ObjectKey("shop", name), f"{HOST}/shop/app:v1") for name in names]
    patch = node_patch(node, uid, {line.key: line for line in lines})
    patch["metadata"].pop("managedFields")
    body = {**patch, "metadata": {**patch["metadata"], "name": desired_name(node)}}
    await world.admin.create(paths.configmaps(NAMESPACE), body)


async def set_fetched(world: World, node: str, name: str, kib: int) -> None:
    """The agent of a node has fetched so much for the line of a WarmImage."""
    version = Line(ObjectKey("shop", name), f"{HOST}/shop/app:v1").version
    annotations = {TRANSFERS_ANNOTATION: encode_transfers([Transfer(version, kib)])}
    await world.admin.patch(paths.configmaps(NAMESPACE, report_name(node)), {"metadata": {"annotations": annotations}})


def reported_line(name: str, state: Any) -> dict[str, LineReport]:
    line = Line(ObjectKey("shop", name), f"{HOST}/shop/app:v1")
    return {line.key: LineReport(line.version, state)}


# --- what is told ----------------------------------------------------------------------------------------------------


@watched()
async def test_objects_that_exist_at_the_start_are_left_to_the_first_sync(world: World, told: Told) -> None:
    await asyncio.sleep(10)
    assert told.posts == []
    assert world.writes() == []


@watched(sync_seconds=60)
async def test_a_sync_is_asked_for_now_and_then(world: World, told: Told) -> None:
    await asyncio.sleep(3 * 60)
    assert told.types() == [SYNC] * 3
    assert len({event.id for _, event in told.posts}) == 3
    assert world.writes() == []


@watched()
async def test_a_thousand_reports_of_more_bytes_are_told_of_once_in_ten_seconds(world: World, told: Told) -> None:
    await set_desired(world, "a", "x")
    await world.report("a", reported_line("x", "pulling"))
    await told.settle()
    for second in range(1000):
        await set_fetched(world, "a", "x", second + 1)
        await asyncio.sleep(0.1)
    assert told.reported() == ["shop/x"] * 10
    told.posts.clear()
    await asyncio.sleep(60)
    assert told.posts == []


@watched()
async def test_objects_that_come_change_and_go_are_told_of(world: World, told: Told) -> None:
    await world.add_policy("p")
    await world.add_warmimage("y")
    await world.add_nodes("c")
    await asyncio.sleep(1)
    assert sorted(told.changes()) == [("Node", "c", False), ("WarmImage", "y", False), ("WarmPolicy", "p", False)]
    told.posts.clear()
    await world.admin.patch(f"{WARMIMAGES}/y", {"spec": {"pull": {"priority": 2}}})
    await world.admin.delete(f"{WARMIMAGES}/x")
    await world.admin.patch(paths.node("c"), {"metadata": {"labels": {"pool": "web"}}})
    await asyncio.sleep(1)
    assert sorted(told.changes()) == [("Node", "c", False), ("WarmImage", "x", True), ("WarmImage", "y", False)]


@watched()
async def test_a_deletion_carries_the_version_at_which_it_happened(world: World, told: Told) -> None:
    await world.admin.delete(paths.node("b"))
    await asyncio.sleep(1)
    ((_, event),) = told.posts
    (named,) = event.data["objects"]
    assert int(named["resourceVersion"]) > 0
    assert (named["apiVersion"], named["kind"], named["name"]) == ("v1", "Node", "b")


@watched()
async def test_changes_of_nothing_that_matters_are_dropped(world: World, told: Told) -> None:
    await world.admin.patch(f"{WARMIMAGES}/x/status", {"status": {"warm": 1}})
    await world.admin.patch(f"{WARMIMAGES}/x", {"metadata": {"annotations": {"kubectl.kubernetes.io/x": "y"}}})
    await world.admin.patch(paths.node("a"), {"metadata": {"annotations": {"a": "b"}}})
    await world.admin.patch(paths.status(paths.node("a")), {"status": {"nodeInfo": {"kubeletVersion": "v1.99.0"}}})
    await asyncio.sleep(3)
    assert told.posts == []


@watched()
async def test_the_change_of_a_warmimage_carries_the_labels_that_it_has(world: World, told: Told) -> None:
    labels = {"warmhook.dev/policy": "p", "warmhook.dev/repository": "r", "team": "shop"}
    patch = {"metadata": {"labels": labels, "annotations": {"warmhook.dev/event-id": "e"}}}
    await world.admin.patch(f"{WARMIMAGES}/x", patch)
    await world.admin.patch(paths.node("a"), {"metadata": {"labels": labels}})
    await asyncio.sleep(1)
    changed = [event for _, event in told.posts if event.type == CHANGED]
    carried = {named["name"]: named.get("object") for event in changed for named in event.data["objects"]}
    del labels["team"]
    assert carried == {"x": {"metadata": {"labels": labels}}, "a": None}


@watched()
async def test_an_annotation_of_warmhook_on_a_warmimage_matters(world: World, told: Told) -> None:
    annotations = {"warmhook.dev/event-id": "e"}
    await world.admin.patch(f"{WARMIMAGES}/x", {"metadata": {"annotations": annotations}})
    await asyncio.sleep(1)
    assert told.changes() == [("WarmImage", "x", False)]


@watched()
async def test_a_desired_configmap_that_is_lost_or_owned_by_another_node_has_its_node_told(
    world: World, told: Told
) -> None:
    await set_desired(world, "a", "x")
    await asyncio.sleep(1)
    assert told.changes() == []
    await world.admin.delete(paths.configmaps(NAMESPACE, desired_name("a")))
    await asyncio.sleep(1)
    assert told.changes() == [("Node", "a", False)]
    await set_desired(world, "b", "x", uid="of-a-node-that-was-replaced")
    await asyncio.sleep(1)
    assert told.changes() == [("Node", "a", False), ("Node", "b", False)]


# --- reports ---------------------------------------------------------------------------------------------------------


@watched()
async def test_report_changes_become_at_most_one_event_per_second_that_names_all(world: World, told: Told) -> None:
    await world.add_warmimage("y")
    for node in ("a", "b"):
        await set_desired(world, node, "x", "y")
    await told.settle()
    states = ["waiting", "pulling", "failed"]
    for number in range(100):
        node, name = "ab"[number % 2], "xy"[number // 2 % 2]
        await world.report(node, reported_line(name, states[number % 3]))
        await asyncio.sleep(0.05)
    await asyncio.sleep(2)
    moments = [moment for moment, _ in told.posts]
    assert set(told.types()) == {REPORTED}
    assert set(told.reported()) == {"shop/x", "shop/y"}
    assert len(moments) <= 8
    assert all(later - earlier > 0.999 for earlier, later in pairwise(moments))


@watched()
async def test_a_report_that_only_says_the_agent_is_there_is_dropped(world: World, told: Told) -> None:
    await set_desired(world, "a", "x")
    await world.report("a", reported_line("x", "warm"))
    await told.settle()
    for _ in range(3):
        await asyncio.sleep(240)
        await world.report("a", reported_line("x", "warm"))
    assert [kind for kind in told.types() if kind != SYNC] == []


@pytest.mark.parametrize("after", ["waiting", "pulling", "failed"])
@watched()
async def test_a_line_that_is_in_another_state_names_its_warmimage(world: World, told: Told, after: str) -> None:
    await set_desired(world, "a", "x")
    await world.report("a", reported_line("x", "warm"))
    await told.settle()
    await world.admin.delete(paths.configmaps(NAMESPACE, report_name("a")))
    await world.report("a", reported_line("x", after))
    await asyncio.sleep(2)
    assert set(told.reported()) == {"shop/x"}


@watched()
async def test_lines_that_come_or_go_with_a_node_name_their_warmimages(world: World, told: Told) -> None:
    await set_desired(world, "a", "x")
    await asyncio.sleep(3)
    assert told.reported() == ["shop/x"]
    told.posts.clear()
    await world.admin.delete(paths.configmaps(NAMESPACE, desired_name("a")))
    await asyncio.sleep(3)
    assert told.reported() == ["shop/x"]


# --- telling ---------------------------------------------------------------------------------------------------------


@watched()
async def test_many_changes_of_one_object_are_told_as_one_while_the_handlers_are_busy(world: World, told: Told) -> None:
    told.seconds = 5
    for number in range(50):
        await world.admin.patch(paths.node("a"), {"metadata": {"labels": {"n": str(number)}}})
        await asyncio.sleep(0.01)
    await asyncio.sleep(20)
    assert len(told.changes()) == 2
    (last,) = told.posts[-1][1].data["objects"]
    node = await world.admin.get(paths.node("a"))
    assert last["resourceVersion"] == node["metadata"]["resourceVersion"]


@pytest.mark.slow
@watched()
async def test_no_key_is_lost_when_the_handlers_cannot_be_reached_for_a_while(world: World, told: Told) -> None:
    told.problem = RetryLater("connection refused")
    for number in range(250):
        await world.add_nodes(f"n{number}")
    await world.admin.delete(paths.node("n7"))
    await asyncio.sleep(60)
    told.problem = None
    await asyncio.sleep(10)
    assert {name for _, name, _ in told.changes()} == {f"n{number}" for number in range(250)}
    assert [it for it in told.changes() if it[2]] == [("Node", "n7", True)]


@watched()
async def test_repeats_wait_longer_and_longer_but_never_long(world: World, told: Told) -> None:
    told.problem, told.tried = RetryLater("503", 3600), []
    await world.add_nodes("c")
    await asyncio.sleep(60)
    assert 11 <= len(told.tried) <= 15


@watched()
async def test_an_event_that_the_handlers_refuse_is_not_sent_again(world: World, told: Told) -> None:
    told.problem, told.tried = Refused("400"), []
    await world.add_nodes("c")
    await asyncio.sleep(60)
    assert len(told.tried) == 1


@watched()
async def test_an_urgent_change_is_not_held_up_by_a_large_one_or_by_some_that_fail(world: World, told: Told) -> None:
    async def slow(event: Event) -> None:
        names = {one["name"] for one in event.data["objects"]}
        if "large" in names:
            await asyncio.sleep(20)
        if any(name.startswith("bad") for name in names):
            raise RetryLater("503")

    told.answer = slow
    await world.add_nodes("large")
    for number in range(8):
        await asyncio.sleep(1)
        await world.add_nodes(f"bad{number}")
    await asyncio.sleep(1)
    began = world.monotonic()
    await world.add_nodes("urgent")
    await asyncio.sleep(1)
    assert ("Node", "urgent", False) in told.changes()
    assert told.posts[-1][0] - began < 1
    assert ("Node", "large", False) not in told.changes()


@pytest.mark.parametrize(("seconds", "lines"), [(30, 1), (0.1, 0)])
@watched()
async def test_a_single_failure_is_logged_if_it_took_long(world: World, told: Told, seconds: float, lines: int) -> None:
    async def fail_once(_event: Event) -> None:
        told.answer = None
        await asyncio.sleep(seconds)
        raise RetryLater("http://broker: ReadTimeout")

    told.answer = fail_once
    await world.add_nodes("c")
    await asyncio.sleep(60)
    assert [(line["problem"], line["seconds"]) for line in logged("event-delayed")] == [
        ("http://broker: ReadTimeout", 30.0)
    ] * lines
    assert told.changes() == [("Node", "c", False)]


@watched()
async def test_a_key_that_changes_while_its_event_is_overdue_is_sent_again_and_never_put_back_by_the_older_one(
    world: World, told: Told
) -> None:
    posted: list[str] = []

    async def first_hangs_and_fails(event: Event) -> None:
        (named,) = event.data["objects"]
        posted.append(named["resourceVersion"])
        if len(posted) == 1:
            await asyncio.sleep(20)
            raise RetryLater("no answer")

    told.answer = first_hangs_and_fails
    for number in range(2):
        await world.admin.patch(paths.node("a"), {"metadata": {"labels": {"n": str(number)}}})
        await asyncio.sleep(0.5)
    await asyncio.sleep(2)
    assert len(posted) == 2
    await asyncio.sleep(40)
    assert len(posted) == 2
    assert len(told.changes()) == 1


# --- errors of the watch ---------------------------------------------------------------------------------------------


@in_world()
async def test_with_the_api_server_unreachable_at_the_start_it_keeps_trying_under_one_line(world: World) -> None:
    told, up_at = Told(world), 100
    world.answer(Unreachable("connection refused"))
    asyncio.get_running_loop().call_later(up_at, world.faults.clear)
    async with world.watching(told.post, transport=world.transport):
        await asyncio.sleep(up_at + 10)
        assert told.types() == [SYNC]


def outages() -> list[tuple[str, str]]:
    """Event and hint of what was logged about the watches."""
    return [(entry["event"], entry.get("hint", "")) for entry in logged() if "interrupted" in entry["event"]]


@in_world()
async def test_an_outage_is_one_line_for_all_kinds_and_one_when_all_are_followed_again(world: World) -> None:
    down = False

    async def before(_method: str, path: str) -> Response | None:
        if down or (world.monotonic() < 200 and path.startswith(paths.NODES)):
            raise Unreachable("connection refused")
        return None

    transport = InProcessTransport(world.server, before=before, cut_stream=lambda _path: 0 if down else None)
    async with world.watching(Told(world).post, transport=transport):
        await asyncio.sleep(250)
        assert outages() == []
        for length, lines in ((60, 1), (900, 3)):
            down = True
            world.server.end_watches()
            await asyncio.sleep(length)
            assert [event for event, _ in outages()] == ["watch-interrupted"] * lines
            assert "KUBECONFIG" in outages()[0][1]
            down = False
            await asyncio.sleep(20)
            assert [event for event, _ in outages()[lines:]] == ["watch-interrupted-over"]
            structlog.get_config()["processors"][0].entries.clear()


@in_world()
async def test_a_refusal_is_logged_apart_from_an_outage(world: World) -> None:
    answers = {paths.NODES: 403, paths.warmpolicies(): 404, paths.warmimages(): 404}

    async def before(_method: str, path: str) -> Response | None:
        return status(answers[path]) if path in answers else None

    async with world.watching(Told(world).post, transport=InProcessTransport(world.server, before=before)):
        await asyncio.sleep(100)
        assert [hint.partition(" ")[0] for _, hint in outages()] == ["install", "check"]
        answers.clear()
        await asyncio.sleep(20)
        assert [event for event, _ in outages()[2:]] == ["watch-interrupted-over"]


def test_a_watch_that_opens_and_breaks_by_turns_is_told_now_and_then() -> None:
    clock = 0.0
    told = WatchOutages(lambda: clock)
    with structlog.testing.capture_logs() as entries:
        for _ in range(60):
            told.failed("a", "Node", Unavailable("broken"))
            told.recovered("a")
            clock += 1
    assert [entry["event"] for entry in entries] == ["watch-interrupted", "watch-interrupted-over"] * 2


async def _truth(world: World) -> set[tuple[str, str]]:
    """What is there: kind and name."""
    found = set()
    for kind, path in (("Node", paths.NODES), ("WarmImage", paths.warmimages()), ("WarmPolicy", paths.warmpolicies())):
        found |= {(kind, obj["metadata"]["name"]) for obj in (await world.admin.list(path)).items}
    return found


@in_world()
async def test_connections_that_deliver_nothing_any_more_are_noticed_within_100_seconds_and_quiet_ones_are_kept(
    world: World,
) -> None:
    told, lost, opened = Told(world), [-1.0], []

    async def before(_method: str, path: str) -> Response | None:
        opened.append(path)
        return None

    transport = InProcessTransport(world.server, before=before, swallow=lambda since: since <= lost[0])
    async with world.watching(told.post, transport=transport, sync_seconds=86400):
        await asyncio.sleep(20)
        opened.clear()
        await asyncio.sleep(240)
        # Nothing happens but bookmarks, and each watch goes on.
        assert [path for path in opened if path.endswith(("/nodes", "/warmimages", "/warmpolicies"))] == []
        lost[0] = world.monotonic()
        told.posts.clear()
        await world.add_nodes("n1")
        await asyncio.sleep(100)
        assert ("Node", "n1", False) in told.changes()
        assert logged("watch-interrupted") == []


troubles = st.sampled_from(["cut", "gone", "too-large", "throttled", "ended", "refused"])


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.lists(troubles, max_size=8), st.integers(0, 10**6))
def test_the_handlers_know_the_truth_whatever_happens_to_the_watches(trouble: list[str], seed: int) -> None:
    rng = Random(seed)

    async def case(world: World) -> None:
        told = Told(world)
        left: list[Response] = []

        async def before(_method: str, _path: str) -> Response | None:
            return left.pop() if left and rng.random() < 0.5 else None

        def cut(_path: str) -> int | None:
            return rng.randrange(2000) if "cut" in trouble and rng.random() < 0.7 else None

        transport = InProcessTransport(world.server, before=before, cut_stream=cut)
        known: set[tuple[str, str]] = set()
        async with world.watching(told.post, transport=transport, sync_seconds=86400):
            await asyncio.sleep(120)
            assert told.types() == [SYNC]
            known |= await _truth(world)
            told.posts.clear()
            for number in range(40):
                name = f"n{rng.randrange(12)}"
                kind = rng.choice(["Node", "WarmImage", "WarmPolicy"])
                await _toggle(world, kind, name)
                if number % 5 == 0 and trouble:
                    _happen(world, rng.choice(trouble), left)
                await asyncio.sleep(rng.choice([0, 0.01, 1]))
            left.clear()
            trouble_over = trouble.copy()
            trouble.clear()
            await asyncio.sleep(400)
            trouble.extend(trouble_over)
        for kind, name, deleted in told.changes():
            (known.discard if deleted else known.add)((kind, name))
        assert known == await _truth(world)

    run_in_world(case)


async def _toggle(world: World, kind: str, name: str) -> None:
    path = {"Node": paths.node(name), "WarmImage": f"{WARMIMAGES}/{name}", "WarmPolicy": f"{POLICIES}/{name}"}[kind]
    if (kind, name) in await _truth(world):
        await world.admin.delete(path)
    elif kind == "Node":
        await world.add_nodes(name)
    elif kind == "WarmImage":
        await world.add_warmimage(name)
    else:
        await world.add_policy(name)


def _happen(world: World, trouble: str, left: list[Response]) -> None:
    if trouble == "gone":
        world.server.compact()
        world.server.end_watches()
    elif trouble == "ended":
        world.server.end_watches()
    elif trouble == "throttled":
        left.extend([status(429, retry_after="1")] * 3)
    elif trouble == "too-large":
        left.extend([status(504)] * 2)
    elif trouble == "refused":
        left.extend([status(403), status(401), status(500)])


@in_world()
async def test_a_server_that_ends_every_watch_at_once_is_not_asked_in_a_hot_loop(world: World) -> None:
    world.transport.cut_stream = lambda _path: 0
    async with world.watching(Told(world).post, transport=world.transport):
        await asyncio.sleep(300)
    assert len(world.requests) < 600


# --- crowds ----------------------------------------------------------------------------------------------------------


@watched()
async def test_a_change_is_told_at_once_and_a_crowd_of_them_together(world: World, told: Told) -> None:
    told.seconds = 5
    began = world.monotonic()
    for number in range(200):
        await world.add_warmimage(f"image-{number}")
        await asyncio.sleep(0.01)
    await asyncio.sleep(20)
    told_changes = [(moment - 5, event) for moment, event in told.posts if event.type == CHANGED]
    assert told_changes[0][0] - began < 0.05
    assert len(told_changes[0][1].data["objects"]) == 1
    # Two seconds of them: one at once, and then one request in 0.2 seconds as long as no more than four run.
    assert len(told_changes) <= 6
    assert len(told.changes()) == 200


@watched()
async def test_reports_are_gathered_before_they_are_told(world: World, told: Told) -> None:
    await set_desired(world, "a", "x")
    await set_desired(world, "b", "x")
    await told.settle()
    began = world.monotonic()
    await world.report("a", reported_line("x", "warm"))
    await asyncio.sleep(0.2)
    await world.report("b", reported_line("x", "warm"))
    await asyncio.sleep(5)
    assert told.reported() == ["shop/x"]
    assert 0.29 < told.posts[0][0] - began < 0.5


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_the_queue_is_bounded_by_the_number_of_objects() -> None:
    pending = WorkQueue()
    pending.open()
    for number in range(10_000):
        pending.changed(Changed("Node", "", f"n{number % 10}", resource_version=str(number)))
        pending.reported(f"shop/x{number % 10}")
    assert len(pending) == 20


def test_a_process_that_does_not_lead_queues_nothing() -> None:
    pending = WorkQueue()
    cache = ChangeFilter(pending, lambda: 0.0)
    for kind in ("WarmPolicy", "WarmImage", "Node", "ConfigMap"):
        cache.replace(kind, [])
    for number in range(100):
        cache.update("Node", {"metadata": {"name": f"n{number}", "uid": str(number)}})
        cache.delete("Node", {"metadata": {"name": f"n{number}", "uid": str(number)}})
    assert len(pending) == 0
    assert cache._objects["Node"] == {}
