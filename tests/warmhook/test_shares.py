"""A node's room is shared fairly, whoever wants however much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warmhook.limits import Limits, Tenancy
from warmhook.node_lines import MAX_BYTES, MAX_LINES, Line, over_budget
from warmhook.shares import Claim, Room, served
from warmhook.warmimages import ObjectKey, Pull

ROOM = Room(lines=24, size_bytes=24_000)
claims = st.lists(
    st.builds(
        Claim,
        key=st.integers(0, 10**6).map(str),
        namespace=st.sampled_from(["a", "b", "c"]),
        priority=st.integers(-2, 2),
        since=st.integers(0, 5).map(float),
        size_bytes=st.integers(1, 3000),
    ),
    unique_by=lambda claim: claim.key,
    max_size=60,
)


@given(claims, st.data())
def test_the_order_in_which_lines_come_does_not_matter(given_: list[Claim], data: st.DataObject) -> None:
    assert served(data.draw(st.permutations(given_)), ROOM) == served(given_, ROOM)


@given(claims)
def test_no_more_than_the_room_is_used(given_: list[Claim]) -> None:
    found = [claim for claim in given_ if claim.key in served(given_, ROOM)]
    assert len(found) <= ROOM.lines
    assert sum(claim.size_bytes for claim in found) <= ROOM.size_bytes


@given(claims)
def test_a_line_that_has_room_has_room_without_the_rest(given_: list[Claim]) -> None:
    found = served(given_, ROOM)
    assert served([claim for claim in given_ if claim.key in found], ROOM) == found


@given(claims)
def test_everybody_is_served_if_all_fit(given_: list[Claim]) -> None:
    if len(given_) <= ROOM.lines and sum(claim.size_bytes for claim in given_) <= ROOM.size_bytes:
        assert served(given_, ROOM) == {claim.key for claim in given_}


@given(claims, st.integers(0, 2000), st.sampled_from([-1000, 0, 1000]))
def test_a_namespace_below_its_share_keeps_all_its_lines_whatever_another_wants(
    given_: list[Claim], many: int, priority: int
) -> None:
    loud = [Claim(f"loud {number}", "loud", priority, 9.0, 1000) for number in range(many)]
    mine = [claim for claim in given_ if claim.namespace == "a"]
    largest = max((claim.size_bytes for claim in given_), default=0)
    # A fourth of the room, but for the last line of each of the others.
    if len(mine) <= ROOM.lines // 4 and sum(it.size_bytes for it in mine) <= ROOM.size_bytes / 4 - max(largest, 1000):
        assert {claim.key for claim in mine} <= served(given_ + loud, ROOM)


@given(claims)
def test_within_a_namespace_the_important_and_then_the_newest_are_served(given_: list[Claim]) -> None:
    same_size = [Claim(it.key, "a", it.priority, it.since, 1000) for it in given_]
    found = served(same_size, ROOM)
    ranked = sorted(same_size, key=lambda it: (-it.priority, -it.since, it.key))
    assert found == {claim.key for claim in ranked[: ROOM.lines]}


ANY_ROOM = Tenancy((("**", Limits(room=Room(MAX_LINES, MAX_BYTES))),))
"""Every namespace may have all the room of a node."""


def lines(namespace: str, many: int, priority: int, name: str = "x") -> list[Line]:
    return [
        Line(ObjectKey(namespace, f"{name}{number}"), f"ghcr.io/shop/app:v{number}", pull=Pull(priority=priority))
        for number in range(many)
    ]


def test_handlers_write_no_more_lines_than_an_agent_takes_and_each_namespace_has_its_share() -> None:
    loud, quiet = lines("loud", 1000, 1000), lines("quiet", MAX_LINES // 2, 0)
    refused = over_budget([*loud, *quiet], ANY_ROOM)
    assert len(loud) + len(quiet) - len(refused) == MAX_LINES
    assert not refused & {line.key for line in quiet}


def test_long_lines_of_one_namespace_take_no_bytes_of_another() -> None:
    long = lines("long", 120, 1000, name="x" * 1500)
    short = lines("short", 100, 0)
    refused = over_budget([*long, *short], ANY_ROOM)
    assert not refused & {line.key for line in short}
    assert sum(len(line.encode()) for line in [*long, *short] if line.key not in refused) < MAX_BYTES
