"""Default, prune and validate custom resources by their OpenAPI v3 structural schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from devcluster.apiserver.errors import Cause
from warmhook.ports import Json, Object

_ROOT_FIELDS = ("apiVersion", "kind", "metadata")


def defaulted(schema: Object, value: Json) -> Json:
    """`value` with the defaults of absent fields filled in; they apply only where the parent exists."""
    if isinstance(value, dict):
        properties: Object = schema.get("properties") or {}
        result: Object | None = None
        for name, sub in properties.items():
            if name in value and not (value[name] is None and not sub.get("nullable") and "default" in sub):
                filled = defaulted(sub, value[name])
                if filled is value[name]:
                    continue
            elif "default" in sub:
                filled = defaulted(sub, sub["default"])
            else:
                continue
            result = dict(value) if result is None else result
            result[name] = filled
        value = value if result is None else result
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            value = {name: member if name in properties else defaulted(extra, member) for name, member in value.items()}
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        value = [defaulted(schema["items"], item) for item in value]
    return value


def pruned(schema: Object, value: Json, path: str = "", unknown: list[str] | None = None, *, root: bool = True) -> Json:
    """`value` without what the schema does not name; paths of what was dropped are appended to `unknown`."""
    if isinstance(value, list):
        items = schema.get("items")
        if not isinstance(items, dict):
            return value
        return [pruned(items, item, f"{path}[{i}]", unknown, root=False) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept_root = _ROOT_FIELDS if root else ()
    result: Object = {}
    for name, member in value.items():
        here = f"{path}.{name}" if path else name
        sub = None if name in kept_root else _member_schema(schema, name)
        if name in kept_root or sub is True:
            result[name] = member
        elif isinstance(sub, dict):
            if member is not None or sub.get("nullable"):
                result[name] = pruned(sub, member, here, unknown, root=False)
        elif unknown is not None:
            unknown.append(here)
    return result


def _member_schema(schema: Object, name: str) -> Object | bool:
    """The schema of a member; `True` where anything is kept, `False` where the member is unknown."""
    properties: Object = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    if name in properties:
        known: Object = properties[name]
        return known
    if isinstance(extra, dict):
        return extra
    return bool(extra or schema.get("x-kubernetes-preserve-unknown-fields"))


def transition_causes(schema: Object, value: Json, old: Json, path: str = "") -> Iterator[Cause]:
    """The fields of `value` that may not differ from `old`. Items of lists are not compared."""
    if value != old:
        for rule in schema.get("x-kubernetes-validations", ()):
            if rule["rule"] == _UNCHANGED:
                yield Cause(path, f"Invalid value: {_shown(value)}: {rule['message']}")
    if isinstance(value, dict) and isinstance(old, dict):
        for name, sub in (schema.get("properties") or {}).items():
            if name in value and name in old:
                yield from transition_causes(sub, value[name], old[name], f"{path}.{name}" if path else name)


def causes(schema: Object, value: Json, path: str = "") -> Iterator[Cause]:
    """Everything in which `value` breaks the schema, but for its rules about changes."""
    if value is None and schema.get("nullable"):
        return
    if schema.get("x-kubernetes-int-or-string"):
        wrong_type = not isinstance(value, (int, str)) or isinstance(value, bool)
        expected = "integer,string"
    else:
        expected = schema.get("type", "")
        wrong_type = bool(expected) and not _is_of(expected, value)
    if wrong_type:
        message = f'Invalid value: "{_type_name(value)}": {path} in body must be of type {expected}'
        yield Cause(path, f'{message}: "{_type_name(value)}"', "FieldValueTypeInvalid")
        return
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(json.dumps(item) for item in schema["enum"])
        yield Cause(path, f"Unsupported value: {_shown(value)}: supported values: {allowed}", "FieldValueNotSupported")
    if isinstance(value, str):
        yield from _string_causes(schema, value, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number_causes(schema, value, path)
    elif isinstance(value, list):
        yield from _list_causes(schema, value, path)
    elif isinstance(value, dict):
        yield from _object_causes(schema, value, path)
    if "anyOf" in schema and not any(next(causes(sub, value, path), None) is None for sub in schema["anyOf"]):
        yield _bad(path, value, "must validate at least one schema (anyOf)")


def _is_of(expected: str, value: Json) -> bool:
    if expected == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if expected == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    kinds: dict[str, type] = {"string": str, "boolean": bool, "array": list, "object": dict}
    return expected not in kinds or isinstance(value, kinds[expected])


def _type_name(value: Json) -> str:
    names: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
    return "null" if value is None else names.get(type(value), "object")


def _shown(value: Json) -> str:
    return json.dumps(value) if isinstance(value, (str, int, float, bool)) else f'"{_type_name(value)}"'


def _bad(path: str, value: Json, rule: str) -> Cause:
    return Cause(path, f"Invalid value: {_shown(value)}: {path} in body {rule}")


_UNCHANGED: Final = "self == oldSelf"
_MATCHES: Final = re.compile(r"self\.matches\(r'([^']*)'\)")


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def _string_causes(schema: Object, value: str, path: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxLength", len(value)):
        yield Cause(path, f"Too long: may not be more than {schema['maxLength']} bytes", "FieldValueTooLong")
    if len(value) < schema.get("minLength", 0):
        yield _bad(path, value, f"should be at least {schema['minLength']} chars long")
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield _bad(path, value, f"should match '{schema['pattern']}'")
    for rule in schema.get("x-kubernetes-validations", []):
        # Of the rules of a schema, this form and `_UNCHANGED` are decided here; others are for a real API server.
        matches = _MATCHES.fullmatch(rule["rule"])
        if matches and not _pattern(matches[1]).search(value):
            yield Cause(path, f"Invalid value: {_shown(value)}: {rule['message']}")
    if schema.get("format") == "date-time" and not _is_time(value):
        message = f"{_shown(value)}: {path} in body must be of type date-time: {_shown(value)}"
        yield Cause(path, f"Invalid value: {message}", "FieldValueTypeInvalid")


def _is_time(value: str) -> bool:
    if not re.match(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$", value):
        return False
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:
        return False
    return True


def _number_causes(schema: Object, value: float, path: str) -> Iterator[Cause]:
    if value < schema.get("minimum", value):
        yield _bad(path, value, f"should be greater than or equal to {schema['minimum']}")
    if value > schema.get("maximum", value):
        yield _bad(path, value, f"should be less than or equal to {schema['maximum']}")


def _list_causes(schema: Object, value: list[Any], path: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxItems", len(value)):
        message = f"Too many: {len(value)}: must have at most {schema['maxItems']} items"
        yield Cause(path, message, "FieldValueTooMany")
    if len(value) < schema.get("minItems", 0):
        yield _bad(path, value, f"should have at least {schema['minItems']} items")
    kind = schema.get("x-kubernetes-list-type")
    seen: set[str] = set()
    for i, item in enumerate(value):
        if isinstance(schema.get("items"), dict):
            yield from causes(schema["items"], item, f"{path}[{i}]")
        if kind == "map" and isinstance(item, dict):
            identity = json.dumps([item.get(key) for key in schema.get("x-kubernetes-list-map-keys", ())])
        elif kind == "set":
            identity = json.dumps(item, sort_keys=True)
        else:
            continue
        if identity in seen:
            yield Cause(f"{path}[{i}]", f"Duplicate value: {identity}", "FieldValueDuplicate")
        seen.add(identity)


def _object_causes(schema: Object, value: Object, path: str) -> Iterator[Cause]:
    properties: Object = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    for name, member in value.items():
        here = f"{path}.{name}" if path else name
        if name in properties:
            yield from causes(properties[name], member, here)
        elif isinstance(extra, dict):
            yield from causes(extra, member, here)
    for name in schema.get("required", ()):
        if name not in value:
            yield Cause(f"{path}.{name}" if path else name, "Required value", "FieldValueRequired")
    if len(value) > schema.get("maxProperties", len(value)):
        message = f"Too many: {len(value)}: must have at most {schema['maxProperties']} items"
        yield Cause(path, message, "FieldValueTooMany")
