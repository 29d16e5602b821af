"""Simultaneous pushes share their lists, and a single push does not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from adapters.kubernetes.errors import Unavailable
from handlers.reconcile.reader import FROM_CACHE
from handlers.reconcile.singleflight import SingleFlight
from tests.handlers.world import WARMIMAGES, World, digest, in_world, status
from warmhook.ports import Response
from warmhook.warmimages import WarmImage


def lists(world: World) -> int:
    return world.requests.count(("GET", WARMIMAGES))


def shared_lists(world: World) -> SingleFlight[str, list[WarmImage]]:
    reader = world.new_cluster()

    async def read(labels: Collection[str]) -> list[WarmImage]:
        return await reader.warmimages_of_repositories("shop", labels, not_older_than=FROM_CACHE)

    return SingleFlight(read, world.clock, at_once=4, timeout_seconds=2.5)


@pytest.mark.slow
@in_world(policy=True)
async def test_a_burst_of_pushes_costs_a_few_lists_and_each_gets_what_is_its_own(world: World) -> None:
    world.answer(None, part=WARMIMAGES, after=0.05)
    for number, content in enumerate("ab"):
        answers = await asyncio.gather(
            *(world.push(repository=f"shop/app-{n}", content=digest(content), ago=5 - number) for n in range(60))
        )
        assert {answer.status_code for answer in answers} == {202}
    assert lists(world) < 20
    assert {obj["spec"]["digest"] for obj in (await world.warmimages()).values()} == {digest("b")}
    assert len(await world.warmimages()) == 60


@in_world()
async def test_pushes_of_one_repository_share_a_list_with_those_that_come_after_and_see_what_is_there(
    world: World,
) -> None:
    await world.add_policy(push=[{"repository": "**", "keep": 9}])
    world.answer(None, part=WARMIMAGES, after=0.05)
    await asyncio.gather(*(world.push(f"v{n}") for n in range(9)))
    assert len(await world.warmimages()) == 9


@in_world(policy=True)
async def test_a_push_that_comes_alone_is_read_for_at_once_and_by_itself(world: World) -> None:
    before = world.monotonic()
    assert (await world.push()).status_code == 202
    assert lists(world) == 1
    assert world.monotonic() == before


@in_world()
async def test_a_list_that_fails_fails_for_those_who_share_it_and_not_for_the_next(world: World) -> None:
    refusals = [status(503)]

    async def fault(_method: str, path: str) -> Response | None:
        await asyncio.sleep(0.01)
        return refusals.pop() if refusals and path == WARMIMAGES else None

    world.faults.append(fault)
    shared = shared_lists(world)
    first = [asyncio.create_task(shared.get(letter * 16)) for letter in "aab"]
    await asyncio.sleep(0.001)
    assert await shared.get("a" * 16) == []
    outcomes = await asyncio.gather(*first, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3


@in_world()
async def test_lists_that_get_no_answer_hold_up_nobody_for_long(world: World) -> None:
    world.answer(None, part=WARMIMAGES, after=3600)
    shared = shared_lists(world)
    began = world.monotonic()
    outcomes = await asyncio.gather(*(shared.get(f"{n:016x}") for n in range(50)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert world.monotonic() - began <= 6
    world.faults.clear()
    assert await shared.get("a" * 16) == []


@in_world()
async def test_one_who_gives_up_does_not_take_the_list_from_the_others(world: World) -> None:
    world.answer(None, part=WARMIMAGES, after=0.05)
    shared = shared_lists(world)
    others = [asyncio.create_task(shared.get("a" * 16)) for _ in range(3)]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await shared.get("b" * 16)
    assert await asyncio.gather(*others) == [[], [], []]
