"""An answer of a registry counts for the question that it answers, and decides lines, nodes and status."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.kubernetes.resolution import read_resolution, resolution_object
from warmhook.images import Reference
from warmhook.manifests import Resolved
from warmhook.node_lines import line_of
from warmhook.node_report import Report
from warmhook.placement import Node, lacks_platform, place, place_each
from warmhook.resolutions import Question, Resolution, Unresolved, after_answer
from warmhook.status import Counts, count, find_condition, status_object
from warmhook.transitions import transitions
from warmhook.warmimages import Limit, Nodes, ObjectKey, PodOrigin, PodOwner, Template, WarmImage

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
IMAGE = Reference("registry.example.com", "shop/app", "v1")
AMD64 = Resolved(A, "application/x", ("linux/amd64",), 700)
DOWN = Unresolved("Network", "down")
GONE = Unresolved("NotFound", "gone")


def warmimage(resolved: Resolved | None = None, **given: object) -> WarmImage:
    """One of a push of digest B, with this answer to it."""
    given = {"image": IMAGE, "digest": B, "pushed_at": NOW} | given
    bare = WarmImage(ObjectKey("shop", "app"), **given)  # type: ignore[arg-type]
    return replace(bare, resolution=Resolution(bare.question, resolved, NOW)) if resolved else bare


def node(name: str, architecture: str = "", **labels: str) -> Node:
    arch = {"kubernetes.io/arch": architecture} if architecture else {}
    return Node(name, f"uid of {name}", {"kubernetes.io/os": "linux", **arch, **labels})


# --- questions and answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [{"digest": C}, {"pushed_at": NOW + timedelta(seconds=1)}, {"image": replace(IMAGE, tag="v2")}],
    ids=["digest", "push", "image"],
)
def test_an_answer_counts_only_for_the_push_that_it_is_about(changed: dict[str, object]) -> None:
    before = warmimage(AMD64)
    assert before.resolved == AMD64
    assert replace(before, **changed).resolved is None  # type: ignore[arg-type]


def test_a_changed_template_asks_nothing_new() -> None:
    assert replace(warmimage(AMD64), template=Template(nodes=Nodes(limit=Limit(1)))).resolved == AMD64


def test_a_new_pod_asks_nothing_new() -> None:
    pods = warmimage(AMD64, pod_origin=PodOrigin((PodOwner("Deployment/app"),)))
    assert replace(pods, pushed_at=NOW + timedelta(days=1)).resolved == AMD64


@pytest.mark.parametrize("problem", [DOWN, GONE], ids=["down", "gone"])
def test_what_was_known_stays_if_the_registry_says_it_no_longer(problem: Unresolved) -> None:
    before, asked = warmimage(AMD64).resolution, warmimage().question
    after = after_answer(before, asked, problem, NOW)
    assert (after.resolved, after.problem) == (AMD64, problem.problem)
    other = replace(asked, image="registry.example.com/shop/app:v2")
    assert after_answer(before, other, problem, NOW).resolved is None


def test_an_answer_ends_the_problem() -> None:
    asked = warmimage().question
    down = after_answer(None, asked, DOWN, NOW)
    assert after_answer(down, asked, AMD64, NOW) == Resolution(asked, AMD64, NOW)


def test_the_same_answer_later_is_no_news() -> None:
    asked, later = warmimage().question, NOW + timedelta(hours=1)
    first = after_answer(None, asked, AMD64, NOW)
    assert first.news(None)
    assert not after_answer(first, asked, AMD64, later).news(first)
    assert after_answer(first, asked, DOWN, later).news(first)
    assert after_answer(first, asked, replace(AMD64, digest=B), later).news(first)


# --- lines -----------------------------------------------------------------------------------------------------------


def test_the_digest_of_the_registry_counts_more_than_that_of_the_event() -> None:
    line = line_of(warmimage(AMD64))
    assert (line.image, line.digest, line.size_bytes) == (str(IMAGE), A, 700)
    assert line_of(warmimage()).digest == B


def test_a_tag_without_a_digest_gets_that_of_the_registry() -> None:
    assert line_of(warmimage(digest="")).pushed_at
    line = line_of(warmimage(AMD64, digest=""))
    assert (line.digest, line.pushed_at) == (A, "")


def test_a_digest_that_a_person_wrote_counts_most() -> None:
    line = line_of(warmimage(AMD64, image=replace(IMAGE, tag="", digest=B)))
    assert (line.digest, line.size_bytes) == (B, 700)


def test_images_of_pods_have_a_size_and_no_digest() -> None:
    line = line_of(warmimage(AMD64, digest="", pod_origin=PodOrigin((PodOwner("Deployment/app"),))))
    assert (line.digest, line.pushed_at, line.size_bytes) == ("", "", 700)


# --- nodes -----------------------------------------------------------------------------------------------------------


def test_what_is_not_runnable_is_wanted_on_no_node() -> None:
    nodes = [node("a", "amd64")]
    chart = replace(AMD64, runnable=False)
    assert [len(chosen) for _, chosen in place_each([warmimage(AMD64), warmimage(chart)], nodes)] == [1, 0]


def test_a_node_lacks_the_platform_only_if_its_labels_say_so() -> None:
    nodes = (node("a", "amd64"), node("m", "arm64"), node("unlabelled"), Node("bare", "uid", {}))
    assert [one.name for one in nodes if lacks_platform(AMD64, one)] == ["m"]
    assert not any(lacks_platform(replace(AMD64, platforms=()), one) for one in nodes)
    assert not any(lacks_platform(None, one) for one in nodes)


@given(st.integers(0, 12))
def test_a_limit_takes_nodes_without_the_platform_last(limit: int) -> None:
    nodes = [node(f"n{number}", "amd64" if number % 3 else "arm64") for number in range(12)]
    chosen = place(str(IMAGE), Nodes(limit=Limit(limit)), nodes, AMD64)
    assert len(chosen) == limit
    assert sum(lacks_platform(AMD64, one) for one in chosen) == max(0, limit - 8)


# --- status ----------------------------------------------------------------------------------------------------------


def test_nodes_without_the_platform_count_as_failed() -> None:
    reports = {name: Report(name, NOW) for name in "am"}
    counts = count(line_of(warmimage(AMD64)), [node("a"), node("m")], reports, NOW, {"m"})
    assert (counts.waiting, counts.failed, counts.failing) == (1, 1, ("m",))


def test_what_is_not_runnable_says_so_in_its_status_and_in_an_event() -> None:
    status = status_object({}, warmimage(), Counts(runnable=False), [], NOW)
    assert (find_condition(status, "Ready")["status"], find_condition(status, "Ready")["reason"]) == (
        "False",
        "NotRunnable",
    )
    assert [transition.reason for transition in transitions({}, status)] == ["NotRunnable"]


def test_a_status_keeps_what_the_registry_said() -> None:
    resolved = {"image": "registry.example.com/shop/app:v1", "checkedAt": "2026-03-01T12:00:00Z"}
    assert status_object({"resolved": resolved}, warmimage(), Counts(), [], NOW)["resolved"] == resolved


digests = st.sampled_from([A, B, C])
answers = st.builds(
    Resolved,
    digests,
    st.sampled_from(["application/vnd.oci.image.index.v1+json", ""]),
    st.lists(st.sampled_from(["linux/amd64", "linux/arm64", "linux/arm/v7"]), unique=True).map(sorted).map(tuple),
    st.integers(0, 2**53 - 1),
    st.booleans(),
)
moments = st.integers(0, 10**15).map(lambda microseconds: NOW + timedelta(microseconds=microseconds))
resolutions = st.builds(
    Resolution,
    st.builds(Question, st.just(f"{IMAGE}@{B}"), st.none() | moments),
    st.none() | answers,
    moments,
    st.none() | st.sampled_from(["NotFound", "Network", "Unusable"]),
)


@given(resolutions)
def test_a_resolution_that_is_stored_is_read_back(resolution: Resolution) -> None:
    stored = {name: value for name, value in resolution_object(resolution).items() if value is not None}
    assert read_resolution({"resolved": stored}) == resolution


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"resolved": None},
        {"resolved": {}},
        {"resolved": {"image": "a.example/b:1"}},
        {"resolved": {"image": "a.example/b:1", "checkedAt": "yesterday"}},
        {"resolved": {"image": "a.example/b:1", "checkedAt": "2026-03-01T12:00:00Z", "platforms": 7}},
    ],
)
def test_what_cannot_be_read_is_asked_again(given: dict[str, object]) -> None:
    assert read_resolution(given) is None
