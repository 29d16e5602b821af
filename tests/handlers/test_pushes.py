"""A push has the same result for any number, order and replicas of its deliveries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.kubernetes import paths
from tests.handlers.world import DIGEST, HOST, SECRET, World, digest, harbor_push, in_world, run_in_world, status
from warmhook.globs import Globs
from warmhook.ports import Unreachable

POLICIES = "/apis/warmhook.dev/v1alpha1/warmpolicies"


def lists(world: World) -> int:
    """How often the policies were listed."""
    return sum(path == POLICIES for _, path in world.requests)


@in_world(policy=True)
async def test_a_newer_push_of_a_tag_updates_the_same_object(world: World) -> None:
    await world.push(content=digest("a"), ago=20)
    (first,) = (await world.warmimages()).values()
    await world.push(content=digest("b"), ago=10)
    await world.push(content=digest("c"), ago=15)
    (now,) = (await world.warmimages()).values()
    assert now["metadata"]["uid"] == first["metadata"]["uid"]
    assert now["spec"]["digest"] == digest("b")


@in_world()
async def test_an_image_that_a_policy_names_is_updated_by_its_push(world: World) -> None:
    await world.add_policy(images=[f"{HOST}/shop/app:v1"])
    await world.changed("WarmPolicy", "shop")
    (named,) = (await world.warmimages()).values()
    assert "digest" not in named["spec"]
    assert (await world.push()).status_code == 202
    (pushed,) = (await world.warmimages()).values()
    assert pushed["metadata"]["uid"] == named["metadata"]["uid"]
    assert pushed["spec"]["digest"] == DIGEST
    await world.changed("WarmPolicy", "shop")
    (still,) = (await world.warmimages()).values()
    assert still["metadata"]["resourceVersion"] == pushed["metadata"]["resourceVersion"]


@in_world(nodes="a")
async def test_a_push_leaves_alone_what_a_policy_names_by_digest(world: World) -> None:
    rule = {"repository": f"{HOST}/shop/**"}
    await world.add_policy(images=[f"{HOST}/shop/app:v1@{digest('c')}"], push=[rule])
    await world.changed("WarmPolicy", "shop")
    (pinned,) = (await world.warmimages()).values()
    await world.push()
    assert (await world.warmimages())[f"{HOST}/shop/app@{digest('c')}"] == pinned
    await world.sync()
    lines = [json.loads(text) for text in ((await world.desired("a")) or {})["data"].values()]
    assert {line["i"]: line["d"] for line in lines} == {
        f"{HOST}/shop/app@{digest('c')}": digest("c"),
        f"{HOST}/shop/app:v1": DIGEST,
    }


@in_world()
async def test_a_push_updates_an_image_under_the_name_that_the_policy_writes(world: World) -> None:
    written = f"{HOST.upper()}/shop/app:v1"
    await world.add_nodes("a")
    await world.add_policy(images=[written])
    await world.changed("WarmPolicy", "shop")
    await world.push()
    (obj,) = (await world.warmimages()).values()
    assert (obj["spec"]["image"], obj["spec"]["digest"]) == (written, DIGEST)
    await world.sync()
    assert await world.lines() == {"a": [written]}


@in_world()
async def test_every_policy_that_wants_a_push_gets_its_own_warmimage(world: World) -> None:
    for name in ("one", "two", "three"):
        await world.add_policy(name, push=[{"repository": f"{HOST}/**"}])
    await world.push()
    assert len((await world.admin.list(paths.warmimages())).items) == 3


@in_world(policy=True)
async def test_replicas_that_get_the_same_push_at_once_make_one_object_and_nobody_is_sent_away(world: World) -> None:
    world.answer(None, after=0.01)
    clients = [world.new_client(world.new_app()) for _ in range(4)]
    bodies = [
        harbor_push(world.now() - timedelta(seconds=n % 3), "v1", "shop/app", digest("abc"[n % 3])) for n in range(8)
    ]
    answers = await asyncio.gather(
        *(
            client.post("/webhooks/harbor", json=body, headers={"authorization": SECRET})
            for body, client in zip(bodies, clients * 2, strict=True)
        )
    )
    assert {answer.status_code for answer in answers} == {202}
    (obj,) = (await world.warmimages()).values()
    assert obj["spec"]["digest"] == digest("a")


events = st.lists(
    st.tuples(st.sampled_from(["v1", "v2", "v3"]), st.sampled_from("ab"), st.integers(1, 5)), min_size=1, max_size=5
)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(events, st.randoms(use_true_random=False))
def test_repeats_and_order_change_nothing(given_: list[tuple[str, str, int]], random: Random) -> None:
    ends = []
    for order in (given_, random.sample(given_ * 2, len(given_) * 2)):

        async def case(world: World, order: list[tuple[str, str, int]] = order) -> None:
            await world.add_policy(push=[{"repository": f"{HOST}/**", "keep": 2}])
            for tag, letter, minute in order:
                body = harbor_push(world.now() - timedelta(minutes=minute), tag, "shop/app", digest(letter))
                assert (await world.deliver(body)).status_code == 202
            await world.sync()
            found = await world.warmimages()
            ends.append({(image, obj["spec"]["digest"], obj["spec"]["pushedAt"]) for image, obj in found.items()})

        run_in_world(case)
    assert ends[0] == ends[1]


@in_world(policy=True)
async def test_requests_within_a_tenth_of_a_second_share_one_list_of_the_policies(world: World) -> None:
    await asyncio.gather(*(world.push(f"v{n}") for n in range(20)))
    assert lists(world) == 1
    await asyncio.sleep(0.11)
    await world.push("v99")
    assert lists(world) == 2


@pytest.mark.slow
def test_the_globs_of_a_policy_are_compiled_once_and_read_a_push_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, read = [], []
    init, matching = Globs.__init__, Globs.matching

    def counted_init(self: Globs, patterns: Iterable[str]) -> None:
        compiled.append(self)
        init(self, patterns)

    def counted_matching(self: Globs, text: str) -> list[int]:
        read.append(text)
        return matching(self, text)

    async def case(world: World) -> None:
        globs = [f"*a*b*{number}" for number in range(16)]
        for number in range(40):
            rules = [{"repository": f"**/{rule}*", "tags": globs, "exclude": globs} for rule in range(32)]
            await world.add_policy(f"p{number}", push=rules)
        for _ in range(3):
            assert (await world.push(repository="shop/7")).status_code == 202
            await asyncio.sleep(60)
        # And two of the limits of namespaces.
        assert len(compiled) == 40 * 2 + 2
        # Each of the two lists of a push that no policy wants.
        assert len(read) == 3 * 2 * 40 * 2

    monkeypatch.setattr(Globs, "__init__", counted_init)
    monkeypatch.setattr(Globs, "matching", counted_matching)
    run_in_world(case)


@in_world(policy=True)
async def test_a_shared_list_that_fails_is_not_given_to_those_who_come_later(world: World) -> None:
    world.answer(status(500), part=POLICIES, times=1)
    first = await asyncio.gather(*(world.push(f"v{n}") for n in range(3)))
    assert {answer.status_code for answer in first} == {503}
    assert (await world.push()).status_code == 202


@in_world(policy=True)
async def test_a_sender_that_hangs_up_does_not_fail_the_others_who_share_its_list(world: World) -> None:
    world.answer(None, part=POLICIES, after=0.2)
    first = asyncio.create_task(world.push("v1"))
    others = [asyncio.create_task(world.push(f"v{n}")) for n in range(2, 5)]
    await asyncio.sleep(0.05)
    first.cancel()
    assert {answer.status_code for answer in await asyncio.gather(*others)} == {202}


@in_world()
async def test_a_list_that_everybody_has_given_up_on_complains_to_nobody(world: World) -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
    world.answer(Unreachable("gone"), after=2)
    assert (await world.push()).status_code == 503
    await asyncio.sleep(5)
    world.faults.clear()
    assert (await world.push()).status_code == 202
    assert problems == []


@in_world()
async def test_a_policy_that_cannot_be_written_for_does_not_keep_the_push_from_the_others(world: World) -> None:
    await world.add_namespace("other")
    await world.add_policy()
    await world.add_policy("a", namespace="other", push=[{"repository": f"{HOST}/**"}])
    world.answer(status(403), part="/other/warmimages")
    assert (await world.push()).status_code == 202
    assert len(await world.warmimages()) == 1


@pytest.mark.parametrize("ago", [0, -200, -1000])
@in_world(policy=True)
async def test_a_clock_that_runs_ahead_does_not_win_against_later_pushes(world: World, ago: float) -> None:
    await world.push(content=digest("a"), ago=ago)
    await asyncio.sleep(400)
    await world.push(content=digest("b"))
    (obj,) = (await world.warmimages()).values()
    assert obj["spec"]["digest"] == digest("b")


@in_world(policy=True)
async def test_a_push_after_one_whose_clock_is_minutes_ahead_is_taken_at_once(world: World) -> None:
    await world.push(content=digest("b"), ago=-290)
    await asyncio.sleep(60)
    await world.push(content=digest("a"))
    (obj,) = (await world.warmimages()).values()
    assert obj["spec"]["digest"] == digest("a")


@in_world(policy=True)
async def test_an_event_from_the_future_does_not_shut_out_later_pushes(world: World) -> None:
    future = "2099-01-01T00:00:00Z"
    data = {"image": f"{HOST}/shop/app:v1", "digest": digest("b"), "source": "harbor", "pushedAt": future}
    assert (await world.event("dev.warmhook.image.pushed.v1", data, time=future)).status_code == 204
    await asyncio.sleep(1)
    await world.push(content=digest("a"))
    (obj,) = (await world.warmimages()).values()
    assert obj["spec"]["digest"] == digest("a")


@in_world(sources="sources: [{name: quay, kind: quay, secret: {env: HARBOR}, registryHost: quay.io}]")
async def test_a_second_push_of_a_sender_that_gives_neither_time_id_nor_digest_is_a_push(world: World) -> None:
    await world.add_policy(push=[{"repository": "quay.io/**"}])
    body = {"docker_url": "quay.io/shop/app", "updated_tags": ["v1"], "repository": "shop/app", "name": "app"}
    moments = []
    for _ in range(2):
        answer = await world.client.post(f"/webhooks/quay?token={SECRET}", json=body)
        assert answer.status_code == 202
        (obj,) = (await world.warmimages()).values()
        moments.append(obj["spec"]["pushedAt"])
        await asyncio.sleep(20)
    assert moments[0] < moments[1]


@in_world(policy=True)
async def test_a_push_is_written_although_the_object_under_its_name_is_deleted_while_it_is_adopted(
    world: World,
) -> None:
    await world.push()
    ((image, obj),) = (await world.warmimages()).items()
    path = f"{paths.warmimages_in('shop')}/{obj['metadata']['name']}"
    await world.admin.patch(path, {"metadata": {"labels": {"warmhook.dev/policy": "0" * 16}}})
    world.once(lambda: world.admin.delete(path), "PATCH", path)
    await world.push(content=digest("b"))
    assert (await world.warmimages())[image]["spec"]["digest"] == digest("b")
