"""A plan reaches every node over trees of bounded fan-out, and says when the registry is the better source."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fleet import Forest, candidate, forest, node_names
from warmhook.distribution import Candidate, Plan, Rates, plan
from warmhook.distribution_tree import FAN_OUT, LISTED_MAX
from warmhook.hints import encode_hint, read_hint
from warmhook.labels import Requirement, Selector
from warmhook.warmimages import Limit, Source

IMAGE = "ghcr.io/shop/web"
MB = 10**6
LIKE_NODES = Rates(125 * MB, 125 * MB)
"""The registry is as fast as one node."""
FAST = Rates(1250 * MB, 250 * MB)
"""Five times as fast."""
GATEWAYS = Selector((Requirement("uplink", "In", ("good",)),))
PEERS = Source("peers", Limit(100, percent=True))

zones = st.sampled_from(["", "a", "b", "c"])
names = st.integers(0, 9999).map(lambda number: f"n{number}")
candidates = st.builds(
    candidate,
    names,
    zone=zones,
    architecture=st.sampled_from(["amd64", "amd64", "arm64"]),
    serves=st.sampled_from([True, True, True, False]),
    warm=st.sampled_from([False, False, False, True]),
    uplink=st.sampled_from(["bad", "good"]),
    rate=st.sampled_from([0, 1, 10 * MB, 100 * MB]),
    away=st.sampled_from([False, False, False, True]),
)
fleets = st.lists(candidates, max_size=40, unique_by=lambda each: each.node.name)
rates = st.sampled_from([LIKE_NODES, FAST, Rates(10 * MB, 125 * MB), Rates(1, 1)])
sources = st.builds(
    Source,
    st.sampled_from(["auto", "peers"]),
    st.sampled_from([Limit(10, percent=True), Limit(1), Limit(0), Limit(100, percent=True)]),
    st.sampled_from([None, None, GATEWAYS]),
)
sizes = st.sampled_from([0, MB, 100 * MB, 10_000 * MB])


def fleet(count: int, *, zones: int = 1, warm: int = 0, serves: bool = True) -> list[Candidate]:
    return [
        candidate(name, zone=f"z{number % zones}", warm=number < warm, serves=serves)
        for number, name in enumerate(node_names(count))
    ]


def cold(wanted: Sequence[Candidate]) -> set[str]:
    return {each.node.name for each in wanted if not each.warm}


def warm(wanted: Sequence[Candidate]) -> set[str]:
    return {each.node.name for each in wanted if each.warm}


def seeds(trees: Forest, wanted: Sequence[Candidate]) -> set[str]:
    """The nodes in the trees that read the registry."""
    serving = {each.node.name for each in wanted if each.peer is not None and not each.warm}
    return {name for name in serving & trees.parents.keys() if not trees.parents[name]}


@given(fleets, sizes, rates, sources)
def test_every_node_in_a_plan_gets_the_image_from_a_seed_or_from_a_warm_node(
    wanted: list[Candidate], size: int, rate: Rates, source: Source
) -> None:
    made = plan(IMAGE, wanted, size, rate, source)
    trees, serving = forest(made, wanted), [each for each in wanted if each.peer is not None]
    assert all(not trees.parents[name] for name in warm(wanted) & trees.parents.keys())
    assert len(seeds(trees, wanted)) <= made.seeds
    platforms = Counter(each.node.labels["kubernetes.io/arch"] for each in serving)
    for name in cold(serving) if made.outcome == "Peers" else ():
        alone = (
            platforms[next(each.node.labels["kubernetes.io/arch"] for each in serving if each.node.name == name)] < 2
        )
        assert alone == (name not in trees.parents)
        assert alone or trees.root(name) in seeds(trees, wanted) | warm(serving)


@given(fleets, sizes, rates, sources)
def test_no_node_waits_for_itself_over_any_of_the_listed_parents(
    wanted: list[Candidate], size: int, rate: Rates, source: Source
) -> None:
    trees = forest(plan(IMAGE, wanted, size, rate, source), wanted)
    for name, parents in trees.parents.items():
        above = set(parents)
        while above:
            assert name not in above
            above = {parent for each in above for parent in trees.parents[each]}


@given(fleets, sizes, rates, sources)
def test_a_node_serves_two_others_at_once_and_is_listed_by_six(
    wanted: list[Candidate], size: int, rate: Rates, source: Source
) -> None:
    trees = forest(plan(IMAGE, wanted, size, rate, source), wanted)
    first = Counter(parents[0] for parents in trees.parents.values() if parents)
    listed = Counter(parent for parents in trees.parents.values() for parent in parents)
    assert max(first.values(), default=0) <= FAN_OUT == 2
    assert max(listed.values(), default=0) <= LISTED_MAX == 6
    assert all(len(parents) <= 2 for parents in trees.parents.values())


@given(fleets, sizes, rates, sources)
def test_a_parent_lists_exactly_the_nodes_that_list_it(
    wanted: list[Candidate], size: int, rate: Rates, source: Source
) -> None:
    made = plan(IMAGE, wanted, size, rate, source)
    trees = forest(made, wanted)
    edges = {(parent, name) for name, parents in trees.parents.items() for parent in parents}
    assert edges == {(name, child) for name, children in trees.children.items() for child in children}


@given(fleets, sizes, rates, sources)
def test_parents_and_children_are_named_with_the_addresses_and_keys_of_their_reports(
    wanted: list[Candidate], size: int, rate: Rates, source: Source
) -> None:
    made, peers = plan(IMAGE, wanted, size, rate, source), {each.node.name: each.peer for each in wanted}
    for each in wanted:
        hint = made.hint(each.node.name, 1)
        if hint is None:
            continue
        for parent in hint.parents:
            peer = peers[parent.node]
            assert peer is not None
            assert (parent.address, parent.key) == (peer.address, peer.key)
        for child in hint.children:
            peer = peers[child.node]
            assert peer is not None
            assert child.key == peer.key


@given(fleets, sizes, rates, sources)
def test_nobody_gets_blobs_from_a_node_of_another_platform(
    wanted: list[Candidate], size: int, rate: Rates, source: Source
) -> None:
    trees = forest(plan(IMAGE, wanted, size, rate, source), wanted)
    platform = {each.node.name: each.node.labels["kubernetes.io/arch"] for each in wanted}
    assert all(platform[parent] == platform[name] for name, ps in trees.parents.items() for parent in ps)


@given(fleets, sizes, rates, sources)
def test_one_edge_leads_into_a_zone_that_has_no_source_and_none_into_the_others(
    wanted: list[Candidate], size: int, rate: Rates, source: Source
) -> None:
    trees = forest(plan(IMAGE, wanted, size, rate, source), wanted)
    labels = {each.node.name: each.node.labels for each in wanted}
    place = {name: (it.get("topology.kubernetes.io/zone"), it["kubernetes.io/arch"]) for name, it in labels.items()}
    crossing = Counter(
        place[name] for name, parents in trees.parents.items() if parents and place[parents[0]] != place[name]
    )
    # Those that are neither away nor slow, whatever the median is.
    usable = [it for it in wanted if it.peer is not None and it.peer.rate in {0, 100 * MB} and not it.node.away]
    sources = seeds(trees, wanted) | warm(usable)
    assert max(crossing.values(), default=0) <= 1
    assert not crossing.keys() & {place[name] for name in sources}


@given(fleets, sizes, rates, sources, st.randoms())
def test_a_plan_depends_on_the_set_of_nodes_and_not_on_their_order(
    wanted: list[Candidate], size: int, rate: Rates, source: Source, random: Random
) -> None:
    shuffled = random.sample(wanted, len(wanted))
    one, other = plan(IMAGE, wanted, size, rate, source), plan(IMAGE, shuffled, size, rate, source)
    assert (one.outcome, one.seeds, one.problem) == (other.outcome, other.seeds, other.problem)
    assert all(one.hint(each.node.name, 1) == other.hint(each.node.name, 1) for each in wanted)


@given(fleets, sizes, rates, sources)
def test_hints_have_their_expiry_and_agents_can_read_them(
    wanted: list[Candidate], size: int, rate: Rates, source: Source
) -> None:
    made, digest = plan(IMAGE, wanted, size, rate, source), f"sha256:{'a' * 64}"
    for each in wanted:
        hint = made.hint(each.node.name, 1_800_000_000, digest)
        if hint is not None:
            assert (hint.expires_at, hint.digest) == (1_800_000_000, digest)
            assert read_hint(encode_hint(hint)) == hint


@given(fleets, sizes, rates, sources)
def test_only_seed_nodes_read_the_registry_if_the_platform_has_one(
    wanted: list[Candidate], size: int, rate: Rates, source: Source
) -> None:
    made = plan(IMAGE, wanted, size, rate, source)
    trees = forest(made, wanted)
    labels = {each.node.name: each.node.labels for each in wanted}
    good = {labels[name]["uplink"] == "good" for name in seeds(trees, wanted)}
    if source.seed_nodes is not None and not made.problem:
        assert good <= {True}


def test_without_a_seed_node_any_node_reads_the_registry_and_the_plan_says_so() -> None:
    nobody = Source("peers", seed_nodes=GATEWAYS)
    made = plan(IMAGE, fleet(20), 100 * MB, LIKE_NODES, nobody)
    assert made.outcome == "Peers"
    assert len(seeds(forest(made, fleet(20)), fleet(20))) == 1
    assert made.problem == "no node that should have the image matches seedNodes: any of them may read the registry"
    gateway = [*fleet(20), candidate("gateway", uplink="good")]
    made = plan(IMAGE, gateway, 100 * MB, LIKE_NODES, nobody)
    assert (seeds(forest(made, gateway), gateway), made.problem) == ({"gateway"}, "")


@pytest.mark.parametrize(
    ("nodes", "rate", "limit", "expected"),
    [
        (100, FAST, Limit(10, percent=True), 7),
        (100, FAST, Limit(5, percent=True), 5),
        (100, FAST, Limit(3), 3),
        (100, FAST, Limit(0), 1),
        (100, LIKE_NODES, Limit(10, percent=True), 1),
        (100, Rates(10 * MB, 125 * MB), Limit(10, percent=True), 1),
        (1000, Rates(12500 * MB, 250 * MB), Limit(10, percent=True), 72),
    ],
)
def test_seeds_are_1_44_times_the_rate_of_the_registry_in_rates_of_a_node_up_to_the_limit(
    nodes: int, rate: Rates, limit: Limit, expected: int
) -> None:
    made = plan(IMAGE, fleet(nodes), 500 * MB, rate, Source("peers", limit))
    assert made.seeds == expected == len(seeds(forest(made, fleet(nodes)), fleet(nodes)))
    assert all(hint.seeds == expected for each in fleet(nodes) if (hint := made.hint(each.node.name, 1)))


def test_different_images_have_different_seeds() -> None:
    wanted = fleet(200)
    chosen = Counter(
        name
        for number in range(30)
        for name in seeds(forest(plan(f"{IMAGE}-{number}", wanted, 0, LIKE_NODES, PEERS), wanted), wanted)
    )
    assert len(chosen) > 20
    assert max(chosen.values()) <= 4


@pytest.mark.parametrize(("size", "edges"), [(500 * MB, 2), (2000 * MB, 0)])
def test_each_zone_has_its_own_seed_where_the_image_is_large(size: int, edges: int) -> None:
    wanted = fleet(90, zones=3)
    trees = forest(plan(IMAGE, wanted, size, LIKE_NODES, Source()), wanted)
    assert trees.crossings == edges
    assert len(seeds(trees, wanted)) == 3 - edges


def test_a_small_zone_has_its_own_seed_where_there_are_more_seeds_than_zones() -> None:
    wanted = [*fleet(200), candidate("far", zone="far"), candidate("farther", zone="far")]
    trees = forest(plan(IMAGE, wanted, 2000 * MB, FAST, Source()), wanted)
    assert (trees.crossings, len(seeds(trees, wanted))) == (0, 7)


def test_a_slow_registry_serves_no_seed_for_each_zone() -> None:
    wanted = fleet(90, zones=3)
    trees = forest(plan(IMAGE, wanted, 2000 * MB, Rates(60 * MB, 125 * MB), Source()), wanted)
    assert (trees.crossings, len(seeds(trees, wanted))) == (2, 1)


def test_a_hundred_zones_of_one_node_each_are_one_tree() -> None:
    wanted = fleet(100, zones=100)
    trees = forest(plan(IMAGE, wanted, 100 * MB, LIKE_NODES, Source()), wanted)
    assert trees.crossings == 99
    assert trees.height <= 14


@pytest.mark.parametrize("nodes", [100, 1000, 5000])
def test_a_tree_is_about_as_deep_as_the_logarithm_of_its_nodes(nodes: int) -> None:
    wanted = fleet(nodes, zones=3)
    assert forest(plan(IMAGE, wanted, 0, LIKE_NODES, Source()), wanted).height <= 1.5 * math.log2(nodes) + 3


# Late joiners


def test_a_node_that_joins_gets_the_image_from_warm_nodes_of_its_zone() -> None:
    for joined in range(30):
        wanted = [*fleet(60, zones=3, warm=60), candidate(f"new-{joined}", zone="z1")]
        made = plan(IMAGE, wanted, 1000 * MB, LIKE_NODES, Source("peers"))
        trees = forest(made, wanted)
        assert (made.seeds, trees.crossings) == (0, 0)
        assert set(trees.parents[f"new-{joined}"]) <= warm(wanted)
        assert trees.parents[f"new-{joined}"]
        assert sum(map(bool, trees.children.values())) <= 2  # so many ConfigMaps are written besides its own


def test_no_node_reads_the_registry_if_enough_are_warm() -> None:
    assert plan(IMAGE, fleet(100, warm=7), 500 * MB, FAST, Source()).seeds == 0
    assert plan(IMAGE, fleet(100, warm=4), 500 * MB, FAST, Source()).seeds == 3
    assert plan(IMAGE, fleet(100, warm=2), 500 * MB, LIKE_NODES, Source()).seeds == 0


def test_one_warm_node_that_may_be_down_is_not_the_only_source() -> None:
    wanted = fleet(100, warm=1)
    made = plan(IMAGE, wanted, 500 * MB, LIKE_NODES, Source())
    trees = forest(made, wanted)
    assert made.seeds == 1
    assert {trees.root(name) for name in cold(wanted)} >= seeds(trees, wanted)


def test_a_single_node_that_joins_pulls_from_a_registry_that_is_as_fast() -> None:
    made = plan(IMAGE, fleet(60, warm=59), 1000 * MB, LIKE_NODES, Source())
    assert made.outcome == "DirectIsFast"
    assert made.hint(node_names(60)[-1], 1) is None


def test_a_plan_made_while_nodes_get_warm_has_the_same_edges() -> None:
    before = forest(plan(IMAGE, fleet(200), 1000 * MB, LIKE_NODES, Source()), fleet(200))
    first = sorted(fleet(200), key=lambda each: before.depth(each.node.name))
    for done in (20, 100, 180):
        wanted = [candidate(each.node.name, zone="z0", warm=number < done) for number, each in enumerate(first)]
        after = forest(plan(IMAGE, wanted, 1000 * MB, LIKE_NODES, Source("peers")), wanted)
        changed = [name for name in cold(wanted) if after.parents[name] != before.parents[name]]
        assert len(changed) <= 3


# Nodes that would hold up others


@pytest.mark.parametrize("zones", [1, 3])
def test_slow_nodes_and_nodes_that_are_not_ready_have_no_others_below_them(zones: int) -> None:
    names = node_names(100)
    bad = names[::10]
    wanted = [
        candidate(
            name,
            zone=f"z{number % zones}",
            rate=5 * MB if name in bad[::2] else 50 * MB,
            away=name in bad[1::2],
        )
        for number, name in enumerate(names)
    ]
    trees = forest(plan(IMAGE, wanted, 500 * MB, LIKE_NODES, Source()), wanted)
    below = {parents[0] for name, parents in trees.parents.items() if parents and name not in bad}
    assert below.isdisjoint(bad)
    assert all(trees.parents[name] for name in bad)


def test_nodes_without_a_measured_rate_are_not_slow() -> None:
    one, other = fleet(100), [candidate(name, zone="z0", rate=50 * MB) for name in node_names(100)]
    mixed = one[:50] + other[50:]
    expected = forest(plan(IMAGE, one, 0, LIKE_NODES, PEERS), one).parents
    assert forest(plan(IMAGE, other, 0, LIKE_NODES, PEERS), other).parents == expected
    assert forest(plan(IMAGE, mixed, 0, LIKE_NODES, PEERS), mixed).parents == expected


def test_a_slow_node_that_is_warm_is_no_reason_to_have_no_seed() -> None:
    wanted = fleet(97) + [candidate(f"slow-{number}", zone="z0", warm=True, rate=MB) for number in range(3)]
    assert plan(IMAGE, wanted, 500 * MB, LIKE_NODES, Source()).seeds == 0  # nothing says that others are faster
    wanted = wanted[97:] + [candidate(name, zone="z0", rate=50 * MB) for name in node_names(97)]
    assert plan(IMAGE, wanted, 500 * MB, LIKE_NODES, Source()).seeds == 1


# Changes of the fleet


def changed_parents(before: Forest, after: Forest) -> tuple[int, int]:
    """How many nodes of both have another first parent, and how many another list of parents."""
    both = before.parents.keys() & after.parents.keys()
    first = sum(before.parents[name][:1] != after.parents[name][:1] for name in both)
    return first, sum(before.parents[name] != after.parents[name] for name in both)


@given(st.integers(3, 60), st.integers(1, 4), st.integers(0, 59), rates)
def test_a_node_that_leaves_changes_the_parents_of_nodes_on_one_path_only(
    nodes: int, zones: int, leaving: int, rate: Rates
) -> None:
    wanted, source = fleet(nodes, zones=zones), Source("peers", Limit(3))
    rest = [each for number, each in enumerate(wanted) if number != leaving % nodes]
    before = forest(plan(IMAGE, wanted, 0, rate, source), wanted)
    after = forest(plan(IMAGE, rest, 0, rate, source), rest)
    first, listed = changed_parents(before, after)
    # On each step of the path: the node that moves up, its sibling, and what they are a second choice for. One path in
    # its zone, and if the first of a zone leaves, one in the zones below.
    steps = before.height + 1
    assert first <= 2 * steps + 2 * (zones - 1)
    assert listed <= LISTED_MAX * (steps + zones - 1)


def test_a_node_that_leaves_changes_the_parents_of_few_others_on_average() -> None:
    wanted, source = fleet(150, zones=3), Source("peers", Limit(3))
    before = forest(plan(IMAGE, wanted, 0, FAST, source), wanted)
    counts = []
    for leaving in range(0, 150, 5):
        rest = wanted[:leaving] + wanted[leaving + 1 :]
        counts.append(changed_parents(before, forest(plan(IMAGE, rest, 0, FAST, source), rest)))
    assert sum(first for first, _ in counts) / len(counts) < 5
    assert sum(listed for _, listed in counts) / len(counts) < 10


def test_a_parent_that_a_node_had_still_serves_it_if_one_node_joins() -> None:
    wanted, source = fleet(200), Source("peers")
    before = forest(plan(IMAGE, wanted, 0, LIKE_NODES, source), wanted)
    for joined in range(50):
        more = [*wanted, candidate(f"new-{joined}", zone="z0")]
        after = forest(plan(IMAGE, more, 0, LIKE_NODES, source), more)
        kept = [name for name, parents in before.parents.items() if set(parents) & set(after.parents[name])]
        lost = before.parents.keys() - set(kept) - seeds(before, wanted)
        assert len(lost) <= 2, lost


def test_one_seed_more_changes_the_parents_of_one_node() -> None:
    wanted = fleet(300)
    plans = [forest(plan(IMAGE, wanted, 0, FAST, Source("peers", Limit(count))), wanted) for count in range(1, 8)]
    for fewer, more in pairwise(plans):
        assert changed_parents(fewer, more) == (1, 1)


# Whether peers pay


@pytest.mark.parametrize(
    ("nodes", "size", "rate", "outcome"),
    [
        (1000, 1000 * MB, LIKE_NODES, "Peers"),
        (1000, 1000 * MB, Rates(12500 * MB, 250 * MB), "Peers"),
        (100, 1000 * MB, Rates(12500 * MB, 250 * MB), "DirectIsFast"),  # the registry is as fast as half of the nodes
        (8, 100 * MB, LIKE_NODES, "Peers"),
        (8, 100 * MB, Rates(10 * MB, 125 * MB), "Peers"),
        (8, 10 * MB, LIKE_NODES, "DirectIsFast"),
        (1000, 1 * MB, FAST, "DirectIsFast"),
        (2, 1000 * MB, LIKE_NODES, "Peers"),
        (2, 1000 * MB, FAST, "DirectIsFast"),
        (100, 0, LIKE_NODES, "Peers"),  # of unknown size
    ],
)
def test_auto_uses_peers_where_that_is_faster_by_more_than_the_trouble(
    nodes: int, size: int, rate: Rates, outcome: str
) -> None:
    assert plan(IMAGE, fleet(nodes), size, rate, Source()).outcome == outcome


def test_direct_pulls_need_no_hint() -> None:
    made = plan(IMAGE, fleet(100), MB, LIKE_NODES, Source())
    assert (made.outcome, made.seeds, made.seconds) == ("DirectIsFast", 0, 0.0)
    assert {made.hint(name, 1) for name in node_names(100)} == {None}


def test_peers_are_always_used_if_the_source_says_so_and_two_nodes_can() -> None:
    assert plan(IMAGE, fleet(2), MB, FAST, Source("peers")).outcome == "Peers"
    assert plan(IMAGE, fleet(1), MB, FAST, Source("peers")).outcome == "TooFewNodes"
    assert plan(IMAGE, fleet(9, warm=9), MB, FAST, Source("peers")).outcome == "TooFewNodes"
    assert plan(IMAGE, [], MB, FAST, Source("peers")).outcome == "TooFewNodes"
    one_of_each = [candidate("a", architecture="amd64"), candidate("b", architecture="arm64")]
    assert plan(IMAGE, one_of_each, MB, FAST, Source("peers")).outcome == "TooFewNodes"


def test_peers_are_never_used_if_the_source_is_the_registry() -> None:
    made = plan(IMAGE, [*fleet(100), candidate("crio", serves=False)], 0, LIKE_NODES, Source("registry"))
    assert made == Plan("SourceIsRegistry")
    assert made.hint("crio", 1) is None


# Nodes that cannot use peers


def waits(made: Plan, count: int) -> list[int]:
    hints = (made.hint(name, 1) for name in node_names(count))
    return sorted(0 if hint is None else hint.wait_seconds for hint in hints)


def test_nodes_without_peers_pull_in_an_order_as_many_at_once_as_the_registry_serves() -> None:
    made = plan(IMAGE, fleet(20, serves=False), 1000 * MB, FAST, Source())
    assert made.outcome == "TooFewNodes"
    assert waits(made, 20) == [0] * 7 + [6] * 7 + [11] * 6  # 7 GB at 1.25 GB/s take 5.6 s
    assert all(not hint.parents for name in node_names(20) if (hint := made.hint(name, 1)))


@pytest.mark.parametrize(("mode", "longest"), [("auto", 120), ("peers", 600)])
def test_no_node_waits_for_the_registry_without_a_limit(mode: str, longest: int) -> None:
    source = Source("peers" if mode == "peers" else "auto")
    waited = waits(plan(IMAGE, fleet(5000, serves=False), 10_000 * MB, LIKE_NODES, source), 5000)
    assert (waited[0], waited[-1]) == (0, longest)
    assert max(Counter(waited).values()) <= 5000 / longest + 2  # evenly


def test_nodes_without_peers_do_not_wait_for_a_small_image() -> None:
    assert waits(plan(IMAGE, fleet(50, serves=False), 10 * MB, LIKE_NODES, Source()), 50) == [0] * 50


def test_a_node_that_serves_nobody_is_nobodys_parent_and_has_none() -> None:
    wanted = [*fleet(50), *(candidate(f"crio-{number}", serves=False, warm=number > 5) for number in range(10))]
    made = plan(IMAGE, wanted, 100 * MB, LIKE_NODES, Source())
    trees = forest(made, wanted)
    crio = {name for name in trees.parents if name.startswith("crio")}
    assert made.outcome == "Peers"
    assert not any(trees.parents[name] or trees.children[name] for name in crio)
    assert not any(parent.startswith("crio") for parents in trees.parents.values() for parent in parents)
