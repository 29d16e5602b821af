"""A line is the same after its way through a ConfigMap, and patches of different lines commute."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.api import HINT_ANNOTATION, LINE_LABEL
from warmhook.hints import Hint, encode_hint
from warmhook.images import parse_reference
from warmhook.node_lines import (
    Line,
    NotALine,
    desired_name,
    diff,
    line_key,
    line_of,
    new_configmap,
    node_patch,
    read_line,
    version_of,
    versions,
)
from warmhook.timestamps import parse_time
from warmhook.warmimages import ObjectKey, Pull, Template, WarmImage

DIGEST = f"sha256:{'1' * 64}"
NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)
PULLS = st.builds(
    Pull,
    st.sampled_from(["IfNotPresent", "Always"]),
    st.integers(1, 86400),
    st.integers(0, 100),
    st.integers(-1000, 1000),
    st.booleans(),
    st.lists(st.sampled_from(["regcred", "other"]), unique=True).map(tuple),
)
LINES = st.builds(
    lambda namespace, name, tag, digest, pushed_at, pull, options: Line(
        ObjectKey(namespace, name),
        f"registry.example.com/shop/web:{tag}",
        digest,
        "" if digest else pushed_at,
        pull,
        **options,
    ),
    NAMES,
    NAMES,
    st.integers(0, 9),
    st.sampled_from(["", DIGEST]),
    st.sampled_from(["", "2026-05-01T00:00:00Z"]),
    PULLS,
    st.fixed_dictionaries(
        {},
        optional={
            "on_removal": st.just("Delete"),
            "size_bytes": st.integers(1, 10**12),
            "suspended": st.just(True),
            "purged": st.just(True),
        },
    ),
)
SETS = st.dictionaries(st.integers(0, 6), LINES, max_size=5).map(
    lambda lines: {line.key: line for line in lines.values()}
)


def merged(target: Any, patch: Any) -> Any:
    """JSON merge patch, RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(LINES)
def test_a_line_that_is_encoded_is_read_back(line: Line) -> None:
    assert read_line(line.key, line.encode()) == line


@given(LINES)
def test_the_version_is_that_of_the_text(line: Line) -> None:
    assert line.version == version_of(line.encode())
    assert len(line.version) == 8


@given(LINES, LINES)
def test_versions_are_equal_only_for_equal_lines(one: Line, other: Line) -> None:
    assert (one.version == other.version) == (one == other)


def test_a_line_is_short_and_says_only_what_is_not_the_default() -> None:
    key = ObjectKey("shop", "web-0123456789")
    line = Line(key, "registry.example.com/shop/web:1", DIGEST, pull=Pull(priority=5))
    assert json.loads(line.encode()) == {
        "i": "registry.example.com/shop/web:1",
        "d": DIGEST,
        "w": "shop/web-0123456789",
        "r": 5,
    }
    assert " " not in line.encode()
    assert len(line.encode()) < 200


# A text of this list that changes is a new version of every such line: while two versions of Warmhook run, each would
# write its own again and again. So an option is in the text only if the WarmImage has a field that the older one lacks.
TEXTS: dict[str, dict[str, Any]] = {
    '{"i":"registry.example.com/shop/web:1","w":"shop/web"}': {},
    '{"i":"registry.example.com/shop/web:1","p":"2026-05-01T00:00:00Z","w":"shop/web"}': {
        "pushed_at": "2026-05-01T00:00:00Z"
    },
    f'{{"d":"{DIGEST}","i":"registry.example.com/shop/web:1","w":"shop/web"}}': {"digest": DIGEST},
    '{"P":"Always","b":0,"i":"registry.example.com/shop/web:1","r":-5,"t":60,"w":"shop/web"}': {
        "pull": Pull("Always", 60, 0, -5)
    },
    '{"c":["regcred"],"i":"registry.example.com/shop/web:1","k":true,"w":"shop/web"}': {
        "pull": Pull(pinned=True, secrets=("regcred",))
    },
    '{"i":"registry.example.com/shop/web:1","o":"Delete","s":5,"w":"shop/web","x":true,"z":true}': {
        "on_removal": "Delete", "size_bytes": 5, "suspended": True, "purged": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_of_a_line_never_changes(text: str) -> None:
    assert Line(ObjectKey("shop", "web"), "registry.example.com/shop/web:1", **TEXTS[text]).encode() == text


def test_options_and_values_of_a_newer_handler_are_ignored() -> None:
    key = line_key(ObjectKey("shop", "web"))
    text = '{"N":[1],"P":"Sometimes","i":"registry.example.com/shop/web:1","o":"Archive","w":"shop/web"}'
    read = read_line(key, text)
    # What is not "Always" and not "Delete" has the effect of the default.
    assert (read.image, read.pull.policy, read.on_removal) == (
        "registry.example.com/shop/web:1",
        "Sometimes",
        "Archive",
    )


def test_a_second_push_is_a_new_version_only_where_no_digest_tells_them_apart() -> None:
    def of(digest: str, pushed_at: str) -> Line:
        image = parse_reference("registry.example.com/shop/web:1")
        return line_of(WarmImage(ObjectKey("shop", "web"), image, digest, parse_time(pushed_at), Template()))

    assert of("", "2026-05-01T00:00:00Z").version != of("", "2026-05-01T00:01:00Z").version
    assert of(DIGEST, "2026-05-01T00:00:00Z").version == of(DIGEST, "2026-05-01T00:01:00Z").version


def test_fields_of_tomorrow_are_ignored() -> None:
    line = Line(ObjectKey("shop", "web"), "registry.example.com/shop/web:1")
    assert read_line(line.key, json.dumps(json.loads(line.encode()) | {"tomorrow": [1]})) == line


@pytest.mark.parametrize(
    "fields",
    [
        {"w": "shop/other"},
        {"w": "shop"},
        {"w": "shop/\ud800"},
        {"w": 1},
        {"i": ""},
        {"i": "registry.example.com/Shop"},
        {"i": None},
        {"d": 1},
        {"p": ["2026"]},
        {"t": "600"},
        {"r": None},
        {"b": 1.5},
        {"k": 1},
        {"c": ["regcred", 1]},
        {"s": "1"},
        {"z": "true"},
    ],
)
def test_a_field_of_the_wrong_form_makes_it_no_line(fields: dict[str, object]) -> None:
    line = Line(ObjectKey("shop", "web"), "registry.example.com/shop/web:1")
    with pytest.raises(NotALine, match=line.key):
        read_line(line.key, json.dumps(json.loads(line.encode()) | fields))


@given(st.text(max_size=50) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_other_text_is_no_line(text: str) -> None:
    with pytest.raises(NotALine):
        read_line("0" * 16, text)


@given(SETS, SETS)
def test_the_difference_applied_gives_what_is_wanted(have: dict[str, Line], want: dict[str, Line]) -> None:
    node: dict[str, Any] = merged({}, node_patch("n", "u", dict(have)))
    changes = diff(versions(node["metadata"]["labels"]), want)
    node = merged(node, node_patch("n", "u", changes))
    assert node.get("data", {}) == {key: line.encode() for key, line in want.items()}
    assert versions(node["metadata"]["labels"]) == {key: line.version for key, line in want.items()}
    assert not diff(versions(node["metadata"]["labels"]), want)


@given(SETS, SETS)
def test_patches_of_different_lines_commute(one: dict[str, Line], other: dict[str, Line]) -> None:
    first = node_patch("n", "u", dict(one))
    second = node_patch("n", "u", {key: line for key, line in other.items() if key not in one})
    assert merged(merged({}, first), second) == merged(merged({}, second), first)


def test_every_patch_names_the_node_as_it_is_now() -> None:
    metadata = node_patch("node-1", "uid-2", {})["metadata"]
    assert metadata["ownerReferences"] == [{"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "uid-2"}]
    assert metadata["annotations"] == {"warmhook.dev/node": "node-1"}
    assert metadata["managedFields"] == [{}]


def test_names_and_labels_fit_into_kubernetes() -> None:
    key = line_key(ObjectKey("n" * 63, "i" * 253))
    assert len((LINE_LABEL + key).partition("/")[2]) <= 63
    assert len(desired_name("n" * 236)) <= 253


def test_a_new_configmap_says_what_the_patch_says_without_what_it_takes_away() -> None:
    line = Line(ObjectKey("shop", "web"), "a.io/b:1", DIGEST)
    created = new_configmap("c", node_patch("n", "u", {line.key: line, "0" * 16: None}, refused=()))
    metadata = created["metadata"]
    assert (created["kind"], metadata["name"], created["data"]) == ("ConfigMap", "c", {line.key: line.encode()})
    assert metadata["labels"] == {"warmhook.dev/kind": "desired", LINE_LABEL + line.key: line.version}
    assert metadata["annotations"] == {"warmhook.dev/node": "n"}
    assert "managedFields" not in metadata


def test_a_hint_goes_with_its_line_and_the_metadata_tells_when_it_expires() -> None:
    line = Line(ObjectKey("shop", "web"), "a.io/b:1", DIGEST)
    node = merged({}, node_patch("n", "u", {line.key: line}, hints={line.key: Hint(4711, seeds=1)}))
    assert node["data"] == {line.key: line.encode(), f"{line.key}.hint": encode_hint(Hint(4711, seeds=1))}
    assert node["metadata"]["annotations"] == {"warmhook.dev/node": "n", HINT_ANNOTATION + line.key: "4711"}
    assert versions(node["metadata"]["labels"]) == {line.key: line.version}
    node = merged(node, node_patch("n", "u", {}, hints={line.key: None}))
    assert node["data"] == {line.key: line.encode()}
    assert node["metadata"]["annotations"] == {"warmhook.dev/node": "n"}
