"""The parts of rules and selectors that refuse an image are found by the functions that decide."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.checks import Check
from warmhook.delivery_records import DeliveryRecord
from warmhook.doctor_leader import LeaseFacts, leader_check
from warmhook.explain import SUBJECTS, explain
from warmhook.explain_facts import (
    AgentPod,
    DesiredState,
    Facts,
    ImageState,
    NodeState,
    PolicyState,
    ReportState,
    Unread,
)
from warmhook.images import parse_reference
from warmhook.labels import Requirement, Selector
from warmhook.node_affinity import Term
from warmhook.node_lines import line_of
from warmhook.node_report import Report
from warmhook.placement import Node, place
from warmhook.placement import refusing_part as refusing_node
from warmhook.policies import Policy
from warmhook.reasons import meaning
from warmhook.rules import PushRule, PushRules, refusing_part
from warmhook.semver import parse_range
from warmhook.taints import Taint
from warmhook.warmimages import Nodes, ObjectKey, PodOrigin, PodOwner, WarmImage

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
IMAGE = parse_reference("harbor.example.com/shop/app:v1")
ALL = "harbor.example.com/shop/**"
KEY = ObjectKey("shop", "app")


@pytest.mark.parametrize(
    ("rule", "image", "part"),
    [
        (PushRule(ALL), IMAGE, None),
        (PushRule("harbor.example.com/other/*"), IMAGE, "repository"),
        (PushRule(ALL, tags=("release-*",)), IMAGE, "tags"),
        (PushRule(ALL, exclude=("v*",)), IMAGE, "exclude"),
        (PushRule(ALL, semver=parse_range(">=2")), IMAGE, "semver"),
        (PushRule(ALL, tags=("x",), exclude=("v*",)), IMAGE, "tags"),
        (PushRule(ALL, exclude=("v*",), semver=parse_range(">=2")), IMAGE, "exclude"),
        (PushRule(ALL), parse_reference(f"{IMAGE.name}@sha256:{'a' * 64}"), "untagged"),
        (PushRule(ALL, unread=True), IMAGE, "unread"),
    ],
)
def test_the_part_of_a_rule_that_refuses_a_push_is_named(rule: PushRule, image: object, part: str | None) -> None:
    assert refusing_part(rule, image) == part  # type: ignore[arg-type]


@given(
    tags=st.lists(st.sampled_from(["*", "v*", "1.*", "latest"]), min_size=1, max_size=2),
    exclude=st.lists(st.sampled_from(["*-rc", "v1", "latest"]), max_size=2),
    semver=st.sampled_from([None, ">=1", ">=2"]),
    tag=st.sampled_from(["v1", "1.2.3", "2.0.0", "2.0.0-rc", "latest"]),
)
def test_a_rule_has_a_refusing_part_if_and_only_if_it_takes_no_push(
    tags: list[str], exclude: list[str], semver: str | None, tag: str
) -> None:
    rule = PushRule(ALL, tuple(tags), tuple(exclude), parse_range(semver) if semver else None)
    image = parse_reference(f"{IMAGE.name}:{tag}")
    assert (refusing_part(rule, image) is None) == bool(PushRules([rule]).matching(image))


NODE = Node("node-1", "uid", {"kubernetes.io/os": "linux", "pool": "web"}, (Taint("gpu"),))
WEB = Selector((Requirement("pool", "In", ("web",)),))
DB = Selector((Requirement("pool", "In", ("db",)),))


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        (Nodes(), None),
        (Nodes(WEB), None),
        (Nodes(DB), "selector"),
        (Nodes(names=("node-2",)), "names"),
        (Nodes(DB, names=("node-2",)), "names"),
        (Nodes(affinity=(Term(DB.requirements),)), "affinity"),
        (Nodes(affinity=(Term(WEB.requirements),)), None),
        (Nodes(tolerations=()), "tolerations"),
    ],
)
def test_the_part_of_a_selection_that_excludes_a_node_is_named(wanted: Nodes, part: str | None) -> None:
    assert refusing_node(wanted, NODE) == part
    assert (part is None) == bool(place("", wanted, [NODE]))


# --- the chain -------------------------------------------------------------------------------------------------------


def lease(age: timedelta = timedelta(0)) -> LeaseFacts:
    """That of a leader which renewed it so long ago."""
    return LeaseFacts("web_1", NOW - age, timedelta(seconds=15))


def facts(**given: object) -> Facts:
    """Those of an image that is warm."""
    policy = Policy(ObjectKey("shop", "shop"), push=(PushRule(ALL),))
    image = WarmImage(KEY, IMAGE, digest="sha256:" + "a" * 64, created_at=NOW)
    line = line_of(image)
    found: dict[str, object] = {
        "lease": lease(),
        "policies": (PolicyState(policy.key, policy),),
        "images": (ImageState(image),),
        "node": NodeState(NODE),
        "desired": DesiredState({line.key: line.encode()}),
        "report": ReportState(Report("node-1", NOW, frozenset({line.version}))),
        "agent_pods": (AgentPod("warmhook-agent-1", "Running", ready=True),),
    }
    return Facts(IMAGE, "node-1", NOW, **(found | given))  # type: ignore[arg-type]


def test_the_chain_of_a_warm_image_has_all_links_in_order_and_no_culprit() -> None:
    found = explain(facts())
    assert tuple(check.subject for check in found.checks) == SUBJECTS
    assert (found.warm, found.culprit) == (True, None)


@pytest.mark.parametrize(
    "unread", ["lease", "denied", "deliveries", "policies", "images", "node", "desired", "report", "agent_pods"]
)
def test_what_could_not_be_read_is_unknown_and_never_wrong(unread: str) -> None:
    found = explain(facts(**{unread: Unread("you may not", "ask")}))
    assert {check.state for check in found.checks} <= {"ok", "unknown", "skipped"}
    assert tuple(check.subject for check in found.checks) == SUBJECTS


WEB_PODS = PodOwner("Deployment/web", containers=("web",))


@pytest.mark.parametrize(
    ("warmimage", "words"),
    [
        (WarmImage(KEY, IMAGE), "somebody made the WarmImage by hand"),
        (WarmImage(KEY, IMAGE, policy_label="x", policy_name="shop"), "policy shop names the image"),
        (WarmImage(KEY, IMAGE, policy_label="x", pod_origin=PodOrigin((WEB_PODS,))), "new Pods of Deployment/web"),
        (
            WarmImage(KEY, IMAGE, policy_label="x", pod_origin=PodOrigin((WEB_PODS,), source="Rollout")),
            "the rollout of Deployment/web",
        ),
    ],
)
def test_an_image_that_needs_no_delivery_says_what_brought_it(warmimage: WarmImage, words: str) -> None:
    delivery = explain(facts(images=(ImageState(warmimage),))).checks[1]
    assert (delivery.subject, delivery.state) == ("delivery", "skipped")
    assert words in delivery.message


def test_a_leader_that_is_gone_is_no_culprit_of_a_warm_image() -> None:
    found = explain(facts(lease=lease(timedelta(hours=1))))
    assert found.warm
    assert found.culprit is None
    assert found.checks[0].reason == "NoLeader"


def test_a_delivery_that_names_the_tag_alone_is_that_of_the_image_by_tag_and_digest() -> None:
    record = DeliveryRecord(NOW, "hub", "dockerhub", "refused", "host-not-allowed", images=(str(IMAGE),))
    asked = replace(IMAGE, digest="sha256:" + "a" * 64)
    found = explain(replace(facts(images=(), deliveries=(record,)), image=asked))
    assert found.culprit is not None
    assert (found.culprit.subject, found.culprit.reason) == ("delivery", "HostNotAllowed")


def test_a_wrong_secret_of_another_registry_is_not_named() -> None:
    records = (
        DeliveryRecord(NOW, "hub", "dockerhub", "unauthorized", "bad-secret"),
        DeliveryRecord(NOW, "harbor", "harbor", "accepted", images=(f"{IMAGE.name}:v0",)),
    )
    found = explain(facts(images=(), deliveries=records))
    assert found.culprit is not None
    assert found.culprit.reason == "NoDelivery"


def test_explain_and_doctor_agree_on_who_leads() -> None:
    for seconds in (-3600, -30, 0, 14, 70, 80, 3600):
        found = lease(timedelta(seconds=seconds))
        check = leader_check(found, NOW, "warmhook-system")
        link = explain(facts(lease=found)).checks[0]
        assert (link.state == "ok", link.reason) == (check.state == "ok", check.reason), seconds


def test_a_leader_that_is_gone_delays_no_delivery() -> None:
    lost = lease(timedelta(hours=1))
    found = explain(facts(images=(), lease=lost))
    assert found.culprit is not None
    assert (found.culprit.subject, found.culprit.reason) == ("delivery", "NoDelivery")


@pytest.mark.parametrize("reason", ["bad-secret", "api-server-403", "api-server-500", "unknown-encoding"])
def test_explain_says_of_a_delivery_what_the_page_says_of_its_reason(reason: str) -> None:
    record = DeliveryRecord(NOW, "harbor", "harbor", "refused", reason, (str(IMAGE),))
    delivery = explain(facts(images=(), deliveries=(record,))).checks[1]
    what = meaning(reason).partition(".")[0]
    assert what
    assert what[1:] in delivery.message


HOSTILE = "\x1b]0;owned\x07'; rm -rf / #\u202e" + "x" * 5000


@pytest.mark.parametrize("text", [HOSTILE, "", "'", '"', "\x00", "\ud800", "$(reboot)", "`reboot`", "\n\r\x9b31m"])
def test_no_foreign_text_gets_into_a_command_unquoted_or_into_a_message_unbounded(text: str) -> None:
    line = line_of(WarmImage(KEY, IMAGE, digest="sha256:" + "a" * 64, created_at=NOW))
    report = Report("node-1", NOW, states={line.key: ("failed", line.version)})
    record = DeliveryRecord(NOW, text[:200], "harbor", "skipped", text[:200], (str(IMAGE),), detail=text[:200])
    taken = facts(
        report=ReportState(report, {line.key: '{"reason":"NotFound","message":' + json.dumps(text) + "}"}),
        node=NodeState(NODE, text),
    )
    for found in (explain(taken), explain(facts(images=(), deliveries=(record,)))):
        for check in found.checks:
            assert len(check.message) < 1500
            assert all(len(word) < 600 for word in _words(check))


def _words(check: Check) -> list[str]:
    """The words of the command, as a shell reads them; raises if a quote is open."""
    return shlex.split(check.mend.partition(", then: ")[2] or check.mend)


def test_a_source_with_quotes_in_its_name_is_one_word_of_the_command() -> None:
    record = DeliveryRecord(NOW, "a'; reboot '", "harbor", "unauthorized", "bad-secret")
    found = explain(facts(images=(), deliveries=(record,)))
    assert found.culprit is not None
    assert "reboot" not in _words(found.culprit)
    assert any("reboot" in word for word in _words(found.culprit))
