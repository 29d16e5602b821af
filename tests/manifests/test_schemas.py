"""Every field of the manifests is one that Kubernetes or Knative knows, with a value of the right type."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.manifests.openapi import problems
from tests.manifests.rendered import KNATIVE, identity, render
from warmhook.ports import Object

SCHEMAS: Final = os.environ.get("WARMHOOK_TEST_SCHEMAS", "")
OBJECTS: Final = render(KNATIVE)
# Neither folder has these; a real API server judges them, when there is one.
UNKNOWN: Final = ("flowcontrol.apiserver.k8s.io/v1",)

# The schema is of an experimental feature that became one of the documented fields of a DeliverySpec later.
DELIVERY_TIMEOUT: Final = "delivery.timeout: no such field"


@cache
def kubernetes() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(Path(SCHEMAS, "kubernetes").glob("*.json")):
        found |= json.loads(path.read_text())["components"]["schemas"]
    return found


@cache
def knative() -> dict[tuple[str, str], Any]:
    found = {}
    for path in sorted(Path(SCHEMAS, "knative").glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        for version in crd["spec"]["versions"]:
            api_version = f"{crd['spec']['group']}/{version['name']}"
            found[api_version, crd["spec"]["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    return found


def schema_of(obj: Object) -> Object:
    group, _, version = obj["apiVersion"].rpartition("/")
    wanted = {"group": group, "kind": obj["kind"], "version": version}
    for schema in kubernetes().values():
        if wanted in schema.get("x-kubernetes-group-version-kind", []):
            found: Object = schema
            return found
    custom = knative()[obj["apiVersion"], obj["kind"]]
    meta = {"$ref": "#/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    text = {"type": "string"}
    return {**custom, "properties": {**custom["properties"], "metadata": meta, "apiVersion": text, "kind": text}}


@pytest.mark.skipif(not SCHEMAS, reason="WARMHOOK_TEST_SCHEMAS names no folder")
@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: "-".join(identity(obj)[1:]))
def test_a_manifest_fits_its_schema(obj: Object) -> None:
    if obj["apiVersion"] in UNKNOWN:
        pytest.skip("there is no schema of it")
    found = list(problems(schema_of(obj), obj, kubernetes()))
    assert [problem for problem in found if not problem.endswith(DELIVERY_TIMEOUT)] == []


@pytest.mark.skipif(not SCHEMAS, reason="WARMHOOK_TEST_SCHEMAS names no folder")
@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("spec", "replica"), 2, ".spec.replica: no such field"),
        (("spec", "replicas"), "2", ".spec.replicas: '2' is no integer"),
        (("spec", "template", "spec", "volumes"), [{"emptyDir": {}}], ".spec.template.spec.volumes[0].name: required"),
    ],
)
def test_a_mistake_would_be_found(path: tuple[str, ...], value: object, problem: str) -> None:
    (obj,) = (one for one in render(KNATIVE) if one["kind"] == "Deployment" and "admission" in one["metadata"]["name"])
    place = obj
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    assert problem in list(problems(schema_of(obj), obj, kubernetes()))
