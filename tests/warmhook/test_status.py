"""The status of a WarmImage has what its nodes report, no more and no less."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.kubernetes.warmimage import WarmImageStatus
from warmhook.images import parse_reference
from warmhook.node_lines import Line
from warmhook.node_report import REACHABLE_FOR, LineState, Report
from warmhook.peers import Transfer
from warmhook.placement import Node
from warmhook.status import FAILURES_MAX, Counts, Failure, count, find_condition, invalid_status, status_object
from warmhook.timestamps import parse_time
from warmhook.transfers import sum_up
from warmhook.transitions import transitions
from warmhook.warmimages import ObjectKey, WarmImage

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LINE = Line(ObjectKey("shop", "app"), "ghcr.io/a/b:1")


def node(name: str) -> Node:
    return Node(name, f"uid of {name}", {})


def report(name: str, state: LineState | None = None, *, version: str = LINE.version, age: float = 60) -> Report:
    """What the agent of a node says of the line; `None`: nothing."""
    seen = NOW - timedelta(seconds=age)
    if state == "warm":
        return Report(name, seen, frozenset({version}))
    return Report(name, seen, states={} if state is None else {LINE.key: (state, version)})


def counted(*reports: Report, also: tuple[str, ...] = (), refused: tuple[str, ...] = ()) -> Counts:
    nodes = [node(it.node) for it in reports] + [node(name) for name in also]
    return count(LINE, nodes, {it.node: it for it in reports}, NOW, refused)


def test_each_state_is_counted_and_desired_is_all_of_them() -> None:
    counts = counted(report("a", "warm"), report("b", "pulling"), report("c", "waiting"), report("d", "failed"))
    assert (counts.warm, counts.pulling, counts.waiting, counts.failed, counts.desired) == (1, 1, 1, 1, 4)
    assert counts.failing == ("d",)


def test_a_line_that_the_agent_has_not_seen_in_this_version_is_waiting() -> None:
    counts = counted(report("a"), report("b", "warm", version="00000000"), report("c", "failed", version="00000000"))
    assert (counts.waiting, counts.desired) == (3, 3)


def test_a_node_without_a_report_or_with_an_old_one_is_unreachable_whatever_it_says() -> None:
    old = REACHABLE_FOR.total_seconds()
    counts = counted(report("a", "warm", age=old), report("b", "warm", age=old - 1), also=("c",))
    assert (counts.unreachable, counts.warm, counts.desired) == (2, 1, 3)
    assert counts.silent == ("a", "c")
    assert counts.ready


@pytest.mark.parametrize(("seconds", "counts"), [(599, (1, 0)), (601, (0, 1))])
def test_a_node_without_a_report_is_waiting_until_it_is_ten_minutes_old(seconds: int, counts: tuple[int, int]) -> None:
    newcomer = Node("a", "uid", {}, created_at=NOW - timedelta(seconds=seconds))
    found = count(LINE, [newcomer], {}, NOW)
    assert (found.waiting, found.unreachable) == counts
    assert not found.ready


def test_a_report_from_more_than_ten_minutes_ahead_is_that_of_an_unreachable_node() -> None:
    counts = counted(report("a", "warm", age=-599), report("b", "warm", age=-600), report("c", "warm", age=-(10**9)))
    assert (counts.warm, counts.unreachable) == (1, 2)


def test_nodes_that_are_not_wanted_do_not_count() -> None:
    assert count(LINE, [], {"a": report("a", "warm")}, NOW).desired == 0


def test_a_node_without_room_for_the_line_has_failed() -> None:
    counts = counted(report("a", "warm"), report("b"), refused=("b",))
    assert (counts.failed, counts.failing) == (1, ("b",))


def test_the_first_ten_failures_are_named() -> None:
    counts = counted(*(report(f"n{i:02}", "failed") for i in range(15)))
    assert counts.failed == 15
    assert counts.failing == tuple(f"n{i:02}" for i in range(FAILURES_MAX))


@given(st.lists(st.sampled_from(["warm", "pulling", "waiting", "failed", None, "old", "none"]), max_size=30))
def test_every_wanted_node_is_counted_exactly_once(states: list[Any]) -> None:
    reports = [
        report(str(i), "warm", age=10**6) if state == "old" else report(str(i), state)
        for i, state in enumerate(states)
        if state != "none"
    ]
    counts = count(LINE, [node(str(i)) for i in range(len(states))], {it.node: it for it in reports}, NOW)
    assert counts.desired == len(states)
    assert counts.unreachable == states.count("old") + states.count("none")
    assert counts.ready is (0 < states.count("warm") == counts.desired - counts.unreachable)


# --- the object ------------------------------------------------------------------------------------------------------


def status(
    before: dict[str, Any], counts: Counts, *, generation: int = 1, later: float = 0, failures: tuple[Failure, ...] = ()
) -> dict[str, Any]:
    moment = NOW + timedelta(seconds=later)
    image = parse_reference("ghcr.io/a/b:1")
    warmimage = WarmImage(LINE.warmimage, image, "sha256:" + "a" * 64, generation=generation)
    return status_object(before, warmimage, counts, failures, moment)


def conditions(obj: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {it["type"]: (it["status"], it["lastTransitionTime"]) for it in obj["conditions"]}


def test_the_same_counts_later_are_the_same_status() -> None:
    counts = Counts(warm=1, failed=1)
    failures = (Failure("b", "NotFound", "no such tag"),)
    first = status({}, counts, failures=failures)
    assert status(first, counts, later=500, failures=failures) == first
    assert first["failures"] == [{"node": "b", "reason": "NotFound", "message": "no such tag"}]


def test_ready_means_that_all_are_warm_and_there_is_one() -> None:
    assert conditions(status({}, Counts()))["Ready"][0] == "False"
    assert conditions(status({}, Counts(unreachable=3)))["Ready"][0] == "False"
    assert conditions(status({}, Counts(warm=1, unreachable=1)))["Ready"][0] == "True"
    assert conditions(status({}, Counts(warm=1, waiting=1)))["Ready"][0] == "False"
    assert conditions(status({}, Counts(warm=1, failed=1)))["Degraded"][0] == "True"
    assert conditions(status({}, Counts(warm=1, unreachable=1)))["Degraded"][0] == "True"


def test_the_reason_says_whether_all_nodes_are_warm_or_all_that_are_reachable() -> None:
    def reason(counts: Counts) -> str:
        return str(find_condition(status({}, counts), "Ready")["reason"])

    assert reason(Counts(warm=2)) == "AllWarm"
    assert reason(Counts(warm=2, unreachable=1)) == "ReachableWarm"
    assert reason(Counts(warm=2, waiting=1)) == "NotAllWarm"


def test_a_warmimage_that_selects_no_node_says_where_to_look() -> None:
    ready = find_condition(status({}, Counts()), "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "NoNodes")
    assert "spec.nodes" in ready["message"]


def test_conditions_of_others_stay_as_they_are() -> None:
    foreign = {"type": "Reviewed", "status": "True", "reason": "ByHand", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    first = status({"conditions": [foreign]}, Counts(warm=1))
    assert foreign in first["conditions"]
    assert len(first["conditions"]) == 3
    assert status(first, Counts(warm=1), later=5) == first


def test_a_warmimage_that_cannot_be_used_says_so_and_keeps_its_counts() -> None:
    before = status({}, Counts(warm=2))
    after = invalid_status(before, 2, "spec.image: 'A B' is no reference", NOW)
    ready = find_condition(after, "Ready")
    assert (ready["status"], ready["reason"], ready["observedGeneration"]) == ("False", "Invalid", 2)
    assert (after["warm"], after["observedGeneration"]) == (2, 2)
    assert find_condition(after, "Degraded") == find_condition(before, "Degraded")
    assert invalid_status(after, 2, "spec.image: 'A B' is no reference", NOW + timedelta(hours=1)) == after


# --- how nodes got the image -----------------------------------------------------------------------------------------


def fetched(*transfers: Transfer, waiting: int = 0) -> Counts:
    """Nodes that are warm and say this."""
    return Counts(warm=len(transfers), waiting=waiting, transfers=transfers)


def from_peers(kib: int = 1024, **more: int) -> Transfer:
    return Transfer(LINE.version, kib, **more)


SEED = Transfer(LINE.version, registry_kib=1024, transfer_ms=2500, unpack_ms=1)
LATE = from_peers(512, registry_kib=512, fallbacks=2)


def test_what_nodes_fetched_is_summed_up_of_those_that_should_have_the_image() -> None:
    reports = [replace(report(name, "warm"), transfers={LINE.version: from_peers()}) for name in "ab"]
    other = replace(report("c", "warm"), transfers={"00000000": from_peers()})
    unwanted = replace(report("d", "warm"), transfers={LINE.version: from_peers()})
    found = count(LINE, [node(name) for name in "abce"], {it.node: it for it in (*reports, other, unwanted)}, NOW)
    assert found.transfers == (from_peers(), from_peers())


def test_the_status_has_bytes_nodes_and_the_slowest() -> None:
    assert status({}, fetched(SEED, from_peers(transfer_ms=3001, unpack_ms=999), LATE))["distribution"] == {
        "digest": "sha256:" + "a" * 64,
        "nodes": 3,
        "seeds": 1,
        "fallbacks": 1,
        "bytesFromPeers": 1536 * 1024,
        "bytesFromRegistry": 1536 * 1024,
        "slowestTransferSeconds": 4,
        "slowestUnpackSeconds": 1,
    }


def test_a_status_without_a_plan_says_nothing_about_one() -> None:
    obj = status({}, Counts(warm=3))
    assert "distribution" not in obj
    assert find_condition(obj, "Distributed") == {}


def test_no_figure_falls_when_agents_drop_what_they_said_until_there_is_another_digest() -> None:
    first = status({}, fetched(SEED, from_peers(), from_peers()))
    later = status(first, Counts(warm=3), later=4000)
    assert later == first
    first["distribution"]["digest"] = "sha256:" + "b" * 64
    assert "distribution" not in status(first, Counts(warm=3), later=4000)
    assert status(first, fetched(SEED), later=4000)["distribution"]["nodes"] == 1


def test_many_nodes_that_fell_back_are_a_condition_and_one_event() -> None:
    few = status({}, fetched(SEED, *[from_peers()] * 8, LATE))
    assert find_condition(few, "Distributed")["reason"] == "AsPlanned"
    many = status(few, fetched(SEED, *[from_peers()] * 6, LATE, LATE, LATE))
    (event,) = transitions(few, many)
    assert (event.reason, event.warning) == ("FellBack", True)
    assert event.message == "3 of 10 nodes fell back to the registry: is port 9465 open between nodes?"
    assert list(transitions(many, status(many, fetched(*[LATE] * 10), later=5))) == []


def test_the_first_of_many_nodes_that_falls_back_is_no_event() -> None:
    obj = status({}, fetched(LATE, waiting=9))
    assert find_condition(obj, "Distributed")["reason"] == "AsPlanned"


@given(st.lists(st.builds(Transfer, st.just(LINE.version), *[st.integers(0, 10**12 - 1)] * 5), max_size=20))
def test_whatever_nodes_say_the_figures_fit_the_schema(transfers: list[Transfer]) -> None:
    found = status({}, fetched(*transfers))
    WarmImageStatus.model_validate(found)
    assert all(value < 2**63 for value in found.get("distribution", {}).values() if isinstance(value, int))
    assert found.get("distribution", {}).get("slowestTransferSeconds", 0) <= 86400


def test_a_node_that_lies_counts_for_two_images_at_most() -> None:
    honest, lie = from_peers(1024), from_peers(10**12 - 1, registry_kib=10**12 - 1)
    found = sum_up({}, "sha256:" + "a" * 64, 1024 * 1024, [honest, lie]) or {}
    assert (found["bytesFromPeers"], found["bytesFromRegistry"]) == (3 * 1024 * 1024, 2 * 1024 * 1024)


# --- events ----------------------------------------------------------------------------------------------------------


def test_only_a_change_of_a_condition_is_worth_an_event() -> None:
    waiting = status({}, Counts(waiting=2))
    failed = status(waiting, Counts(warm=1, failed=1), failures=(Failure("b", "NotFound", "no such tag"),))
    warm = status(failed, Counts(warm=2))
    assert list(transitions({}, waiting)) == []
    (failure,) = transitions(waiting, failed)
    assert (failure.reason, failure.warning) == ("Failed", True)
    assert failure.message.endswith("b: NotFound: no such tag")
    assert [(it.reason, it.warning) for it in transitions(failed, warm)] == [("Warm", False)]
    for one in (waiting, failed, warm):
        assert list(transitions(one, one)) == []
    invalid = invalid_status(warm, 2, "spec.image", NOW)
    assert [(it.reason, it.message) for it in transitions(warm, invalid)] == [("Invalid", "spec.image")]


def test_a_condition_keeps_its_time_until_it_says_something_else() -> None:
    first = status({}, Counts(waiting=2))
    still = status(first, Counts(warm=1, waiting=1), later=10)
    done = status(still, Counts(warm=2), later=20)
    assert conditions(still)["Ready"] == conditions(first)["Ready"]
    assert conditions(done)["Ready"] == ("True", "2026-03-01T12:00:20Z")
    assert conditions(done)["Degraded"] == conditions(first)["Degraded"]


def times(obj: dict[str, Any]) -> dict[str, int]:
    """Seconds after `NOW` of each time."""
    names = ("firstWarmAt", "halfWarmAt", "completedAt")
    return {name: int((parse_time(obj[name]) - NOW).total_seconds()) for name in names if name in obj}


def test_the_times_are_those_when_one_half_and_all_of_the_reachable_nodes_were_warm_for_the_first_time() -> None:
    obj, seen = status({}, Counts(waiting=5)), []
    for later, counts in enumerate(
        [
            Counts(waiting=4, unreachable=1),
            Counts(warm=1, waiting=3, unreachable=1),
            Counts(waiting=4, unreachable=1),
            Counts(warm=2, waiting=2, unreachable=1),
            Counts(warm=1, waiting=3, unreachable=1),
            Counts(warm=4, unreachable=1),
            Counts(warm=2, waiting=3),
        ]
    ):
        obj = status(obj, counts, later=later)
        seen.append(times(obj))
    first, half = {"firstWarmAt": 1}, {"firstWarmAt": 1, "halfWarmAt": 3}
    done = {**half, "completedAt": 5}
    assert seen == [{}, first, first, half, half, done, done]
    assert times(status(obj, Counts(waiting=5), generation=2, later=60)) == {}
    assert times(status(obj, Counts(warm=5), generation=2, later=60)) == dict.fromkeys(done, 60)


def test_what_happened_before_a_version_noted_it_has_no_time() -> None:
    for warm in (1, 3, 5):
        old = status({}, Counts(warm=warm, waiting=5 - warm))
        for name in ("firstWarmAt", "halfWarmAt"):
            old.pop(name, None)
        assert status(old, Counts(warm=warm, waiting=5 - warm), later=9) == old
        assert "firstWarmAt" not in status(old, Counts(warm=5), later=9)
        assert ("halfWarmAt" in status(old, Counts(warm=5), later=9)) == (warm == 1)


@given(st.lists(st.builds(Counts, *[st.integers(0, 3)] * 5), max_size=8))
def test_a_time_changes_only_with_a_count_and_later_ones_come_later(history: list[Counts]) -> None:
    obj: dict[str, Any] = {}
    for later, counts in enumerate(history):
        before, obj = obj, status(obj, counts, later=later)
        assert list(times(obj).values()) == sorted(times(obj).values())
        assert times(before).items() <= times(obj).items()
        if times(before) != times(obj):
            names = ("warm", "desired", "unreachable")
            assert [before.get(name) for name in names] != [obj[name] for name in names]


def test_started_and_completed_belong_to_a_generation() -> None:
    started = status({}, Counts(waiting=1))
    assert "completedAt" not in started
    done = status(started, Counts(warm=1), later=10)
    assert (done["startedAt"], done["completedAt"]) == ("2026-03-01T12:00:00Z", "2026-03-01T12:00:10Z")
    joined = status(done, Counts(warm=1, waiting=1), later=20)
    assert joined["completedAt"] == done["completedAt"]
    renewed = status(joined, Counts(waiting=2), generation=2, later=30)
    assert (renewed["startedAt"], "completedAt" in renewed) == ("2026-03-01T12:00:30Z", False)
