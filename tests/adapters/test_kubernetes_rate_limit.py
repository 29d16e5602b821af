"""The load on the API server is as high as it allows, and no higher."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.kubernetes.rate_limit import AdaptiveLimiter, ByteRateLimiter, Lanes
from tests.support.instant import instant, instantly


async def _run(in_flight: AdaptiveLimiter, tasks: int, refuse: frozenset[int] = frozenset()) -> list[int]:
    """How many ran at once, seen by each task after it got its place; some of them are refused."""
    running, seen = 0, []

    async def one(number: int) -> None:
        nonlocal running
        async with in_flight.slot() as slot:
            running += 1
            seen.append(running - in_flight.limit)
            await asyncio.sleep(1)
            running -= 1
            if number in refuse:
                in_flight.refused(slot)
            else:
                in_flight.succeeded()

    await asyncio.gather(*map(one, range(tasks)))
    return seen


@instant
async def test_at_most_so_many_run_at_once() -> None:
    assert max(await _run(AdaptiveLimiter(4), 40)) == 0


@instant
async def test_a_refusal_halves_the_limit_and_successes_bring_it_back() -> None:
    in_flight = AdaptiveLimiter(8)
    await _run(in_flight, 1, refuse=frozenset({0}))
    assert in_flight.limit == 4
    assert max(await _run(in_flight, 40)) == 0
    assert in_flight.limit == 6
    await _run(in_flight, 400)
    assert in_flight.limit == 8
    assert max(await _run(in_flight, 40)) == 0


@instant
async def test_requests_that_were_refused_together_count_once() -> None:
    in_flight = AdaptiveLimiter(8)
    await _run(in_flight, 8, refuse=frozenset(range(8)))
    assert in_flight.limit == 4


@instant
async def test_one_place_is_always_left() -> None:
    in_flight = AdaptiveLimiter(4)
    for _ in range(9):
        await _run(in_flight, 1, refuse=frozenset({0}))
    assert in_flight.limit == 1
    await _run(in_flight, 30)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 5)), max_size=20), st.sets(st.integers(0, 30)))
@instant
async def test_a_cancelled_wait_holds_no_place(cancelled: list[tuple[int, float]], refused: set[int]) -> None:
    in_flight = AdaptiveLimiter(4)

    async def one(number: int) -> None:
        async with in_flight.slot() as slot:
            await asyncio.sleep(1)
            if number in refused:
                in_flight.refused(slot)

    tasks = [asyncio.create_task(one(number)) for number in range(31)]
    for number, after in cancelled:
        asyncio.get_running_loop().call_later(after, tasks[number].cancel)
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
    seen = await asyncio.wait_for(_run(in_flight, 20), 60)
    assert max(seen) == 0


def _seconds(rate: int, sizes: list[int]) -> float:
    async def case() -> float:
        loop = asyncio.get_running_loop()
        budget = ByteRateLimiter(rate, monotonic=loop.time, sleep=asyncio.sleep)
        for size in sizes:
            await budget.wait()
            budget.spend(size)
        return loop.time()

    return instantly(case())


def test_a_second_of_bytes_goes_at_once_and_the_rest_at_the_rate() -> None:
    assert _seconds(1000, [100] * 10) == 0
    assert 8 <= _seconds(1000, [100] * 100) <= 10


def test_zero_is_no_limit() -> None:
    assert _seconds(0, [10**9] * 100) == 0


def test_time_without_writes_is_not_saved_up() -> None:
    async def case() -> float:
        loop = asyncio.get_running_loop()
        budget = ByteRateLimiter(1000, monotonic=loop.time, sleep=asyncio.sleep)
        await asyncio.sleep(3600)
        for _ in range(50):
            await budget.wait()
            budget.spend(100)
        return loop.time() - 3600

    assert 3 <= instantly(case()) <= 5


class Requests:
    """Requests that take a second each, and when each began."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self.began: dict[str, float] = {}
        self.running = {True: 0, False: 0}

    async def send(self, name: str, *, urgent: bool = False, group: str = "") -> None:
        await self.lanes.enter(urgent=urgent, group=group)
        try:
            self.began[name] = asyncio.get_running_loop().time()
            self.running[urgent] += 1
            await asyncio.sleep(1)
            self.running[urgent] -= 1
        finally:
            self.lanes.leave(urgent=urgent, group=group)


@instant
async def test_an_urgent_request_starts_at_once_however_many_others_wait() -> None:
    requests = Requests()
    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(requests.send(f"patch {number}"))
        await asyncio.sleep(0.5)
        group.create_task(requests.send("push", urgent=True))
    assert requests.began["push"] == 0.5


@instant
async def test_others_go_on_in_small_numbers_while_urgent_requests_follow_each_other() -> None:
    requests = Requests()
    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(requests.send(f"patch {number}"))
        for number in range(10):
            await requests.send(f"push {number}", urgent=True)
            assert number == 0 or 1 <= requests.running[False] <= 4
            await asyncio.sleep(0.05)
    assert len(requests.began) == 210


@instant
async def test_urgent_requests_are_bounded_too() -> None:
    requests = Requests()
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(requests.send(f"push {number}", urgent=True))
        await asyncio.sleep(0.5)
        assert requests.running[True] == 32


@pytest.mark.parametrize("urgent", [True, False])
@instant
async def test_one_group_leaves_places_to_every_other(urgent: bool) -> None:
    requests = Requests()
    async with asyncio.TaskGroup() as group:
        for name in ("greedy", "second", "third"):
            for number in range(100):
                group.create_task(requests.send(f"{name} {number}", urgent=urgent, group=name))
                if number % 10 == 9:
                    await asyncio.sleep(0)
        await asyncio.sleep(0.5)
        group.create_task(requests.send("mine", urgent=urgent, group="mine"))
        group.create_task(requests.send("of no group", urgent=urgent))
    assert requests.began["mine"] == requests.began["of no group"] == 0.5
    assert len(requests.began) == 302


@instant
async def test_a_place_whose_taker_gave_up_goes_to_the_next() -> None:
    requests = Requests()
    running = [asyncio.create_task(requests.send(f"patch {number}")) for number in range(28)]
    waiting = [asyncio.create_task(requests.send(f"late {number}")) for number in range(3)]
    await asyncio.sleep(0.5)
    waiting[0].cancel()
    for task in running[:14]:
        task.cancel()
    await asyncio.wait([*running, *waiting])
    assert requests.began["late 1"] == 0.5
    await requests.send("afterwards")
    assert requests.began.keys() >= {"late 1", "late 2", "afterwards"}
