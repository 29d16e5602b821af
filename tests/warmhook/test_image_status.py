"""What commands say of an image is what its object says, and what cannot be read counts as unknown."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.images import DIGEST, OTHER, image_object
from warmhook.image_query import parse_query
from warmhook.image_status import ImageStatus, State, read_image_status
from warmhook.image_wait import judge_wait
from warmhook.images import NotAReference

WHERE = "namespace shop"
FIELDS = st.sampled_from(
    ["image", "digest", "conditions", "type", "status", "reason", "observedGeneration", "failures", "node", "warm"]
)


def status(*args: Any, **given: Any) -> ImageStatus:
    return read_image_status(image_object(*args, **given))


# --- states -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "state"),
    [
        ({"warm": 3}, "warm"),
        ({"warm": 3, "unreachable": 1}, "warm"),
        ({"warm": 2, "failed": 1, "pulling": 1}, "failing"),
        ({"warm": 2, "pulling": 1, "waiting": 1}, "pulling"),
        ({"warm": 2, "waiting": 1}, "waiting"),
        ({"unreachable": 2}, "unreachable"),
        ({"warm": 3, "counted": False}, "uncounted"),
        ({"reason": "Suspended", "waiting": 1}, "stopped"),
        ({"reason": "NoNodes"}, "stopped"),
    ],
)
def test_one_word_says_how_an_image_is(given: dict[str, Any], state: str) -> None:
    assert status("web:v1", **given).state == state


def test_an_object_without_a_status_is_not_counted() -> None:
    found = read_image_status({"metadata": {"namespace": "shop", "name": "a", "generation": 1}, "spec": {"image": "a"}})
    assert (found.state, found.tally.desired, found.failing, found.created_at) == ("uncounted", 0, (), None)


def test_failures_are_grouped_by_reason_those_of_most_nodes_first() -> None:
    failures = [("c", "NotFound", "no"), ("a", "Network", "down"), ("b", "Network", "down")]
    found = status("web:v1", failed=3, failures=failures).failing
    assert [(each.reason, each.nodes, each.count) for each in found] == [
        ("Network", ("a", "b"), 2),
        ("NotFound", ("c",), 1),
    ]


@pytest.mark.parametrize(
    "broken",
    [
        {"warm": "many", "failures": ["x"], "conditions": [{"type": "Ready"}], "distribution": 7},
        {"warm": -1, "completedAt": "yesterday", "failures": None},
        "none",
    ],
)
def test_a_status_that_somebody_broke_is_read_as_far_as_it_goes(broken: Any) -> None:
    found = read_image_status(image_object("web:v1") | {"status": broken})
    assert (found.state, found.tally.warm, found.completed_at) == ("uncounted", 0, None)
    assert found.as_object()["image"] == "h.example/shop/web:v1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=3), inner, max_size=4),
    max_leaves=6,
)


@given(JSON, JSON)
def test_whatever_an_object_holds_it_is_shown(spec: Any, found: Any) -> None:
    status = read_image_status({"metadata": {"namespace": "shop", "name": "a"}, "spec": spec, "status": found})
    assert status.as_object()["namespace"] == "shop"
    assert status.state in get_args(State)
    query = parse_query("h.example/a:1")
    assert judge_wait(query, [status], WHERE).line
    assert query.find([status]) in ([], [status])


def test_the_form_for_programs_has_the_names_of_the_api_and_nothing_empty() -> None:
    assert status("web:v1", warm=2, digest=DIGEST).as_object() == {
        "namespace": "shop",
        "name": "web-v1",
        "image": "h.example/shop/web:v1",
        "state": "warm",
        "reason": "AllWarm",
        "message": "2 of 2 nodes warm",
        "digest": DIGEST,
        "desired": 2,
        "warm": 2,
        "pulling": 0,
        "waiting": 0,
        "failed": 0,
        "unreachable": 0,
        "failures": [],
        "createdAt": "2026-03-01T12:00:00Z",
    }


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("h.example/shop/web:v1", ["v1"]),
        ("H.Example/shop/web:v1", ["v1"]),
        ("h.example/shop/web", ["v1", "v2"]),
        ("shop/web:v2", ["v2"]),
        ("web:v1", ["v1"]),
        ("web", ["v1", "v2"]),
        ("eb", []),
        ("other.example/shop/web", []),
        (f"web:v1@{DIGEST}", ["v1"]),
        (f"web@{DIGEST}", ["v1"]),
        (f"web:v1@{OTHER}", []),
        ("web:v3", []),
    ],
)
def test_an_image_is_found_with_or_without_registry_tag_and_digest(text: str, found: list[str]) -> None:
    known = [status("web:v1", warm=1, digest=DIGEST), status("web:v2", warm=1, digest=OTHER)]
    assert [each.image.rpartition(":")[2] for each in parse_query(text).find(known)] == found


def test_the_whole_name_goes_before_the_end_of_another_name() -> None:
    known = [status("nginx:1", host="docker.io", path="library"), status("nginx:1")]
    assert [each.image for each in parse_query("nginx:1").find(known)] == ["docker.io/library/nginx:1"]
    assert [each.image for each in parse_query("nginx:1").find(known[1:])] == ["h.example/shop/nginx:1"]
    assert parse_query("docker.io/nginx:1").find(known[1:]) == []


def test_an_image_by_digest_is_found_by_it_and_by_its_repository() -> None:
    known = [status(f"web@{DIGEST}", warm=1, digest=DIGEST)]
    for text, matches in (("web", True), (f"web@{DIGEST}", True), (f"web@{OTHER}", False), ("web:v1", False)):
        assert bool(parse_query(text).find(known)) is matches, text


def test_a_text_that_is_no_reference_is_refused() -> None:
    with pytest.raises(NotAReference):
        parse_query("Web:")


# --- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"warm": 1, "pulling": 1, "waiting": 2}, "1 of 4 nodes, 1 pulling, 2 waiting"),
        ({"warm": 1, "pulling": 1, "failed": 1}, "1 of 3 nodes, 1 pulling, 1 failed"),
        ({"warm": 2, "counted": False}, "waiting until the handlers count the nodes of WarmImage shop/web-v1"),
    ],
)
def test_a_wait_goes_on_while_nodes_have_something_to_do(given: dict[str, Any], line: str) -> None:
    state = judge_wait(parse_query("h.example/shop/web:v1"), [status("web:v1", **given)], WHERE)
    assert (state.over, state.line) == (False, f"h.example/shop/web:v1: {line}")


@pytest.mark.parametrize(
    ("given", "warm", "words"),
    [
        ({"warm": 3}, True, "is warm: 3 of 3 nodes"),
        ({"warm": 3, "unreachable": 1}, True, "is warm: 3 of 4 nodes, 1 unreachable"),
        ({"warm": 2, "failed": 1}, False, "is not warm: 2 of 3 nodes, 1 failed"),
        ({"unreachable": 2}, False, "is not warm: 0 of 2 nodes, 2 unreachable"),
        ({"reason": "Suspended", "waiting": 3}, False, "is not pulled: Suspended: "),
        ({"reason": "NotRunnable"}, False, "is not pulled: NotRunnable: "),
    ],
)
def test_a_wait_ends_when_nodes_are_warm_or_come_no_further(given: dict[str, Any], warm: bool, words: str) -> None:
    state = judge_wait(parse_query("h.example/shop/web:v1"), [status("web:v1", **given)], WHERE)
    assert (state.over, state.warm) == (True, warm)
    assert words in state.line


def test_a_wait_for_an_image_that_nobody_announced_names_it_with_its_registry() -> None:
    state = judge_wait(parse_query("docker.io/shop/web:v1"), [status("web:v1", warm=1)], WHERE)
    assert (state.over, state.line) == (False, "waiting for a WarmImage of docker.io/shop/web:v1 in namespace shop")


def test_a_wait_for_a_digest_does_not_end_with_another_one() -> None:
    query = parse_query(f"h.example/shop/web:v1@{DIGEST}")
    earlier = judge_wait(query, [status("web:v1", warm=3, digest=OTHER)], WHERE)
    assert (earlier.over, earlier.line) == (
        False,
        f"h.example/shop/web:v1: waiting for {DIGEST}; it has {OTHER} so far",
    )
    moved = judge_wait(query, [status("web:v1", warm=3, wanted=DIGEST)], WHERE)
    assert not moved.over
    assert "brought another digest on some nodes" in moved.line
    there = judge_wait(query, [status("web:v1", warm=3, digest=DIGEST)], WHERE)
    assert (there.warm, there.line) == (True, "h.example/shop/web:v1 is warm: 3 of 3 nodes")


def test_a_wait_is_for_every_warmimage_of_the_image() -> None:
    query, warm = parse_query("h.example/shop/web:v1"), status("web:v1", warm=3)
    cold = status("web:v1", name="other", warm=1, pulling=2)
    both = judge_wait(query, [warm, cold], WHERE)
    assert (both.over, both.line) == (False, "h.example/shop/web:v1: 4 of 6 nodes of 2 WarmImages, 2 pulling")
    failed = status("web:v1", name="other", failed=3)
    assert judge_wait(query, [warm, failed], WHERE).over
