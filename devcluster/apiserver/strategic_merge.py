"""Apply a strategic merge patch, in which lists of some fields are merged item by item.

https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/ and, for the directives,
https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from devcluster.apiserver.errors import bad_request
from warmhook.ports import Json, Object

__all__ = ["strategic_merged"]

# `patchMergeKey` of the fields in k8s.io/api and k8s.io/apimachinery that are lists of objects, by name. A list that is
# not here is replaced. `ports` of containers have another key than those of Services.
_MERGE_KEYS: Final[Mapping[str, str]] = {
    "addresses": "type",
    "conditions": "type",
    "containers": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "matchConditions": "name",
    "ownerReferences": "uid",
    "ports": "port",
    "secrets": "name",
    "topologySpreadConstraints": "topologyKey",
    "variables": "name",
    "volumeMounts": "mountPath",
    "volumes": "name",
    "webhooks": "name",
}
_ORDER: Final = "$setElementOrder/"
_DELETED: Final = "$deleteFromPrimitiveList/"


def strategic_merged(old: Json, patch: Json) -> Json:
    """`old` with the patch applied. Raises `StatusError` 400 for a directive or an item that has no meaning."""
    if not isinstance(patch, dict):
        raise bad_request("a strategic merge patch is an object")
    return _merged(old, patch)


def _merged(old: Json, patch: Object) -> Object:
    if patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    result: dict[str, Any] = dict(old) if isinstance(old, dict) else {}
    if "$retainKeys" in patch:
        result = {name: value for name, value in result.items() if name in patch["$retainKeys"]}
    for name, value in patch.items():
        if name.startswith("$"):
            _check_directive(name)
        elif value is None or (isinstance(value, dict) and value.get("$patch") == "delete"):
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = _merged(result.get(name), value)
        elif isinstance(value, list):
            result[name] = _merged_list(name, result.get(name) or [], value)
        else:
            result[name] = value
    _follow_directives(result, patch)
    return result


def _check_directive(name: str) -> None:
    if name != "$retainKeys" and not name.startswith((_ORDER, _DELETED)):
        raise bad_request(f"a directive of strategic merge patches that is not supported here: {name}")


def _follow_directives(result: dict[str, Any], patch: Object) -> None:
    """Take away what the patch names, and then put lists into its order."""
    for name, value in patch.items():
        field = name.rpartition("/")[2]
        if name.startswith(_DELETED) and field in result:
            result[field] = [item for item in result[field] if item not in value]
        elif name.startswith(_ORDER) and field in result:
            result[field] = _ordered(field, result[field], value)


def _merged_list(name: str, old: list[Any], patch: list[Any]) -> list[Any]:
    if name == "finalizers":
        return [*old, *(item for item in patch if item not in old)]
    if name not in _MERGE_KEYS:
        return patch
    result = list(old)
    for item in patch:
        if item == {"$patch": "replace"}:
            result = []
            continue
        value = _identity(name, item)
        at = next((index for index, known in enumerate(result) if _identity(name, known) == value), None)
        if item.get("$patch") == "delete":
            result = [known for index, known in enumerate(result) if index != at]
        elif at is None:
            result.append(_merged(None, item))
        else:
            result[at] = _merged(result[at], item)
    return result


def _identity(name: str, item: Any) -> Any:
    """The value by which an item of the list `name` is found again."""
    key = (
        "containerPort" if name == "ports" and isinstance(item, dict) and "containerPort" in item else _MERGE_KEYS[name]
    )
    if not isinstance(item, dict) or key not in item:
        raise bad_request(f"map: {item} does not contain declared merge key: {key}")
    return item[key]


def _ordered(name: str, items: list[Any], order: list[Any]) -> list[Any]:
    """The items in this order, and behind them those that it does not name."""
    merges = name in _MERGE_KEYS
    wanted = [_identity(name, item) if merges else item for item in order]

    def place(item: Any) -> int:
        value = _identity(name, item) if merges else item
        return wanted.index(value) if value in wanted else len(wanted)

    return sorted(items, key=place)
