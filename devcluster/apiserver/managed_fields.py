"""List in `metadata.managedFields` who created an object, until a client resets the list.

Follows the real server where Warmhook can see it: every create is tracked, `[{}]` in an update ends the tracking, and
later updates do not begin it again. The entry of the create stays as it is when others update the object.
"""

from __future__ import annotations

from collections.abc import Iterator

from warmhook.ports import Json, Object

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


def is_reset(metadata: Object) -> bool:
    """Whether the metadata of a request asks to forget all managed fields."""
    return metadata.get("managedFields") == [{}]


def created_by(manager: str, operation: str, time: str, obj: Object) -> list[Object]:
    """`managedFields` of a new object; `operation` is `Apply` or `Update`, `time` is RFC 3339."""
    fields: Object = {}
    for path in _leaves(obj):
        holder = fields
        for name in path:
            holder = holder.setdefault(f"f:{name}", {})
    if not fields:
        return []
    entry = {"manager": manager, "operation": operation, "apiVersion": obj["apiVersion"], "time": time}
    return [{**entry, "fieldsType": "FieldsV1", "fieldsV1": fields}]


def _leaves(value: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The fields that are tracked: maps member by member, lists as one value."""
    if isinstance(value, dict) and value:
        for name, member in value.items():
            untracked = {(): _UNTRACKED_TOP, ("metadata",): _UNTRACKED_METADATA}.get(path, ())
            if name not in untracked:
                yield from _leaves(member, (*path, name))
    elif path:
        yield path
