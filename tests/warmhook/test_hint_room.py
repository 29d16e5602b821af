"""Hints have the room that lines leave; what expired or belongs to no line goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from warmhook.hint_room import surplus_hints
from warmhook.hints import Child, Hint, encode_hint
from warmhook.node_lines import MAX_BYTES, MAX_LINES, Line, size_of
from warmhook.warmimages import ObjectKey, Pull

NOW = 1_000
KEY = "k" * 43


def line(number: int, namespace: str = "shop", **given: object) -> Line:
    return Line(ObjectKey(namespace, f"w{number}"), f"a.io/b:{number}", **given)  # type: ignore[arg-type]


def hint(expires_at: int = NOW + 1, children: int = 0) -> str:
    return encode_hint(Hint(expires_at, children=tuple(Child(f"node-{number}", KEY) for number in range(children))))


def test_a_hint_that_has_room_stays() -> None:
    one = line(1)
    assert surplus_hints([one], {one.key: hint()}, NOW) == frozenset()


def test_what_expired_or_is_unreadable_or_belongs_to_no_line_goes_although_there_is_room() -> None:
    old, broken, kept = line(1), line(2), line(3)
    hints = {old.key: hint(NOW), broken.key: "{", "0" * 16: hint(), kept.key: hint()}
    assert surplus_hints([old, broken, kept], hints, NOW) == {old.key, broken.key, "0" * 16}


def test_a_namespace_whose_hints_are_large_takes_no_room_of_the_hints_of_others() -> None:
    loud, quiet = [line(number, "loud") for number in range(40)], line(0, "quiet")
    hints = {one.key: hint(NOW + 9, children=64) for one in loud} | {quiet.key: hint(children=20)}
    gone = surplus_hints([*loud, quiet], hints, NOW)
    assert gone
    assert quiet.key not in gone


def test_of_one_namespace_the_hints_of_the_highest_priority_stay() -> None:
    low, high = [line(number) for number in range(40)], line(99, pull=Pull(priority=5))
    hints = {one.key: hint(NOW + 9, children=64) for one in low} | {high.key: hint(children=64)}
    gone = surplus_hints([*low, high], hints, NOW)
    assert gone
    assert high.key not in gone


def test_where_hints_have_to_go_the_next_ones_have_room_as_well() -> None:
    lines = [line(number) for number in range(100)]
    hints = {one.key: hint(children=20) for one in lines}
    kept = hints.keys() - surplus_hints(lines, hints, NOW)
    left = MAX_BYTES - sum(map(size_of, lines))
    assert left / 3 < sum(len(hints[key]) for key in kept) < left / 2


@given(st.integers(0, MAX_LINES), st.integers(0, 64), st.integers(0, 250))
def test_lines_and_the_hints_that_stay_fit(lines: int, children: int, secrets: int) -> None:
    wide = Pull(secrets=("s" * secrets,))
    held = {one.key: one for one in (line(number, pull=wide) for number in range(lines))}
    hints = {key: hint(children=children) for key in held}
    kept = hints.keys() - surplus_hints(held.values(), hints, NOW)
    of_lines = sum(map(size_of, held.values()))
    assert not kept or of_lines + sum(len(hints[key]) for key in kept) <= MAX_BYTES
