"""What a write says is never more than is true."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.reporter import reportable, rewrite
from tests.warmhook.test_node_lines import merged
from tests.warmhook.test_node_report import NOW, SETS
from warmhook.node_report import LineReport, read_report, report_patch


@given(SETS, SETS, st.data())
def test_a_written_line_is_warm_only_if_it_is_warm_now(
    written: dict[str, LineReport], current: dict[str, LineReport], data: st.DataObject
) -> None:
    unsettled = {
        key for key, line in current.items() if line.state in ("waiting", "pulling") and data.draw(st.booleans())
    }
    said = reportable(written, current, unsettled)
    assert said.keys() <= current.keys()
    for key, line in said.items():
        assert line in (current[key], written.get(key))
        assert line.state != "warm" or current[key] == line
    assert reportable(said, current, set()) == current


@given(SETS, SETS)
def test_a_rewrite_leaves_no_line_of_the_old_report(old: dict[str, LineReport], new: dict[str, LineReport]) -> None:
    there: dict[str, Any] = merged({}, report_patch("node-1", "old", NOW, {}, old))
    there["metadata"]["labels"]["app"] = "kept"
    whole = report_patch("node-1", "new", NOW, {}, new)
    after, fresh = merged(there, rewrite(whole, there)), merged({}, whole)
    assert after["metadata"]["labels"].pop("app") == "kept"
    assert after["metadata"] == fresh["metadata"]
    assert after.get("data", {}) == fresh.get("data", {})
    assert read_report(after["metadata"]) == read_report(fresh["metadata"])
