"""Bodies are read within their limits, and the oldest of too many is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from handlers.serving.bodies import BadBody, Bodies
from tests.support.instant import instant, instantly


async def parts(*sizes: int, pause: float = 0.0) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size
        await asyncio.sleep(pause)


async def _reason(reading: Coroutine[Any, Any, bytes]) -> str:
    """Why the body was not taken; empty where it was."""
    try:
        await reading
    except BadBody as error:
        return error.reason
    return ""


@pytest.mark.parametrize(
    ("sizes", "pause", "reason"),
    [((), 0, ""), ((10,), 0, ""), ((5, 5), 4, ""), ((5, 6), 0, "too-large"), ((1,) * 10, 1.5, "slow-body")],
)
def test_a_body_has_a_size_and_a_time(sizes: tuple[int, ...], pause: float, reason: str) -> None:
    assert instantly(_reason(Bodies(one_bytes=10).read(parts(*sizes, pause=pause)))) == reason


@instant
async def test_the_oldest_gives_way_and_what_it_held_is_free_again() -> None:
    bodies = Bodies(one_bytes=10, all_bytes=30)
    slow = [asyncio.create_task(_reason(bodies.read(parts(9, 1, pause=4)))) for _ in range(3)]
    await asyncio.sleep(1)
    for _ in range(20):
        assert await _reason(bodies.read(parts(10))) == ""
    assert await asyncio.gather(*slow) == ["busy", "", ""]
    # Nothing is counted that is no longer there.
    assert [await _reason(bodies.read(parts(10))) for _ in range(5)] == [""] * 5


@instant
async def test_bodies_that_come_all_at_once_are_bounded_too() -> None:
    bodies = Bodies(one_bytes=10, all_bytes=30)
    reasons = await asyncio.gather(*(_reason(bodies.read(parts(5, 5, pause=1))) for _ in range(100)))
    assert set(reasons) == {"busy", ""}
    assert reasons.count("") <= 6
    assert reasons[-1] == ""
    assert await _reason(bodies.read(parts(10))) == ""
