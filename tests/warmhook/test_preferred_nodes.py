"""A Pod prefers the nodes that have its images, and keeps its own fields."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devcluster.apiserver.patches import json_patched
from warmhook.labels import Requirement
from warmhook.node_affinity import Constraints, Term
from warmhook.placement import Node
from warmhook.preferred_nodes import PREFERRED_MAX, affinity_patch, preferred_nodes, prefers_nodes
from warmhook.taints import Taint

PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
ANYWHERE = Constraints()
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def nodes(count: int, **more: Any) -> list[Node]:
    return [Node(f"n{number:03}", "u", {"kubernetes.io/os": "linux"}, **more) for number in range(count)]


def preferred(
    held: dict[str, int], images: int = 2, constraints: Constraints = ANYWHERE, owner: str = "shop/Deployment/web"
) -> list[tuple[str, int]]:
    names = [f"image-{number}" for number in range(images)]
    return preferred_nodes(names, owner, lambda node: held.get(node.name, 0), constraints, nodes(40))


def test_nodes_with_most_images_are_preferred_most() -> None:
    assert preferred({"n001": 1, "n002": 2}) == [("n002", 100), ("n001", 50)]


def test_at_most_ten_are_named_and_equal_pods_are_told_the_same() -> None:
    held = {f"n{number:03}": 1 for number in range(20)}
    assert len(preferred(held)) == PREFERRED_MAX
    assert preferred(held) == preferred(dict(reversed(held.items())))


def test_an_image_on_more_than_half_of_the_nodes_is_no_reason_to_crowd_ten_of_them() -> None:
    common = {f"n{number:03}": 1 for number in range(21)}
    assert preferred(common) == []
    assert preferred(common | {"n001": 2}) == [("n001", 100)]


def test_all_warm_nodes_are_preferred_if_ten_names_are_enough_for_them() -> None:
    few = nodes(3)
    chosen = preferred_nodes(["a"], "shop/Deployment/web", lambda node: int(node.name != "n000"), ANYWHERE, few)
    assert {name for name, _ in chosen} == {"n001", "n002"}


def test_owners_of_pods_with_the_same_images_prefer_other_nodes() -> None:
    held = {f"n{number:03}": 1 for number in range(20)}
    web, api = ({name for name, _ in preferred(held, owner=f"shop/Deployment/{name}")} for name in ("web", "api"))
    assert len(web) == len(api) == PREFERRED_MAX
    assert web != api


def test_weights_are_those_the_api_server_takes() -> None:
    assert {weight for _, weight in preferred({"n001": 1}, images=500)} == {1}


@pytest.mark.parametrize("held", [{}, {f"n{number:03}": 1 for number in range(40)}])
def test_nothing_is_preferred_if_no_node_is_better_than_another(held: dict[str, int]) -> None:
    assert preferred(held) == []


def test_nodes_that_cannot_take_the_pod_are_not_named() -> None:
    here = Constraints((Term(fields=(Requirement("metadata.name", "In", ("n001", "n003")),)),))
    assert preferred({"n001": 1, "n002": 2}, constraints=here) == [("n001", 50)]
    tainted = [*nodes(1, taints=(Taint("gpu"),)), Node("w", "u", {"kubernetes.io/os": "windows"})]
    assert preferred_nodes(["a"], "shop/Pod/x", lambda _node: 1, Constraints(), [*tainted, *nodes(2)[1:]]) == []


THEIR_TERM = {"weight": 7, "preference": {"matchExpressions": []}}
PODS = st.fixed_dictionaries(
    {"spec": st.fixed_dictionaries({"containers": st.just([{"image": "a"}])}, optional={
        "affinity": st.none() | st.fixed_dictionaries({}, optional={
            "podAffinity": st.just({"x": 1}),
            "nodeAffinity": st.none() | st.fixed_dictionaries({}, optional={
                REQUIRED: st.just({"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}),
                PREFERRED: st.none() | st.lists(st.just(THEIR_TERM), max_size=2),
            }),
        }),
    })}
)  # fmt: skip


@given(PODS)
def test_the_patch_adds_our_terms_and_touches_nothing_else(pod: dict[str, Any]) -> None:
    before = copy.deepcopy(pod)
    patched = json_patched(pod, affinity_patch(pod, [("n1", 100), ("n2", 50)]))
    assert pod == before
    affinity = patched["spec"]["affinity"]
    mine = affinity["nodeAffinity"][PREFERRED]
    theirs = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(PREFERRED) or []
    assert mine[: len(theirs)] == theirs
    assert [(it["weight"], it["preference"]["matchFields"][0]["values"]) for it in mine[len(theirs) :]] == [
        (100, ["n1"]),
        (50, ["n2"]),
    ]
    rest = (affinity.get("podAffinity"), affinity["nodeAffinity"].get(REQUIRED), patched["spec"]["containers"])
    old = pod["spec"].get("affinity") or {}
    assert rest == (old.get("podAffinity"), (old.get("nodeAffinity") or {}).get(REQUIRED), pod["spec"]["containers"])
    assert prefers_nodes(patched)
    assert not prefers_nodes(pod)


@pytest.mark.parametrize("affinity", [7, [], "x", {"nodeAffinity": 7}, {"nodeAffinity": {PREFERRED: 7}}])
def test_a_pod_that_cannot_be_is_not_patched_in_its_middle(affinity: object) -> None:
    pod = {"spec": {"affinity": affinity}}
    assert not prefers_nodes(pod)
    assert all(step["path"] == "/spec/affinity" for step in affinity_patch(pod, [("n1", 1)]))
    assert affinity_patch({"spec": 7}, [("n1", 1)]) == affinity_patch({"spec": {}}, []) == []
