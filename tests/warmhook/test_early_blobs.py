"""Blobs of a push that has not ended are gathered within limits, and only while the push may still end."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.early_blobs import (
    BYTES_MAX,
    EARLY_SECONDS,
    SMALLEST_BYTES,
    EarlyBlobs,
    encode_early_blobs,
    read_early_blobs,
    with_blobs,
)
from warmhook.hints import BLOBS_MAX

MIB = 1024 * 1024
NOW = 1_800_000_000.5


def blob(number: int) -> str:
    return f"sha256:{number:064x}"


sizes = st.dictionaries(st.integers(0, 200).map(blob), st.integers(1, 20 * MIB), max_size=100)


@given(sizes, sizes)
def test_blobs_are_read_as_they_were_written(first: dict[str, int], then: dict[str, int]) -> None:
    early = with_blobs(with_blobs(None, first, NOW), then, NOW + 1)
    if early is not None:
        assert read_early_blobs(encode_early_blobs(early)) == early
        assert len(early.sizes) <= BLOBS_MAX


@given(sizes)
def test_a_repeat_adds_nothing(pushed: dict[str, int]) -> None:
    early = with_blobs(None, pushed, NOW)
    if early is not None and len(early.sizes) < BLOBS_MAX:
        assert with_blobs(early, pushed, NOW + 10) is None


@given(sizes, sizes)
def test_the_order_of_blobs_does_not_decide_which_are_known(first: dict[str, int], then: dict[str, int]) -> None:
    # A digest has one size.
    then = {key: first.get(key, size) for key, size in then.items()}
    both = then | first
    if sum(size >= SMALLEST_BYTES for size in both.values()) <= BLOBS_MAX:
        early = with_blobs(None, first, NOW)
        early = with_blobs(early, then, NOW) or early
        assert (early.sizes if early else {}) == {key: size for key, size in both.items() if size >= SMALLEST_BYTES}


def test_each_added_blob_gives_the_push_more_time() -> None:
    one = with_blobs(None, {blob(1): MIB}, NOW)
    assert one == EarlyBlobs(int(NOW) + EARLY_SECONDS, {blob(1): MIB})
    two = with_blobs(one, {blob(2): 2 * MIB}, NOW)
    assert two == EarlyBlobs(one.expires_at + 1, {blob(1): MIB, blob(2): 2 * MIB})
    assert two.size_bytes == 3 * MIB


def test_a_push_that_did_not_end_in_time_is_forgotten() -> None:
    old = EarlyBlobs(int(NOW), {blob(1): MIB})
    found = with_blobs(old, {blob(2): MIB}, NOW)
    assert found is not None
    assert list(found.sizes) == [blob(2)]


def test_a_small_blob_is_no_reason_to_write() -> None:
    assert with_blobs(None, {blob(1): SMALLEST_BYTES - 1, blob(2): -5}, NOW) is None


def test_a_repository_cannot_fill_the_disks_of_nodes() -> None:
    found = with_blobs(None, {blob(1): BYTES_MAX, blob(2): MIB}, NOW)
    assert found is not None
    assert list(found.sizes) == [blob(1)]


@pytest.mark.parametrize(
    "fields",
    [
        {"e": 0},
        {"e": True},
        {"e": "1"},
        {"e": 2**50},
        {"b": {}},
        {"b": []},
        {"b": None},
        {"b": {"sha256:1": 5}},
        {"b": {blob(1): 0}},
        {"b": {blob(1): 1.5}},
        {"b": {blob(1): True}},
        {"b": {blob(1): BYTES_MAX, blob(2): 1}},
        {"b": {blob(number): 1 for number in range(BLOBS_MAX + 1)}},
    ],
)
def test_what_a_tenant_writes_is_read_only_within_the_limits(fields: dict[str, object]) -> None:
    good = {"e": 5, "b": {blob(1): 5}}
    assert read_early_blobs(json.dumps(good)) is not None
    assert read_early_blobs(json.dumps(good | fields)) is None


@pytest.mark.parametrize("text", [None, 7, "", "{", "[]", "[" * 10_000, " " * 20_000])
def test_no_text_harms_the_reader(text: object) -> None:
    assert read_early_blobs(text) is None
