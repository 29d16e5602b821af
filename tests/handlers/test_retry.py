"""A push is tried for as long as its sender waits, and no longer."""

from __future__ import annotations

import asyncio

import pytest

from adapters.kubernetes.errors import Unavailable
from handlers.intake.receiver import retry_until
from tests.support.instant import instantly


def _insist(outcomes: list[float | Exception], *, seconds: float) -> tuple[object, float, int]:
    """What came out, when, and after how many tries; a number is a try that takes so long and succeeds."""
    left, clock = list(outcomes), [0.0]

    async def accept() -> str:
        outcome = left.pop(0) if len(left) > 1 else left[0]
        tries.append(outcome)
        if isinstance(outcome, Exception):
            raise outcome
        await asyncio.sleep(outcome)
        return "accepted"

    async def run() -> object:
        try:
            return await retry_until(accept, at_least_seconds=0.8, seconds=seconds, sleep=asyncio.sleep)
        except (Unavailable, TimeoutError) as error:
            return type(error)
        finally:
            clock[0] = asyncio.get_running_loop().time()

    tries: list[object] = []
    return instantly(run()), round(clock[0], 3), len(tries)


@pytest.mark.parametrize(
    ("outcomes", "seconds", "expected"),
    [
        ([0.5], 0.8, ("accepted", 0.5, 1)),
        ([5], 0.8, (TimeoutError, 0.8, 1)),
        ([Unavailable("no")], 0.8, (Unavailable, 0, 1)),
        ([Unavailable("no"), 0.5], 8, ("accepted", 1, 2)),
        ([60, 0.5], 8, ("accepted", 8 / 3 + 1, 2)),
        ([60], 8, (TimeoutError, 8, 3)),
        ([Unavailable("no")], 8, (Unavailable, 8, 16)),
    ],
)
def test_a_push_is_tried_until_it_is_accepted_or_time_is_up(
    outcomes: list[float | Exception], seconds: float, expected: tuple[object, float, int]
) -> None:
    result, took, tries = _insist(outcomes, seconds=seconds)

    assert (result, tries) == (expected[0], expected[2])
    assert took == pytest.approx(expected[1], abs=0.001)
