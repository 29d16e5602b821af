"""Policies lead to the same WarmImages, whatever the order of pushes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.images import Reference, parse_reference
from warmhook.node_lines import line_of
from warmhook.policies import (
    Policy,
    Upsert,
    decide_push,
    is_expired,
    policy_changes,
    surplus,
)
from warmhook.rules import PushRule
from warmhook.semver import parse_range
from warmhook.warmimages import Limit, Nodes, ObjectKey, Template, WarmImage

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHOP = ObjectKey("shop", "shop")
REPOSITORY = "harbor.example.com/shop/app"
ALL = PushRule("harbor.example.com/shop/**")


def image(tag: str, letter: str = "a", repository: str = REPOSITORY) -> Reference:
    return parse_reference(f"{repository}:{tag}@sha256:{letter * 64}")


def at(minutes: int) -> datetime:
    return NOW - timedelta(hours=10) + timedelta(minutes=minutes)


Push = tuple[Reference, datetime, str]
"""Image, time and event id."""


def play(policy: Policy, pushes: Iterable[Push], stored: Sequence[WarmImage] = ()) -> dict[str, WarmImage]:
    """Accept one push after the other, and prune after each, as the handlers do."""
    warmimages = {it.key.name: it for it in stored}
    for reference, moment, event_id in pushes:
        if not policy.wants(reference):
            continue
        decision = decide_push(policy, reference, moment, event_id, list(warmimages.values()), NOW)
        if isinstance(decision, Upsert):
            warmimages[decision.warmimage.key.name] = decision.warmimage
        for old in surplus(policy, list(warmimages.values())):
            del warmimages[old.key.name]
    return warmimages


def decided(policy: Policy, push: Push, stored: Iterable[WarmImage] = ()) -> Upsert | str:
    return decide_push(policy, *push, list(stored), NOW)


def test_a_push_without_a_time_is_newer_than_what_a_clock_ahead_received_before_it() -> None:
    policy = Policy(SHOP, push=(ALL,))
    stored = list(play(policy, [(image("v1"), NOW + timedelta(seconds=20), "first")]).values())
    for tag in ("v1", "v2"):
        decision = decide_push(policy, image(tag, "b"), NOW, "second", stored, NOW, timed=False)
        assert isinstance(decision, Upsert)
        assert decision.warmimage.pushed_at == NOW + timedelta(seconds=20, microseconds=1)
        assert decide_push(policy, image(tag, "b"), NOW, "second", stored, NOW) == "superseded"


def test_a_clock_that_is_wrong_by_hours_drags_no_push_along() -> None:
    policy = Policy(SHOP, push=(replace(ALL, keep=2),))
    stored = list(play(policy, [(image("v1"), NOW + timedelta(hours=5), "first")]).values())
    decision = decide_push(policy, image("v2", "b"), NOW, "second", stored, NOW, timed=False)
    assert isinstance(decision, Upsert)
    assert decision.warmimage.pushed_at == NOW


# --- which pushes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "tag", "matches"),
    [
        (ALL, "anything", True),
        (replace(ALL, tags=("v*",)), "v1", True),
        (replace(ALL, tags=("v*",)), "1", False),
        (replace(ALL, exclude=("*-debug",)), "v1-debug", False),
        (replace(ALL, tags=("v*",), exclude=("v*",)), "v1", False),
        (replace(ALL, semver=parse_range(">=1.2 <3")), "v1.2.0", True),
        (replace(ALL, semver=parse_range(">=1.2 <3")), "v3.0.0", False),
        (replace(ALL, semver=parse_range(">=1.2 <3")), "nightly", False),
        (replace(ALL, repository="harbor.example.com/*"), "v1", False),
        (replace(ALL, repository="other.example.com/**"), "v1", False),
    ],
)
def test_a_rule_takes_what_all_its_conditions_allow(rule: PushRule, tag: str, matches: bool) -> None:
    assert Policy(SHOP, push=(rule,)).wants(image(tag)) is matches


def test_a_push_without_a_tag_is_taken_only_where_a_rule_asks_for_it() -> None:
    untagged = parse_reference(f"{REPOSITORY}@sha256:{'a' * 64}")
    assert not Policy(SHOP, push=(ALL,)).wants(untagged)
    assert Policy(SHOP, push=(replace(ALL, untagged=True),)).wants(untagged)


def test_keep_is_the_largest_of_the_rules_for_the_repository_whatever_their_tags() -> None:
    policy = Policy(SHOP, push=(replace(ALL, keep=2), replace(ALL, tags=("x",), keep=5)))
    assert policy.keep(image("v1")) == 5


# --- one push --------------------------------------------------------------------------------------------------------


def test_the_first_push_makes_a_warmimage_under_the_policys_template() -> None:
    policy = Policy(SHOP, push=(ALL,), template=Template(expire_after_seconds=10**6))
    decision = decided(policy, (image("v1"), at(1), "e"))
    assert isinstance(decision, Upsert)
    assert decision.replaces is None
    made = decision.warmimage
    assert (str(made.image), made.digest, made.pushed_at) == (f"{REPOSITORY}:v1", image("v1").digest, at(1))
    assert (made.template, made.event_id, made.key.namespace) == (policy.template, "e", "shop")


def test_the_same_event_again_is_a_duplicate() -> None:
    policy = Policy(SHOP, push=(ALL,))
    stored = play(policy, [(image("v1"), at(1), "e")]).values()
    assert decided(policy, (image("v1"), at(9), "e"), stored) == "duplicate"
    assert decided(policy, (image("v1"), at(1), "another id"), stored) == "duplicate"


def test_an_older_push_of_the_same_tag_is_superseded_and_a_newer_one_replaces() -> None:
    policy = Policy(SHOP, push=(ALL,))
    stored = list(play(policy, [(image("v1", "b"), at(5), "e")]).values())
    assert decided(policy, (image("v1", "a"), at(4), "f"), stored) == "superseded"
    newer = decided(policy, (image("v1", "a"), at(6), "g"), stored)
    assert isinstance(newer, Upsert)
    assert newer.replaces == stored[0]


def test_of_two_pushes_at_one_moment_the_greater_digest_wins() -> None:
    policy = Policy(SHOP, push=(ALL,))
    one, two = (image("v1", "a"), at(1), "e"), (image("v1", "b"), at(1), "f")
    assert play(policy, [one, two]) == play(policy, [two, one])


def test_a_push_older_than_all_that_are_kept_is_superseded() -> None:
    policy = Policy(SHOP, push=(replace(ALL, keep=2),))
    stored = play(policy, [(image(f"v{n}", f"{n}"), at(n), f"e{n}") for n in (2, 3)]).values()
    assert decided(policy, (image("v1"), at(1), "e1"), stored) == "superseded"


def test_a_tag_that_the_policy_no_longer_wants_takes_no_place() -> None:
    stored = play(Policy(SHOP, push=(ALL,)), [(image("debug"), at(9), "e")]).values()
    policy = Policy(SHOP, push=(replace(ALL, tags=("v*",)),))
    assert isinstance(decided(policy, (image("v1"), at(1), "f"), stored), Upsert)


def test_a_push_whose_time_is_over_is_expired() -> None:
    policy = Policy(SHOP, push=(ALL,), template=Template(expire_after_seconds=3600))
    assert decided(policy, (image("v1"), NOW - timedelta(seconds=3601), "e")) == "expired"
    assert isinstance(decided(policy, (image("v1"), NOW - timedelta(seconds=3599), "e")), Upsert)


def test_an_image_that_the_policy_names_takes_every_newer_push_and_never_expires() -> None:
    named = parse_reference(f"{REPOSITORY}:base")
    policy = Policy(SHOP, images=(named,), push=(ALL,), template=Template(expire_after_seconds=1))
    (stored,) = [upsert.warmimage for upsert in policy_changes(policy, [], NOW).upserts]
    decision = decided(policy, (image("base"), at(1), "e"), [stored])
    assert isinstance(decision, Upsert)
    assert (decision.replaces, decision.warmimage.digest) == (stored, image("base").digest)
    assert not policy_changes(policy, [decision.warmimage], NOW).deletes


# --- builds ----------------------------------------------------------------------------------------------------------


def kept(policy: Policy, *pushes: Push) -> set[str]:
    """What stays of these, by tag, or by the first letter of its digest."""
    return {it.image.tag or it.digest[7] for it in play(policy, pushes).values()}


def part(letter: str, repository: str = REPOSITORY) -> Reference:
    return parse_reference(f"{repository}@sha256:{letter * 64}")


def test_tags_of_one_digest_are_one_build_whenever_they_are_pushed() -> None:
    policy = Policy(SHOP, push=(ALL,))
    pushes = [(image("1.4.2", "a"), at(1), "e"), (image("latest", "a"), at(3), "f")]
    assert kept(policy, *pushes) == kept(policy, *reversed(pushes)) == {"1.4.2", "latest"}
    assert kept(policy, *pushes, (image("1.4.3", "b"), at(4), "g")) == {"1.4.3"}


def test_tags_pushed_within_one_second_are_one_build() -> None:
    policy = Policy(SHOP, push=(ALL,))
    pushes = [
        (image("1.4", "a"), at(1), "e"),
        (image("1.4-debug", "b"), at(1) + timedelta(milliseconds=999), "f"),
        (parse_reference(f"{REPOSITORY}:latest"), at(1), "g"),
    ]
    assert kept(policy, *pushes) == {"1.4", "1.4-debug", "latest"}
    assert kept(policy, *pushes, (image("1.5", "c"), at(1) + timedelta(seconds=1), "h")) == {"1.5"}


def test_parts_without_a_tag_take_no_place_and_stay_as_long_as_their_image_may() -> None:
    policy = Policy(SHOP, push=(replace(ALL, untagged=True),))
    first = [(part("a"), at(1), "a"), (part("b"), at(2), "b"), (image("v1", "c"), at(3), "c")]
    assert kept(policy, *first) == {"a", "b", "v1"}
    second = [(part("d"), at(61), "d"), (image("v2", "e"), at(62), "e")]
    assert kept(policy, *first, *second) == {"b", "d", "v2"}
    assert kept(policy, *second, *first) == {"b", "d", "v2"}


def test_a_repository_without_tags_does_not_grow_for_ever() -> None:
    policy = Policy(SHOP, push=(replace(ALL, untagged=True, keep=2),))
    pushed = [(parse_reference(f"{REPOSITORY}@sha256:{number:064x}"), at(number), str(number)) for number in range(99)]
    assert len(play(policy, pushed)) == 2 * 32


# --- any order -------------------------------------------------------------------------------------------------------

pushes = st.lists(
    st.builds(
        lambda tag, letter, minute: (image(tag, letter), at(minute), f"{tag} {letter} {minute}"),
        st.sampled_from(["v1", "v2", "v3", "base"]),
        st.sampled_from("abc"),
        st.integers(0, 6),
    ),
    max_size=8,
)
builds = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 3), st.booleans()), max_size=5, unique_by=lambda build: build[0]
).map(
    lambda listed: [
        # No tag moves from one build to another.
        (image(tag, "abcdef0"[minute]), at(minute), f"{tag} {minute}")
        for minute, tags, base in listed
        for tag in ([f"v{minute}.{number}" for number in range(tags)] + ["base"] * (base and minute == 3))
    ]
)
policies = st.builds(
    lambda keep, named: Policy(
        SHOP, images=(parse_reference(f"{REPOSITORY}:base"),) if named else (), push=(replace(ALL, keep=keep),)
    ),
    st.integers(1, 3),
    st.booleans(),
)


def essence(warmimages: dict[str, WarmImage]) -> set[tuple[str, str, datetime | None]]:
    return {(str(it.image), it.digest, it.pushed_at) for it in warmimages.values()}


@given(policies, builds, st.data())
def test_the_order_of_arrival_and_replays_do_not_matter(
    policy: Policy, given_: list[Push], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(given_))
    replayed = [*shuffled, *data.draw(st.permutations(shuffled))]
    assert essence(play(policy, replayed)) == essence(play(policy, given_))


@given(policies, builds)
def test_replaying_everything_changes_nothing(policy: Policy, given_: list[Push]) -> None:
    once = play(policy, given_)
    assert play(policy, given_, list(once.values())) == once


@given(policies, builds)
def test_the_newest_builds_stay_with_all_their_tags(policy: Policy, given_: list[Push]) -> None:
    stay = {it.image.tag for it in play(policy, given_).values() if not policy.names(it.image)}
    counted = [push for push in given_ if not policy.names(push[0])]
    newest = sorted({moment for _, moment, _ in counted}, reverse=True)[: policy.keep(image("v1"))]
    assert stay == {reference.tag for reference, moment, _ in counted if moment in newest}


@given(policies, pushes)
def test_wherever_tags_move_the_newest_push_is_there(policy: Policy, given_: list[Push]) -> None:
    stay = {it.image.tag: it.pushed_at for it in play(policy, given_).values()}
    counted = [push for push in given_ if not policy.names(push[0])]
    newest = max((moment for _, moment, _ in counted), default=NOW)
    assert all(stay[reference.tag] == moment for reference, moment, _ in counted if moment == newest)


# --- a policy --------------------------------------------------------------------------------------------------------


def settle(policy: Policy, stored: Iterable[WarmImage]) -> list[WarmImage]:
    """The WarmImages after the policy's changes."""
    warmimages = {it.key: it for it in stored}
    changes = policy_changes(policy, list(warmimages.values()), NOW)
    for upsert in changes.upserts:
        warmimages[upsert.warmimage.key] = upsert.warmimage
    for gone in changes.deletes:
        del warmimages[gone.key]
    return list(warmimages.values())


def test_images_that_a_policy_names_are_created_once() -> None:
    policy = Policy(SHOP, images=(parse_reference(f"{REPOSITORY}:base"), parse_reference(f"{REPOSITORY}:base")))
    (made,) = settle(policy, [])
    assert (str(made.image), made.pushed_at) == (f"{REPOSITORY}:base", None)
    assert settle(policy, [made]) == [made]


def test_a_changed_policy_updates_its_warmimages_and_deletes_those_that_no_rule_matches() -> None:
    before = Policy(SHOP, push=(replace(ALL, keep=3),))
    stored = play(before, [(image("v1"), at(1), "e"), (image("debug"), at(2), "f")])
    after = Policy(SHOP, push=(replace(ALL, tags=("v*",)),), template=Template(expire_after_seconds=10**6))
    (left,) = settle(after, stored.values())
    assert (left.image.tag, left.template, left.pushed_at) == ("v1", after.template, at(1))


def test_an_image_that_is_no_longer_named_goes_unless_a_rule_wants_it() -> None:
    named = Policy(SHOP, images=(parse_reference(f"{REPOSITORY}:base"),), push=(ALL,))
    stored = settle(named, [])
    assert settle(replace(named, images=()), stored)
    assert not settle(replace(named, images=(), push=()), stored)


def test_a_digest_that_the_policy_gives_is_pulled_by_that_digest_until_the_policy_gives_another() -> None:
    policy = Policy(SHOP, images=(image("base", "a"),))
    (made,) = settle(policy, [])
    assert line_of(made).image == f"{REPOSITORY}@{image('base', 'a').digest}"
    assert made.digest == image("base", "a").digest
    assert settle(policy, [made]) == [made]
    (edited,) = settle(replace(policy, images=(image("base", "b"),)), [made])
    assert line_of(edited).image == f"{REPOSITORY}@{image('base', 'b').digest}"


def test_a_push_of_a_tag_does_not_replace_the_digest_that_the_policy_gives_for_it() -> None:
    pinned = Policy(SHOP, images=(image("base", "a"),))
    assert not pinned.wants(image("base", "b"))
    both = replace(pinned, push=(ALL,))
    (made,) = settle(both, [])
    stored = play(both, [(image("base", "b"), at(1), "e")], [made])
    assert set(settle(both, stored.values())) == set(stored.values())
    lines = {line_of(it).image: it.digest for it in stored.values()}
    assert lines == {
        f"{REPOSITORY}@{image('base', 'a').digest}": image("base", "a").digest,
        f"{REPOSITORY}:base": image("base", "b").digest,
    }


def test_a_push_is_wanted_under_every_name_that_the_policy_writes_and_under_its_own_where_a_rule_takes_it() -> None:
    spelled = parse_reference(f"{REPOSITORY}:v1".replace("harbor.example", "Harbor.Example"))
    pushed = image("v1")
    named = Policy(SHOP, images=(spelled, parse_reference("docker.io/library/redis:7")))
    assert named.spellings(pushed) == (pushed.written_as(spelled),)
    assert replace(named, push=(ALL,)).spellings(pushed) == (pushed.written_as(spelled), pushed)
    assert replace(named, images=(), push=(ALL,)).spellings(pushed) == (pushed,)
    assert replace(named, images=()).spellings(pushed) == ()
    exact = replace(named, images=(parse_reference(f"{REPOSITORY}:v1"),), push=(ALL,))
    assert exact.spellings(pushed) == (pushed,)


def test_a_rule_takes_an_image_under_any_spelling_of_its_host() -> None:
    assert Policy(SHOP, push=(ALL,)).wants(parse_reference("Harbor.Example.com/shop/app:v1"))
    hub = Policy(SHOP, push=(PushRule("docker.io/library/*"),))
    assert hub.wants(parse_reference("registry-1.docker.io/library/redis:7"))


def test_a_digest_that_the_policy_gives_does_not_count_among_the_pushes_that_are_kept() -> None:
    policy = Policy(SHOP, images=(image("base", "a"),), push=(replace(ALL, keep=1),))
    stored = play(policy, [(image("v1", "b"), at(1), "e"), (image("v2", "c"), at(2), "f")], settle(policy, []))
    assert {it.digest for it in stored.values()} == {image("base", "a").digest, image("v2", "c").digest}


def test_a_warmimage_under_a_name_that_is_not_the_policys_is_deleted() -> None:
    policy = Policy(SHOP, push=(ALL,))
    (made,) = play(policy, [(image("v1"), at(1), "e")]).values()
    assert not settle(policy, [replace(made, key=ObjectKey("shop", "renamed"))])


def test_a_rule_that_cannot_be_read_takes_nothing_and_takes_nothing_away() -> None:
    before = Policy(SHOP, push=(replace(ALL, tags=("v*",), keep=2), replace(ALL, tags=("x*",))))
    pushed = [(image("v1", "1"), at(1), "e"), (image("x1", "2"), at(2), "f")]
    stored = list(play(before, pushed).values())
    after = replace(before, push=(before.push[0], replace(before.push[1], unread=True)))
    assert {it.key for it in settle(after, stored)} == {it.key for it in stored}
    assert not after.wants(image("x2"))
    assert after.wants(image("v2"))
    assert {it.image.tag for it in settle(replace(after, push=after.push[:1]), stored)} == {"v1"}


def test_images_that_cannot_be_read_leave_there_what_was_named() -> None:
    policy = Policy(SHOP, images=(parse_reference(f"{REPOSITORY}:base"),))
    (made,) = settle(policy, [])
    assert settle(replace(policy, images=(), unread=frozenset({"images"})), [made]) == [made]


def test_a_push_under_a_template_that_cannot_be_read_waits_for_the_template() -> None:
    nowhere = Template(Nodes(limit=Limit(0)))
    good = Policy(SHOP, push=(replace(ALL, keep=2),), template=Template(expire_after_seconds=10**6))
    bad = replace(good, template=nowhere, unread=frozenset({"template"}))
    stored = list(play(good, [(image("v1", "1"), at(1), "e")]).values())
    pushed = [(image("v1", "2"), at(2), "f"), (image("v2", "3"), at(3), "g")]
    after = {it.image.tag: it for it in settle(bad, play(bad, pushed, stored).values())}
    assert after["v1"].template == good.template
    assert after["v1"].digest == image("v1", "2").digest
    assert after["v2"].template == nowhere
    assert {it.template for it in settle(good, after.values())} == {good.template}


def test_a_shorter_lifetime_expires_what_is_stored() -> None:
    policy = Policy(SHOP, push=(ALL,))
    stored = play(policy, [(image("v1"), at(1), "e")]).values()
    assert not settle(replace(policy, template=Template(expire_after_seconds=60)), stored)


@given(policies, policies, pushes)
def test_a_policy_settles_at_once(before: Policy, after: Policy, given_: list[Push]) -> None:
    settled = settle(after, play(before, given_).values())
    assert {it.key: it for it in settle(after, settled)} == {it.key: it for it in settled}


@given(st.integers(1, 100_000), st.integers(0, 200_000))
def test_expiry_counts_from_the_push_and_else_from_the_creation(seconds: int, age: int) -> None:
    bare = WarmImage(SHOP, image("v1"), template=Template(expire_after_seconds=seconds))
    moment = NOW - timedelta(seconds=age)
    assert is_expired(replace(bare, pushed_at=moment), NOW) is (age > seconds)
    assert is_expired(replace(bare, created_at=moment), NOW) is (age > seconds)
    assert not is_expired(bare, NOW)
