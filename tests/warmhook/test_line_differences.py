"""What a node should hold is compared with what it reports."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from warmhook.line_differences import differences, line_difference, node_lines
from warmhook.node_lines import Line
from warmhook.node_report import LineState, Report
from warmhook.warmimages import ObjectKey

SEEN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def report(state: LineState = "warm", version: str = "", *, key: str = "k", warm: str = "", moved: str = "") -> Report:
    """With these warm versions, and one line in another state if it has a version."""
    states = {key: (state, version)} if version else {}
    return Report("n", SEEN, frozenset(warm.split()), states, frozenset(moved.split()))


@pytest.mark.parametrize(
    ("reported", "purged", "difference"),
    [
        (report(warm="v1"), False, None),
        (report(warm="v1", moved="v1"), False, "moved"),
        (report("waiting", "v1"), False, "missing"),
        (report("pulling", "v1"), False, "pulling"),
        (report("failed", "v1"), False, "failed"),
        (report("failed", "v0"), False, "unseen"),
        (report(warm="v0"), False, "unseen"),
        (report(), False, "unseen"),
        (report(warm="v1"), True, "kept"),
        (report("waiting", "v1"), True, None),
        (report(), True, "unseen"),
    ],
)
def test_a_line_differs_unless_the_report_has_this_version_warm(
    reported: Report, purged: bool, difference: str | None
) -> None:
    assert line_difference(reported, "k", "v1", purged=purged) == difference


def test_a_line_without_room_differs_if_the_node_has_no_other_version_of_it() -> None:
    found = differences({"a": "v1", "b": "v2"}, {"a", "c"}, report(warm="v1 v2"), ())
    assert list(found) == [("c", "noRoom")]


def test_the_lines_of_a_node_are_told_with_their_reasons_what_differs_first() -> None:
    lines = [Line(ObjectKey("shop", name), f"h.example/{name}:1") for name in "abc"]
    warm, failed, unseen = lines
    reported = report("failed", failed.version, key=failed.key, warm=warm.version)
    data = {line.key: line.encode() for line in lines} | {f"{warm.key}.hint": "{}"}
    detail = '{"reason":"NotFound","message":"no \\u001b[31msuch tag"}'
    found = node_lines(data, reported, {failed.key: detail, unseen.key: detail})
    assert [(each.warmimage.name, each.difference, each.reason, each.message) for each in found] == [
        ("b", "failed", "NotFound", "no [31msuch tag"),
        ("c", "unseen", "", "the report is older than the line"),
        ("a", None, "", ""),
    ]
    assert found[0].as_object() == {
        "namespace": "shop",
        "name": "b",
        "image": "h.example/b:1",
        "state": "failed",
        "difference": "failed",
        "reason": "NotFound",
        "message": "no [31msuch tag",
    }


def test_a_line_that_cannot_be_read_is_told_as_one_that_the_agent_does_not_see() -> None:
    (found,) = node_lines({"k": "{"}, report(), {})
    assert (found.warmimage.name, found.difference, found.reason) == ("k", "unseen", "Malformed")


@pytest.mark.parametrize("detail", ["", "7", "[]", "{", '{"message": 7}', '["reason"]'])
def test_details_that_a_node_broke_hide_nothing_else(detail: str) -> None:
    line = Line(ObjectKey("shop", "a"), "h.example/a:1")
    states: tuple[LineState, ...] = ("waiting", "failed")
    for state in states:
        reported = report(state, line.version, key=line.key)
        (found,) = node_lines({line.key: line.encode()}, reported, {line.key: detail})
        assert found.state == state
