"""The whole system ends as the model says, however programs, requests and troubles are interleaved."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from random import Random

import pytest

from tests.model.history import HOST, Image, Rule, Spec
from tests.model.running import SEED, end, play, settle
from tests.model.steps import IMAGES, NODES, Pushed, Replayed, SetPolicy, Step, Wait, sequence
from tests.model.world import world
from tests.support.runtime import digest_of

pytestmark = pytest.mark.slow

SEQUENCES = int(os.environ.get("WARMHOOK_FUZZ_SEQUENCES", "10000"))
AT_FIRST = {name: NODES[name] for name in sorted(NODES)[:3]}


def test_the_system_ends_as_the_model_says() -> None:
    run_many(20, Random(SEED))


def test_a_hundred_systems_end_as_the_model_says() -> None:
    run_many(100, Random(SEED + 1))


@pytest.mark.nightly
def test_thousands_of_systems_end_as_the_model_says() -> None:
    run_many(SEQUENCES, Random(SEED + 2))


def test_a_push_that_a_broken_policy_does_not_take_need_not_be_pulled() -> None:
    app = IMAGES[3]
    rule = Rule(f"{HOST}/shop/app", frozenset({app.repository}), (), frozenset({app.tag}))
    steps: list[Step] = [
        SetPolicy("shop/main", Spec(rules=(rule,))),
        Pushed("events", app, tells_digest=False, age_seconds=0),
        Wait(20),
        SetPolicy("shop/main", Spec(rules=(rule,), invalid=True)),
        Pushed("distribution", app, tells_digest=True, age_seconds=0),
    ]

    assert wrong(SEED, steps) == []


def test_a_repeat_of_a_push_whose_time_nobody_tells_is_no_newer_push() -> None:
    old, new, untagged = IMAGES[0], IMAGES[1], Image(IMAGES[0].repository, digest_of("child"))
    tagged = Rule(f"{HOST}/shop/app", frozenset({old.repository}), (), frozenset({old.tag, new.tag}), keep=2)
    steps: list[Step] = [
        SetPolicy("shop/main", Spec(rules=(replace(tagged, untagged=True),))),
        Pushed("events", old, tells_digest=True, age_seconds=0),
        Wait(60),
        Replayed(0),
        Wait(20),
        Pushed("harbor", new, tells_digest=True, age_seconds=0),
        Pushed("harbor", untagged, tells_digest=True, age_seconds=30),
        Wait(20),
        SetPolicy("shop/main", Spec(rules=(tagged,))),
    ]

    assert wrong(SEED, steps) == []


def test_two_pushes_that_their_sender_tells_in_the_same_words_are_one() -> None:
    untagged = Image(IMAGES[0].repository, digest_of("child"))
    rule = Rule(f"{HOST}/shop/app", frozenset({untagged.repository}), (), frozenset(), untagged=True)
    ahead = Pushed("harbor", untagged, tells_digest=True, age_seconds=-3600)

    assert wrong(SEED, [SetPolicy("shop/main", Spec(rules=(rule,))), ahead, ahead]) == []


def run_many(count: int, chance: Random) -> None:
    """So many sequences. The first that fails is made as short as it can be."""
    for index in range(count):
        number = chance.getrandbits(32)
        steps = sequence(Random(number))
        if wrong(number, steps):
            steps = shortest(number, steps)
            said = ["", *map(str, steps), "", *wrong(number, steps)]
            pytest.fail(f"sequence {index} of WARMHOOK_FUZZ_SEED={SEED}, wrong({number}, steps):" + "\n".join(said))


def shortest(number: int, steps: list[Step]) -> list[Step]:
    """The same sequence without every step that it fails without as well."""
    for index in reversed(range(len(steps))):
        without = steps[:index] + steps[index + 1 :]
        if wrong(number, without):
            steps = without
    return steps


def wrong(number: int, steps: list[Step]) -> list[str]:
    """What differs from the model after one sequence, with the chance of that number."""

    async def main() -> list[str]:
        async with world(number, nodes=AT_FIRST) as made:
            for image in IMAGES:
                made.hold(image)
            for step in steps:
                await step.happen(made)
                await asyncio.sleep(made.rng.choice((0, 0, 0.01, 0.3, 2)))
            await end(made)
            return await settle(made)

    return play(main())
