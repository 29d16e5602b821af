"""The last deliveries of each kind are kept within bounds, and whatever is in the ConfigMap can be shown."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmhook.delivery_records import (
    KEPT_MAX,
    PROCESSES_MAX,
    SILENT,
    VALUE_BYTES,
    DeliveryRecord,
    RecentDeliveries,
    key_of,
    outdated_keys,
    read_delivery_records,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
IMAGE = "harbor.example.com/shop/app:v1"


def record(seconds: float = 0, result: str = "accepted", source: str = "harbor", **more: object) -> DeliveryRecord:
    """A delivery so many seconds after `NOW`."""
    return DeliveryRecord(NOW + timedelta(seconds=seconds), source, "harbor", result, **more)  # type: ignore[arg-type]


def recent(*records: DeliveryRecord) -> RecentDeliveries:
    kept = RecentDeliveries()
    for one in records:
        kept.add(one)
    return kept


def read(kept: RecentDeliveries) -> list[DeliveryRecord]:
    return read_delivery_records({"web.8080": kept.encode(NOW)})


def test_what_is_encoded_is_read_newest_first() -> None:
    first = record(images=(IMAGE, IMAGE, IMAGE), more_images=7, event_id="ab", seconds=0.0123)
    second = record(1, "skipped", reason="malformed", detail="event_data: missing")
    third = record(2, "unauthorized", source="github", reason="bad-secret")
    assert read(recent(first, third, second)) == [third, second, first]


def test_records_of_all_processes_are_one_list() -> None:
    data = {"a.8080": recent(record(1), record(3)).encode(NOW), "b.8080": recent(record(2)).encode(NOW)}
    assert read_delivery_records(data) == [record(3), record(2), record(1)]


def test_a_flood_of_unauthorized_deliveries_leaves_those_that_were_accepted() -> None:
    accepted = [record(number, images=(IMAGE,)) for number in range(20)]
    flood = [record(100 + number / 1000, "unauthorized", reason="bad-secret") for number in range(10_000)]
    found = read(recent(*accepted, *flood))
    assert [one for one in found if one.result == "accepted"] == accepted[::-1]
    assert sum(one.result == "unauthorized" for one in found) == KEPT_MAX


def test_a_flood_at_many_sources_leaves_what_came_with_the_secret_of_each() -> None:
    sources = [f"source-{number}" for number in range(40)]
    accepted = [record(source=source, images=(IMAGE,), event_id="a" * 32) for source in sources]
    results = [("unauthorized", "bad-secret"), ("refused", "too-large"), ("refused", "disconnected")]
    flood = [record(100, result, source=source, reason=reason) for source in sources for result, reason in results]
    assert sum(one.result == "accepted" for one in read(recent(*accepted, *flood))) == len(accepted)


def test_one_source_or_reason_does_not_push_out_another() -> None:
    rare = [record(0, "skipped", reason="no-policy"), record(0, source="github")]
    busy = [record(1 + number, "skipped", reason="not-a-push") for number in range(1000)]
    busy += [record(1 + number, images=(IMAGE * 5,)) for number in range(1000)]
    assert set(rare) <= set(read(recent(*rare, *busy)))


@settings(max_examples=20)
@given(st.lists(st.builds(record, st.floats(0, 1e6), detail=st.text(max_size=400), images=st.just((IMAGE * 40,) * 4))))
def test_a_value_has_at_most_16_kib_and_as_many_of_the_newest_as_fit(records: list[DeliveryRecord]) -> None:
    kept = recent(*sorted(records, key=lambda one: one.at))
    assert len(kept.encode(NOW).encode()) <= VALUE_BYTES
    moments = sorted((one.at for one in records), reverse=True)
    found = [one.at for one in read(kept)]
    assert found == moments[: len(found)]


def test_deliveries_of_before_a_restart_come_after_those_since_then() -> None:
    before = [record(number) for number in range(60)]
    kept = recent(record(100), record(101))
    kept.add_older(read(recent(*before)))
    found = read(kept)
    assert found[:3] == [record(101), record(100), record(59)]
    assert len(found) == KEPT_MAX


def test_a_key_is_one_that_a_configmap_may_have() -> None:
    assert key_of("warmhook-web-7d9c5b6f4-x2x7k", 8080) == "warmhook-web-7d9c5b6f4-x2x7k.8080"
    for host in ("", "..", "caf\u00e9 bar", "x" * 300, "\n"):
        key = key_of(host, 65535)
        assert re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key)
        assert key not in (".", "..")
        assert not key.startswith("..")


def test_keys_of_processes_that_have_not_written_for_a_day_are_outdated() -> None:
    data = {
        "own": recent(record()).encode(NOW - 2 * SILENT),
        "lives": recent(record()).encode(NOW - timedelta(hours=23)),
        "gone": recent(record()).encode(NOW - timedelta(hours=25)),
        "of a clock that is days ahead": recent(record()).encode(NOW + 2 * SILENT),
        "no record": "x",
    }
    assert outdated_keys(data, "own", NOW) == ["gone", "no record", "of a clock that is days ahead"]


def test_of_many_processes_those_that_wrote_last_are_kept() -> None:
    data = {f"web-{number}": recent().encode(NOW - timedelta(minutes=number)) for number in range(100)}
    kept = data.keys() - set(outdated_keys(data, "web-99", NOW))
    assert kept == {"web-99", *(f"web-{number}" for number in range(PROCESSES_MAX - 1))}


def test_what_is_hostile_is_shown_as_short_printable_text() -> None:
    line = {
        "at": "2026-03-01T12:00:00Z",
        "source": "\x1b]0;x\x07" + "s" * 1000,
        "result": "accepted",
        "images": ["a\u202eb", 7, "\ud800", "fourth"],
        "detail": ["no text"],
        "seconds": "1",
        "moreImages": -3,
    }
    (found,) = read_delivery_records({"web": json.dumps(line)})
    assert found.source == " ]0;x " + "s" * 194
    assert found.images == ("a b", " ")
    assert (found.detail, found.seconds, found.more_images) == ("", 0.0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        "[" * 100_000,
        '{"at":"2026-03-01T12:00:00Z"}',
        '{"at":"soon","source":"a","result":"b"}',
        '{"at":"2026-03-01T12:00:00","source":"a","result":"b"}',
        '{"at":5,"source":"a","result":"b"}',
    ],
)
def test_lines_that_are_no_record_hide_no_other_line(text: str) -> None:
    assert read_delivery_records({"web": f"{text}\n{recent(record()).encode(NOW)}{text}"}) == [record()]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "1" + "0" * 400, "true"])
def test_numbers_are_finite(number: str) -> None:
    line = f'{{"at":"2026-03-01T12:00:00Z","source":"a","result":"b","seconds":{number},"moreImages":{number}}}'
    (found,) = read_delivery_records({"web": line})
    assert 0 <= found.seconds <= 1e6
    assert 0 <= found.more_images <= 1e6


def test_fields_and_results_of_a_newer_version_are_no_problem() -> None:
    line = '{"at":"2026-03-01T12:00:00Z","source":"a","result":"postponed","more":{"x":[1]}}'
    assert [one.result for one in read_delivery_records({"web": line})] == ["postponed"]


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=5), st.text(max_size=50), max_size=5))
def test_any_texts_are_read_without_an_error(data: dict[str, str]) -> None:
    assert read_delivery_records(data) == []
    assert set(outdated_keys(data, "own", NOW)) == data.keys() - {"own"}
