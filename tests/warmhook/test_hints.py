"""Hints: every hint is read as it was written, and whatever else is in a ConfigMap is refused with a reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.early_blobs import BYTES_MAX as BLOB_BYTES_MAX
from warmhook.hints import (
    BLOBS_MAX,
    CHILDREN_MAX,
    NODE_MAX,
    PARENTS_MAX,
    Child,
    Early,
    Hint,
    NotAHint,
    Peer,
    encode_early,
    encode_hint,
    read_early,
    read_hint,
)

KEY = "k" * 43
DIGEST = "sha256:" + "a" * 64
keys = st.text("abcXYZ019-_", min_size=43, max_size=43)
nodes = st.text("abc-.0", min_size=1, max_size=20)
peers = st.builds(Peer, nodes, st.just("10.0.0.5:9465"), keys)
trees = {
    "parents": st.lists(peers, max_size=8).map(tuple),
    "children": st.lists(st.builds(Child, nodes, keys), max_size=64).map(tuple),
    "seeds": st.integers(0, 500),
}


@given(
    st.builds(Hint, st.integers(0, 2**40), st.sampled_from(["", DIGEST]), wait_seconds=st.integers(0, 7200), **trees)
)
def test_a_hint_is_read_as_it_was_written(hint: Hint) -> None:
    assert read_hint(encode_hint(hint)) == hint


@given(st.builds(Early, st.integers(0, 2**40), st.just("ghcr.io"), st.just("a/b"), st.just({DIGEST: 7}), **trees))
def test_early_blobs_are_read_as_they_were_written(early: Early) -> None:
    assert read_early(encode_early(early)) == early


def test_the_largest_hints_are_read() -> None:
    name, address = "n" * NODE_MAX, f"[{'abcd:' * 7}abcd]:65535"
    parents = (Peer(name, address, KEY),) * PARENTS_MAX
    children = (Child(name, KEY),) * CHILDREN_MAX
    blobs = {f"sha512:{number:0128x}": BLOB_BYTES_MAX // BLOBS_MAX for number in range(BLOBS_MAX)}
    hint = Hint(2**40, DIGEST, parents, children, 5000, 7200)
    assert read_hint(encode_hint(hint)) == hint
    early = Early(2**40, "h" * 259, "r" * 255, blobs, parents, children, 5000)
    assert read_early(encode_early(early)) == early


@pytest.mark.parametrize(
    "fields",
    [
        {"e": -1},
        {"e": "1"},
        {"e": True},
        {"e": 1, "d": "sha256:1"},
        {"e": 1, "p": [["a", "10.0.0.5:9465", "short"]]},
        {"e": 1, "p": [["", "10.0.0.5:9465", KEY]]},
        {"e": 1, "p": [["a", "", KEY]]},
        {"e": 1, "p": [["a", KEY]]},
        {"e": 1, "p": {"a": KEY}},
        {"e": 1, "c": [["a", 7]]},
        {"e": 1, "c": [["a", KEY]] * 65},
        {"e": 1, "n": 2.5},
        [],
        "e",
    ],
)
def test_what_is_no_hint_is_refused(fields: object) -> None:
    with pytest.raises(NotAHint):
        read_hint(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"e":1,"d":"' + "x" * 50_000 + '"}'])
def test_no_text_harms_the_reader(text: str) -> None:
    with pytest.raises(NotAHint):
        read_hint(text)
    with pytest.raises(NotAHint):
        read_early(text)


@pytest.mark.parametrize(
    "changed",
    [{"h": ""}, {"i": 1}, {"b": []}, {"b": {"sha256:1": 1}}, {"b": {DIGEST: 0}}, {"b": {DIGEST: "1"}}],
)
def test_early_blobs_need_a_repository_and_sizes(changed: dict[str, object]) -> None:
    with pytest.raises(NotAHint):
        read_early(json.dumps({"e": 1, "h": "ghcr.io", "i": "a/b", "b": {DIGEST: 1}} | changed))


def test_a_newer_hint_is_read_as_far_as_it_is_known() -> None:
    assert read_hint('{"e":5,"new":1}') == Hint(5)
