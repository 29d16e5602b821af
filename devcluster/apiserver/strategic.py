"""What does a strategic merge patch make of a built-in object? Some lists merge by key, others are replaced."""

from __future__ import annotations

from typing import Any

from devcluster.apiserver.errors import bad_request
from warmhook.ports import Json

__all__ = ["strategic_merged"]

# Field name -> merge key, from the patchMergeKey tags of the Go types; an empty key merges plain values as a set.
# Keyed by name alone, because within the kinds served here no name means two things. `taints` and `tolerations` are
# absent on purpose: their types carry no patch strategy, so a patch replaces them whole.
_MERGE_KEYS = {
    "addresses": "type",
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "finalizers": "",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "ports": "containerPort",
    "readinessGates": "conditionType",
    "secrets": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
    "webhooks": "name",
}


def strategic_merged(old: Json, patch: Json) -> Json:
    """`old` with the patch applied; what the patch does not touch is shared, not copied."""
    if not isinstance(patch, dict):
        raise bad_request("a strategic merge patch is an object")
    return _members(old if isinstance(old, dict) else {}, patch)


def _members(old: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    if patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    result = {} if patch.get("$patch") == "delete" else dict(old)
    if "$retainKeys" in patch:
        result = {name: value for name, value in result.items() if name in patch["$retainKeys"]}
    for field, value in _directives(patch, "$deleteFromPrimitiveList/"):
        result[field] = [item for item in result.get(field) or [] if item not in value]
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif not name.startswith("$"):
            result[name] = _member(name, result.get(name), value)
    for field, order in _directives(patch, "$setElementOrder/"):
        if field in result and field in patch:
            result[field] = _ordered(result[field], order, _MERGE_KEYS.get(field))
    return result


def _directives(patch: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    return [(name.removeprefix(prefix), value) for name, value in patch.items() if name.startswith(prefix)]


def _member(name: str, old: Json, value: Json) -> Json:
    if isinstance(value, dict):
        return _members(old if isinstance(old, dict) else {}, value)
    if isinstance(value, list) and name in _MERGE_KEYS:
        return _list(old if isinstance(old, list) else [], value, _MERGE_KEYS[name])
    return value


def _list(old: list[Any], patch: list[Any], key: str) -> list[Any]:
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if not (isinstance(item, dict) and "$patch" in item)]
    if not key:
        return [*old, *(item for item in patch if item not in old)]
    result = list(old)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {item!r} does not contain declared merge key: {key}")
        at = next((i for i, known in enumerate(result) if known.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if at is not None:
                del result[at]
        elif at is None:
            result.append(_members({}, item))
        else:
            result[at] = _members(result[at], item)
    return result


def _ordered(items: list[Any], order: list[Any], key: str | None) -> list[Any]:
    wanted = [entry.get(key) if key and isinstance(entry, dict) else entry for entry in order]

    def place(item: Any) -> int:
        name = item.get(key) if key and isinstance(item, dict) else item
        return wanted.index(name) if name in wanted else len(wanted)

    return sorted(items, key=place)
