"""Lines that fail cost no more writes and log lines than lines that are warm."""

from __future__ import annotations

import asyncio

import pytest

from adapters.clock import Budget
from tests.support.agents import Bench, a_push, line_of, on_node, push, warm, with_agent
from tests.support.instant import until
from warmhook.node_lines import Line
from warmhook.node_report import TEXT_BYTES
from warmhook.ports import PullFailed
from warmhook.pull_failures import FailureReason
from warmhook.warmimages import Pull

pytestmark = pytest.mark.slow

HOUR = 3600


def failing(b: Bench, many: int, reason: FailureReason, message: str = "no") -> list[Line]:
    lines = [line_of(f"registry.example.com/shop/bad{i}:1", pull=Pull(timeout_seconds=60)) for i in range(many)]
    for line in lines:
        b.runtime.failures[line.image] += [PullFailed(reason, message)] * 1000
    return lines


def failed(b: Bench, lines: list[Line]) -> bool:
    states = b.report().states
    return all(states.get(line.key) == ("failed", line.version) for line in lines)


@pytest.mark.parametrize(("many", "reason"), [(1, "Network"), (20, "Unauthorized"), (20, "Network")])
@with_agent
async def test_lines_that_go_on_failing_cost_one_write_every_four_minutes(
    b: Bench, many: int, reason: FailureReason
) -> None:
    lines = failing(b, many, reason)
    await b.want(*lines)
    await until(lambda: failed(b, lines), seconds=HOUR, step=10)
    await asyncio.sleep(60)
    b.requests.clear()
    b.logs.clear()
    pulls = len(b.runtime.pulls)
    await asyncio.sleep(2 * HOUR)
    assert len(b.runtime.pulls) > pulls
    assert len(b.writes()) <= 2 * HOUR / 225
    assert b.events("pull") == []


@with_agent
async def test_a_failed_line_stays_failed_in_report_and_metric_while_it_is_retried(b: Bench) -> None:
    line = line_of("registry.example.com/shop/stalls:1", pull=Pull(timeout_seconds=600, backoff_limit=1))
    b.runtime.hanging.add(line.image)
    await b.want(line)
    await until(lambda: b.state(line) == "failed", seconds=HOUR)
    b.requests.clear()
    tries, began = len(b.runtime.pulls), asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - began < 2 * HOUR:
        assert b.state(line) == "failed"
        assert b.metrics.registry.get_sample_value("warmhook_lines", {"state": "failed"}) == 1
        await asyncio.sleep(31)
    assert len(b.runtime.pulls) - tries > 3
    assert len(b.writes()) <= 2 * HOUR / 225


@with_agent
async def test_the_log_has_the_first_failure_and_the_last_retry_but_none_between(b: Bench) -> None:
    line = a_push(b, pull=Pull(backoff_limit=3))
    b.runtime.failures[line.image] += [PullFailed("Network", "reset")] * 6
    await b.want(line)
    await until(lambda: b.state(line) == "warm", seconds=HOUR, step=10)
    assert [(event["result"], event["attempts"]) for event in b.events("pull")] == [
        ("failed", 1),
        ("failed", 4),
        ("pulled", 7),
    ]


@with_agent
async def test_messages_of_any_length_and_script_leave_the_report_small_and_written(b: Bench) -> None:
    lines = failing(b, 60, "Unauthorized", "\N{GRINNING FACE}" * 200)
    await b.want(*lines)
    await until(lambda: failed(b, lines), seconds=HOUR, step=10)
    good = a_push(b, pull=Pull(priority=1))
    await b.want(good, without=(lines[0],))
    await warm(b, good)
    await asyncio.sleep(300)
    stored = b.stored_report()
    assert stored
    size = sum(len(f"{key}{value}".encode()) for key, value in stored["data"].items())
    assert size < TEXT_BYTES + 60 * 80
    assert "\N{GRINNING FACE}" in stored["data"][lines[1].key]


@with_agent
async def test_states_that_change_for_ever_are_written_ever_more_rarely(b: Bench) -> None:
    await push(b)
    for step in range(250):
        await push(b, content=f"{step}")
        await asyncio.sleep(3)
    assert len(b.writes()) <= 120 + 750 / 30 + 10


@on_node
async def test_a_budget_lets_a_burst_pass_and_then_one_at_a_time(b: Bench) -> None:
    budget = Budget(b.clock(), 3, 10)
    assert [budget.spend() for _ in range(4)] == [0, 0, 10, 20]
    await asyncio.sleep(100)
    assert [budget.spend() for _ in range(3)] == [0, 0, 10]
