"""Accepting a push goes before projecting the pushes that came earlier."""

from __future__ import annotations

import asyncio

import pytest

from tests.handlers.world import World, digest, in_world

pytestmark = pytest.mark.slow

NODES = 100
PUSHES = 20


def busy_api_server(world: World) -> None:
    """Let the API server answer two requests at a time, each after 25 ms."""
    turns = asyncio.Semaphore(2)

    async def answer_slowly(_method: str, _path: str) -> None:
        async with turns:
            await asyncio.sleep(0.025)

    world.faults.append(answer_slowly)


@in_world(policy=True)
async def test_pushes_that_follow_each_other_are_accepted_at_once_while_the_earlier_ones_are_projected(
    world: World,
) -> None:
    await world.add_nodes(*(f"node-{number:03}" for number in range(NODES)))
    async with world.watching():
        await asyncio.sleep(60)
        busy_api_server(world)
        answers = [
            (await world.push(repository=f"shop/app-{number}", content=digest("abcdef"[number % 6]))).status_code
            for number in range(PUSHES)
        ]
        # A line takes 100 patches of 25 ms, two at a time: the projections go on all the while.
        assert sum(path.endswith("/configmaps") or "desired-node" in path for _, path in world.requests) > NODES
        await asyncio.sleep(600)
    assert answers == [202] * PUSHES
    assert {len(images) for images in (await world.lines()).values()} == {PUSHES}
