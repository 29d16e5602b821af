"""A node ends up with what is wanted, whatever happens: the whole agent, hours in milliseconds."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from adapters.kubernetes.paths import configmaps
from adapters.kubernetes.paths import node as node_path
from tests.support.agents import (
    NAMESPACE,
    WEB,
    Bench,
    a_push,
    bench,
    line_of,
    on_node,
    push,
    push_warm,
    warm,
    with_agent,
)
from tests.support.instant import instant, until
from tests.support.runtime import MemoryRuntime, digest_of
from warmhook.api import LINE_LABEL
from warmhook.node_lines import MAX_LINES, desired_name, node_patch, version_of
from warmhook.node_report import report_name
from warmhook.ports import Credentials, PullFailed, Response, RuntimeImage
from warmhook.warmimages import Pull

REPORT = configmaps(NAMESPACE, report_name("node-1"))


@with_agent
async def test_a_line_becomes_warm_and_the_report_says_so(b: Bench) -> None:
    line = await push(b)
    assert await warm(b, line) < 3
    assert b.runtime.pulls == [WEB]
    assert b.events("pull")[0]["digest"] == line.digest


@with_agent
async def test_a_push_arrives_within_two_minutes_though_the_connection_delivers_nothing_any_more(b: Bench) -> None:
    await push(b)
    await asyncio.sleep(20)
    b.swallows_before = asyncio.get_running_loop().time()
    line = await push(b, content="second")
    assert await warm(b, line, seconds=120) > 20


@on_node
async def test_an_image_that_is_present_is_not_pulled(b: Bench) -> None:
    line = a_push(b)
    b.runtime.have(WEB)
    await b.want(line)
    async with b.agent():
        await warm(b, line)
        await asyncio.sleep(600)
    assert b.runtime.pulls == []


@on_node
async def test_a_stale_tag_is_pulled_and_is_not_warm_before(b: Bench) -> None:
    b.runtime.push(WEB, "old")
    b.runtime.have(WEB)
    b.runtime.pull_seconds = 20
    line = await push(b, content="new")
    async with b.agent():
        await asyncio.sleep(15)
        assert b.state(line) == "pulling"
        await warm(b, line)


@with_agent
async def test_an_image_that_another_program_removed_is_back_within_a_minute_and_its_pull(b: Bench) -> None:
    await push_warm(b)
    b.runtime.lose(WEB)
    assert await until(lambda: WEB in b.runtime.listed) <= 60 + b.runtime.pull_seconds
    assert len(b.events("image-removed")) == 1


@pytest.mark.slow
@with_agent
async def test_an_image_removed_three_times_within_an_hour_is_left_alone_for_an_hour(b: Bench) -> None:
    line = await push(b)
    for _ in range(3):
        await warm(b, line)
        b.runtime.lose(WEB)
        await until(lambda: b.state(line) != "warm" or WEB in b.runtime.listed)
    await until(lambda: b.state(line) == "failed")
    detail = json.loads(b.detail(line))
    assert detail["reason"] == "Evicted"
    assert "2026-05-01T01:0" in detail["message"]
    pulls = len(b.runtime.pulls)
    await asyncio.sleep(3400)
    assert len(b.runtime.pulls) == pulls
    await warm(b, line, seconds=400)


@with_agent
async def test_a_new_version_of_an_evicted_line_is_pulled_at_once(b: Bench) -> None:
    line = await push(b)
    for _ in range(3):
        await until(lambda: WEB in b.runtime.listed and b.state(line) == "warm")
        b.runtime.lose(WEB)
        await until(lambda: b.state(line) != "warm" or WEB in b.runtime.listed)
    await until(lambda: b.state(line) == "failed")
    newer = await push(b, content="second")
    assert await warm(b, newer) < 5


@on_node
async def test_a_tag_that_has_moved_is_warm_with_what_its_pull_brought_also_after_a_restart(b: Bench) -> None:
    line = line_of(WEB, digest=digest_of("what the event said"))
    moved = b.runtime.push(WEB, "what the tag points at by now")
    await b.want(line)
    for _ in range(2):
        async with b.agent():
            await warm(b, line)
            assert json.loads(b.detail(line)) == {"moved": moved}
            await asyncio.sleep(300)
    assert b.runtime.pulls == [WEB]


@with_agent
async def test_a_second_push_without_a_digest_is_pulled_though_the_tag_is_present(b: Bench) -> None:
    b.runtime.push(WEB, "first")
    first = line_of(WEB, pushed_at="2026-05-01T00:00:00Z")
    await b.want(first)
    await warm(b, first)
    second_digest = b.runtime.push(WEB, "second")
    second = line_of(WEB, pushed_at="2026-05-01T00:01:00Z")
    await b.want(second)
    await warm(b, second)
    assert b.runtime.pulls == [WEB, WEB]
    assert f"registry.example.com/shop/web@{second_digest}" in b.runtime.listed


@with_agent
async def test_always_pulls_each_version_once_also_when_its_neighbour_of_the_same_image_is_warm(b: Bench) -> None:
    line = await push_warm(b)
    always = line_of(WEB, name="always", pull=Pull(policy="Always"))
    await b.want(always)
    await warm(b, line, always)
    await asyncio.sleep(3600)
    assert b.runtime.pulls == [WEB, WEB]


@with_agent
async def test_lines_of_one_image_share_a_pull(b: Bench) -> None:
    first = a_push(b)
    others = [line_of(WEB, name=f"other-{i}", digest=first.digest) for i in range(5)]
    await b.want(first, *others)
    await warm(b, first, *others)
    assert b.runtime.pulls == [WEB]


@on_node
async def test_pulls_run_at_most_two_at_once_and_those_of_high_priority_start_first(b: Bench) -> None:
    lines = [a_push(b, f"registry.example.com/shop/web{i}:1", str(i), pull=Pull(priority=i)) for i in range(8)]
    await b.want(*lines)
    async with b.agent():
        await warm(b, *lines)
    assert b.runtime.most_running == 2
    assert b.runtime.pulls == [line.image for line in reversed(lines)]


@pytest.mark.slow
@with_agent
async def test_a_failing_image_waits_longer_each_time_then_fails_and_does_not_stop_the_others(b: Bench) -> None:
    good, bad = a_push(b), line_of("registry.example.com/shop/gone:1")
    await b.want(good, bad)
    await warm(b, good, seconds=5)
    await until(lambda: b.state(bad) == "waiting")
    await until(lambda: b.state(bad) == "failed")
    assert b.reason(bad) == "NotFound"
    assert json.loads(b.detail(bad))["attempts"] == 4
    tries = len(b.runtime.pulls)
    await asyncio.sleep(1000)
    assert len(b.runtime.pulls) - tries == 2  # after 5 minutes, and 10 more
    b.runtime.push(bad.image, "here it is")
    await warm(b, bad, seconds=1320)


@with_agent
async def test_a_new_version_of_a_failed_line_starts_afresh(b: Bench) -> None:
    bad = line_of(WEB, pull=Pull(backoff_limit=0))
    await b.want(bad)
    await until(lambda: b.state(bad) == "failed")
    good = await push(b)
    assert await warm(b, good) < 5


@with_agent
async def test_images_that_hang_until_their_time_is_over_let_new_ones_pass(b: Bench) -> None:
    hanging = [line_of(f"registry.example.com/shop/hangs{i}:1", pull=Pull(timeout_seconds=60)) for i in range(2)]
    b.runtime.pull_seconds = 1000
    await b.want(*hanging)
    await asyncio.sleep(30)
    await push(b, pull=Pull(timeout_seconds=5000))
    await until(lambda: WEB in b.runtime.pulls, seconds=40)


@with_agent
async def test_a_line_that_changes_while_its_image_is_pulled_is_judged_by_its_newest_version(b: Bench) -> None:
    b.runtime.pull_seconds = 30
    b.runtime.push(WEB, "first")
    await b.want(line_of(WEB, pushed_at="2026-05-01T00:00:00Z"))
    await until(lambda: b.runtime.running == 1)
    second = line_of(WEB, pushed_at="2026-05-01T00:00:10Z")
    await b.want(second)
    await warm(b, second)
    # The first pull may have asked the registry before the second push.
    assert b.runtime.pulls == [WEB, WEB]
    assert b.runtime.cancelled == []


@with_agent
async def test_a_line_whose_digest_changes_while_its_image_is_pulled_needs_no_second_pull_if_that_is_what_came(
    b: Bench,
) -> None:
    b.runtime.pull_seconds = 30
    await push(b, content="first")
    await until(lambda: b.runtime.running == 1)
    await push_warm(b, content="second")
    assert b.runtime.pulls == [WEB]


@with_agent
async def test_a_pull_of_a_removed_line_is_cancelled_at_the_runtime(b: Bench) -> None:
    b.runtime.pull_seconds = 300
    line, other = a_push(b), a_push(b, "registry.example.com/shop/other:1", "other")
    await b.want(line, other)
    await until(lambda: b.runtime.running == 2)
    await b.want(without=(line,))
    assert await until(lambda: b.runtime.cancelled == [WEB]) < 2
    assert b.runtime.running == 1


@on_node
async def test_a_restarted_agent_works_from_its_disk_while_the_api_server_is_down(b: Bench) -> None:
    line = await push(b)
    async with b.killed_agent():
        await warm(b, line)
        await asyncio.sleep(5)
    b.runtime.lose(WEB)
    b.down = True
    async with b.agent():
        await until(lambda: WEB in b.runtime.listed, seconds=5)
        await asyncio.sleep(600)
        assert 1 <= len(b.events("api-server-trouble")) <= 3
        b.down = False
        await until(lambda: bool(b.events("api-server-trouble-over")), seconds=35)
        await push_warm(b, content="second", seconds=35)


@on_node
async def test_a_deleted_configmap_means_not_known_and_nothing_is_forgotten(b: Bench) -> None:
    line = await push(b)
    async with b.agent():
        await warm(b, line)
        await b.kubernetes.delete(configmaps(NAMESPACE, desired_name(b.node)))
        await asyncio.sleep(1000)
        b.runtime.lose(WEB)
        await until(lambda: WEB in b.runtime.listed)
    async with b.agent():
        b.runtime.lose(WEB)
        await until(lambda: WEB in b.runtime.listed)
        await warm(b, line)


@with_agent
async def test_a_line_counts_as_removed_only_after_a_consistent_read_and_its_image_stays(b: Bench) -> None:
    line, other = a_push(b), a_push(b, "registry.example.com/shop/other:1", "other")
    await b.want(line, other)
    await warm(b, line, other)
    reads = len(b.requests)
    await b.want(without=(line,))
    await until(lambda: b.state(line) == "unknown")
    methods = [(method, path) for _, method, path in b.requests[reads:]]
    # A list, the next watch, and the report.
    assert methods[:2] == [("GET", configmaps(NAMESPACE))] * 2
    assert WEB in b.runtime.listed
    assert LINE_LABEL + line.key not in b.report().states


@with_agent
async def test_a_line_that_replaces_another_is_pulled_before_the_other_counts_as_removed(b: Bench) -> None:
    old = await push_warm(b)
    reads = len(b.requests)
    new = a_push(b, "registry.example.com/shop/other:1", "other")
    await b.want(new, without=(old,))
    await until(lambda: new.image in b.runtime.pulls, step=0.01)
    assert b.requests[reads:] == []
    await until(lambda: b.state(old) == "unknown")


@with_agent
async def test_an_agent_without_changes_requests_only_its_watch_and_renews_its_report(b: Bench) -> None:
    lines = [a_push(b, f"registry.example.com/shop/web{i}:1", str(i)) for i in range(20)]
    await b.want(*lines)
    await warm(b, *lines)
    await asyncio.sleep(60)
    b.requests.clear()
    await asyncio.sleep(3600)
    watches = [path for _, method, path in b.requests if method == "GET"]
    patches = [path for _, method, path in b.requests if method == "PATCH"]
    assert set(watches) == {configmaps(NAMESPACE)}
    assert len(watches) <= 3600 / 290 + 1
    assert set(patches) == {REPORT}
    assert 3600 / 255 <= len(patches) <= 3600 / 225
    assert len(watches) + len(patches) == len(b.requests)
    assert (seen := b.report().seen)
    assert (b.clock().utcnow() - seen).total_seconds() < 260


@on_node
async def test_a_burst_of_pulls_takes_few_writes_and_never_two_within_a_second(b: Bench) -> None:
    lines = [a_push(b, f"registry.example.com/shop/web{i}:1", str(i)) for i in range(40)]
    b.runtime.pull_seconds = 0.2
    async with b.agent():
        await asyncio.sleep(20)
        b.requests.clear()
        await b.want(*lines)
        await warm(b, *lines)
        writes = b.writes()
        assert len(writes) <= 6
        assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(writes))


@with_agent
async def test_a_short_pull_is_reported_once_when_it_is_warm(b: Bench) -> None:
    await asyncio.sleep(20)
    b.requests.clear()
    b.runtime.pull_seconds = 3
    await push_warm(b)
    assert len(b.writes()) == 1


@with_agent
async def test_a_long_pull_is_reported_and_logged_while_it_lasts(b: Bench) -> None:
    await asyncio.sleep(20)
    b.runtime.pull_seconds = 100
    line = await push(b)
    assert 4 < await until(lambda: b.state(line) == "pulling") < 8
    await warm(b, line)
    assert [event["seconds"] for event in b.events("pulling")] == [30, 60, 90]


@on_node
async def test_the_first_check_after_a_start_rewrites_the_whole_report(b: Bench) -> None:
    line, gone = a_push(b), a_push(b, "registry.example.com/shop/gone:1", "gone")
    await b.want(line, gone)
    async with b.killed_agent():
        await warm(b, line, gone)
    stale = {"labels": {f"{LINE_LABEL}{'a' * 16}": "pulling-00000000"}}
    await b.kubernetes.patch(REPORT, {"metadata": stale, "data": {"a" * 16: "{}", line.key: '{"attempts":9}'}})
    await b.want(without=(gone,))
    async with b.agent():
        await until(lambda: b.report().states == {} and b.report().warm == {line.version})
        stored = b.stored_report()
        assert stored
        assert not stored.get("data")
        assert "managedFields" not in stored["metadata"]


@on_node
async def test_a_restart_never_takes_back_what_is_warm(b: Bench) -> None:
    line = await push(b)
    async with b.agent():
        await warm(b, line)
    (b.state_dir / "state.json").unlink()
    async with b.agent():
        for _ in range(100):
            assert b.state(line) == "warm"
            await asyncio.sleep(0.05)


@with_agent
async def test_a_report_that_was_deleted_is_written_again_in_full(b: Bench) -> None:
    line = await push_warm(b)
    await b.kubernetes.delete(REPORT)
    await until(lambda: b.state(line) == "warm", seconds=260)


@with_agent
async def test_a_node_registered_again_adopts_its_report_at_once(b: Bench) -> None:
    line = await push_warm(b)
    await b.kubernetes.delete(node_path(b.node))
    uid = await b.register_node()
    await b.want(line)

    def owner() -> str:
        stored = b.stored_report()
        return stored["metadata"]["ownerReferences"][0]["uid"] if stored else ""

    assert await until(lambda: owner() == uid) < 3
    b.requests.clear()
    await asyncio.sleep(200)
    assert [path for _, _, path in b.requests if path == node_path(b.node)] == []


@with_agent
async def test_a_wrong_owner_in_the_other_configmap_is_doubted_once(b: Bench) -> None:
    await push_warm(b)
    b.requests.clear()
    owner = {"apiVersion": "v1", "kind": "Node", "name": b.node, "uid": "not-the-nodes"}
    for i in range(3):
        patch = {"metadata": {"ownerReferences": [owner], "annotations": {"i": str(i)}}, "data": {}}
        await b.patch_desired(patch)
        await asyncio.sleep(5)
    assert [path for _, _, path in b.requests if path == node_path(b.node)] == [node_path(b.node)]
    assert b.writes() == []


@instant
async def test_an_agent_without_its_node_pulls_and_delays_the_report() -> None:
    async with bench(registered=False) as b:
        line = a_push(b)
        metadata = {"name": desired_name(b.node)}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {line.key: line.encode()}}
        await b.kubernetes.create(configmaps(NAMESPACE), body)
        async with b.agent():
            await until(lambda: WEB in b.runtime.listed, seconds=5)
            await asyncio.sleep(900)
            assert b.stored_report() is None
            assert 2 <= len(b.events("node-not-found")) <= 5
            await b.register_node()
            await warm(b, line, seconds=35)


@on_node
async def test_a_runtime_that_is_down_at_the_start_is_named_in_one_line_and_waited_for(b: Bench) -> None:
    line = await push(b)
    b.runtime.unreachable = True
    async with b.agent():
        await until(lambda: b.state(line) == "waiting")
        assert b.reason(line) == "RuntimeError"
        await asyncio.sleep(100)
        assert len(b.events("runtime-unreachable")) == 1
        assert b.events("runtime-unreachable")[0]["endpoint"] == "unix:///run/containerd/containerd.sock"
        assert b.runtime.pulls == []
        b.runtime.unreachable = False
        await warm(b, line, seconds=40)


@with_agent
async def test_a_runtime_that_goes_down_has_no_warm_lines_and_pulls_nothing_twice(b: Bench) -> None:
    line = await push_warm(b)
    b.runtime.unreachable = True
    await until(lambda: b.state(line) == "waiting")
    b.runtime.unreachable = False
    await warm(b, line, seconds=40)
    assert b.runtime.pulls == [WEB]


@with_agent
async def test_a_short_break_of_the_runtime_is_not_worth_a_write(b: Bench) -> None:
    await push_warm(b)
    await asyncio.sleep(10)
    b.requests.clear()
    lists = b.runtime.lists
    b.runtime.unreachable = True
    await until(lambda: bool(b.events("runtime-unreachable")))
    b.runtime.unreachable = False
    await until(lambda: b.runtime.lists > lists)
    await asyncio.sleep(20)
    assert b.writes() == []


@with_agent
async def test_a_pull_during_which_the_runtime_dies_is_tried_again_when_it_is_back(b: Bench) -> None:
    b.runtime.pull_seconds = 10
    line = await push(b)
    await until(lambda: b.runtime.running == 1)
    b.runtime.unreachable = True
    await asyncio.sleep(60)
    b.runtime.unreachable = False
    await warm(b, line, seconds=60)
    assert len(b.runtime.pulls) == 2


@pytest.mark.slow
@with_agent
async def test_an_image_that_cannot_run_is_not_warm_although_the_runtime_lists_it(b: Bench) -> None:
    line = line_of(WEB, pull=Pull(backoff_limit=0))
    b.runtime.push(WEB, "a chart")
    b.runtime.fail(WEB, "NotRunnable")
    await b.want(line)
    await until(lambda: b.state(line) == "failed", seconds=30)
    assert WEB in b.runtime.listed
    await warm(b, line, seconds=600)
    assert len(b.runtime.pulls) == 2


@with_agent
async def test_an_unexpected_error_fails_one_image_only(b: Bench) -> None:
    bad, good = a_push(b, pull=Pull(backoff_limit=0)), a_push(b, "registry.example.com/shop/good:1", "good")
    b.runtime.failures[WEB].append(OverflowError("timeout is too large"))
    await b.want(bad, good)
    await warm(b, good)
    await until(lambda: b.state(bad) == "failed")
    assert "OverflowError" in b.detail(bad)


@with_agent
async def test_a_pull_that_the_runtime_does_not_list_afterwards_has_failed_and_is_not_repeated_at_once(
    b: Bench,
) -> None:
    line = line_of("registry.example.com/shop/web:v1", pull=Pull(backoff_limit=1))
    b.runtime.push(line.image, "v1")
    b.runtime.unlisted.add(line.image)
    await b.want(line)
    await until(lambda: b.state(line) == "failed")
    assert b.reason(line) == "RuntimeError"
    assert len(b.runtime.pulls) == 2


@on_node
async def test_lines_beyond_the_limit_are_reported_and_never_pulled(b: Bench) -> None:
    digest = digest_of("x")
    lines = [
        line_of(f"registry.example.com/shop/web@{digest}", name=f"n{i}", digest=digest, pull=Pull(priority=1))
        for i in range(256)
    ]
    extra = a_push(b)
    await b.want(*lines, extra)
    async with b.agent():
        await warm(b, *lines)
        assert b.state(extra) == "failed"
        assert b.reason(extra) == "TooManyLines"
        assert WEB not in b.runtime.pulls
        await b.want(without=(lines[0],))
        await warm(b, extra)


@pytest.mark.slow
@on_node
async def test_a_configmap_of_a_mebibyte_leads_to_a_report_that_the_cluster_takes(b: Bench) -> None:
    image = f"registry.example.com/shop/web@{digest_of('x')}"
    lines = [line_of(image, name=f"n{i}", digest=digest_of("x")) for i in range(4000)]
    patch = node_patch(b.node, await b.node_uid(), {line.key: line for line in lines})
    assert 700_000 < len(json.dumps(patch["data"])) < 2**20
    await b.patch_desired(patch)
    async with b.agent():
        await until(lambda: len(b.report().warm) == MAX_LINES)
        stored = b.stored_report()
        assert stored
        # The most of knative/base/agent-writes.yaml.
        assert len(stored["metadata"]["labels"]) <= 1024
        assert len(stored["data"]) <= 1024
        assert len(json.dumps(stored)) <= 256 * 1024


@with_agent
async def test_a_malformed_line_is_logged_once_counted_and_skipped(b: Bench) -> None:
    line = await push(b)
    await b.patch_desired({"data": {"f" * 16: "not a line", f"{line.key}.hint": '{"x":1}'}})
    await warm(b, line)
    await push(b, content="second")
    await asyncio.sleep(5)
    assert [event["key"] for event in b.events("malformed-line")] == ["f" * 16]
    assert b.metrics.registry.get_sample_value("warmhook_lines", {"state": "malformed"}) == 1
    assert b.metrics.registry.get_sample_value("warmhook_lines", {"state": "warm"}) == 1


@with_agent
async def test_a_line_of_a_newer_handler_is_reported_in_the_version_that_its_label_has(b: Bench) -> None:
    line = await push(b)
    fields = json.loads(line.encode()) | {"tomorrow": "z"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    await b.patch_desired({"data": {line.key: text}})
    await until(lambda: b.report().warm == {version_of(text)})


@on_node
async def test_an_agent_that_stops_cancels_its_pulls_reports_it_and_leaves_the_state_on_disk(b: Bench) -> None:
    done, long = a_push(b), a_push(b, "registry.example.com/shop/long:1", "long")
    await b.want(done)
    async with b.agent():
        await warm(b, done)
        b.runtime.pull_seconds = 600
        await b.want(long)
        await until(lambda: b.state(long) == "pulling")
    assert b.runtime.cancelled == [long.image]
    assert b.state(long) == "waiting"
    assert b.state(done) == "warm"
    assert b.events("agent-stopped")
    saved = json.loads((b.state_dir / "state.json").read_text())
    assert saved["lines"].keys() == {done.key, long.key}
    assert saved["pulled"] == {done.version: done.digest}
    assert {path.name for path in b.state_dir.iterdir()} == {"state.json", "removals.json"}


@on_node
async def test_stopping_takes_two_seconds_at_most_when_the_api_server_hangs(b: Bench) -> None:
    loop = asyncio.get_running_loop()
    b.runtime.pull_seconds = 600
    line = a_push(b)
    async with b.agent():
        await b.want(line)
        await until(lambda: b.state(line) == "pulling")
        b.hangs = True
        began = loop.time()
    assert loop.time() - began <= 2.1
    assert b.events("last-report-not-written")


@on_node
async def test_a_refused_report_is_logged_and_tried_again(b: Bench) -> None:
    b.refuse("POST", configmaps(NAMESPACE), 403, "Forbidden")
    line = await push(b)
    async with b.agent():
        await asyncio.sleep(200)
        assert len(b.events("report-refused")) == 1
        assert len(b.writes()) < 20
        b.answers.clear()
        await warm(b, line, seconds=35)


@with_agent
async def test_a_report_that_is_refused_because_of_foreign_fields_is_written_without_them(b: Bench) -> None:
    await push_warm(b)
    foreign = {"labels": {"team": "x"}, "annotations": {"note": "x"}, "finalizers": ["example.com/x"]}
    await b.kubernetes.patch(REPORT, {"metadata": foreign})
    b.refuse("PATCH", REPORT, 403, "Forbidden")
    newer = await push(b, content="second")
    await until(lambda: bool(b.events("report-refused")))
    b.answers.clear()
    await warm(b, newer, seconds=35)
    stored = b.stored_report()
    assert stored
    assert stored["metadata"]["labels"].keys() == {"warmhook.dev/kind"}
    assert stored["metadata"]["annotations"].keys() == {
        "warmhook.dev/node",
        "warmhook.dev/seen",
        "warmhook.dev/version",
        "warmhook.dev/warm",
    }
    assert not stored["metadata"].get("finalizers")


@pytest.mark.parametrize("code", [410, 504])
@with_agent
async def test_a_watch_that_is_refused_once_is_begun_again(b: Bench, code: int) -> None:
    await push_warm(b)
    b.refuse("GET", configmaps(NAMESPACE), code, "Expired" if code == 410 else "Timeout")
    b.server.end_watches()
    await asyncio.sleep(20)
    b.answers.clear()
    await push_warm(b, content="second", seconds=40)


@pytest.mark.parametrize("path", [configmaps(NAMESPACE), node_path("node-1")])
@pytest.mark.parametrize("body", ["{}", "[]", '{"metadata":null}', '{"metadata":{},"items":[{}]}', "<html>"])
@on_node
async def test_an_agent_waits_out_answers_that_are_not_those_of_an_api_server(b: Bench, path: str, body: str) -> None:
    line = await push(b)
    b.answers[("GET", path)] = Response(200, {}, body.encode())
    async with b.agent():
        await asyncio.sleep(60)
        b.answers.clear()
        await warm(b, line, seconds=35)


@with_agent
async def test_a_restarted_api_server_with_a_forgotten_history_is_read_again(b: Bench) -> None:
    await push_warm(b)
    await asyncio.sleep(30)
    newer = a_push(b, content="second")
    b.server.end_watches()
    await b.want(newer)
    b.server.compact()
    await warm(b, newer, seconds=10)


@with_agent
async def test_an_api_server_that_is_back_and_has_forgotten_its_history_is_read_without_another_wait(b: Bench) -> None:
    await push_warm(b)
    b.down = True
    b.server.end_watches()
    await asyncio.sleep(300)
    newer = await push(b, content="second")
    b.server.compact()
    known = len(b.requests)
    b.down = False
    await warm(b, newer, seconds=60)
    answered = [when for when, method, path in b.requests[known:] if (method, path) == ("GET", configmaps(NAMESPACE))]
    assert answered[1] - answered[0] < 1


@with_agent
async def test_pulls_are_counted_by_result_and_reason_and_logged_with_what_went_wrong(b: Bench) -> None:
    line = a_push(b)
    b.runtime.fail(WEB, "RateLimited", message="toomanyrequests:\nslow down")
    await b.want(line)
    await warm(b, line)
    value = b.metrics.registry.get_sample_value
    assert value("warmhook_pulls_total", {"result": "failed", "reason": "RateLimited"}) == 1
    assert value("warmhook_pulls_total", {"result": "pulled", "reason": ""}) == 1
    assert value("warmhook_pull_bytes_total") == 1000
    failed, pulled = b.events("pull")
    assert (failed["level"], failed["message"]) == ("warning", "toomanyrequests: slow down")
    assert (pulled["level"], pulled["attempts"], pulled["digest"]) == ("info", 2, line.digest)


@pytest.mark.slow
@with_agent
async def test_a_node_of_thousands_of_changes_is_never_written_more_than_once_a_second(b: Bench) -> None:
    images = [f"registry.example.com/shop/web{i}:1" for i in range(10)]
    for step in range(100):
        await b.want(*(a_push(b, image, f"{step}") for image in images[: step % 10 + 1]))
        await asyncio.sleep(0.4)
    writes = b.writes()
    # The create and the patch that goes with it count as one.
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(writes[1:]))


@on_node
async def test_a_runtime_that_accepts_requests_without_answering_is_logged_and_not_warm(b: Bench) -> None:
    class Stopped(MemoryRuntime):
        stopped = False

        async def images(self) -> list[RuntimeImage]:
            if self.stopped:
                await asyncio.sleep(86400)
            return await super().images()

    runtime = b.runtime = Stopped()
    line = await push(b)
    async with b.agent():
        await warm(b, line)
        runtime.stopped = True
        assert await until(lambda: b.state(line) != "warm") < 70
        assert "no answer within 15 s" in b.events("runtime-unreachable")[0]["error"]
        runtime.stopped = False
        await warm(b, line)


@on_node
async def test_a_pull_that_ends_at_its_time_limit_has_timed_out_whatever_the_error(b: Bench) -> None:
    class Removed(MemoryRuntime):
        async def pull(self, reference: str, *, timeout_seconds: float, credentials: Credentials | None = None) -> str:
            await asyncio.sleep(timeout_seconds)
            raise PullFailed("RuntimeError", "Stream removed")

    b.runtime = Removed()
    line = await push(b, pull=Pull(timeout_seconds=30, backoff_limit=0))
    async with b.agent():
        await until(lambda: b.state(line) == "failed")
        assert json.loads(b.detail(line)) == {
            "attempts": 1,
            "message": "the pull took longer than 30 s",
            "reason": "Timeout",
        }


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "localhost:5000", "[::1]:5000", "169.254.169.254"])
@on_node
async def test_a_node_does_not_pull_from_itself_unless_it_is_allowed(b: Bench, host: str) -> None:
    line, other = a_push(b, f"{host}/shop/local:1"), a_push(b)
    await b.want(line, other)
    async with b.agent():
        await warm(b, other)
        assert b.state(line) == "failed"
        assert b.reason(line) == "Refused"
        await asyncio.sleep(3600)
        assert b.runtime.pulls == [WEB]
    b.allow_local_registries = True
    async with b.agent():
        await warm(b, line)


@on_node
async def test_a_state_folder_that_cannot_be_written_is_logged_now_and_then(b: Bench) -> None:
    b.state_dir.write_text("a file")
    line = await push(b)
    async with b.agent():
        await warm(b, line)
        await asyncio.sleep(3600)
        assert 1 <= len(b.events("state-not-written")) <= 13
        b.state_dir.unlink()
        await until(lambda: bool(b.events("state-not-written-over")))
