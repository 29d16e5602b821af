"""Validate objects against their OpenAPI schema, strictly: an unknown field is an error in the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from warmhook.ports import Object

__all__ = ["problems"]

_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


def problems(schema: Object, value: Any, definitions: Object, path: str = "") -> Iterator[str]:
    """What is wrong with `value`, each with its path; `definitions` is what `$ref` points into, by name."""
    schema = _resolved(schema, definitions)
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        if not isinstance(value, int | str):
            yield f"{path}: neither integer nor string"
        return
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield f"{path}: {value!r} is no {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from problems(schema.get("items", {}), item, definitions, f"{path}[{index}]")
    if isinstance(value, dict):
        yield from _of_fields(schema, value, definitions, path)


def _of_fields(schema: Object, value: Object, definitions: Object, path: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{path}.{name}: required"
    for name, member in value.items():
        here = f"{path}.{name}"
        if name in properties:
            yield from problems(properties[name], member, definitions, here)
        elif isinstance(schema.get("additionalProperties"), dict):
            yield from problems(schema["additionalProperties"], member, definitions, here)
        elif properties or not (schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("type") is None):
            # Knative says "preserve unknown" beside fields it knows, for features to come: ours must be known ones.
            yield f"{here}: no such field"


def _resolved(schema: Object, definitions: Object) -> Object:
    """Without references: the server writes them alone, or in an `allOf` of one beside a default."""
    parts = [schema, *schema.get("allOf", [])]
    resolved: Object = {}
    for part in parts:
        if "$ref" in part:
            resolved |= _resolved(definitions[part["$ref"].rpartition("/")[2]], definitions)
        resolved |= {name: member for name, member in part.items() if name not in ("$ref", "allOf")}
    return resolved
