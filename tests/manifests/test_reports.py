"""What an agent reports has the form that the admission policy asks of reports."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from warmhook.api import WARM_ANNOTATION
from warmhook.node_report import LineReport, report_patch

POLICY = Path(__file__).parents[2] / "knative/base/agent-writes.yaml"


def test_the_list_of_warm_lines_has_a_form_that_is_admitted_also_where_tags_have_moved() -> None:
    lines = {
        "0" * 16: LineReport("89abcdef", "warm"),
        "1" * 16: LineReport("01234567", "warm", moved="sha256:" + "a" * 64),
    }
    none: dict[str, LineReport] = {}
    for want in (none, lines):
        written = report_patch("node-1", "uid", datetime(2026, 5, 1, tzinfo=UTC), {}, want)
        text = written["metadata"]["annotations"][WARM_ANNOTATION]
        forms = re.findall(rf"\['{re.escape(WARM_ANNOTATION)}'\]\.matches\('([^']+)'\)", POLICY.read_text())
        assert all(re.search(form, text) for form in forms), (text, forms)
