"""Every adapter answers any input with outcomes of the documented form, and without an exception."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.registries import Delivery, Outcome, Reply, Source, find_adapters
from tests.adapters.registries.cases import FOLDER, RECEIVED, read_cases
from warmhook.events import SKIP_REASONS, BlobPushed, Pushed, Skip, pushed_id
from warmhook.images import parse_reference

ADAPTERS = find_adapters()
BODIES = {
    kind: [case for case in read_cases(FOLDER / f"{kind}.toml") if case.body.startswith(("{", "["))]
    for kind in ADAPTERS
}
SOURCE = Source("fuzz", secrets=(b"s3cret",))
FAST = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
WORDS = st.sampled_from(
    ["", "push", "sha256:", "a/b:c", "//", "@", ":", "http://[", "x" * 300, "\ud800", "\x00", "%ff"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", ADAPTERS)
@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
@FAST
def test_arbitrary_bodies_are_answered(kind: str, content: bytes) -> None:
    _holds(kind, Delivery(content, RECEIVED))


@pytest.mark.parametrize("kind", ADAPTERS)
@given(data=st.data())
@FAST
def test_deliveries_with_one_change_are_answered(kind: str, data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(BODIES[kind]))
    changed = _with_one_change(json.loads(case.body), data) if _readable(case.body) else case.body

    _holds(kind, Delivery(json.dumps(changed).encode(), RECEIVED, headers=case.headers))


@pytest.mark.parametrize("kind", ADAPTERS)
@given(
    names=st.dictionaries(
        st.sampled_from(["content-type", "ce-type", "ce-id", "ce-source", "ce-specversion", "authorization"]),
        st.text(st.characters(max_codepoint=255), max_size=12) | st.just("application/cloudevents+json"),
    ),
    token=st.text(max_size=6),
)
@FAST
def test_arbitrary_headers_are_answered_and_authenticate_nobody(kind: str, names: dict[str, str], token: str) -> None:
    delivery = Delivery(BODIES[kind][0].body.encode(), RECEIVED, headers=names, query={"token": token})

    assert ADAPTERS[kind].authenticate(delivery, SOURCE) is False
    _holds(kind, delivery)


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" + b"9" * 10_000 + b"]",
        b'{"action": NaN}',
        b'{"type": "\\ud800"}',
        b"\xff\xfe{\x00}\x00",
        b'{"type": "\xe9"}',
        b"[]",
        b"5",
        b'{"event_data": 5, "type": "PUSH_ARTIFACT"}',
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_body_of_another_form_is_skipped_with_a_detail_that_names_no_class(kind: str, content: bytes) -> None:
    for outcome in _holds(kind, Delivery(content, RECEIVED)):
        assert isinstance(outcome, Skip)
        assert outcome.reason in {"malformed", "unknown-event"}
        assert not re.search(r"instance of|Input should|Field required|\b_[A-Z]", outcome.detail)


def _holds(kind: str, delivery: Delivery) -> list[Outcome]:
    outcomes = ADAPTERS[kind].parse(delivery, replace(SOURCE, early_blobs=ADAPTERS[kind].reports_blobs))
    assert outcomes
    for outcome in outcomes:
        if isinstance(outcome, Pushed):
            assert parse_reference(str(outcome.image)) == outcome.image
            assert outcome.image.tag or outcome.image.digest
            assert outcome.pushed_at is None or outcome.pushed_at.tzinfo is not None
            assert pushed_id("fuzz", outcome, RECEIVED)
        elif isinstance(outcome, Skip):
            assert outcome.reason in SKIP_REASONS
            assert len(outcome.detail) <= 200
            assert outcome.detail.isprintable()
        elif isinstance(outcome, BlobPushed):
            assert parse_reference(str(outcome.blob)) == outcome.blob
            assert outcome.blob.digest
            assert not outcome.blob.tag
        else:
            assert isinstance(outcome, Reply)
            json.loads(outcome.body)
    return outcomes


def _readable(body: str) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def _with_one_change(value: Any, data: st.DataObject) -> Any:
    """`value` with one place of it replaced, removed or put into a list."""
    inside = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    if not inside or data.draw(st.integers(0, 4)) == 0:
        return data.draw(st.one_of(JSON, st.just([value]), st.just({"a": value})))
    key = data.draw(st.sampled_from(sorted(inside, key=str)))
    if isinstance(value, dict) and data.draw(st.integers(0, 5)) == 0:
        return {name: kept for name, kept in value.items() if name != key}
    changed = {**inside, key: _with_one_change(inside[key], data)}
    return list(changed.values()) if isinstance(value, list) else changed
