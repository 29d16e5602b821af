"""A new Pod leads to the WarmImages that its policy asks for, and leaves all others alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from warmhook.admission_review import Admitted
from warmhook.images import parse_reference
from warmhook.labels import Requirement, Selector
from warmhook.node_affinity import Constraints, Term
from warmhook.node_lines import line_of
from warmhook.pod_images import decide_admission, takes_pod, warmimages_for_pod
from warmhook.policies import Policy, Upsert, decide_push, policy_changes, surplus
from warmhook.rules import PushRule
from warmhook.taints import Toleration
from warmhook.timestamps import parse_time
from warmhook.warmimages import OWNERS_MAX, Limit, Nodes, PolicyKey, Template, WarmImage

NOW = parse_time("2026-03-01T12:00:00Z")
DAY = 86400
WARM = Selector((Requirement("warm", "In", ("true",)),))
WEB = (Term((Requirement("pool", "In", ("web",)),)),)
POLICY = Policy(
    PolicyKey("shop", "pods"),
    pods=WARM,
    template=Template(Nodes(limit=Limit(30, percent=True)), expire_after_seconds=10 * DAY),
)
POD = Admitted(
    "shop",
    "Deployment/web",
    (parse_reference("ghcr.io/shop/app:v1"), parse_reference("ghcr.io/shop/side:v1@sha256:" + "a" * 64)),
    labels={"warm": "true"},
    node_selector={"pool": "web"},
    tolerations=(Toleration("gpu", "Exists"),),
)


def asked(policy: Policy = POLICY, pod: Admitted = POD, days: float = 0) -> list[WarmImage]:
    return list(warmimages_for_pod(policy, pod, NOW + timedelta(days=days), "e-1"))


def test_only_pods_of_the_policys_own_namespace_that_it_selects_are_taken() -> None:
    assert takes_pod(POLICY, POD)
    assert not takes_pod(POLICY, replace(POD, namespace="other"))
    assert not takes_pod(POLICY, replace(POD, labels={}))
    assert not takes_pod(replace(POLICY, pods=None), POD)


def test_each_image_is_wanted_where_further_pods_can_land() -> None:
    app, side = asked()
    assert str(app.image) == "ghcr.io/shop/app:v1"
    assert app.template.nodes == Nodes(None, (), Limit(30, percent=True), WEB, (Toleration("gpu", "Exists"),))
    assert app.pushed_at == NOW
    # A Pod that names a digest runs that digest, wherever the tag has moved.
    assert (side.image.tag, side.digest) == ("", "sha256:" + "a" * 64)


def test_a_policys_own_affinity_and_the_pods_both_hold() -> None:
    zone = (Term((Requirement("zone", "Exists"),)),)
    policy = replace(POLICY, template=Template(Nodes(affinity=zone)))
    (term,) = asked(policy)[0].template.nodes.affinity or ()
    assert {it.key for it in term.expressions} == {"zone", "pool"}


def test_a_pod_that_no_node_can_take_asks_for_nothing() -> None:
    assert asked(pod=replace(POD, affinity=())) == []


def test_owners_with_other_constraints_do_not_share_and_those_with_the_same_do() -> None:
    here = asked()[0]
    assert asked(pod=replace(POD, owner="StatefulSet/db", owner_uid="x"))[0].key == here.key
    assert asked(pod=replace(POD, node_selector={"pool": "db"}))[0].key != here.key
    assert asked(pod=replace(POD, tolerations=()))[0].key != here.key


def test_the_line_says_nothing_of_the_admission_so_nobody_pulls_again() -> None:
    assert line_of(asked(days=0)[0]) == line_of(asked(days=5)[0])


@pytest.mark.parametrize(("days", "written"), [(0, False), (0.9, False), (1.1, True), (-3, False)])
def test_a_repeat_costs_a_write_only_when_a_tenth_of_the_lifetime_has_passed(days: float, written: bool) -> None:
    (stored, _), (again, _) = asked(), asked(days=days)
    decision = decide_admission(again, stored)
    assert isinstance(decision, Upsert) == written
    if isinstance(decision, Upsert):
        assert decision.warmimage.pushed_at == again.pushed_at


def test_without_a_lifetime_in_the_policy_it_ends_a_week_after_the_last_pod() -> None:
    one, _ = asked(policy := replace(POLICY, template=Template()))
    assert one.template.expire_after_seconds == 7 * DAY
    assert not policy_changes(policy, [one], NOW + timedelta(days=6.9)).deletes
    assert policy_changes(policy, [one], NOW + timedelta(days=7.1)).deletes == (one,)


def test_with_a_long_lifetime_it_is_written_once_a_day() -> None:
    policy = replace(POLICY, template=Template(expire_after_seconds=90 * DAY))
    (stored, _), (soon, _), (later, _) = (asked(policy, days=days) for days in (0, 0.9, 1.1))
    assert decide_admission(soon, stored) == "duplicate"
    assert isinstance(decide_admission(later, stored), Upsert)


def together(*pods: tuple[Admitted, float], policy: Policy = POLICY) -> list[WarmImage]:
    """What is there after these Pods, each created so many days after the first moment."""
    stored: dict[str, WarmImage] = {}
    for pod, days in pods:
        for wanted in asked(policy, pod, days):
            decision = decide_admission(wanted, stored.get(wanted.key.name))
            if isinstance(decision, Upsert):
                stored[wanted.key.name] = decision.warmimage
        for gone in policy_changes(policy, list(stored.values()), NOW + timedelta(days=days)).deletes:
            del stored[gone.key.name]
    return list(stored.values())


def running(owner: str, *images: str, **labels: str) -> Admitted:
    """A Pod whose containers are called c0, c1, and so on."""
    references = tuple(parse_reference(f"ghcr.io/shop/{image}") for image in images)
    containers = tuple((f"c{number}", reference) for number, reference in enumerate(references))
    return Admitted("shop", owner, references, containers, labels={"warm": "true", **labels})


def tags(warmimages: list[WarmImage]) -> set[str]:
    return {f"{it.image.repository.rpartition('/')[2]}:{it.image.tag}" for it in warmimages}


def test_of_each_container_of_an_owner_the_two_newest_versions_stay() -> None:
    rollouts = [(running("Deployment/web", f"app:v{n}", "side:v1"), n / 100) for n in range(60)]
    assert tags(together(*rollouts)) == {"app:v58", "app:v59", "side:v1"}


def test_a_version_that_another_owner_runs_stays() -> None:
    other = running("Deployment/api", "side:v0")
    rollouts = [(running("Deployment/web", f"side:v{n}"), n / 100) for n in range(5)]
    assert tags(together((other, 0), *rollouts)) == {"side:v0", "side:v3", "side:v4"}


def test_containers_of_one_repository_do_not_push_each_other_out() -> None:
    pod = running("Deployment/web", "app:v1", "app:v1-setup", "app:v1-migrate")
    assert len(together((pod, 0))) == 3


def test_pods_by_themselves_have_no_versions() -> None:
    jobs = [(running("Pod/runner-", f"tool:{n}"), n / 100) for n in range(9)]
    assert len(together(*jobs)) == 9


def test_an_owner_that_pins_its_pods_to_nodes_has_one_version_of_them() -> None:
    pods = [(replace(running("Cluster/db", "db:v1"), node_selector={"name": f"n{n}"}), n / 100) for n in range(5)]
    assert len(together(*pods)) == 5


def test_a_narrower_selector_leaves_what_pods_that_are_still_selected_need() -> None:
    shared = together(
        (running("Deployment/web", "app:v1", app="web"), 0), (running("Job/x", "app:v1", app="batch"), 0.1)
    )
    web, batch, other = (
        replace(POLICY, pods=Selector((Requirement("app", "In", (name,)),))) for name in ("web", "batch", "other")
    )
    assert not policy_changes(web, shared, NOW).deletes
    assert not policy_changes(batch, shared, NOW).deletes
    assert policy_changes(other, shared, NOW).deletes == tuple(shared)


def test_a_crowd_of_owners_is_remembered_only_in_part_and_costs_few_writes() -> None:
    stored, writes = None, 0
    for number in range(1000):
        (wanted,) = asked(pod=running(f"Job/{number}", "tool:1"))
        decision = decide_admission(wanted, stored)
        if isinstance(decision, Upsert):
            stored, writes = decision.warmimage, writes + 1
    assert stored is not None
    assert stored.pod_origin is not None
    assert (len(stored.pod_origin.owners), stored.pod_origin.more, writes) == (OWNERS_MAX, True, OWNERS_MAX + 1)
    nobody = replace(POLICY, pods=Selector((Requirement("app", "Exists"),)))
    assert not policy_changes(nobody, [stored], NOW).deletes


def test_a_rollout_of_an_owner_that_is_known_costs_no_write() -> None:
    first, second = (asked(pod=running("Deployment/web", "side:v1", **{"pod-template-hash": it}))[0] for it in "ab")
    assert decide_admission(second, first) == "duplicate"


def test_time_never_goes_back() -> None:
    (late, _), (early, _) = asked(days=5), asked()
    changed = replace(late, template=Template())
    decision = decide_admission(early, changed)
    assert isinstance(decision, Upsert)
    assert decision.warmimage.pushed_at == late.pushed_at


# --- what the policy does with them afterwards -----------------------------------------------------------------------


def test_warmimages_that_are_as_they_should_be_are_left_alone() -> None:
    assert not policy_changes(POLICY, asked(), NOW).deletes
    assert not policy_changes(POLICY, asked(), NOW).upserts


def test_a_warmimage_ends_when_no_pod_came_for_its_lifetime() -> None:
    changes = policy_changes(POLICY, asked(), NOW + timedelta(days=11))
    assert set(changes.deletes) == set(asked())


@pytest.mark.parametrize("pods", [None, Selector((Requirement("warm", "In", ("false",)),))])
def test_a_policy_that_no_longer_takes_such_pods_drops_them(pods: Selector | None) -> None:
    assert set(policy_changes(replace(POLICY, pods=pods), asked(), NOW).deletes) == set(asked())


def test_a_changed_template_reaches_them_and_keeps_what_the_pods_asked() -> None:
    policy = replace(POLICY, template=Template(Nodes(limit=Limit(2)), expire_after_seconds=10 * DAY))
    upserts = policy_changes(policy, asked(), NOW).upserts
    assert {upsert.warmimage.template for upsert in upserts} == {asked(policy)[0].template}
    assert upserts[0].warmimage.template.nodes.affinity == WEB


def test_keep_neither_counts_nor_removes_them() -> None:
    policy = replace(POLICY, push=(PushRule("ghcr.io/shop/**", keep=1),))
    mine = asked(policy)
    assert surplus(policy, mine) == []
    push = decide_push(policy, parse_reference("ghcr.io/shop/app:v1"), NOW, "e-2", mine, NOW)
    assert isinstance(push, Upsert)
    assert push.replaces is None
    assert policy_changes(policy, [*mine, push.warmimage], NOW).deletes == ()


def test_one_whose_constraints_were_changed_by_hand_is_dropped() -> None:
    one = asked()[0]
    assert one.pod_origin is not None
    bent = replace(one, pod_origin=replace(one.pod_origin, constraints=Constraints()))
    assert policy_changes(POLICY, [bent], NOW).deletes == (bent,)
