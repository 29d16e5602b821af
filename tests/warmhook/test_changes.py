"""Changes of objects are named by events whose ids tell different changes apart."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.events import (
    CHANGED,
    CHANGES_MAX,
    Changed,
    NotAnEvent,
    changed_event,
    read_change,
    read_changed,
    reported_event,
)

NOON = datetime(2026, 3, 4, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "changes",
    [{"kind": []}, {"kind": "Pod"}, {"name": ""}, {"namespace": 5}, {"namespace": ""}, {"object": "x"}, {"object": []}],
)
def test_malformed_change_is_refused_as_such(changes: dict[str, object]) -> None:
    with pytest.raises(NotAnEvent):
        read_change({"kind": "WarmImage", "namespace": "shop", "name": "web"} | changes)


names = st.text("abcz09-.", min_size=1, max_size=8).map(lambda text: f"a{text}a")
changes = st.builds(
    lambda kind, namespace, name, deleted, version, uid: Changed(
        kind, "" if kind == "Node" else namespace, name, deleted, version, uid
    ),
    st.sampled_from(["WarmPolicy", "WarmImage", "Node"]),
    names,
    names,
    st.booleans(),
    st.sampled_from(["", "1", "23"]),
    st.sampled_from(["", "u1", "u2"]),
)


@given(st.lists(changes, min_size=1, max_size=5))
def test_changes_read_as_the_same_changes_from_their_event(given: list[Changed]) -> None:
    event = changed_event(given, NOON)
    assert event.type == CHANGED
    found = [read_change(named) for named in read_changed(event)]
    assert sorted(found, key=repr) == sorted((replace(one, uid="") for one in given), key=repr)


@given(st.lists(changes, min_size=1, max_size=4), st.lists(changes, min_size=1, max_size=4))
def test_events_about_different_changes_never_share_an_id(one: list[Changed], other: list[Changed]) -> None:
    same = sorted(map(repr, one)) == sorted(map(repr, other))
    assert (changed_event(one, NOON).id == changed_event(other, NOON).id) == same
    assert changed_event(one, NOON).id == changed_event(one[::-1], NOON).id


def test_a_change_without_a_version_that_happens_again_is_another_event() -> None:
    change = Changed("Node", "", "a", uid="u1")
    later = NOON + timedelta(seconds=1)
    assert changed_event([change], NOON).id != changed_event([change], later).id
    versioned = replace(change, resource_version="7")
    assert changed_event([versioned], NOON).id == changed_event([versioned], later).id


def test_the_largest_events_are_well_below_what_events_takes() -> None:
    long = [Changed("WarmImage", "n" * 63, f"{number:a>253}", True, "9" * 20) for number in range(CHANGES_MAX)]
    reported = [f"{'n' * 63}/{number:a>253}" for number in range(CHANGES_MAX)]
    for event in (changed_event(long, NOON), reported_event(reported, NOON)):
        assert len(json.dumps(event.data)) < 512 * 1024


def test_an_object_travels_with_its_change_and_is_no_part_of_its_identity() -> None:
    plain = Changed("WarmImage", "shop", "web", resource_version="7", uid="u1")
    carrying = replace(plain, object={"metadata": {"name": "web"}, "spec": {"image": "a.example/b:1"}})
    event = changed_event([carrying], NOON)
    assert [read_change(named).object for named in read_changed(event)] == [carrying.object]
    assert event.id == changed_event([plain], NOON).id
    assert "object" not in changed_event([plain], NOON).data["objects"][0]


def test_objects_that_are_large_together_stay_behind_and_their_changes_do_not() -> None:
    large = {"metadata": {"annotations": {"a": "x" * 50_000}}}
    given = [Changed("WarmPolicy", "shop", f"p{number}", resource_version="7", object=large) for number in range(9)]
    event = changed_event(given, NOON)
    assert len(json.dumps(event.data)) < 256 * 1024
    found = [read_change(named) for named in read_changed(event)]
    assert [(change.name, change.object is not None) for change in found] == [
        (f"p{number}", number < 2) for number in range(9)
    ]
