"""What one item cannot get, or meets, is its own matter."""

from __future__ import annotations

import asyncio

import pytest

from handlers.reconcile.outcomes import Outcomes
from tests.support.instant import instant


@instant
async def test_a_mistake_about_one_item_ends_no_other() -> None:
    done: list[str] = []

    async def work(item: str) -> None:
        if item == "odd":
            raise IndexError("tuple index out of range")
        done.append(item)

    outcomes = Outcomes()
    await outcomes.each("work", ["odd", "a", "b"], work)
    assert done == ["a", "b"]
    with pytest.raises(Exception, match="IndexError"):
        outcomes.raise_problem()


@instant
async def test_items_of_a_group_that_hangs_keep_no_other_group_waiting() -> None:
    done: list[str] = []

    async def work(item: str) -> None:
        if item.startswith("slow/"):
            await asyncio.sleep(10)
        done.append(item)

    items = [*(f"slow/{number}" for number in range(100)), "shop/a"]
    outcomes = Outcomes()
    await outcomes.each("work", items, work, group=lambda item: item.partition("/")[0], seconds=5)
    assert done == ["shop/a"]
    assert outcomes.later is not None
