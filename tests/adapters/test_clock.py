"""Waiting ends, however little time is left to wait."""

from __future__ import annotations

import asyncio
import random

from adapters.clock import Clock, utcnow
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
