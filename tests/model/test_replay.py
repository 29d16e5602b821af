"""A push that is delivered again, late or out of order changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from adapters.kubernetes import paths
from tests.model.history import HOST, Image, Rule, Spec
from tests.model.running import GENERATED, SEED, play, settle
from tests.model.steps import NODES
from tests.model.world import NAMESPACE, World, world

pytestmark = pytest.mark.slow

IMAGES = [Image(f"{HOST}/shop/{name}", tag) for name in ("app", "web") for tag in ("v1", "v2", "v3", "v4")]
"""Twice as many as are kept."""
EVERYTHING = Rule(
    f"{HOST}/shop/*",
    frozenset(image.repository for image in IMAGES),
    (),
    frozenset(image.tag for image in IMAGES),
    keep=2,
)
State = dict[str, tuple[object, ...]]


def objects(made: World, *, versions: bool) -> State:
    """WarmImages and the lines of nodes; with their versions, if nothing at all may have been written."""
    state: State = {}
    for obj in made.items(paths.warmimages()):
        metadata = obj["metadata"]
        state[metadata["name"]] = (obj["spec"], metadata["generation"] if versions else 0)
    for obj in made.items(paths.configmaps(NAMESPACE)):
        metadata = obj["metadata"]
        if "desired" in metadata["name"]:
            # Hints, whose keys have a dot, depend on the moment at which an image is wanted.
            lines = {key: text for key, text in obj["data"].items() if "." not in key}
            state[metadata["name"]] = (lines, metadata["resourceVersion"] if versions else "")
    return state


def pulls(made: World) -> dict[str, list[str]]:
    return {node: sorted(runtime.pulls) for node, runtime in made.runtimes.items()}


async def delivered(made: World) -> None:
    """Every delivery has its answer, there was a sync, and the system has come to rest."""
    await made.all_delivered()
    await made.sync()
    assert not await settle(made)


def push_all(made: World, sources: Sequence[str]) -> None:
    """Every image once, a minute after the other, the last one just now."""
    for number, source in enumerate(sources):
        age = timedelta(seconds=60 * (len(IMAGES) - number))
        made.push(source, IMAGES[number], tells_digest=True, age=age, tell=False)


orders = st.permutations(list(range(len(IMAGES))) * 3)
sources = st.lists(st.sampled_from(("distribution", "harbor")), min_size=len(IMAGES), max_size=len(IMAGES))


@settings(GENERATED, max_examples=4)
@seed(SEED)
@given(number=st.integers(0, 2**32), order=orders, sources=sources)
def test_replays_write_nothing_and_pull_nothing(number: int, order: list[int], sources: list[str]) -> None:
    async def main() -> None:
        async with world(number, nodes={"node-1": NODES["node-1"], "node-2": NODES["node-2"]}) as made:
            made.set_policy("shop/main", Spec(rules=(EVERYTHING,)))
            await asyncio.sleep(1)
            push_all(made, sources)
            for which in range(len(IMAGES)):
                made.deliver(which)
            await delivered(made)
            before, pulled = objects(made, versions=True), pulls(made)
            assert len(before) == 4 + 2
            for which in order:
                made.deliver(which)
                await asyncio.sleep(made.rng.random())
            await delivered(made)
            assert objects(made, versions=True) == before
            assert pulls(made) == pulled

    play(main())


@settings(GENERATED, max_examples=4)
@seed(SEED)
@given(number=st.integers(0, 2**32), order=orders, sources=sources)
def test_any_order_ends_where_the_right_one_does(number: int, order: list[int], sources: list[str]) -> None:
    async def once(order: list[int]) -> State:
        async with world(number, nodes={"node-1": NODES["node-1"], "node-2": NODES["node-2"]}) as made:
            made.set_policy("shop/main", Spec(rules=(EVERYTHING,)))
            await asyncio.sleep(1)
            push_all(made, sources)
            for which in order:
                made.deliver(which)
                await asyncio.sleep(made.rng.random() * 0.2)
            await delivered(made)
            assert all(pulled.count(image) == 1 for pulled in pulls(made).values() for image in pulled)
            return objects(made, versions=False)

    assert play(once(order)) == play(once(list(range(len(IMAGES)))))
