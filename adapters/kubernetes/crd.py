"""Build a CustomResourceDefinition from a pydantic model, with a structural, bounded schema without references.

The API server rejects `$ref`, `anyOf` with null, `const`, numeric `exclusiveMinimum`, `additionalProperties: false`
with properties, and `examples` (kube-apiserver 1.36); unbounded lists, maps and strings make validation rules too
expensive for it, so a model without bounds is rejected here.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from warmhook.api import GROUP, VERSION
from warmhook.ports import Object

_DROPPED: Final = frozenset({"title", "examples", "discriminator", "propertyNames", "$defs"})
_BOUNDS: Final = {"array": ("maxItems",), "string": ("maxLength", "enum", "format", "pattern")}


SET: Final[JsonDict] = {"x-kubernetes-list-type": "set"}
"""For the schema of a list whose items differ: several writers may each apply their own. Other lists are atomic."""


ATOMIC: Final[JsonDict] = {"x-kubernetes-map-type": "atomic"}
"""For the schema of a map whose parts mean something only together."""


def list_map(*keys: str) -> JsonDict:
    """For the schema of a list whose items differ in these fields: several writers may each apply their own."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def pattern(expression: str) -> FieldInfo:
    """A pattern that the API server checks; unlike that of pydantic it does not apply to objects that are read."""
    found: FieldInfo = Field(json_schema_extra={"pattern": expression})
    return found


Rule: TypeAlias = tuple[str, str]
"""A rule in CEL that the API server checks, and its message."""


def rules(*each: Rule) -> JsonDict:
    """For the schema of a field or model."""
    listed: list[JsonValue] = [{"rule": rule, "message": message} for rule, message in each]
    return {"x-kubernetes-validations": listed} if listed else {}


def matching(expression: str, message: str) -> Rule:
    """Like `pattern`, for an expression that is hard to read: the API server shows `message` instead."""
    return f"self.matches(r'{expression}')", message


def validated(*each: Rule, **more: JsonValue) -> ConfigDict:
    """For a model with these rules; `more` are keywords of its schema."""
    return ConfigDict(json_schema_extra={**rules(*each), **more})


@dataclass(frozen=True, slots=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    type: str
    path: str
    priority: int = 0
    """Greater than 0: only with `-o wide`."""


def custom_resource_definition(
    kind: str,
    plural: str,
    short_name: str,
    model: type[BaseModel],
    columns: Sequence[Column],
    selectable: Sequence[str] = (),
) -> Object:
    """The CRD of a namespaced kind whose spec and status `model` describes.

    `selectable` are JSON paths for field selectors, of Kubernetes 1.31 and newer.
    """
    schema = structural_schema(model)
    # The API server adds apiVersion, kind and metadata.
    schema["required"] = ["spec"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short_name],
                "categories": ["warmhook"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in columns],
                    **({"selectableFields": [{"jsonPath": path} for path in selectable]} if selectable else {}),
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _column(column: Column) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return shown | ({"priority": column.priority} if column.priority else {})


def structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI v3 schema of `model` for a CustomResourceDefinition. Raises `ValueError` if a bound is missing."""
    return copy.deepcopy(_schema(model))


@functools.cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    # Cached, because pydantic takes ten times as long for it as for a copy, and embedded clusters need many.
    schema = model.model_json_schema(by_alias=True, mode="validation")
    flat = _flat(schema, schema.get("$defs", {}))
    _check_bounds(flat, model.__name__)
    return flat


def _flat(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        schema = target | {key: value for key, value in schema.items() if key != "$ref"}
    choices = [choice for choice in schema.get("anyOf", []) if choice.get("type") != "null"]
    if len(choices) == 1:
        rest = {key: value for key, value in schema.items() if key not in {"anyOf", "default"}}
        default = {"default": schema["default"]} if schema.get("default") is not None else {}
        return _flat({**choices[0], **rest, **default}, definitions)
    flat: dict[str, Any] = {}
    for key, value in schema.items():
        if key not in _DROPPED and not (key == "additionalProperties" and value is False):
            flat |= _flat_field(key, value, definitions)
    if flat.get("type") == "array":
        flat.setdefault("x-kubernetes-list-type", "atomic")
    if flat.get("type") == "object" and "default" in flat:
        # Defaults of the fields apply only if the object exists, so it starts empty and the fields fill it.
        flat["default"] = {}
    return flat


def _flat_field(key: str, value: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """One field of a schema, under its name at the API server."""
    match key:
        case "const":
            return {"enum": [value]}
        case "properties":
            return {key: {name: _flat(field, definitions) for name, field in value.items()}}
        case "patternProperties":
            # Only rules in CEL can check the keys of a map.
            (values,) = value.values()
            return {"additionalProperties": _flat(values, definitions)}
        case "items" | "additionalProperties":
            return {key: _flat(value, definitions)}
        case "description":
            return {key: " ".join(str(value).split())}
        case _:
            return {key: value}


def _check_bounds(schema: dict[str, Any], where: str) -> None:
    wanted = _BOUNDS.get(schema.get("type", ""), ())
    if wanted and not any(bound in schema for bound in wanted):
        raise ValueError(f"{where}: a {schema['type']} needs one of {', '.join(wanted)}")
    extra = schema.get("additionalProperties")
    if isinstance(extra, dict):
        if "maxProperties" not in schema:
            raise ValueError(f"{where}: a map needs maxProperties")
        _check_bounds(extra, f"{where}.*")
    for name, field in schema.get("properties", {}).items():
        _check_bounds(field, f"{where}.{name}")
    if "items" in schema:
        _check_bounds(schema["items"], f"{where}[]")
