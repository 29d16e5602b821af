"""The steps of a push are in the order of their causes, with the times that somebody noted and no others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.delivery_records import DeliveryRecord, deliveries_of
from warmhook.overview import Moment, Tally
from warmhook.timeline import deliveries_of_push, read_push_times, timeline

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
IMAGE = "harbor.example.com/shop/app:v1"
DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
ALL_WARM = Tally(warm=10)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def text(seconds: float) -> str:
    return at(seconds).isoformat()


def warmimage(**status: Any) -> dict[str, Any]:
    """An image that was pushed at 0, in the form of the API server."""
    metadata = {"generation": 2, "creationTimestamp": text(2), "annotations": {"warmhook.dev/event-id": "e1"}}
    spec = {"image": IMAGE, "digest": DIGEST, "pushedAt": text(0)}
    return {"metadata": metadata, "spec": spec, "status": {"observedGeneration": 2} | status}


def record(seconds: float = 1, result: str = "accepted", *, event_id: str = "e1", **more: Any) -> DeliveryRecord:
    given: dict[str, Any] = {"images": (f"{IMAGE}@{DIGEST}",), "seconds": 0.25} | more
    return DeliveryRecord(at(seconds), "harbor", "harbor", result, event_id=event_id, **given)


COMPLETE = warmimage(
    resolved={"pushedAt": text(0), "checkedAt": text(3), "digest": DIGEST},
    startedAt=text(4),
    firstWarmAt=text(5),
    halfWarmAt=text(8),
    completedAt=text(20),
)


def steps(obj: dict[str, Any], *records: DeliveryRecord, total: Tally = ALL_WARM) -> dict[str, Moment]:
    named = deliveries_of(IMAGE, DIGEST, records)
    return {moment.name: moment for moment in timeline(read_push_times(obj), total, named)}


def test_a_push_has_a_time_for_each_step_from_the_webhook_to_the_last_node() -> None:
    moments = timeline(read_push_times(COMPLETE), ALL_WARM, [record()])
    assert [(moment.name, moment.at) for moment in moments] == [
        ("pushed", at(0)),
        ("received", at(1)),
        ("accepted", at(1.25)),
        ("resolved", at(3)),
        ("lines", at(4)),
        ("first node", at(5)),
        ("half of the nodes", at(8)),
        ("last node", at(20)),
    ]


def test_what_has_not_happened_has_no_time() -> None:
    found = steps(warmimage(startedAt=text(4), firstWarmAt=text(5)), record(), total=Tally(warm=3, pulling=7))
    assert found["first node"].at == at(5)
    assert (found["half of the nodes"].at, found["half of the nodes"].detail) == (None, "")
    assert (found["last node"].at, found["last node"].detail) == (None, "7 of 10 nodes are not warm")
    assert "resolved" not in found


def test_what_nobody_noted_is_not_guessed() -> None:
    found = steps(warmimage(startedAt=text(4)), total=Tally(warm=9, pulling=1))
    assert (found["received"].at, found["received"].detail) == (None, "its delivery is not among the last ones")
    assert "accepted" not in found
    assert (found["first node"].at, found["first node"].detail) == (None, "nobody noted when")
    assert (found["half of the nodes"].at, found["half of the nodes"].detail) == (None, "nobody noted when")


def test_without_the_deliveries_there_are_no_steps_of_one() -> None:
    names = [moment.name for moment in timeline(read_push_times(COMPLETE), ALL_WARM, None)]
    assert names[:2] == ["pushed", "resolved"]


def test_a_delivery_that_was_repeated_is_received_at_first_and_accepted_at_last() -> None:
    failed, repeat = record(1, "unavailable", reason="slow-api-server"), record(7, "skipped", reason="duplicate")
    found = steps(COMPLETE, repeat, record(6), failed)
    assert (found["received"].at, found["received"].detail) == (at(1), "from harbor, 3 times")
    assert found["accepted"].at == at(6.25)
    assert steps(COMPLETE, failed)["accepted"] == Moment("accepted", None, "unavailable: slow-api-server")


def test_an_image_of_a_delivery_with_many_is_found_by_its_name() -> None:
    many = record(event_id="of another image", images=("harbor.example.com/shop/base:v1", f"{IMAGE}@{DIGEST}"))
    times = read_push_times(COMPLETE)
    assert deliveries_of_push(times, [many]) == (many,)
    assert deliveries_of_push(times, [record(event_id="of another push")]) == ()
    assert deliveries_of_push(times, [record(-60, event_id="earlier", images=many.images)]) == ()


def test_deliveries_of_an_image_named_its_tag_or_its_digest() -> None:
    named = [
        IMAGE,
        f"{IMAGE}@{DIGEST}",
        f"harbor.example.com/shop/app@{DIGEST}",
        f"harbor.example.com/shop/app:v2@{DIGEST}",
        "HARBOR.example.com/shop/app:v1",
    ]
    others = [f"{IMAGE}@{OTHER}", "harbor.example.com/shop/app:v2", "ghcr.io/shop/app:v1", "no image", "", " "]
    records = [record(images=(image,)) for image in (*named, *others)]
    assert [one.images[0] for one in deliveries_of(IMAGE, DIGEST, records)] == named
    assert deliveries_of("no image", "", records) == ()


def test_a_step_before_its_cause_says_by_how_much_the_clocks_differ() -> None:
    found = steps(COMPLETE, record(3600))
    noted = {name: moment.detail for name, moment in found.items() if "clock" in moment.detail}
    assert noted == {"resolved": "by the registry; its clock is at least 3597.2 s behind that of the step before"}


def test_a_registry_that_was_asked_again_later_has_no_time_for_this_push() -> None:
    status = COMPLETE["status"] | {"resolved": {"pushedAt": text(0), "checkedAt": text(900), "digest": DIGEST}}
    found = steps(COMPLETE | {"status": status})
    assert found["resolved"] == Moment("resolved", None, "the registry was asked again at 2026-03-01 12:15:00 UTC")
    status["resolved"] = {"pushedAt": text(-60), "checkedAt": text(3), "digest": DIGEST}
    assert "resolved" not in steps(COMPLETE | {"status": status})


def test_lines_do_not_wait_for_the_registry_so_its_answer_may_come_after_them() -> None:
    status = COMPLETE["status"] | {"resolved": {"pushedAt": text(0), "checkedAt": text(4.5), "digest": DIGEST}}
    assert list(steps(COMPLETE | {"status": status}, record()))[3:5] == ["lines", "resolved"]


def test_times_of_an_earlier_generation_do_not_count() -> None:
    found = steps(warmimage(startedAt=text(4), firstWarmAt=text(-50), halfWarmAt=text(-40), completedAt=text(-30)))
    assert [found[name].at for name in ("first node", "half of the nodes", "last node")] == [None, None, None]
    obj = warmimage(startedAt=text(4), completedAt=text(5))
    obj["metadata"]["generation"] = 3
    assert steps(obj)["lines"].at is None


def test_images_of_pods_and_of_people_have_no_delivery() -> None:
    obj = warmimage(startedAt=text(4))
    obj["spec"]["pods"] = {"source": "Admission"}
    assert list(steps(obj, record()))[:2] == ["Pod created", "lines"]
    del obj["spec"]["pods"], obj["spec"]["pushedAt"]
    assert next(iter(steps(obj, record()).values())) == Moment("created", at(2), "the WarmImage")


def test_one_node_is_the_first_and_the_last() -> None:
    assert list(steps(COMPLETE, total=Tally(warm=1)))[-2:] == ["lines", "last node"]
    assert "half of the nodes" not in steps(COMPLETE, total=Tally(warm=2))


def test_a_node_that_was_warm_at_the_first_count_may_have_been_so_before() -> None:
    found = steps(warmimage(startedAt=text(4), firstWarmAt=text(4)))
    assert found["first node"].detail == "warm when nodes were first counted"


@pytest.mark.parametrize("name", ["metadata", "spec", "status"])
def test_objects_without_the_usual_parts_are_read(name: str) -> None:
    values: list[Any] = [None, [], "x", {"annotations": [], "resolved": 7, "startedAt": 5, "pushedAt": "soon"}]
    for value in values:
        assert timeline(read_push_times(COMPLETE | {name: value}), Tally(), [record()])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from([text(0), IMAGE, DIGEST]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(sorted(COMPLETE["status"])), inner),
    max_leaves=5,
)


@given(JSON, JSON)
def test_whatever_is_in_spec_and_status_is_read(spec: Any, status: Any) -> None:
    read = read_push_times({"metadata": {}, "spec": spec, "status": status})
    assert timeline(read, Tally(), [])[-1].name == "last node"
