"""Every query of the dashboards and rules asks for what the programs expose, and all they expose is shown."""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests.observability.files import ROOT, panel_queries, queries, rules
from tests.observability.programs import OF_THE_SCRAPE, exposed
from tests.observability.promql import Selector, groupings, selectors

# Not on a dashboard: limits and sizes that say little about Warmhook; sums, whose quantiles are shown.
NOT_SHOWN: Final = {"process_virtual_memory_bytes", "process_open_fds", "process_max_fds"}
EXPOSED: Final = exposed()
RECORDED: Final = {rule["record"]: frozenset({"le"}) for rule in rules() if "record" in rule}
QUERIES: Final = queries()


def test_selectors_and_groupings_are_found_in_an_expression() -> None:
    expression = 'sum by (a, le) (rate(x_total{b="1, {y}", c!~"d|e"}[5m] offset 1h)) > on (f) 2 * z and time() < up'
    assert selectors(expression) == [
        Selector("x_total", (("b", "=", "1, {y}"), ("c", "!~", "d|e"))),
        Selector("z", ()),
        Selector("up", ()),
    ]
    assert groupings(expression) == {"a", "le", "f"}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_names_metrics_and_labels_that_exist(name: str) -> None:
    found = selectors(QUERIES[name])
    assert found
    known = {**EXPOSED, **RECORDED}
    assert {each.metric for each in found} <= known.keys()
    for each in found:
        assert {label for label, _, _ in each.matchers} <= known[each.metric] | OF_THE_SCRAPE
    everywhere = frozenset().union(*(known[each.metric] for each in found))
    assert groupings(QUERIES[name]) <= everywhere | OF_THE_SCRAPE


def test_the_values_that_queries_compare_labels_with_are_written_by_the_programs() -> None:
    sources = "".join(
        path.read_text()
        for folder in ("handlers", "nodeagent", "warmhook", "adapters")
        for path in (ROOT / folder).rglob("*.py")
    )
    matchers = {each for query in QUERIES.values() for found in selectors(query) for each in found.matchers}
    values = {
        (label, value)
        for label, _, pattern in matchers
        for value in pattern.split("|")
        if label not in OF_THE_SCRAPE | {"code", "verb"}
    }
    assert len(values) > 10
    assert {value for value in values if f'"{value[1]}"' not in sources} == set()


def test_jobs_are_those_of_the_pods() -> None:
    manifests = "".join(path.read_text() for path in (ROOT / "knative" / "base").glob("*.yaml"))
    jobs = {
        pattern
        for query in QUERIES.values()
        for found in selectors(query)
        for label, _, pattern in found.matchers
        if label == "job"
    }
    assert "warmhook-agent" in jobs
    assert {job for job in jobs if f"app.kubernetes.io/name: {job}" not in manifests} == {"warmhook-.+"}


def test_every_metric_is_on_a_dashboard_or_left_out_on_purpose() -> None:
    shown = {_family(found.metric) for query in panel_queries().values() for found in selectors(query)}
    ours = {_family(name) for name in EXPOSED}
    assert shown <= ours
    assert ours - shown == NOT_SHOWN


def _family(name: str) -> str:
    name = name.removeprefix("namespace_le:").removesuffix(":rate5m")
    return re.sub(r"(?<=_seconds)_(bucket|count|sum)$", "", name)


def test_queries_in_the_docs_name_metrics_and_labels_that_exist() -> None:
    pages = [path.read_text() for path in (ROOT / "docs").glob("*.md")]
    blocks = [block for page in pages for block in re.findall(r"```promql\n(.*?)```", page, flags=re.DOTALL)]
    found = [found for block in blocks for found in selectors(block)]
    assert len(found) > 2
    for each in found:
        assert each.metric in EXPOSED
        assert {label for label, _, _ in each.matchers} <= EXPOSED[each.metric] | OF_THE_SCRAPE
