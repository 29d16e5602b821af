"""What does a Pod's creation lead to, and what does it leave alone?"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from warmhook.admissions import asked_for, decide_admission, takes_pod
from warmhook.feasible import Constraints, Term, Toleration
from warmhook.images import parse_reference
from warmhook.lines import line_of
from warmhook.pods import Admitted
from warmhook.policies import Policy, PushRule, Upsert, decide_push, policy_changes, surplus
from warmhook.selectors import Requirement, Selector
from warmhook.times import parse_time
from warmhook.warmimages import Limit, Nodes, PolicyKey, Template, WarmImage

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
    return list(asked_for(policy, pod, NOW + timedelta(days=days), "e-1"))


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


def test_without_an_end_it_is_written_once_a_day() -> None:
    policy = replace(POLICY, template=Template())
    (stored, _), (soon, _), (later, _) = (asked(policy, days=days) for days in (0, 0.9, 1.1))
    assert decide_admission(soon, stored) == "duplicate"
    assert isinstance(decide_admission(later, stored), Upsert)


def test_time_never_goes_back() -> None:
    (late, _), (early, _) = asked(days=5), asked()
    changed = replace(late, template=Template())
    decision = decide_admission(early, changed)
    assert isinstance(decision, Upsert)
    assert decision.warmimage.pushed_at == late.pushed_at


# --- what the policy does with them afterwards -----------------------------------------------------------------------


def test_what_is_as_it_should_be_is_left_alone() -> None:
    assert not policy_changes(POLICY, asked(), NOW).deletes
    assert not policy_changes(POLICY, asked(), NOW).upserts


def test_nobody_came_for_so_long_that_it_ends() -> None:
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
    assert one.asked is not None
    bent = replace(one, asked=replace(one.asked, constraints=Constraints()))
    assert policy_changes(POLICY, [bent], NOW).deletes == (bent,)
