"""Every delivery in the senders' files of cases has the outcome that its case states."""

from __future__ import annotations

import asyncio

import pytest

from adapters.registries import Adapter, find_adapters
from tests.adapters.registries.cases import FOLDER, REQUIRED, Case, read_cases, written
from warmhook.events import Pushed

ADAPTERS = find_adapters()
CASES = {path.stem: read_cases(path) for path in sorted(FOLDER.glob("*.toml"))}
SENT = [(ADAPTERS[kind], case) for kind, cases in CASES.items() for case in cases if not case.absent]
VERIFIED = [(adapter, case) for adapter, case in SENT if case.verified is not None]


def _names(pairs: list[tuple[Adapter, Case]]) -> list[str]:
    return [f"{adapter.kind}: {case.name}" for adapter, case in pairs]


@pytest.mark.parametrize(("adapter", "case"), SENT, ids=_names(SENT))
def test_a_delivery_has_the_outcome_of_its_case(adapter: Adapter, case: Case) -> None:
    outcomes = adapter.parse(case.delivery, case.source(adapter))

    assert [written(outcome) for outcome in outcomes] == case.expect
    pushes = [outcome for outcome in outcomes if isinstance(outcome, Pushed)]
    if case.delivery_id is not None:
        assert {push.delivery_id for push in pushes} == {case.delivery_id}
    if case.pushed_at is not None:
        assert {push.pushed_at.isoformat() for push in pushes if push.pushed_at} == {case.pushed_at}


@pytest.mark.parametrize(("adapter", "case"), VERIFIED, ids=_names(VERIFIED))
def test_a_delivery_is_authenticated_by_its_secret_only(adapter: Adapter, case: Case) -> None:
    assert asyncio.run(adapter.verify(case.delivery, case.source(adapter))) is case.verified


def test_every_sender_has_a_file_of_cases() -> None:
    assert CASES.keys() == ADAPTERS.keys()


@pytest.mark.parametrize("kind", CASES)
def test_every_file_shows_the_required_situations_or_says_why_not(kind: str) -> None:
    names = [case.name for case in CASES[kind]]

    assert set(REQUIRED) <= set(names)
    assert len(names) == len(set(names))
    assert {case.verified for case in CASES[kind]} >= {True, False}


@pytest.mark.parametrize("kind", CASES)
def test_an_adapter_states_the_timeout_of_its_sender_if_a_refusal_would_lose_the_push(kind: str) -> None:
    assert {case.ack_timeout_seconds for case in CASES[kind]} == {ADAPTERS[kind].ack_timeout_seconds}
