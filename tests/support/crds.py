"""CRDs as an older or a newer version has them, one of another project, and the schemas in CRDs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from warmhook.ports import Object

_CHECKS = frozenset({"pattern", "x-kubernetes-validations"})


def clone_set_crd() -> Object:
    """The CRD of OpenKruise's CloneSet, which keeps every field."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "clonesets", "singular": "cloneset", "kind": "CloneSet", "listKind": "CloneSetList"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "clonesets.apps.kruise.io"},
        "spec": {"group": "apps.kruise.io", "scope": "Namespaced", "names": names, "versions": [version]},
    }


def without_patterns(crd: Object) -> Object:
    """The CRD without patterns and rules: it lets in what a program then cannot read."""
    stripped: Object = _stripped(crd, _CHECKS)
    return stripped


def of_newer_version(crd: Object) -> Object:
    """The CRD with any further field and value."""
    stripped: Object = _stripped(crd, _CHECKS | {"enum"})
    for path, schema in fields(stripped):
        if path and "properties" in schema:
            schema["x-kubernetes-preserve-unknown-fields"] = True
    return stripped


def _stripped(value: Any, keywords: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {key: _stripped(part, keywords) for key, part in value.items() if key not in keywords}
    return [_stripped(part, keywords) for part in value] if isinstance(value, list) else value


def fields(crd: Object) -> Iterator[tuple[str, Object]]:
    """Every schema in a CRD with its path: `spec.push[].tags`, `spec.template.nodes.selector.matchLabels.*`."""
    return _fields(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], "")


def _fields(schema: Object, path: str) -> Iterator[tuple[str, Object]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from _fields(field, f"{path}.{name}" if path else name)
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(key), dict):
            yield from _fields(schema[key], path + suffix)


def every_field() -> list[tuple[str, Object]]:
    """Of both kinds, with the kind before the path."""
    return [
        (f"{crd['spec']['names']['kind']}.{path}".rstrip("."), schema)
        for crd in (warmimage_crd(), warmpolicy_crd())
        for path, schema in fields(crd)
    ]
