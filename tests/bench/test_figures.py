"""Are figures judged, printed and written as other programs expect?"""

from __future__ import annotations

import json
import os

import pytest

from tests.bench.__main__ import MEASUREMENTS
from tests.bench.figures import FIGURES, Bar, Figure, Machine, Measured, as_json, judge, table
from tests.bench.memory import cpu_seconds, read_memory
from tests.bench.runs import percentile
from tests.bench.runtimes import repository_of

MACHINE = Machine(cpus=2, memory_gib=23.5, cluster="real")
RATIO = Figure("patch-rate-ratio-20", "ratio", Bar(0.8, at_least=True), needs_real_cluster=True)
MEMORY = Figure("web-rss-mib", "MiB", Bar(120))


@pytest.mark.parametrize(
    ("bar", "value", "holds"),
    [
        (Bar(25), 25, True),
        (Bar(25), 25.1, False),
        (Bar(0.8, at_least=True), 0.8, True),
        (Bar(0.8, at_least=True), 0.79, False),
    ],
)
def test_the_limit_itself_holds(bar: Bar, value: float, holds: bool) -> None:
    assert bar.holds(value) is holds


def test_a_bar_is_written_as_its_comparison_unless_it_needs_more_words() -> None:
    assert [str(bar) for bar in (Bar(57344), Bar(0.8, at_least=True), Bar(93.5, text="<= 1.1 x 85.0"))] == [
        "<= 57344",
        ">= 0.8",
        "<= 1.1 x 85.0",
    ]


def test_what_depends_on_the_api_server_is_only_printed_on_the_embedded_one() -> None:
    measured = Measured(RATIO.slug, 0.5)
    assert judge(RATIO, measured, "embedded").holds is None
    assert judge(RATIO, measured, "real").holds is False


def test_what_does_not_depend_on_it_is_judged_everywhere() -> None:
    assert judge(MEMORY, Measured(MEMORY.slug, 119), "embedded").holds is True


def test_a_figure_that_was_not_measured_is_not_judged() -> None:
    assert judge(MEMORY, Measured(MEMORY.slug, None, note="not measured: no containerd"), "real").holds is None


def test_a_bar_that_depends_on_another_value_replaces_the_figures_own() -> None:
    row = judge(MEMORY, Measured(MEMORY.slug, 100, bar=Bar(93.5, text="<= 1.1 x 85.0")), "real")
    assert (row.holds, str(row.bar)) == (False, "<= 1.1 x 85.0")


def test_a_figure_without_a_bar_is_printed_only() -> None:
    row = judge(Figure("feasible-5000-ms", "ms"), Measured("feasible-5000-ms", 12.5), "real")
    assert (row.holds, json.loads(as_json([row], MACHINE))[0]["bar"]) == (None, "printed")


def test_json_has_a_row_for_each_figure_and_says_where_it_was_measured() -> None:
    rows = [judge(MEMORY, Measured(MEMORY.slug, 99.123456), "real"), judge(RATIO, Measured(RATIO.slug, None), "real")]
    machine = {"cpus": 2, "memory_gib": 23.5, "cluster": "real"}
    assert json.loads(as_json(rows, MACHINE)) == [
        {
            "figure": "web-rss-mib",
            "value": 99.1235,
            "unit": "MiB",
            "bar": "<= 120",
            "holds": True,
            "machine": machine,
        },
        {
            "figure": "patch-rate-ratio-20",
            "value": None,
            "unit": "ratio",
            "bar": ">= 0.8",
            "holds": None,
            "machine": machine,
        },
    ]


def test_the_table_shows_value_bar_judgement_spread_and_note() -> None:
    missed = judge(MEMORY, Measured(MEMORY.slug, 130.0, [128.0, 133.0], "PSS 101.0 MiB"), "real")
    absent = judge(RATIO, Measured(RATIO.slug, None, note="not measured: no cluster"), "real")
    lines = table([missed, absent]).splitlines()
    assert lines[1].split() == ["web-rss-mib", "130", "MiB", "<=", "120", "NO", "128..133", "(2)"]
    assert lines[2].strip() == "PSS 101.0 MiB"
    assert lines[3].split()[:3] == ["patch-rate-ratio-20", "not", "measured"]
    assert lines[4].strip() == "not measured: no cluster"


def test_every_figure_comes_from_exactly_one_measurement() -> None:
    given = [slug for slugs in MEASUREMENTS.values() for slug in slugs]
    assert sorted(given) == sorted(figure.slug for figure in FIGURES)


def test_percentiles_are_values_that_were_seen() -> None:
    assert [percentile(range(1, 101), rank) for rank in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7], 99) == 7


def test_memory_and_processor_time_of_a_process_are_read() -> None:
    memory = read_memory(os.getpid())
    assert memory.rss >= memory.pss > 0
    assert cpu_seconds(os.getpid()) > 0


def test_references_on_a_node_of_the_bench_have_40_characters() -> None:
    assert len(f"127.0.0.1:40000/{repository_of(7)}:v1.0") == 40
