"""The simulated transfer is as fast as the formulas say, and survives nodes that die."""

from __future__ import annotations

import pytest

from tests.bench.curves import FILE, bound, direct, doubling, simulated, trees
from tests.bench.streaming import REGISTRY, Load, Outcome, simulate
from tests.support.fleet import Forest, candidate, forest, node_names
from warmhook.distribution import Candidate, Rates, plan
from warmhook.peer_rates import measured_rates
from warmhook.peers import PeerReport
from warmhook.warmimages import Source

MB = 10**6
RATES = Rates(1250 * MB, 250 * MB)
SLOW_REGISTRY = Rates(10 * MB, 125 * MB)
CHUNK = 10 * MB


def fleet(count: int) -> list[Candidate]:
    return [candidate(name, zone=f"z{number % 3}") for number, name in enumerate(node_names(count))]


def transfer(count: int, rates: Rates, size: int, dies: dict[str, float] | None = None) -> tuple[Forest, Outcome]:
    wanted = fleet(count)
    planned = forest(plan("registry.example.com/shop/web", wanted, size, rates, Source()), wanted)
    return planned, simulate(planned.parents, Load(rates, size, CHUNK, 0.5, notice_seconds=3), dies)


def test_a_sender_divides_its_rate_and_sends_on_what_it_has() -> None:
    load = Load(Rates(10, 10), 1000, 10)
    assert simulate({"a": []}, load).finished == {"a": pytest.approx(100)}
    assert simulate({"a": [], "b": ["a"]}, load).finished == {"a": pytest.approx(100), "b": pytest.approx(101)}
    three = simulate({"a": [], "b": ["a"], "c": ["a"]}, load).finished  # b and c share what a can send
    assert three == {"a": pytest.approx(100), "b": pytest.approx(201), "c": pytest.approx(201)}
    assert simulate({"a": [], "b": []}, load).seconds == pytest.approx(200)


@pytest.mark.parametrize("count", [100, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("rates", [RATES, Rates(125 * MB, 125 * MB)])
def test_a_plan_is_as_fast_as_its_formula_and_faster_than_waves(count: int, rates: Rates) -> None:
    seconds = simulated(count, rates)
    assert bound(count, rates) < seconds < doubling(count, rates) < direct(count, rates)
    assert seconds == pytest.approx(trees(count, rates), rel=0.2)


@pytest.mark.slow
def test_the_time_to_transfer_hardly_grows_with_the_fleet() -> None:
    assert transfer(2000, RATES, 500 * MB)[1].seconds < 1.5 * transfer(100, RATES, 500 * MB)[1].seconds


def test_eight_nodes_take_little_longer_than_one_upload_of_a_slow_registry() -> None:
    _, outcome = transfer(8, SLOW_REGISTRY, 100 * MB)
    assert outcome.sent[REGISTRY] * CHUNK == 100 * MB
    assert outcome.seconds <= 1.3 * 10


def test_a_child_has_its_first_chunk_before_its_parent_has_the_last() -> None:
    planned, outcome = transfer(100, RATES, 1000 * MB)
    edges = [(name, parents[0]) for name, parents in planned.parents.items() if parents]
    assert all(outcome.first[name] < outcome.finished[parent] for name, parent in edges)


def test_the_registry_sends_each_byte_once_to_each_seed() -> None:
    planned, outcome = transfer(100, RATES, 500 * MB)
    assert len(outcome.finished) == 100
    assert outcome.sent[REGISTRY] == 50 * sum(not parents for parents in planned.parents.values())
    assert outcome.sent.total() == 50 * 100


@pytest.mark.parametrize("step", [20, 10])
def test_nodes_that_die_cost_time_and_hardly_any_bytes_of_the_registry(step: int) -> None:
    names = node_names(200)
    dies = dict.fromkeys(names[::step], 2.0)
    planned, healthy = transfer(200, RATES, 500 * MB)
    _, outcome = transfer(200, RATES, 500 * MB, dies)
    assert outcome.finished.keys() == set(names) - dies.keys()
    assert outcome.seconds < 3 * healthy.seconds
    seeds = sum(not parents for parents in planned.parents.values())
    assert outcome.sent[REGISTRY] <= 50 * (seeds + len(dies))
    assert outcome.sent.total() <= 50 * 200  # nothing is sent twice to one node


def test_the_children_of_the_only_seed_go_on_from_the_registry_if_it_dies() -> None:
    planned, _ = transfer(8, SLOW_REGISTRY, 100 * MB)
    (seed,) = (name for name, parents in planned.parents.items() if not parents)
    _, outcome = transfer(8, SLOW_REGISTRY, 100 * MB, {seed: 5.0})
    assert len(outcome.finished) == 7
    children = sum(parents[:1] == [seed] for parents in planned.parents.values())
    assert outcome.sent[REGISTRY] <= 5 + children * 7


def measured(planned: Forest, outcome: Outcome, size: int) -> list[PeerReport]:
    """What nodes report after a transfer."""
    seeds, reports = [name for name, parents in planned.parents.items() if not parents], []
    for name, finished in outcome.finished.items():
        rate = int(size / (finished - outcome.first[name]))
        of_registry = {"registry.example.com": rate * len(seeds)} if name in seeds else {}
        reports.append(PeerReport("10.0.0.1:9465", "k" * 43, 0 if of_registry else rate, of_registry))
    return reports


@pytest.mark.parametrize("registry_in_nodes", [0.1, 1, 5, 100])
def test_what_nodes_measure_leads_to_no_more_seeds_than_the_formula_with_the_true_rates(
    registry_in_nodes: float,
) -> None:
    true, size, reports = Rates(registry_in_nodes * 250 * MB, 250 * MB), 500 * MB, list[PeerReport]()
    wanted, name, counts = fleet(100), "registry.example.com/shop/web", []
    for push in range(8):
        rates = measured_rates(reports[-300:], "registry.example.com", Rates(125 * MB, 125 * MB))
        planned = forest(plan(f"{name}-{push}", wanted, size, rates, Source("peers")), wanted)
        outcome = simulate(planned.parents, Load(true, size, CHUNK, 0.5))
        reports += measured(planned, outcome, size)
        counts.append(sum(not parents for parents in planned.parents.values()))
    assert max(counts[3:]) <= max(1, round(1.44 * registry_in_nodes))  # three reports replace the setting
    assert outcome.seconds <= 1.3 * max(size / true.registry, 2 * size / true.node) + 4


@pytest.mark.slow
def test_the_drawing_in_the_docs_is_of_this_planner() -> None:
    from tests.bench.curves import _x, _y

    text = FILE.read_text()
    for nodes in (100, 200):
        assert f'cx="{_x(nodes)}" cy="{_y(simulated(nodes, RATES))}"' in text, "run python -m tests.bench.curves"
