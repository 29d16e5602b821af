"""Apply a patch to an object: merge patch (RFC 7386) and JSON patch (RFC 6902)."""

from __future__ import annotations

from typing import Any

from devcluster.apiserver.errors import bad_request, unprocessable_patch
from warmhook.ports import Json


def merge_patched(old: Json, patch: Json) -> Json:
    """`old` with an RFC 7386 patch applied; what the patch does not touch is shared, not copied."""
    if not isinstance(patch, dict):
        return patch
    result: dict[str, Any] = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = merge_patched(result.get(name), value)
        else:
            result[name] = value
    return result


def _pointer(path: object) -> list[str]:
    if not isinstance(path, str) or (path and not path.startswith("/")):
        raise bad_request(f"invalid JSON pointer {path!r}")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _index(holder: list[Any], token: str, *, adding: bool) -> int:
    if adding and token == "-":  # noqa: S105 - RFC 6902's name for the end of an array
        return len(holder)
    if not token.isdigit() or int(token) >= len(holder) + adding:
        raise unprocessable_patch()
    return int(token)


def _find(document: Json, path: list[str]) -> Json:
    for token in path:
        if isinstance(document, dict) and token in document:
            document = document[token]
        elif isinstance(document, list):
            document = document[_index(document, token, adding=False)]
        else:
            raise unprocessable_patch()
    return document


def _changed(document: Json, path: list[str], operation: str, value: Json) -> Json:
    """`document` with one `add`, `remove` or `replace` at `path`; only the way there is copied."""
    if not path:
        return value
    token, rest = path[0], path[1:]
    if isinstance(document, list):
        items = list(document)
        at = _index(items, token, adding=operation == "add" and not rest)
        if rest:
            items[at] = _changed(items[at], rest, operation, value)
        elif operation == "add":
            items.insert(at, value)
        elif operation == "remove":
            del items[at]
        else:
            items[at] = value
        return items
    if not isinstance(document, dict):
        raise unprocessable_patch()
    members = dict(document)
    if token not in members and (rest or operation != "add"):
        raise unprocessable_patch()
    if rest:
        members[token] = _changed(members[token], rest, operation, value)
    elif operation == "remove":
        del members[token]
    else:
        members[token] = value
    return members


def _step(document: Json, step: Json) -> Json:
    if not isinstance(step, dict):
        raise bad_request("a JSON patch is a list of operations")
    path = _pointer(step.get("path"))
    operation = step.get("op")
    if operation == "test":
        if _find(document, path) != step.get("value"):
            raise unprocessable_patch()
        return document
    if operation in ("add", "remove", "replace"):
        return _changed(document, path, operation, step.get("value"))
    raise bad_request(f"JSON patch operation {operation!r} is not supported here")


def json_patched(old: Json, patch: Json) -> Json:
    """`old` with an RFC 6902 patch applied. Raises `StatusError` 422 where a test fails or a path is absent."""
    if not isinstance(patch, list):
        raise bad_request("a JSON patch is a list of operations")
    document = old
    for step in patch:
        document = _step(document, step)
    return document
