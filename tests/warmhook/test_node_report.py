"""Everybody reads from a report what its agent meant, and nothing from one that lies."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.warmhook.test_node_lines import merged
from warmhook.api import LINE_LABEL
from warmhook.node_report import (
    TEXT_BYTES,
    LineReport,
    Report,
    bounded,
    clean_message,
    read_detail,
    read_report,
    reads_the_same,
    report_name,
    report_patch,
    seen_patch,
)
from warmhook.pull_failures import FailureReason

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEYS = st.integers(0, 9).map(lambda number: f"{number:016x}")
VERSIONS = st.integers(0, 2**32 - 1).map(lambda number: f"{number:08x}")
STATES = st.sampled_from(["warm", "waiting", "pulling", "failed"])
LINES = st.builds(
    LineReport, VERSIONS, STATES, st.sampled_from(["", "NotFound", "Timeout"]), st.integers(0, 3), st.text(max_size=9)
)
SETS = st.dictionaries(KEYS, LINES, max_size=6)


def written(*steps: dict[str, LineReport]) -> dict[str, Any]:
    """The report's object after the agent went through these steps."""
    configmap: dict[str, Any] = {}
    before: dict[str, LineReport] = {}
    for step in steps:
        configmap = merged(configmap, report_patch("node-1", "uid", NOW, before, step))
        before = step
    return configmap


@given(SETS, SETS)
def test_a_patched_report_is_the_same_as_one_written_at_once(one: dict[str, LineReport], two: dict[str, Any]) -> None:
    patched, whole = written(one, two), written(two)
    assert patched["metadata"] == whole["metadata"]
    assert patched.get("data", {}) == whole.get("data", {})


@given(SETS)
def test_every_line_is_read_in_its_state(lines: dict[str, LineReport]) -> None:
    report = read_report(written(lines)["metadata"])
    assert report.seen == NOW
    for key, line in lines.items():
        if line.state == "warm" or line.version not in report.warm:
            assert report.knows(key, line.version)
            assert report.state(key, line.version) == line.state
        assert report.state(key, "another!") == "waiting"


@given(SETS)
def test_reasons_and_messages_are_read_back(lines: dict[str, LineReport]) -> None:
    data = written(lines).get("data", {})
    for key, line in lines.items():
        if line.reason:
            assert read_detail(data[key]) == (line.reason, clean_message(line.message))


def test_a_report_says_of_warm_lines_whether_the_tag_has_moved() -> None:
    there = LineReport("00000000", "warm")
    moved = LineReport("11111111", "warm", moved="sha256:" + "a" * 64)
    report = read_report(written({"0" * 16: there, "1" * 16: moved})["metadata"])
    assert report.warm == {"00000000", "11111111"}
    assert report.moved == {"11111111"}
    assert read_report(written({"0" * 16: there})["metadata"]).moved == frozenset()


def test_at_rest_a_report_is_small() -> None:
    warm = {f"{number:016x}": LineReport(f"{number:08x}", "warm") for number in range(200)}
    assert len(str(written(warm))) < 2500
    assert not written(warm)["data"]


def test_a_sign_of_life_changes_nothing_else() -> None:
    before = written({"0" * 16: LineReport("00000000", "failed", "NotFound")})
    after = merged(before, seen_patch("node-1", "uid", NOW + timedelta(minutes=4)))
    assert after["metadata"]["annotations"].pop("warmhook.dev/seen") == "2026-05-01T00:04:00Z"
    del before["metadata"]["annotations"]["warmhook.dev/seen"]
    assert after == before


def test_an_agent_that_was_not_heard_for_ten_minutes_is_unreachable() -> None:
    report = Report("node-1", NOW)
    assert report.reachable(NOW + timedelta(minutes=9, seconds=59))
    assert not report.reachable(NOW + timedelta(minutes=10))
    assert not Report("node-1").reachable(NOW)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '"x"', '{"reason": "Haha"}', '{"reason": ["NotFound"]}'])
def test_a_detail_that_cannot_be_read_is_a_runtime_error(text: str) -> None:
    assert read_detail(text)[0] == "RuntimeError"


@given(
    st.dictionaries(st.sampled_from([LINE_LABEL + "0" * 16, LINE_LABEL, "app"]), st.text(max_size=20)),
    st.dictionaries(st.sampled_from(["warmhook.dev/warm", "warmhook.dev/seen", "warmhook.dev/node"]), st.text()),
)
def test_no_report_makes_reading_fail(labels: dict[str, str], annotations: dict[str, str]) -> None:
    report = read_report({"labels": labels, "annotations": annotations})
    assert {state for state, _ in report.states.values()} <= {"waiting", "pulling", "failed"}


@given(st.text(max_size=1000))
def test_messages_are_short_and_printable(text: str) -> None:
    message = clean_message(text)
    assert len(message) <= 200
    assert message.isprintable()


def test_the_name_fits_into_kubernetes() -> None:
    assert len(report_name("n" * 236)) <= 253


@given(
    st.lists(st.tuples(STATES, st.sampled_from(get_args(FailureReason)), st.text(max_size=300)), max_size=40),
    st.sampled_from([1, 8, 30]),
)
def test_text_never_makes_a_report_large_and_never_costs_a_state(
    lines: list[tuple[Any, FailureReason, str]], copies: int
) -> None:
    reports = {
        f"{number:016x}": LineReport(f"{number:08x}", state, reason, number, text)
        for number, (state, reason, text) in enumerate(lines * copies)
    }
    kept = bounded(reports)
    assert kept.keys() == reports.keys()
    assert all(reads_the_same(kept[key], line) for key, line in reports.items())
    assert all((kept[key].reason, kept[key].attempts) == (line.reason, line.attempts) for key, line in reports.items())
    messages = [json.dumps(line.message, ensure_ascii=False).encode() for line in kept.values() if line.message]
    assert sum(map(len, messages)) <= TEXT_BYTES
    assert bounded(kept) == kept


@pytest.mark.parametrize("text", ["\N{GRINNING FACE}" * 300, '"' * 300, "\\" * 300, "x" * 300])
def test_a_report_of_256_failed_lines_is_far_below_what_is_allowed(text: str) -> None:
    lines = {
        f"{number:016x}": LineReport(f"{number:08x}", "failed", "PlatformMissing", 10**6, text) for number in range(256)
    }
    report = written(bounded(lines))
    assert len(json.dumps(report, ensure_ascii=False).encode()) < 128 * 1024
    assert all(read_detail(value)[1] for value in report["data"].values())


def test_few_messages_are_whole() -> None:
    line = LineReport("0" * 8, "failed", "Network", 4, "connection refused " * 10)
    assert bounded({"a": line})["a"].message == clean_message(line.message)


@pytest.mark.parametrize("text", ["", "0.1.0 <b>", "1" * 65, "\u0661", "0.1\n"])
def test_what_is_no_version_of_an_agent_is_not_one(text: str) -> None:
    metadata = {"name": report_name("node-1"), "annotations": {"warmhook.dev/version": text}}
    assert read_report(metadata).agent == ""
    assert read_report(metadata | {"annotations": {"warmhook.dev/version": "1.2.0-rc.1"}}).agent == "1.2.0-rc.1"
