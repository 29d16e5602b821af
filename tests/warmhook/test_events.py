"""What makes two deliveries the same event, and which time a push counts with."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.events import (
    PUSHED,
    SKIP_REASONS,
    Event,
    NotAnEvent,
    Pushed,
    push_time,
    pushed_event,
    pushed_id,
    read_pushed,
)
from warmhook.images import parse_reference

NOON = datetime(2026, 3, 4, 12, 0, 30, tzinfo=UTC)
ONE = "sha256:" + "1" * 64
TWO = "sha256:" + "2" * 64
GO_ZERO = datetime(1, 1, 1, tzinfo=UTC)
UNIX_ZERO = datetime(1970, 1, 1, tzinfo=UTC)

images = st.sampled_from(["a.io/b:1", "a.io/b:2", "a.io/c:1", f"a.io/b:1@{ONE}", f"a.io/b:1@{TWO}", f"a.io/b@{ONE}"])
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(timezones=offsets)
pushes = st.builds(Pushed, images.map(parse_reference), st.none() | times, st.text(max_size=3))


def push(image: str = "a.io/b:1", pushed_at: datetime | None = None, delivery_id: str = "") -> Pushed:
    return Pushed(parse_reference(image), pushed_at, delivery_id)


@given(pushes)
def test_id_is_32_hex_digits(pushed: Pushed) -> None:
    identity = pushed_id("harbor", pushed, NOON)
    assert len(identity) == 32
    assert int(identity, 16) >= 0


@pytest.mark.parametrize(
    "pushed",
    [push(delivery_id="7"), push(pushed_at=NOON), push(f"a.io/b:1@{ONE}"), push(f"a.io/b:1@{ONE}", NOON, "7")],
    ids=["delivery id", "time", "digest", "all"],
)
def test_redelivery_has_the_same_id_whenever_it_comes(pushed: Pushed) -> None:
    assert pushed_id("harbor", pushed, NOON) == pushed_id("harbor", pushed, NOON + timedelta(days=1))


def test_delivery_id_tells_more_than_the_time_of_delivery() -> None:
    first, again = push(pushed_at=NOON, delivery_id="7"), push(pushed_at=NOON + timedelta(seconds=9), delivery_id="7")
    assert pushed_id("harbor", first, NOON) == pushed_id("harbor", again, NOON)


@given(times.filter(lambda time: time > UNIX_ZERO), offsets)
def test_one_moment_written_in_two_time_zones_is_one_event(moment: datetime, offset: timezone) -> None:
    try:
        elsewhere = moment.astimezone(offset)
    except OverflowError:
        return
    assert pushed_id("harbor", push(pushed_at=moment), NOON) == pushed_id("harbor", push(pushed_at=elsewhere), NOON)


def test_different_pushes_have_different_ids() -> None:
    pushed = [
        push(pushed_at=NOON),
        push(pushed_at=NOON + timedelta(microseconds=1)),
        push("a.io/b:2", NOON),
        push("a.io/c:1", NOON),
        push(f"a.io/b:1@{ONE}", NOON),
        push(f"a.io/b:1@{TWO}", NOON),
        push(f"a.io/b@{ONE}", NOON),
        push(f"a.io/b:1@{ONE}"),
        push(delivery_id="7"),
        push(delivery_id="8"),
    ]
    assert len({pushed_id("harbor", each, NOON) for each in pushed}) == len(pushed)


def test_each_source_has_its_own_ids() -> None:
    assert pushed_id("harbor", push(pushed_at=NOON), NOON) != pushed_id("mirror", push(pushed_at=NOON), NOON)


@pytest.mark.parametrize("nothing", [None, GO_ZERO, UNIX_ZERO], ids=["none", "Go's zero", "Unix zero"])
def test_every_delivery_is_a_push_of_its_own_where_a_sender_tells_nothing(nothing: datetime | None) -> None:
    pushed = push(pushed_at=nothing)
    first = pushed_id("hub", pushed, NOON)
    assert first == pushed_id("hub", pushed, NOON)
    assert first != pushed_id("hub", pushed, NOON + timedelta(milliseconds=1))


def test_half_a_surrogate_pair_in_a_delivery_id_is_taken() -> None:
    assert pushed_id("harbor", push(delivery_id="\ud800"), NOON) != pushed_id(
        "harbor", push(delivery_id="\ud801"), NOON
    )


@pytest.mark.parametrize(
    ("ahead", "counted"),
    [
        (timedelta(days=-900), timedelta(days=-900)),
        (timedelta(), timedelta()),
        (timedelta(seconds=1), timedelta()),
        (timedelta(days=9000), timedelta()),
    ],
)
def test_senders_time_counts_unless_the_push_was_received_earlier(ahead: timedelta, counted: timedelta) -> None:
    assert push_time(NOON + ahead, NOON) == NOON + counted


@pytest.mark.parametrize("nothing", [None, GO_ZERO, UNIX_ZERO], ids=["none", "Go's zero", "Unix zero"])
def test_push_without_a_time_counts_as_pushed_when_received(nothing: datetime | None) -> None:
    assert push_time(nothing, NOON) == NOON


@given(st.none() | times, offsets)
def test_push_time_is_in_utc_and_never_in_the_future(pushed_at: datetime | None, offset: timezone) -> None:
    counted = push_time(pushed_at, NOON.astimezone(offset))
    assert counted.tzinfo is UTC
    assert UNIX_ZERO < counted <= NOON


@given(pushes.filter(lambda pushed: pushed.pushed_at is None or 1 < pushed.pushed_at.year < 9999))
def test_push_reads_as_the_same_push_from_its_event(pushed: Pushed) -> None:
    event = pushed_event("harbor", pushed, NOON)
    source, read = read_pushed(event)
    assert (source, read) == ("harbor", pushed)
    assert pushed_id(source, read, NOON) == event.id


@pytest.mark.parametrize(
    "changes",
    [
        {"image": ["a"]},
        {"image": "A"},
        {"image": "a.io/b"},
        {"digest": 5},
        {"digest": "sha256:0123"},
        {"pushedAt": 5},
        {"pushedAt": "0001-01-01T00:00:00+14:00"},
        {"deliveryId": {}},
        {"source": None},
    ],
)
def test_malformed_push_is_refused_as_such(changes: dict[str, object]) -> None:
    data = {"image": "a.io/b:1", "source": "harbor"} | changes
    with pytest.raises(NotAnEvent):
        read_pushed(Event(PUSHED, "/", "1", NOON, data=data))


def test_skip_reasons_are_slugs_that_name_one_thing_each() -> None:
    assert len(set(SKIP_REASONS)) == len(SKIP_REASONS)
    assert all(reason == reason.lower() and reason.replace("-", "").isalpha() for reason in SKIP_REASONS)
