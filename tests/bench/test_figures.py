"""Figures are judged where they mean something, and each is measured once."""

from __future__ import annotations

import json

import pytest

from tests.bench.__main__ import MEASUREMENTS
from tests.bench.figures import FIGURES, Bar, ClusterKind, Figure, Machine, Measured, as_json, judge
from tests.bench.runs import percentile
from tests.bench.runtimes import repository_of

RATIO = Figure("patch-rate-ratio-20", "ratio", Bar(0.8, at_least=True), needs_real_cluster=True)
MEMORY = Figure("web-rss-mib", "MiB", Bar(120))
CASES: dict[str, tuple[Figure, Measured, ClusterKind, bool | None]] = {
    "at the limit": (MEMORY, Measured("", 120), "real", True),
    "above the limit": (MEMORY, Measured("", 120.1), "real", False),
    "at least the limit": (RATIO, Measured("", 0.8), "real", True),
    "below the limit": (RATIO, Measured("", 0.79), "real", False),
    "depends on the API server, which is embedded": (RATIO, Measured("", 0.5), "embedded", None),
    "does not depend on it": (MEMORY, Measured("", 119), "embedded", True),
    "not measured": (MEMORY, Measured("", None, note="no containerd"), "real", None),
    "a bar that depends on another value": (MEMORY, Measured("", 100, bar=Bar(93.5)), "real", False),
    "no bar": (Figure("feasible-5000-ms", "ms"), Measured("", 12.5), "real", None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_figure_is_judged_by_its_bar_if_the_value_means_something(case: str) -> None:
    figure, measured, kind, holds = CASES[case]
    assert judge(figure, measured, kind).holds is holds


def test_the_file_has_a_row_for_each_figure_and_says_where_it_was_measured() -> None:
    machine = Machine(cpus=2, memory_gib=23.5, cluster="real")
    rows = [judge(MEMORY, Measured("", 99.123456), "real"), judge(RATIO, Measured("", None), "real")]
    where = {"cpus": 2, "memory_gib": 23.5, "cluster": "real"}
    memory = {"figure": "web-rss-mib", "value": 99.1235, "unit": "MiB", "bar": "<= 120", "holds": True}
    ratio = {"figure": "patch-rate-ratio-20", "value": None, "unit": "ratio", "bar": ">= 0.8", "holds": None}
    assert json.loads(as_json(rows, machine)) == [memory | {"machine": where}, ratio | {"machine": where}]


def test_every_figure_comes_from_exactly_one_measurement() -> None:
    given = [slug for slugs in MEASUREMENTS.values() for slug in slugs]
    assert sorted(given) == sorted(figure.slug for figure in FIGURES)


def test_percentiles_are_values_that_were_seen() -> None:
    assert [percentile(range(1, 101), rank) for rank in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7], 99) == 7


def test_references_on_a_node_of_the_bench_have_40_characters() -> None:
    assert len(f"127.0.0.1:40000/{repository_of(7)}:v1.0") == 40
