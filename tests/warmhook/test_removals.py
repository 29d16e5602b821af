"""An image is removed only if every condition holds; any one that is missing keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.node_lines import Line
from warmhook.ports import RuntimeImage
from warmhook.removals import (
    KEPT_BECAUSE,
    LINES_MAX,
    RECORDS_MAX,
    Brought,
    Demand,
    KeepReason,
    Records,
    UnreadablePod,
    Use,
    after_lines,
    after_list,
    after_pull,
    decide,
    pod_images,
)
from warmhook.warmimages import ObjectKey, OnRemoval

REPOSITORY = "registry.example.com/shop/web"
TAG, DIGEST = f"{REPOSITORY}:1", "sha256:" + "d" * 64
ID = "sha256:" + "1" * 64
IMAGE = RuntimeImage(ID, (TAG,), (f"{REPOSITORY}@{DIGEST}",))
LINE = Line(ObjectKey("shop", "web"), TAG, DIGEST, on_removal="Delete")
FREE: Records = {ID: Brought(frozenset((*IMAGE.tags, *IMAGE.digests)), {LINE.key: "Delete"})}
NOBODY, NOTHING = Demand(), Use()


def reason(
    image: RuntimeImage = IMAGE, records: Records = FREE, demand: Demand = NOBODY, use: Use = NOTHING
) -> KeepReason | None:
    return decide([image], records, demand, use)[image.id]


def test_an_image_that_nothing_keeps_may_go() -> None:
    assert reason() is None


obstacles: dict[
    KeepReason, Callable[[RuntimeImage, Records, Demand, Use], tuple[RuntimeImage, Records, Demand, Use]]
] = {
    "NotPulledHere": lambda image, _records, demand, use: (image, {}, demand, use),
    "OtherName": lambda image, records, demand, use: (
        replace(image, tags=(*image.tags, f"{TAG}.0")),
        records,
        demand,
        use,
    ),
    "Retained": lambda image, records, demand, use: (
        image,
        {ID: replace(records[ID], lines={**records[ID].lines, "other": "Retain"})} if records else {},
        demand,
        use,
    ),
    "NoRoom": lambda image, records, demand, use: (image, records, replace(demand, refused=[LINE.key]), use),
    "Wanted": lambda image, records, demand, use: (image, records, replace(demand, lines=[LINE]), use),
    "Pulling": lambda image, records, demand, use: (image, records, replace(demand, pulling=[f"{REPOSITORY}:2"]), use),
    "Pinned": lambda image, records, demand, use: (replace(image, pinned=True), records, demand, use),
    "InUse": lambda image, records, demand, use: (image, records, demand, replace(use, containers=[ID])),
    "NamedByPod": lambda image, records, demand, use: (image, records, demand, replace(use, pods=[TAG])),
}


def test_every_reason_to_keep_has_words_and_a_case_here() -> None:
    assert obstacles.keys() == KEPT_BECAUSE.keys()


@given(st.sets(st.sampled_from(sorted(obstacles)), min_size=1))
def test_any_condition_that_is_missing_keeps_the_image(missing: set[KeepReason]) -> None:
    case = (IMAGE, FREE, NOBODY, NOTHING)
    for name in sorted(missing):
        case = obstacles[name](*case)
    assert reason(*case) in missing


@pytest.mark.parametrize(
    "text",
    [
        TAG,
        ID,
        ID.removeprefix("sha256:"),
        f"{REPOSITORY}@{DIGEST}",
        f"{TAG}@{DIGEST}",
        f"mirror.example.com/else@{DIGEST}",
        "REGISTRY.example.com/shop/web:1",
        "shop/web:1",
    ],
)
def test_a_name_or_id_in_any_form_keeps_the_image(text: str) -> None:
    assert reason(use=Use(containers=[text])) == "InUse"
    assert reason(use=Use(pods=[text])) == "NamedByPod"


@pytest.mark.parametrize(
    "text",
    [
        f"{REPOSITORY}:2",
        "other.example.com/shop/web:1",
        "docker.io/shop/web:1",
        "web:1",
        f"{REPOSITORY}@sha256:{'e' * 64}",
        "sha256:" + "2" * 64,
        "",
    ],
)
def test_the_name_of_another_image_keeps_nothing(text: str) -> None:
    assert reason(use=Use([text], [text])) is None


@pytest.mark.parametrize("short", ["web", "web:latest", "docker.io/web", "index.docker.io/library/web"])
def test_a_short_name_is_an_image_of_docker_hub(short: str) -> None:
    name = "docker.io/library/web"
    image = RuntimeImage(ID, (f"{name}:latest",), (f"{name}@{DIGEST}",))
    records = {ID: Brought(frozenset((*image.tags, *image.digests)), {LINE.key: "Delete"})}
    assert reason(image, records) is None
    assert reason(image, records, use=Use(pods=[short])) == "NamedByPod"


def test_an_image_without_names_may_go() -> None:
    assert reason(RuntimeImage(ID)) is None


def test_a_line_wants_its_digest_although_its_tag_has_another_image() -> None:
    left = RuntimeImage(ID, (), IMAGE.digests)
    assert reason(left, demand=Demand([LINE])) == "Wanted"
    assert reason(left, demand=Demand([replace(LINE, digest="sha256:" + "e" * 64)])) is None


def test_a_purged_line_wants_nothing_and_a_suspended_one_keeps_its_image() -> None:
    assert reason(demand=Demand([replace(LINE, purged=True)])) is None
    assert reason(demand=Demand([replace(LINE, purged=True, suspended=True)])) == "Wanted"


def test_a_name_that_is_no_reference_keeps_the_image() -> None:
    strange = replace(IMAGE, tags=(*IMAGE.tags, "UPPER CASE::"))
    assert reason(strange) == "OtherName"
    assert after_lines(FREE, {LINE.key: LINE}, [strange]) == FREE


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_pull_of_a_new_image_is_recorded_with_its_names_and_lines() -> None:
    assert after_pull({}, TAG, [], IMAGE, [LINE]) == FREE


@pytest.mark.parametrize(
    "before", [IMAGE, replace(IMAGE, tags=()), RuntimeImage(ID), RuntimeImage(ID, ("other.example.com/x:1",))]
)
def test_a_pull_of_an_image_whose_id_was_there_is_not_recorded(before: RuntimeImage) -> None:
    assert after_pull({}, TAG, [before], IMAGE, [LINE]) == {}


def test_a_name_that_another_client_gave_during_the_pull_is_not_of_the_pull() -> None:
    image = replace(
        IMAGE, tags=(TAG, "other.example.com/x:1"), digests=(*IMAGE.digests, f"other.example.com/x@{DIGEST}")
    )
    records = after_pull({}, TAG, [], image, [LINE])
    assert records == FREE
    assert reason(image, records) == "OtherName"


def test_a_second_name_of_a_recorded_image_is_added_unless_it_was_there() -> None:
    second = f"{REPOSITORY}:1.0"
    image = replace(IMAGE, tags=(TAG, second))
    line = replace(LINE, warmimage=ObjectKey("shop", "second"), image=second)
    added = after_pull(FREE, second, [IMAGE], image, [line])
    assert added[ID] == Brought(FREE[ID].names | {second}, {LINE.key: "Delete", line.key: "Delete"})
    assert after_pull(FREE, second, [image], image, [line])[ID].names == FREE[ID].names


def test_the_record_of_an_image_that_came_again_begins_anew() -> None:
    old = {ID: Brought(frozenset({"old"}), {"old": "Delete"})}
    assert after_pull(old, TAG, [], IMAGE, [LINE]) == FREE


def test_what_the_runtime_no_longer_lists_is_dropped() -> None:
    assert after_list(FREE, []) == {}
    moved = after_list(FREE, [RuntimeImage(ID, (), IMAGE.digests), RuntimeImage("other", IMAGE.tags)])
    assert moved == {ID: Brought(frozenset(IMAGE.digests), FREE[ID].lines)}


def test_records_are_bounded_and_what_they_lose_is_kept() -> None:
    images = [RuntimeImage(f"id-{number}") for number in range(RECORDS_MAX + 1)]
    records = after_list({image.id: Brought(frozenset(), {"line": "Delete"}) for image in images}, images)
    assert len(records) == RECORDS_MAX
    assert images[0].id not in records
    many: dict[str, OnRemoval] = dict.fromkeys(map(str, range(LINES_MAX + 1)), "Delete")
    assert after_list({ID: replace(FREE[ID], lines=many)}, [IMAGE]) == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (replace(LINE, on_removal="Retain"), "Retain"),
        (replace(LINE, on_removal="Retain", purged=True), "Delete"),
        (replace(LINE, on_removal="Retain", purged=True, suspended=True), "Retain"),
        (LINE, "Delete"),
    ],
)
def test_a_record_has_what_a_line_says_now_and_said_last(line: Line, said: OnRemoval) -> None:
    noted = after_lines(FREE, {line.key: line}, [IMAGE])
    assert noted[ID].lines == {LINE.key: said}
    assert after_lines(noted, {}, [IMAGE]) == noted


def test_a_new_line_of_the_image_is_noted_and_one_of_another_image_is_not() -> None:
    same = replace(LINE, warmimage=ObjectKey("team", "same"), on_removal="Retain")
    by_digest = Line(ObjectKey("team", "digest"), f"{REPOSITORY}@{DIGEST}")
    other = Line(ObjectKey("team", "other"), f"{REPOSITORY}:2")
    lines = {line.key: line for line in (same, by_digest, other)}
    assert after_lines(FREE, lines, [IMAGE])[ID].lines == {
        LINE.key: "Delete",
        same.key: "Retain",
        by_digest.key: "Retain",
    }


# --- Pods ------------------------------------------------------------------------------------------------------------


def test_all_images_of_a_pod_are_read() -> None:
    pod = {
        "spec": {
            "initContainers": [{"name": "a", "image": "init"}],
            "containers": [{"name": "b", "image": TAG}],
            "ephemeralContainers": [{"name": "c", "image": "debug:1"}],
            "volumes": [{"name": "d", "image": {"reference": "data:1"}}, {"name": "e", "emptyDir": {}}],
        }
    }
    assert pod_images(pod) == ["init", TAG, "debug:1", "data:1"]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"containers": []},
        {"containers": [{"name": "a"}]},
        {"containers": [{"name": "a", "image": ""}]},
        {"containers": [{"name": "a", "image": "UPPER"}]},
        {"containers": [{"name": "a", "image": 7}]},
        {"containers": [{"name": "a", "image": "a"}], "volumes": [{"name": "v", "image": {}}]},
        {"containers": [{"name": "a", "image": "a"}, "b"]},
    ],
)
def test_a_pod_of_which_an_image_cannot_be_read_is_an_error_that_names_it(spec: dict[str, object]) -> None:
    with pytest.raises(UnreadablePod, match="Pod shop/web: "):
        pod_images({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec})
