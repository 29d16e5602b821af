"""Who set which field? `metadata.managedFields`, coarse: maps are tracked field by field, lists as one value.

Follows the real server where clients can tell: every create is tracked; an update of an object that has no
`managedFields` is not, until a server-side apply; `[{}]` sent in an update resets them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from devcluster.apiserver.errors import StatusError
from warmhook.ports import Json, Object

__all__ = ["Writer", "applied", "is_reset", "managed_after_create", "managed_after_update"]

Path = tuple[str, ...]

_UNTRACKED_TOP = frozenset(("apiVersion", "kind"))
_UNTRACKED_METADATA = frozenset(
    (
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    )
)


@dataclass(frozen=True, slots=True)
class Writer:
    """Who makes a request, as managedFields names it."""

    manager: str
    operation: str
    """`Apply` or `Update`."""
    api_version: str
    time: str
    """RFC 3339."""
    subresource: str = ""

    def is_of(self, entry: Object) -> bool:
        """Whether an entry of `managedFields` is this writer's."""
        mine = (self.manager, self.operation, self.subresource)
        return (entry.get("manager"), entry.get("operation"), entry.get("subresource", "")) == mine

    def entry(self, paths: Iterable[Path]) -> Object:
        """An entry of `managedFields`."""
        entry = {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": _fields(paths),
        }
        if self.subresource:
            entry["subresource"] = self.subresource
        return entry


def is_reset(metadata: Object) -> bool:
    """Whether a request's metadata asks to forget all managed fields."""
    return metadata.get("managedFields") == [{}]


def _leaves(value: Json, path: Path = ()) -> Iterator[Path]:
    if isinstance(value, dict) and value:
        for name, member in value.items():
            if _tracked(path, name):
                yield from _leaves(member, (*path, name))
    elif path:
        yield path


def _tracked(path: Path, name: str) -> bool:
    if not path:
        return name not in _UNTRACKED_TOP
    return path != ("metadata",) or name not in _UNTRACKED_METADATA


def _differences(old: Any, new: Any, path: Path, changed: set[Path], removed: set[Path]) -> None:
    for name, value in new.items():
        if not _tracked(path, name):
            continue
        here = (*path, name)
        if name not in old:
            changed.update(_leaves(value, here))
        elif old[name] is not value and old[name] != value:
            if isinstance(value, dict) and isinstance(old[name], dict):
                _differences(old[name], value, here, changed, removed)
            else:
                changed.update(_leaves(value, here))
    for name, value in old.items():
        if name not in new and _tracked(path, name):
            removed.update(_leaves(value, (*path, name)))


def _fields(paths: Iterable[Path]) -> Object:
    fields: Object = {}
    for path in sorted(paths):
        holder = fields
        for name in path:
            holder = holder.setdefault(f"f:{name}", {})
    return fields


def _paths(fields: Object, path: Path = ()) -> Iterator[Path]:
    for name, member in fields.items():
        here = (*path, name[2:])
        if member:
            yield from _paths(member, here)
        else:
            yield here


def _owned(entry: Object) -> set[Path]:
    return set(_paths(entry.get("fieldsV1") or {}))


def managed_after_create(new: Object, writer: Writer) -> list[Object]:
    """`managedFields` of a new object."""
    paths = list(_leaves(new))
    return [writer.entry(paths)] if paths else []


def managed_after_update(managed: list[Object], old: Object, new: Object, writer: Writer) -> list[Object]:
    """`managedFields` after an update, given those from before it."""
    if not managed:
        return []
    changed: set[Path] = set()
    removed: set[Path] = set()
    _differences(old, new, (), changed, removed)
    if not changed and not removed:
        return managed
    touched = changed | removed
    entries: list[Object] = []
    mine = set(changed)
    for entry in managed:
        owned = _owned(entry)
        if writer.is_of(entry):
            mine |= owned - removed
        elif owned & touched:
            if owned - touched:
                entries.append({**entry, "fieldsV1": _fields(owned - touched)})
        else:
            entries.append(entry)
    if mine:
        entries.append(writer.entry(mine))
    return entries


def _at(value: Json, path: Path) -> Json:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return value


def _without(value: Json, path: Path) -> Json:
    if not isinstance(value, dict) or path[0] not in value:
        return value
    rest = {name: member for name, member in value.items() if name != path[0]}
    if len(path) > 1:
        return {**value, path[0]: _without(value[path[0]], path[1:])}
    return rest


def _with(value: Json, path: Path, leaf: Json) -> Json:
    members = value if isinstance(value, dict) else {}
    return {**members, path[0]: leaf if len(path) == 1 else _with(members.get(path[0]), path[1:], leaf)}


def applied(old: Object, config: Object, writer: Writer, *, force: bool) -> tuple[Object, list[Object]]:
    """The object and its `managedFields` after a server-side apply; `StatusError` 409 on conflicts."""
    managed: list[Object] = old["metadata"].get("managedFields") or []
    if not managed:
        before = Writer("before-first-apply", "Update", writer.api_version, writer.time)
        managed = managed_after_create(old, before)
    wanted = set(_leaves(config))
    mine = {path for entry in managed if writer.is_of(entry) for path in _owned(entry)}
    others = [(entry, _owned(entry)) for entry in managed if not writer.is_of(entry)]
    contested = {path for path in wanted if _at(old, path) != _at(config, path)}
    conflicts = [(entry["manager"], path) for entry, owned in others for path in sorted(owned & contested)]
    if conflicts and not force:
        causes = [
            {
                "reason": "FieldManagerConflict",
                "message": f'conflict with "{manager}"',
                "field": "." + ".".join(path),
            }
            for manager, path in conflicts
        ]
        message = f"Apply failed with {len(causes)} conflict(s)"
        raise StatusError(409, "Conflict", message, {"causes": causes})
    result = old
    for path in wanted:
        if path in contested or _at(result, path) is None:
            result = _with(result, path, _at(config, path))
    for path in mine - wanted:
        if not any(path in owned for _, owned in others):
            result = _without(result, path)
    entries = [
        {**entry, "fieldsV1": _fields(owned - contested)} if owned & contested else entry
        for entry, owned in others
        if owned - contested
    ]
    same = next((entry for entry in managed if writer.is_of(entry) and _owned(entry) == wanted), None)
    return result, [*entries, same or writer.entry(wanted)]
