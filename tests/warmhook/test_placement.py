"""Placement chooses the nodes of an image, and keeps its choice when nodes come and go."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.images import parse_reference
from warmhook.labels import Requirement, Selector
from warmhook.placement import (
    ANY_LINUX_NODE,
    NODE_NAME_MAX,
    Node,
    is_away,
    node_selector,
    place,
    place_each,
    reads_taints,
)
from warmhook.warmimages import Limit, Nodes, ObjectKey, Template, WarmImage

LINUX = {"kubernetes.io/os": "linux"}
WEB = Selector((Requirement("pool", "In", ("web",)),))


def node(name: str, **labels: str) -> Node:
    return Node(name, f"uid of {name}", {**LINUX, **labels})


def names(wanted: Nodes, *nodes: Node, image: str = "ghcr.io/a/b:1") -> list[str]:
    return sorted(it.name for it in place(image, wanted, nodes))


def test_without_a_selector_every_linux_node_is_meant_that_is_no_virtual_kubelet() -> None:
    windows = Node("w", "u", {"kubernetes.io/os": "windows"})
    assert names(Nodes(), node("a"), windows, Node("bare", "u", {}), node("v", type="virtual-kubelet")) == ["a"]
    assert node_selector(Nodes()) == ANY_LINUX_NODE


def test_names_alone_mean_any_node_and_beside_a_selector_both_must_hold() -> None:
    windows = Node("w", "u", {"kubernetes.io/os": "windows"})
    assert names(Nodes(names=("w", "gone")), node("a"), windows) == ["w"]
    assert names(Nodes(WEB, names=("a", "b")), node("a", pool="web"), node("b"), node("c", pool="web")) == ["a"]


def test_an_empty_selector_means_every_node() -> None:
    assert names(Nodes(Selector()), node("a"), Node("bare", "u", {})) == ["a", "bare"]


def test_a_node_whose_name_leaves_no_room_for_a_configmaps_is_not_chosen() -> None:
    assert len(f"warmhook-desired-{'x' * NODE_NAME_MAX}") == 253
    assert names(Nodes(), node("x" * NODE_NAME_MAX), node("x" * (NODE_NAME_MAX + 1))) == ["x" * NODE_NAME_MAX]


@pytest.mark.parametrize(
    ("limit", "of_ten"),
    [
        (Limit(0), 0),
        (Limit(3), 3),
        (Limit(99), 10),
        (Limit(0, percent=True), 0),
        (Limit(1, percent=True), 1),
        (Limit(30, percent=True), 3),
        (Limit(31, percent=True), 4),
        (Limit(100, percent=True), 10),
    ],
)
def test_a_limit_is_a_number_or_a_percentage_rounded_up(limit: Limit, of_ten: int) -> None:
    assert len(names(Nodes(limit=limit), *(node(f"n{i}") for i in range(10)))) == of_ten


@given(st.integers(0, 100), st.integers(0, 6000))
def test_a_percentage_is_never_rounded_down_and_never_above_all(percent: int, nodes: int) -> None:
    assert Limit(percent, percent=True).of(nodes) == min(nodes, math.ceil(nodes * percent / 100 - 1e-9))


def test_a_limit_takes_the_lowest_hashes_over_image_and_name() -> None:
    nodes = [node(f"n{i}") for i in range(9)]
    ranked = sorted(nodes, key=lambda it: hashlib.sha256(f"ghcr.io/a/b:1\n{it.name}".encode()).hexdigest())
    assert place("ghcr.io/a/b:1", Nodes(limit=Limit(4)), nodes) == ranked[:4]


node_names = st.sets(st.integers(0, 999), max_size=30)


@given(node_names, st.integers(0, 999), st.integers(1, 8))
def test_a_node_that_joins_or_leaves_moves_at_most_one_placement(members: set[int], other: int, limit: int) -> None:
    few = [node(f"n{i}") for i in sorted(members - {other})]
    before, after = (set(names(Nodes(limit=Limit(limit)), *nodes)) for nodes in (few, [*few, node(f"n{other}")]))
    assert len(before - after) <= 1
    assert after - before <= {f"n{other}"}


@given(node_names, st.integers(0, 8), st.randoms())
def test_the_order_of_the_nodes_does_not_matter(members: set[int], limit: int, random: Random) -> None:
    nodes = [node(f"n{i}") for i in members]
    shuffled = random.sample(nodes, len(nodes))
    assert place("a", Nodes(limit=Limit(limit)), nodes) == place("a", Nodes(limit=Limit(limit)), shuffled)


@given(
    node_names, st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 5), st.booleans()), max_size=6)
)
def test_placing_many_is_placing_each(members: set[int], asked: list[tuple[str, int | None, bool]]) -> None:
    nodes = [node(f"n{i}", pool="web" if i % 2 else "db") for i in members]
    warmimages = [
        WarmImage(
            ObjectKey("shop", str(number)),
            parse_reference(f"ghcr.io/a/{letter}:1"),
            template=Template(Nodes(WEB if web else None, limit=None if limit is None else Limit(limit))),
        )
        for number, (letter, limit, web) in enumerate(asked)
    ]
    together = [(it, chosen) for it, chosen in place_each(warmimages, nodes)]
    assert together == [(it, place(str(it.image), it.template.nodes, nodes)) for it in warmimages]


def test_the_digest_has_no_say_in_the_ranking() -> None:
    bare = WarmImage(ObjectKey("shop", "x"), parse_reference("ghcr.io/a/b:1"), template=Template(Nodes(limit=Limit(2))))
    nodes = [node(f"n{i}") for i in range(9)]
    one, two = place_each([bare, replace(bare, digest="sha256:" + "b" * 64)], nodes)
    assert one[1] == two[1]


@given(st.sets(st.integers(0, 30), min_size=1), st.sets(st.integers(0, 30)), st.integers(0, 12))
def test_a_limit_takes_nodes_that_are_away_only_where_no_others_are_left(
    members: set[int], away: set[int], limit: int
) -> None:
    nodes = [replace(node(f"n{number}"), away=number in away) for number in members]
    chosen = place("ghcr.io/a/b:1", Nodes(limit=Limit(limit)), nodes)
    assert len(chosen) == min(limit, len(members))
    present = [it for it in nodes if not it.away]
    assert {it.name for it in chosen if not it.away} == {
        it.name for it in place("ghcr.io/a/b:1", Nodes(limit=Limit(limit)), present)
    }


@pytest.mark.parametrize(
    ("cordoned", "minutes", "away"), [(False, None, False), (True, None, True), (False, 9, False), (False, 10, True)]
)
def test_a_node_is_away_when_it_is_cordoned_or_not_ready_for_ten_minutes(
    cordoned: bool, minutes: int | None, away: bool
) -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    since = None if minutes is None else now - timedelta(minutes=minutes)
    assert is_away(cordoned, since, now) is away


def test_whole_nodes_are_read_only_where_a_limit_or_tolerations_need_them() -> None:
    asked = [Nodes(), Nodes(limit=Limit(1)), Nodes(tolerations=())]
    image = parse_reference("ghcr.io/a/b:1")
    warmimages = [WarmImage(ObjectKey("a", "b"), image, template=Template(nodes=nodes)) for nodes in asked]
    assert [reads_taints([warmimage]) for warmimage in warmimages] == [False, True, True]
