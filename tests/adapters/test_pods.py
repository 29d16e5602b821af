"""Of Pods and workloads what matters is read, whatever else is in them."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.kubernetes.pods import read_existing_pod, read_workload

IMAGE = "ghcr.io/shop/web:1"
SELECTOR = {"matchLabels": {"app": "web"}}


def workload(selector: Any = SELECTOR, template: Any = None) -> dict[str, Any]:
    given = {"spec": {"containers": [{"name": "app", "image": IMAGE}]}} if template is None else template
    return {"metadata": {"name": "web"}, "spec": {"selector": selector, "template": given}}


def test_a_workload_has_its_kind_its_pods_and_their_images() -> None:
    found = read_workload("StatefulSet", workload())
    assert found is not None
    assert (found.owner, found.selector.query()) == ("StatefulSet/web", "app=web")
    assert [(name, str(image)) for name, image in found.containers] == [("app", IMAGE)]


@pytest.mark.parametrize("selector", [None, {}, [], "app=web", {"matchLabels": 7}, {"matchLabels": {"a b": "c"}}])
def test_a_workload_whose_pods_nobody_can_tell_is_left_out(selector: Any) -> None:
    assert read_workload("CloneSet", workload(selector)) is None


@pytest.mark.parametrize("template", [7, [], {"spec": "x"}, {"spec": {"containers": 7}}, {"spec": {"containers": [7]}}])
def test_a_template_of_any_form_has_no_images(template: Any) -> None:
    found = read_workload("CloneSet", workload(template=template))
    assert found is not None
    assert found.containers == ()


def test_an_existing_pod_is_read_without_its_constraints() -> None:
    spec = {"containers": [{"name": "app", "image": IMAGE}], "nodeName": "a", "nodeSelector": {"pool": "gpu"}}
    found = read_existing_pod({"metadata": {"name": "web-1", "labels": {"app": "web"}}, "spec": spec}, "shop")
    assert found is not None
    assert [str(image) for image in found.images] == [IMAGE]
    assert found.constraints.affinity is None
    assert read_existing_pod({"metadata": {"name": "web-1"}, "spec": None}, "shop") is None
