"""Read from a CustomResourceDefinition what the server serves, and refuse definitions that are wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from devcluster.apiserver.errors import Cause
from devcluster.apiserver.resources import Column, Resource
from warmhook.ports import Json, Object

_KEYWORDS: dict[str, type | tuple[type, ...]] = {
    "additionalProperties": (dict, bool),
    "anyOf": list,
    "default": object,
    "description": str,
    "enum": list,
    "format": str,
    "items": dict,
    "maxItems": int,
    "maxLength": int,
    "maxProperties": int,
    "maximum": (int, float),
    "minItems": int,
    "minLength": int,
    "minimum": (int, float),
    "nullable": bool,
    "pattern": str,
    "properties": dict,
    "required": list,
    "title": str,
    "type": str,
    "x-kubernetes-int-or-string": bool,
    "x-kubernetes-list-map-keys": list,
    "x-kubernetes-list-type": str,
    "x-kubernetes-map-type": str,
    "x-kubernetes-preserve-unknown-fields": bool,
    "x-kubernetes-validations": list,
}
"""Keywords of a structural schema that are supported here, and the types of their values.

Of CEL rules `schema` evaluates one form; the others are stored only.
"""


def normalized(obj: Object) -> Object:
    """A definition with the names and the conversion that the server fills in."""
    spec = dict(obj.get("spec") or {})
    names = dict(spec.get("names") or {})
    kind = str(names.get("kind", ""))
    names.setdefault("singular", kind.lower())
    names.setdefault("listKind", f"{kind}List")
    return {**obj, "spec": {**spec, "names": names, "conversion": spec.get("conversion") or {"strategy": "None"}}}


def created(obj: Object) -> Object:
    """A new definition, not served yet."""
    stored = [version["name"] for version in obj["spec"].get("versions") or [] if version.get("storage")]
    status = {"conditions": None, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}
    return {**obj, "status": status}


def established(obj: Object, now: str) -> Object:
    """The definition as its controllers leave it once it is served."""
    conditions = [
        {
            "type": kind,
            "status": "True",
            "lastTransitionTime": now,
            "reason": reason,
            "message": message,
        }
        for kind, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    return {
        **obj,
        "status": {**obj["status"], "conditions": conditions, "acceptedNames": obj["spec"]["names"]},
    }


def _column(column: Object) -> Column:
    return Column(
        name=str(column.get("name", "")),
        path=str(column.get("jsonPath", "")),
        type=str(column.get("type", "string")),
        priority=int(column.get("priority") or 0),
        description=str(column.get("description", "")),
        format=str(column.get("format", "")),
    )


def served(obj: Object) -> list[Resource]:
    """The versions that a definition serves."""
    spec = obj["spec"]
    names = spec["names"]
    found: list[Resource] = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        status = "status" in (version.get("subresources") or {})
        columns = version.get("additionalPrinterColumns") or [
            {"name": "Age", "jsonPath": ".metadata.creationTimestamp", "type": "date"}
        ]
        found.append(
            Resource(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                kind=names["kind"],
                namespaced=spec["scope"] == "Namespaced",
                short_names=tuple(names.get("shortNames") or ()),
                singular=names["singular"],
                list_kind=names["listKind"],
                categories=tuple(names.get("categories") or ()),
                status=status,
                counted=(),
                blind_put=False,
                selectable=tuple(field["jsonPath"].lstrip(".") for field in version.get("selectableFields") or ()),
                columns=tuple(_column(column) for column in columns),
                schema=(version.get("schema") or {}).get("openAPIV3Schema") or {},
            )
        )
    return found


def causes(obj: Object) -> Iterator[Cause]:
    """What is wrong with a definition."""
    spec: Any = obj.get("spec") or {}
    names = spec.get("names") or {}
    for name in ("group", "scope"):
        if not spec.get(name):
            yield Cause(f"spec.{name}", "Required value", "FieldValueRequired")
    for name in ("plural", "kind"):
        if not names.get(name):
            yield Cause(f"spec.names.{name}", "Required value", "FieldValueRequired")
    wanted = f"{names.get('plural')}.{spec.get('group')}"
    if obj["metadata"]["name"] != wanted:
        message = f'Invalid value: "{obj["metadata"]["name"]}": must be spec.names.plural+"."+spec.group'
        yield Cause("metadata.name", message)
    versions = spec.get("versions") or []
    if sum(bool(version.get("storage")) for version in versions) != 1:
        yield Cause("spec.versions", "Invalid value: must have exactly one version marked as storage version")
    for i, version in enumerate(versions):
        where = f"spec.versions[{i}].schema.openAPIV3Schema"
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if not isinstance(schema, dict):
            yield Cause(where, "Required value: schemas are required", "FieldValueRequired")
            continue
        if schema.get("type") != "object":
            yield Cause(f"{where}.type", 'Invalid value: "": must be object at the root')
        yield from _schema_causes(schema, where)


def _schema_causes(schema: Json, where: str, *, shape: bool = False) -> Iterator[Cause]:
    """The rules of structural schemas; `shape` inside anyOf, where no type is wanted."""
    if not isinstance(schema, dict):
        yield Cause(where, "Invalid value: a schema is an object")
        return
    broken = list(_rule_causes(schema, where, shape=shape))
    yield from broken
    if broken:
        return
    for name, sub in (schema.get("properties") or {}).items():
        yield from _schema_causes(sub, f"{where}.properties[{name}]", shape=shape)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from _schema_causes(schema[name], f"{where}.{name}", shape=shape)
    for i, sub in enumerate(schema.get("anyOf") or ()):
        yield from _schema_causes(sub, f"{where}.anyOf[{i}]", shape=True)


def _compiles(pattern: object) -> bool:
    try:
        re.compile(str(pattern))
    except re.error:
        return False
    return True


def _rule_causes(schema: Object, where: str, *, shape: bool) -> Iterator[Cause]:
    for name, value in schema.items():
        if name not in _KEYWORDS:
            yield Cause(f"{where}.{name}", "Forbidden: not supported in schemas here", "FieldValueForbidden")
        elif not isinstance(value, _KEYWORDS[name]):
            yield Cause(f"{where}.{name}", "Invalid value: of another type")
    if not _compiles(schema.get("pattern", "")):
        yield Cause(f"{where}.pattern", "Invalid value: must be a valid regular expression")
    free = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not shape and not free and not schema.get("type"):
        yield Cause(f"{where}.type", "Required value: must not be empty for specified object fields")
    if schema.get("properties") and "additionalProperties" in schema:
        yield Cause(f"{where}.additionalProperties", "Forbidden: properties exist", "FieldValueForbidden")
    if schema.get("type") == "array" and not isinstance(schema.get("items"), dict):
        yield Cause(f"{where}.items", "Required value: must be specified", "FieldValueRequired")
