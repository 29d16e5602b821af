"""Rates are the medians of what nodes measured; a few nodes that lie change nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warmhook.distribution import Rates
from warmhook.peer_rates import measured_rates
from warmhook.peers import PeerReport

HOST = "harbor.example.com"
DEFAULTS = Rates(7_000_000, 9_000_000)


def report(rate: int = 0, registry: int = 0, host: str = HOST) -> PeerReport:
    return PeerReport("10.0.0.5:9465", "k" * 43, rate, {host: registry} if registry else {})


def test_the_medians_of_what_nodes_measured_count() -> None:
    reports = [report(rate * 10**6, rate * 10**7) for rate in (2, 30, 4)]
    assert measured_rates(reports, HOST, DEFAULTS) == Rates(40_000_000, 8_000_000)  # a parent sends to two


def test_two_nodes_are_too_few_to_replace_a_default() -> None:
    assert measured_rates([report(10**9, 10**9)] * 2, HOST, DEFAULTS) == DEFAULTS


def test_what_nodes_measured_of_another_registry_does_not_count() -> None:
    reports = [report(10**8, 10**9, "ghcr.io")] * 5
    assert measured_rates(reports, HOST, DEFAULTS) == Rates(DEFAULTS.registry, 2 * 10**8)


@given(st.lists(st.integers(0, 2**40), max_size=4))
def test_a_minority_that_lies_moves_no_rate_beyond_those_of_the_others(lies: list[int]) -> None:
    honest = [report(rate * 10**6, rate * 10**6) for rate in range(50, 55)]
    found = measured_rates([*honest, *(report(lie, lie) for lie in lies)], HOST, DEFAULTS)
    assert 100_000_000 <= found.node <= 108_000_000
    assert 50_000_000 <= found.registry <= 54_000_000


@given(st.lists(st.builds(report, st.integers(0, 2**40), st.integers(0, 2**40))))
def test_no_rate_is_absurd(reports: list[PeerReport]) -> None:
    found = measured_rates(reports, HOST, DEFAULTS)
    assert 10**6 <= found.node <= 10**11
    assert 10**6 <= found.registry <= 10**11
