"""CloudEvents are read in every mode, and refused if something is missing."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.cloudevents import STRUCTURED, read_event, write_event
from warmhook.events import Event, NotAnEvent

BATCHED = "application/cloudevents-batch+json"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVENT = Event("dev.example.type", "/source", "id-1", NOW, "a subject", {"image": "nginx", "number": 1})
FIELDS = {"specversion": "1.0", "id": "id-1", "source": "/source", "type": "dev.example.type"}


def read(content_type: str, body: Any, **headers: str) -> Event:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return read_event({"content-type": content_type, **named}, content, NOW)


def test_a_written_event_reads_back() -> None:
    assert read_event({"content-type": STRUCTURED}, write_event(EVENT), NOW) == EVENT


def test_the_content_type_may_have_parameters_and_any_case() -> None:
    assert read("Application/CloudEvents+JSON; charset=utf-8", FIELDS).id == "id-1"


@pytest.mark.parametrize("batch", [[], [FIELDS], [FIELDS, FIELDS], FIELDS])
@pytest.mark.parametrize("content_type", [BATCHED, "Application/CloudEvents-Batch+JSON; charset=utf-8"])
def test_a_batch_is_refused_as_a_broker_refuses_it(content_type: str, batch: Any) -> None:
    with pytest.raises(NotAnEvent, match="one event per request"):
        read(content_type, batch)


def test_binary_mode_has_the_attributes_in_headers() -> None:
    event = read(
        "application/json",
        {"a": 1},
        ce_specversion="1.0",
        ce_id="1",
        ce_source="/s",
        ce_type="t",
        ce_time="2026-01-31T10:30:00+01:00",
    )
    assert (event.data, event.time) == ({"a": 1}, datetime(2026, 1, 31, 9, 30, tzinfo=UTC))


def test_an_event_without_data_has_none() -> None:
    assert read(STRUCTURED, FIELDS).data == {}
    headers = {f"ce_{name}": text for name, text in FIELDS.items()}
    assert read("application/json", b"", **headers).data == {}
    assert read_event({name.replace("_", "-"): text for name, text in headers.items()}, b"", NOW).data == {}


def test_a_time_that_is_missing_or_none_is_that_of_receipt() -> None:
    assert read(STRUCTURED, FIELDS).time == NOW
    assert read(STRUCTURED, {**FIELDS, "time": "yesterday"}).time == NOW


@pytest.mark.parametrize("name", ["specversion", "id", "source", "type"])
def test_a_required_attribute_must_be_present(name: str) -> None:
    for missing in ({}, {name: ""}, {name: 1}, {name: None}):
        with pytest.raises(NotAnEvent, match=name):
            read(STRUCTURED, {key: text for key, text in FIELDS.items() if key != name} | missing)
    headers = {f"ce_{key}": text for key, text in FIELDS.items() if key != name}
    with pytest.raises(NotAnEvent, match=name):
        read("application/json", {}, **headers)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (STRUCTURED, b"{"),
        (STRUCTURED, b"\xff"),
        (STRUCTURED, []),
        (STRUCTURED, b"[" * 100_000),
        (STRUCTURED, {**FIELDS, "data": []}),
        (STRUCTURED, {**FIELDS, "data": "text"}),
        (STRUCTURED, {**FIELDS, "data_base64": "AAAA"}),
        (STRUCTURED, {**FIELDS, "specversion": "0.3"}),
        ("application/cloudevents+avro", b"x"),
        ("application/json", FIELDS),
        ("", b""),
    ],
)
def test_a_body_that_is_no_event_is_refused(content_type: str, body: Any) -> None:
    with pytest.raises(NotAnEvent):
        read(content_type, body)


@pytest.mark.slow
@given(st.sampled_from([STRUCTURED, BATCHED, "application/json", ""]), st.binary(max_size=200))
def test_a_body_of_any_bytes_is_read_or_refused(content_type: str, body: bytes) -> None:
    headers = {"content-type": content_type, "ce-id": "1", "ce-source": "/", "ce-type": "t", "ce-specversion": "1.0"}
    with suppress(NotAnEvent):
        assert isinstance(read_event(headers, body, NOW), Event)
