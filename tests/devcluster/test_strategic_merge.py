"""Strategic merge patches change the items of lists that they name, as the API server does."""

from __future__ import annotations

from typing import Any

import pytest

from devcluster.apiserver.errors import StatusError
from devcluster.apiserver.strategic_merge import strategic_merged

OLD: Any = {
    "metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}},
    "spec": {
        "containers": [
            {"name": "web", "image": "one", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"name": "side", "image": "one", "ports": [{"containerPort": 1}]},
        ],
        "volumes": [{"name": "config", "configMap": {"name": "old"}}],
        "taints": [{"key": "a"}],
    },
}


def merged(patch: Any) -> Any:
    return strategic_merged(OLD, patch)


def test_items_are_found_by_their_key_and_the_others_stay() -> None:
    new = merged({"spec": {"containers": [{"name": "side", "image": "two"}, {"name": "third"}]}})["spec"]["containers"]
    assert new == [OLD["spec"]["containers"][0], {**OLD["spec"]["containers"][1], "image": "two"}, {"name": "third"}]


def test_items_of_lists_in_lists_are_merged_and_deleted() -> None:
    env = [{"name": "A", "$patch": "delete"}, {"name": "B", "value": "3"}]
    (web, _) = merged({"spec": {"containers": [{"name": "web", "env": env}]}})["spec"]["containers"]
    assert web["env"] == [{"name": "B", "value": "3"}]
    ports = [{"name": "side", "ports": [{"containerPort": 2}]}]
    (_, side) = merged({"spec": {"containers": ports}})["spec"]["containers"]
    assert side["ports"] == [{"containerPort": 1}, {"containerPort": 2}]


def test_a_list_without_a_key_is_replaced() -> None:
    assert merged({"spec": {"taints": [{"key": "b"}]}})["spec"]["taints"] == [{"key": "b"}]


def test_texts_of_finalizers_are_added_and_taken_away() -> None:
    assert merged({"metadata": {"finalizers": ["b", "c"]}})["metadata"]["finalizers"] == ["a", "b", "c"]
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b"]}}
    assert merged(patch)["metadata"]["finalizers"] == ["b"]


def test_an_order_moves_items_and_keeps_those_that_it_does_not_name() -> None:
    patch = {"spec": {"$setElementOrder/containers": [{"name": "side"}], "containers": [{"name": "third"}]}}
    assert [each["name"] for each in merged(patch)["spec"]["containers"]] == ["side", "web", "third"]


def test_keys_that_are_not_retained_go() -> None:
    volume = {"name": "config", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}
    assert merged({"spec": {"volumes": [volume]}})["spec"]["volumes"] == [
        {"name": "config", "secret": {"secretName": "s"}}
    ]


def test_maps_are_merged_replaced_and_deleted() -> None:
    assert merged({"metadata": {"labels": {"x": None, "z": "3"}}})["metadata"]["labels"] == {"y": "2", "z": "3"}
    assert merged({"metadata": {"labels": {"$patch": "replace", "z": "3"}}})["metadata"]["labels"] == {"z": "3"}
    assert "labels" not in merged({"metadata": {"labels": {"$patch": "delete"}}})["metadata"]
    volumes = [{"$patch": "replace"}, {"name": "other"}]
    assert merged({"spec": {"volumes": volumes}})["spec"]["volumes"] == [{"name": "other"}]


@pytest.mark.parametrize("patch", ["text", {"$other": 1}, {"spec": {"volumes": [{"secret": {}}]}}], ids=str)
def test_a_patch_without_a_meaning_is_refused(patch: Any) -> None:
    with pytest.raises(StatusError):
        merged(patch)
