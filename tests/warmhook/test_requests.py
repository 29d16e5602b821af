"""Annotations ask for refreshes and purges, whatever their text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.requests import (
    REFRESH_MAX,
    Requests,
    is_purged,
    policy_annotations,
    read_policy_requests,
    read_requests,
)


@pytest.mark.parametrize(
    ("value", "purge"),
    [("true", True), ("", True), ("yes", True), ("2026-03-01", True), ("false", False), ("False", False)],
)
def test_a_purge_is_asked_for_unless_the_annotation_is_absent_or_false(value: str, purge: bool) -> None:
    assert read_requests({"warmhook.dev/purge": value}) == Requests(purge=purge)
    assert is_purged({"warmhook.dev/purge": value}) is is_purged({"warmhook.dev/policy-purge": value}) is purge


@pytest.mark.parametrize("annotations", [None, {}, {"warmhook.dev/prefer-warm": "true"}])
def test_without_the_annotations_nothing_is_asked_for(annotations: dict[str, str] | None) -> None:
    assert read_requests(annotations) == read_policy_requests(annotations) == Requests()
    assert not is_purged(annotations)


@given(st.text(max_size=200), st.text(max_size=200))
def test_values_are_short_and_printable_and_differ_where_their_texts_do(one: str, other: str) -> None:
    values = [read_requests({"warmhook.dev/refresh": text}).refresh for text in (one, other)]
    assert all(len(value) <= REFRESH_MAX and value.isprintable() for value in values)
    assert (values[0] == values[1]) is (one == other)


@given(st.text(max_size=80), st.booleans())
def test_what_a_warmimage_repeats_of_its_policy_reads_back(refresh: str, purge: bool) -> None:
    asked = read_requests({"warmhook.dev/refresh": refresh, **({"warmhook.dev/purge": "true"} if purge else {})})
    written = {name: value for name, value in policy_annotations(asked).items() if value is not None}
    assert read_policy_requests(written) == asked
