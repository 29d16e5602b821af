"""The whole system ends as the model says, however programs, requests and troubles are interleaved."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, TypeAlias

import pytest

from tests.model.check_nodes import held
from tests.model.history import HOST, LIMITED, Image, Rule, Spec, Where
from tests.model.running import SEED, end, play, settle
from tests.model.steps import (
    IMAGES,
    NODES,
    Edited,
    NodeJoins,
    NodeUse,
    PodRuns,
    Pushed,
    RegistryTrouble,
    Replayed,
    SetPolicy,
    Step,
    TagMoves,
    Wait,
    sequence,
)
from tests.model.world import World, world
from tests.support.runtime import digest_of

pytestmark = pytest.mark.slow

SEQUENCES = int(os.environ.get("WARMHOOK_FUZZ_SEQUENCES", "10000"))
Look: TypeAlias = Callable[[World], list[str]]
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


WANTED = Spec(named=IMAGES[:1], on_removal="Delete")
"""One image on all Linux nodes."""
REGISTRY, NO_REGISTRY = 5, 7
"""Seeds of systems with and without a registry that handlers may ask, on containerd."""


@pytest.mark.parametrize("number", [REGISTRY, NO_REGISTRY], ids=["asked once", "asked by nodes"])
def test_a_tag_that_moved_without_an_event_is_followed_after_a_refresh(number: int) -> None:
    steps: list[Step] = [
        SetPolicy("shop/main", WANTED),
        Wait(150),
        TagMoves(IMAGES[0], back=False),
        Wait(150),
        Edited("shop/main", (("refresh", "now"),)),
    ]

    assert wrong(number, steps, look=held_everywhere(digest_of(f"{IMAGES[0]} moved 1"))) == []


def test_pushes_of_a_b_and_a_again_end_on_a_though_the_last_event_tells_of_b() -> None:
    app = IMAGES[0]
    rule = Rule(f"{HOST}/shop/app", frozenset({app.repository}), (), frozenset({app.tag}))
    steps: list[Step] = [
        SetPolicy("shop/main", Spec(rules=(rule,))),
        TagMoves(app, back=False),
        Wait(20),
        RegistryTrouble(down=True),
        Pushed("distribution", app, tells_digest=True, age_seconds=0),
        TagMoves(app, back=True),
        Wait(20),
    ]

    assert wrong(REGISTRY, steps, look=held_everywhere(digest_of(f"{app} moved 1"))) == []


@pytest.mark.parametrize(
    ("on_removal", "end"),
    [("Retain", ("purge", True)), ("Delete", ("named", ()))],
    ids=["purged", "no longer wanted"],
)
def test_images_that_nothing_uses_go_and_all_others_stay(on_removal: str, end: tuple[str, Any]) -> None:
    """node-1 runs a container, node-2 a Pod; on node-3 another client had pulled the image; node-4 has nothing."""
    joins = NodeJoins("node-4", 0)
    steps: list[Step] = [
        joins,
        Wait(20),
        NodeUse("node-3", "another client pulls", IMAGES[0]),
        SetPolicy("shop/main", replace(WANTED, on_removal=on_removal)),
        Wait(150),
        NodeUse("node-1", "a container starts", IMAGES[0]),
        PodRuns("node-2", "web", IMAGES[0]),
        Wait(150),
        Edited("shop/main", (end,)),
        Wait(400),
    ]

    def look(made: World) -> list[str]:
        have = {node for node, runtime in made.runtimes.items() if str(IMAGES[0]) in runtime.listed}
        return [] if have == {"node-1", "node-2", "node-3"} else [f"is on {sorted(have)}"]

    assert wrong(SEED, steps, look=look) == []


def test_a_suspended_policy_records_pushes_and_pulls_nothing() -> None:
    steps: list[Step] = [
        SetPolicy("shop/main", replace(WANTED, suspend=True)),
        Wait(20),
        Pushed("distribution", IMAGES[0], tells_digest=True, age_seconds=0),
    ]

    def look(made: World) -> list[str]:
        return [f"{node} pulled" for node, runtime in made.runtimes.items() if runtime.pulls]

    assert wrong(SEED, steps, look=look) == []


def test_an_image_that_was_warm_once_reaches_no_new_node_and_stays() -> None:
    steps: list[Step] = [
        SetPolicy("shop/main", replace(WANTED, once=True, on_removal="Retain")),
        Wait(150),
        NodeJoins("node-4", 0),
        Wait(400),
    ]

    def look(made: World) -> list[str]:
        have = {node for node, runtime in made.runtimes.items() if runtime.listed}
        return [] if have == set(AT_FIRST) else [f"is on {sorted(have)}"]

    assert wrong(SEED, steps, look=look) == []


def test_a_namespace_with_limits_has_only_what_they_allow() -> None:
    """The other namespace, which has none, decides nothing for it."""
    spec = Spec(named=(IMAGES[0], IMAGES[8]), priority=7, pinned=True, on_removal="Delete")

    def look(made: World) -> list[str]:
        have = {node: set(map(str, IMAGES)) & runtime.listed.keys() for node, runtime in made.runtimes.items()}
        allowed = {str(IMAGES[0])}
        return [] if have == {"node-1": allowed, "node-2": set(), "node-3": allowed} else [str(have)]

    assert wrong(SEED, [SetPolicy(f"{LIMITED}/main", spec)], look=look) == []


def test_images_follow_running_pods_without_an_event() -> None:
    spec = Spec(named=IMAGES[:1], where=Where(running="web"))
    steps: list[Step] = [
        PodRuns("node-1", "web", IMAGES[4]),
        SetPolicy("shop/main", spec),
        Wait(150),
        PodRuns("node-1", "web", None),
        PodRuns("node-2", "web", IMAGES[4]),
        PodRuns("node-3", "db", IMAGES[4]),
    ]

    def look(made: World) -> list[str]:
        return [] if str(IMAGES[0]) in made.runtimes["node-2"].listed and not made.runtimes["node-3"].pulls else ["no"]

    assert wrong(SEED, steps, look=look) == []


def held_everywhere(digest: str) -> Look:
    """The first image is this one on all nodes."""

    def look(made: World) -> list[str]:
        have = {node: held(made, node, IMAGES[0]) for node in AT_FIRST}
        return [] if set(have.values()) == {digest} else [f"have {have}, should be {digest}"]

    return look


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


def wrong(number: int, steps: list[Step], look: Look = lambda _: []) -> list[str]:
    """What differs from the model after one sequence, with the chance of that number, and what else is to be seen."""

    async def main() -> list[str]:
        async with world(number, nodes=AT_FIRST) as made:
            for image in IMAGES:
                made.hold(image)
            for step in steps:
                await step.happen(made)
                await asyncio.sleep(made.rng.choice((0, 0, 0.01, 0.3, 2)))
            await end(made)
            return await settle(made) or look(made)

    return play(main())
