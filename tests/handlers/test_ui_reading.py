"""What the page keeps of objects is the same for any object that a tenant, a node or another version writes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.ui.reading import (
    POOL_LABELS,
    read_desired_facts,
    read_image_facts,
    read_node_facts,
    read_report_facts,
)
from tests.handlers.world import NAMESPACE
from warmhook.api import LINE_LABEL, SEEN_ANNOTATION, WARM_ANNOTATION
from warmhook.inventory import Inventory
from warmhook.overview import Tally

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["image", "pushedAt", "digest", "conditions", "failures", "resolved", "warm", "failed", "startedAt", "policyName"]
)
METADATA = {"namespace": "shop", "name": "web", "generation": 1}


@given(st.dictionaries(FIELDS, ANYTHING) | ANYTHING, st.dictionaries(FIELDS, ANYTHING) | ANYTHING)
def test_any_warmimage_is_kept_under_its_name_with_printable_texts(spec: Any, status: Any) -> None:
    facts = read_image_facts({"metadata": METADATA, "spec": spec, "status": status})
    assert str(facts.key) == "shop/web"
    texts = (facts.image, facts.policy, facts.digest, facts.reason, facts.message)
    assert all(text.isprintable() and len(text) <= 512 for text in texts)
    assert facts.counted.desired >= 0
    Inventory().set_image(facts)


@given(st.dictionaries(st.text(max_size=40), st.text(max_size=40)), st.dictionaries(st.text(max_size=40), st.text()))
def test_any_report_is_that_of_its_node(labels: dict[str, str], annotations: dict[str, str]) -> None:
    metadata = {"name": "warmhook-report-a", "labels": labels, "annotations": annotations, "uid": "1"}
    assert read_report_facts(metadata)[0] == "a"


@pytest.mark.parametrize("name", ["warmhook-deliveries", "copy", "warmhook-desired-a"])
def test_a_copy_of_a_report_under_another_name_is_of_no_node(name: str) -> None:
    annotations = {SEEN_ANNOTATION: "2026-03-01T12:00:00Z", WARM_ANNOTATION: "aaaaaaaa"}
    assert read_report_facts({"name": name, "annotations": annotations, "uid": "1"})[0] == ""


def test_nodes_with_the_same_lines_share_them() -> None:
    def lines(node: str) -> Any:
        labels = {f"{LINE_LABEL}{'0' * 15}{letter}": "a" * 8 for letter in "abc"}
        metadata = {"name": f"warmhook-desired-{node}", "namespace": NAMESPACE, "labels": labels, "uid": "1"}
        return read_desired_facts(metadata)[1].lines

    assert [one is other for one, other in zip(lines("a"), lines("b"), strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("labels", "pool"),
    [
        *(({label: "gold", "node-role.kubernetes.io/worker": ""}, "gold") for label in POOL_LABELS),
        ({"node-role.kubernetes.io/control-plane": ""}, "control-plane"),
        ({}, ""),
    ],
)
def test_the_pool_of_a_node_is_that_of_its_cloud_else_its_role(labels: dict[str, str], pool: str) -> None:
    assert read_node_facts({"name": "a", "labels": labels}).pool == pool


def test_a_label_of_ones_own_names_the_pool_alone() -> None:
    labels = {"pool": "gold", "rack": "r7"}
    assert read_node_facts({"name": "a", "labels": labels}, "rack").pool == "r7"
    assert read_node_facts({"name": "a", "labels": {"pool": "gold"}}, "rack").pool == ""


def test_the_counts_of_a_status_are_kept_and_what_is_no_count_is_none() -> None:
    status = {"warm": 3, "failed": 1, "waiting": -4, "pulling": "2"}
    facts = read_image_facts({"metadata": METADATA, "spec": {"image": "a/b:1"}, "status": status})
    assert facts.counted == Tally(warm=3, failed=1)


def test_the_longest_image_is_kept_whole_so_that_commands_name_it() -> None:
    name = f"registry.example.com/{'a' * 779}"
    obj = {"metadata": {"namespace": "shop", "name": "web"}, "spec": {"image": name}}
    assert len(name) == 800
    assert read_image_facts(obj).image == name
