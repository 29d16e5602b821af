"""Requests that arrive side by side share rounds, and each gets the outcome of its own items."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from adapters.kubernetes.errors import Refused, Unavailable
from handlers.reconcile.coalescing import Coalescer
from tests.support.instant import instant


@dataclass
class Rounds:
    """Work that takes as long as it is told to, and writes down what it was given."""

    seconds: Callable[[Mapping[str, int]], float] = lambda _items: 1
    problems: Callable[[Mapping[str, int]], Mapping[str, Exception]] = lambda _items: {}
    begun: list[tuple[float, dict[str, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rounds = Coalescer("test", self.work, at_once=2, seconds=27, sleep=asyncio.sleep)

    async def work(self, items: Mapping[str, int]) -> Mapping[str, Exception]:
        self.begun.append((asyncio.get_running_loop().time(), dict(items)))
        await asyncio.sleep(self.seconds(items))
        return self.problems(items)

    def ask(self, *items: str, version: int = 0) -> asyncio.Task[None]:
        return asyncio.create_task(self.rounds.join(dict.fromkeys(items, version)), name="request")


@instant
async def test_a_request_that_comes_alone_waits_for_nobody_and_a_crowd_shares_a_round() -> None:
    work = Rounds()
    requests = [work.ask("a")]
    for number in range(10):
        await asyncio.sleep(0.01)
        requests.append(work.ask(f"b{number}"))
    await asyncio.gather(*requests)
    assert [(round(began, 2), len(items)) for began, items in work.begun] == [(0, 1), (0.2, 10)]


@instant
async def test_an_item_is_in_one_round_at_a_time_with_the_newest_version() -> None:
    work = Rounds()
    requests = [work.ask("a", version=3)]
    await asyncio.sleep(0.5)
    requests += [work.ask("a", version=9), work.ask("a", version=7)]
    await asyncio.gather(*requests)
    assert work.begun == [(0, {"a": 3}), (pytest.approx(1, abs=0.01), {"a": 9})]


@instant
async def test_a_round_that_hangs_holds_up_nothing_that_comes_later() -> None:
    work = Rounds(seconds=lambda items: 20 if "slow" in items else 0.1)
    slow = work.ask("slow")
    await asyncio.sleep(0.3)
    quick, again = work.ask("a"), work.ask("slow", "b")
    await quick
    assert asyncio.get_running_loop().time() < 1
    assert not slow.done()
    assert not again.done()
    await again


@instant
async def test_each_request_gets_the_outcome_of_its_own_items() -> None:
    refused, later = Refused("no"), Unavailable("not now")
    work = Rounds(problems=lambda items: {k: v for k, v in {"r": refused, "l": later}.items() if k in items})
    first = work.ask("x")
    await asyncio.sleep(0.1)
    requests = [work.ask("a"), work.ask("a", "r"), work.ask("r", "l"), work.ask("l")]
    outcomes = await asyncio.gather(first, *requests, return_exceptions=True)
    assert outcomes == [None, None, refused, later, later]
    assert len(work.begun) == 2


@instant
async def test_a_round_that_breaks_or_takes_too_long_is_told_to_all_its_requests_and_the_next_begins() -> None:
    def seconds(items: Mapping[str, int]) -> float:
        if "broken" in items:
            raise KeyError("a bug")
        return 100 if "long" in items else 1

    work = Rounds(seconds)
    for item, problem in (("broken", KeyError), ("long", Unavailable)):
        with pytest.raises(problem):
            await work.ask(item)
    await work.ask("a")


@instant
async def test_a_caller_that_gives_up_stops_nothing() -> None:
    work = Rounds()
    first, one, other = work.ask("a"), work.ask("b"), work.ask("b", "c")
    await asyncio.sleep(0.5)
    first.cancel()
    one.cancel()
    await other
    assert [items.keys() for _, items in work.begun] == [{"a"}, {"b", "c"}]


@instant
async def test_at_most_so_many_rounds_run_at_once() -> None:
    work = Rounds(seconds=lambda _items: 5)
    requests = []
    for number in range(10):
        requests.append(work.ask(f"a{number}"))
        await asyncio.sleep(0.3)
    await asyncio.gather(*requests)
    assert [round(began, 1) for began, _ in work.begun] == [0, 0.3, 5]
