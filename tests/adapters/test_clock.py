"""Waiting ends, however little time is left to wait, and a budget is kept to."""

from __future__ import annotations

import asyncio
import random

from adapters.clock import Budget, Clock, utcnow
from tests.support.instant import instant


@instant
async def test_a_wait_moves_a_clock_that_knows_no_smaller_step() -> None:
    loop = asyncio.get_running_loop()
    clock = Clock(utcnow, loop.time, asyncio.sleep, random.random)
    await asyncio.sleep(1e6)
    due = loop.time() + 1e-12
    began = loop.time()
    await clock.wait(asyncio.Event(), due - began)
    assert loop.time() > began


def test_what_has_no_budget_left_is_refused_and_costs_nothing() -> None:
    now = 0.0

    async def sleep(_seconds: float) -> None:
        """Nothing here waits."""

    budget = Budget(Clock(utcnow, lambda: now, sleep, lambda: 0.5), 2, 10)
    assert [budget.try_spend() for _ in range(5)] == [True, True, False, False, False]
    now = 10.0
    assert [budget.try_spend() for _ in range(2)] == [True, False]
