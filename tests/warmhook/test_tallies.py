"""Thousands of nodes are counted as the handlers count them one by one."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from tests.warmhook.inventories import NOW, add, image, version
from warmhook.inventory import DesiredFacts, Inventory, NodeFacts, ReportFacts
from warmhook.node_lines import Line
from warmhook.node_report import Report
from warmhook.overview import Tally
from warmhook.overview_rows import count_all
from warmhook.placement import Node
from warmhook.status import count
from warmhook.tallies import state_on, tally

IMAGES = [image(letter) for letter in "abc"]
LINES = {facts: Line(facts.key, facts.image) for facts in IMAGES}
Kind = Literal["warm", "pulling", "waiting", "failed", "old", "unseen", "refused", "absent"]
KINDS = st.sampled_from(["warm", "pulling", "waiting", "failed", "old", "unseen", "refused", "absent"])
NODES = st.lists(
    st.tuples(st.lists(KINDS, min_size=3, max_size=3), st.sampled_from([0, 5, 20, None]), st.sampled_from("xyz")),
    max_size=8,
)


@given(NODES)
def test_each_image_is_counted_as_for_its_status(found: list[tuple[list[Kind], int | None, str]]) -> None:
    inventory, nodes, reports = Inventory(), [], {}
    refused: dict[str, list[str]] = {}
    wanted: dict[str, list[Kind]] = {}
    for facts in IMAGES:
        inventory.set_image(facts)
    for number, (kinds, minutes, pool) in enumerate(found):
        name = f"node-{number}"
        wanted[name] = kinds
        node = Node(name, name, {}, created_at=NOW - timedelta(minutes=8))
        nodes.append(node)
        inventory.set_node(NodeFacts(name, pool, created_at=node.created_at))
        lines = [(facts, kind) for facts, kind in zip(IMAGES, kinds, strict=True) if kind not in ("refused", "absent")]
        refused[name] = [f.line_key for f, kind in zip(IMAGES, kinds, strict=True) if kind == "refused"]
        inventory.set_desired(
            name,
            DesiredFacts(
                tuple(sorted((facts.line_key, LINES[facts].version) for facts, _ in lines)),
                tuple(sorted(refused[name])),
            ),
        )
        if minutes is None:
            continue
        seen = NOW - timedelta(minutes=minutes)
        warm = frozenset(LINES[facts].version for facts, kind in lines if kind == "warm")
        states = {
            facts.line_key: (kind, LINES[facts].version)
            for facts, kind in lines
            if kind in ("pulling", "waiting", "failed")
        }
        states |= {facts.line_key: ("failed", "00000000") for facts, kind in lines if kind == "old"}
        reports[name] = Report(name, seen, warm, states)
        listed = tuple(sorted((key, state, of) for key, (state, of) in states.items()))
        inventory.set_report(name, ReportFacts(seen, tuple(sorted(warm)), listed))
    inventory.note_time(NOW)
    totals = count_all(inventory)
    for number, facts in enumerate(IMAGES):
        those = [node for node in nodes if wanted[node.name][number] != "absent"]
        full = [name for name, keys in refused.items() if facts.line_key in keys]
        counts = count(LINES[facts], those, reports, NOW, full)
        expected = Tally(counts.warm, counts.pulling, counts.waiting, counts.failed, counts.unreachable)
        assert totals.by_line.get(facts.line_key, Tally()) == expected
        assert totals.by_dimension["pool"].total(facts.line_key) == expected
        cells = totals.by_node().cells[facts.line_key]
        assert [cells.count(code) for code in (1, 2, 3, 4, 5)] == [
            expected.warm,
            expected.pulling,
            expected.waiting,
            expected.failed,
            expected.unreachable,
        ]
        on_each = [state_on(inventory, node.name, facts.line_key) for node in nodes]
        assert [on_each.count(state) for state in ("warm", "failed", None)] == [
            expected.warm,
            expected.failed,
            len(nodes) - len(those),
        ]


def test_groups_are_sorted_with_the_nodes_of_none_at_the_end() -> None:
    inventory, web = Inventory(), image("web")
    add(inventory, "a", {web: "warm"}, pool="blue")
    add(inventory, "b", {web: "failed"})
    add(inventory, "c", {web: "warm"}, pool="amber", silent=True)
    found = tally(inventory, {name: node.pool for name, node in inventory.nodes.items()})
    assert [(group.name, group.nodes, group.silent) for group in found.groups] == [
        ("amber", 1, 1),
        ("blue", 1, 0),
        ("", 1, 0),
    ]
    assert found.cells["amber"][web.line_key] == Tally(unreachable=1)


def test_a_line_in_an_older_version_waits() -> None:
    inventory, web = Inventory(), image("web")
    add(inventory, "a", {web: "warm"})
    inventory.set_desired("a", DesiredFacts(((web.line_key, "11111111"),)))
    assert state_on(inventory, "a", web.line_key) == "waiting"
    assert version(web) != "11111111"


def test_a_configmap_of_a_node_that_is_gone_counts_nothing() -> None:
    inventory, web = Inventory(), image("web")
    add(inventory, "a", {web: "warm"})
    inventory.drop_node("a")
    assert count_all(inventory).by_line == {}
