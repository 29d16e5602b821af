"""An image belongs to the workloads that run it, and to those that ran it last."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from warmhook.images import parse_reference
from warmhook.labels import Requirement, Selector
from warmhook.placement import Node, PodQuery, place_each, pod_queries
from warmhook.policies import OBSERVED_MAX, Policy, policy_changes, within_bound
from warmhook.timestamps import parse_time
from warmhook.warmimages import OWNERS_MAX, Nodes, PolicyKey, Template, WarmImage
from warmhook.workload_images import Workload, rollout_images

NOW = parse_time("2026-03-01T12:00:00Z")
POLICY: Final = Policy(PolicyKey("shop", "web"), rollouts=Selector())


def pods_of(name: str) -> Selector:
    return Selector((Requirement("app", "In", (name,)),))


def workload(name: str, *images: str) -> Workload:
    """Its containers are called c0, c1, and so on."""
    named = tuple((f"c{at}", parse_reference(image, default_tag="latest")) for at, image in enumerate(images))
    return Workload(f"Deployment/{name}", pods_of(name), named)


def short(warmimage: WarmImage) -> str:
    """Its image, as a person would write it."""
    return str(warmimage.image).removeprefix("docker.io/library/")


def after(*moments: list[Workload], policy: Policy = POLICY) -> dict[str, WarmImage]:
    """By image the WarmImages that are there after these workloads, a minute apart."""
    stored: dict[str, WarmImage] = {}
    for minutes, workloads in enumerate(moments):
        now, before = NOW + timedelta(minutes=minutes), list(stored.values())
        changes = policy_changes(policy, before, now, rollout_images(policy, workloads, before, now))
        for gone in changes.deletes:
            del stored[short(gone)]
        stored |= {short(upsert.warmimage): upsert.warmimage for upsert in changes.upserts}
    return stored


def test_workloads_that_did_not_change_change_nothing() -> None:
    workloads = [workload("web", "web:1", "side:1"), workload("api", "api:1", "side:1", "side:1")]
    assert after(workloads) == after(workloads, workloads, workloads)


def test_a_rollout_that_a_clock_ahead_saw_first_costs_no_write_at_each_look_after_the_next_one() -> None:
    ahead = NOW + timedelta(hours=1)
    first = rollout_images(POLICY, [workload("web", "web:1")], [], ahead)
    both = rollout_images(POLICY, [workload("web", "web:2")], first, NOW)
    later = rollout_images(POLICY, [workload("web", "web:2")], both, NOW + timedelta(minutes=5))
    assert later == both
    past = rollout_images(POLICY, [workload("web", "web:2")], both, ahead + timedelta(minutes=5))
    assert rollout_images(POLICY, [workload("web", "web:2")], past, ahead + timedelta(minutes=10)) == past


def test_a_rollout_without_a_time_costs_no_write_at_each_look() -> None:
    (found,) = after([workload("web", "web:1")]).values()
    assert found.pod_origin is not None
    (owner,) = found.pod_origin.owners
    bare = replace(found, pod_origin=replace(found.pod_origin, owners=(replace(owner, at=None),)))
    assert rollout_images(POLICY, [workload("web", "web:1")], [bare], NOW + timedelta(hours=1)) == [bare]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12))
def test_the_present_image_and_the_last_other_one_stay(versions: list[int]) -> None:
    last = dict.fromkeys(reversed(versions))
    found = after(*([workload("web", f"web:{version}")] for version in versions))
    assert found.keys() == {f"web:{version}" for version in list(last)[:2]}


def test_the_image_of_a_container_that_is_gone_goes() -> None:
    assert after([workload("web", "web:1", "side:1")], [workload("web", "web:1")]).keys() == {"web:1"}


def test_without_a_workload_or_a_rule_nothing_stays_and_an_unread_rule_changes_nothing() -> None:
    existing = after([workload("web", "web:1")])
    assert after([workload("web", "web:1")], []) == {}
    without = replace(POLICY, rollouts=None)
    assert len(policy_changes(without, existing.values(), NOW).deletes) == 1
    unread = replace(without, unread=frozenset({"rollouts"}))
    assert policy_changes(unread, existing.values(), NOW).deletes == ()


def test_no_lifetime_ends_the_image_of_a_workload() -> None:
    policy = replace(POLICY, template=Template(expire_after_seconds=60))
    existing = after([workload("web", "web:1")], policy=policy)
    (image,) = existing.values()
    assert image.template.expire_after_seconds is None
    assert policy_changes(policy, [image], NOW + timedelta(days=99)).deletes == ()


def test_an_image_is_on_the_nodes_of_the_pods_of_each_of_its_workloads() -> None:
    found = after([workload("web", "side:1"), workload("api", "side:1")])["side:1"]
    (queries,) = pod_queries(found)
    assert set(queries) == {PodQuery("shop", pods_of("web")), PodQuery("shop", pods_of("api"))}
    nodes = [Node(name, name, {"kubernetes.io/os": "linux"}) for name in "abc"]
    running = {PodQuery("shop", pods_of("web")): {"a"}, PodQuery("shop", pods_of("api")): {"c"}}
    ((_, chosen),) = place_each([found], nodes, running)
    assert [node.name for node in chosen] == ["a", "c"]


def test_an_image_of_more_workloads_than_are_stored_is_on_the_nodes_of_any_pod() -> None:
    many = [workload(f"w{number}", "side:1") for number in range(OWNERS_MAX + 1)]
    found = after(many)["side:1"]
    assert found.pod_origin is not None
    assert len(found.pod_origin.owners) == OWNERS_MAX
    assert pod_queries(found) == [(PodQuery("shop", Selector()),)]
    assert pod_queries(after(many, many[1:])["side:1"]) != pod_queries(found)


def test_running_pods_and_workloads_narrow_each_other() -> None:
    policy = replace(POLICY, template=Template(Nodes(running_pods=pods_of("db"))))
    assert len(pod_queries(after([workload("web", "web:1")], policy=policy)["web:1"])) == 2


def test_existing_images_have_room_before_new_ones() -> None:
    old = after([workload("web", *(f"old:{number}" for number in range(OBSERVED_MAX - 1)))])
    workloads = [workload("web", *(f"old:{number}" for number in range(OBSERVED_MAX - 1)), "new:1", "new:2")]
    observed = rollout_images(POLICY, workloads, list(old.values()), NOW)
    kept, left_out = within_bound(observed, old.values())
    assert (len(kept), left_out) == (OBSERVED_MAX, 1)
    assert {warmimage.key for warmimage in kept} > {warmimage.key for warmimage in old.values()}
