"""What does `kubectl get` print of an object?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from devcluster.apiserver.resources import Column, Resource
from devcluster.apiserver.store import Stored
from warmhook.ports import Json, Object

__all__ = ["json_path", "table"]

_STEP = re.compile(
    r"""\.((?:\\.|[^.\[\\])+)            # .name, with \. for a dot in it
      | \[(\d+|\*)\]                     # [0], [*]
      | \['((?:\\.|[^'\\])+)'\]          # ['name']
      | \[\?\(@\.([^=\s]+)\s*==\s*["']([^"']*)["']\)\]  # [?(@.type=="Ready")]
    """,
    re.VERBOSE,
)
_NAME = Column("Name", ".metadata.name", description="The object's name.", format="name")
_AGE = Column("Age", "age")


def json_path(obj: Json, path: str) -> Json:
    """The first value at a JSON path of the kind that printer columns use; `None` where there is none."""
    value, at = obj, 0
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            return None
        at = step.end()
        name, index, quoted, field, wanted = step.groups()
        key = name or quoted
        if key is not None:
            value = value.get(re.sub(r"\\(.)", r"\1", key)) if isinstance(value, dict) else None
        elif index is not None:
            place = 0 if index == "*" else int(index)
            value = value[place] if isinstance(value, list) and place < len(value) else None
        else:
            items = value if isinstance(value, list) else []
            value = next((item for item in items if isinstance(item, dict) and str(item.get(field)) == wanted), None)
    return value


def _duration(seconds: float) -> str:
    if seconds < 0:
        return "<invalid>"
    for unit, length, limit in (("s", 1, 120), ("m", 60, 120 * 60), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds // 86400)}d"


def _since(text: Json, now: datetime) -> str:
    if not text:
        return "<unknown>"
    try:
        return _duration((now - datetime.fromisoformat(str(text))).total_seconds())
    except (ValueError, TypeError):
        return "<invalid>"


def _conditions(obj: Object, kind: str) -> str:
    found = json_path(obj, f'.status.conditions[?(@.type=="{kind}")].status')
    return str(found) if found else "Unknown"


def _node_status(obj: Object, _now: datetime) -> str:
    ready = {"True": "Ready", "False": "NotReady"}.get(_conditions(obj, "Ready"), "Unknown")
    return ready + (",SchedulingDisabled" if json_path(obj, ".spec.unschedulable") else "")


def _node_roles(obj: Object, _now: datetime) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = obj["metadata"].get("labels", {})
    return ",".join(sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))) or "<none>"


def _node_address(obj: Object, _now: datetime) -> str:
    return json_path(obj, '.status.addresses[?(@.type=="InternalIP")].address') or "<none>"


def _container_statuses(obj: Object) -> list[Any]:
    return json_path(obj, ".status.containerStatuses") or []


def _pod_ready(obj: Object, _now: datetime) -> str:
    ready = sum(bool(status.get("ready")) for status in _container_statuses(obj))
    return f"{ready}/{len(json_path(obj, '.spec.containers') or [])}"


def _event_object(obj: Object, _now: datetime) -> str:
    concerned = obj.get("involvedObject", {})
    return f"{str(concerned.get('kind', '')).lower()}/{concerned.get('name', '')}"


_FUNCTIONS: dict[str, Callable[[Object, datetime], Json]] = {
    "age": lambda obj, now: _since(obj["metadata"].get("creationTimestamp"), now),
    "data_count": lambda obj, _now: len(obj.get("data", {})) + len(obj.get("binaryData", {})),
    "event_age": lambda obj, now: _since(obj.get("lastTimestamp") or obj["metadata"].get("creationTimestamp"), now),
    "event_object": _event_object,
    "node_address": _node_address,
    "node_roles": _node_roles,
    "node_status": _node_status,
    "pod_ready": _pod_ready,
    "pod_restarts": lambda obj, _now: sum(status.get("restartCount", 0) for status in _container_statuses(obj)),
    "webhook_count": lambda obj, _now: len(obj.get("webhooks") or []),
}


def _columns(resource: Resource) -> list[Column]:
    columns = [_NAME, *resource.columns]
    if not resource.custom and _AGE not in columns and resource.plural not in ("events", "customresourcedefinitions"):
        columns.append(_AGE)
    return columns


def _cell(column: Column, obj: Object, now: datetime, *, custom: bool) -> Json:
    if column.path in _FUNCTIONS:
        return _FUNCTIONS[column.path](obj, now)
    value = json_path(obj, column.path)
    if custom and column.type == "date":
        return _since(value, now) if value else None
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    if custom and column.type == "string" and value is not None:
        return json.dumps(value) if isinstance(value, bool) else str(value)
    return value if value is not None or custom else "<none>"


def table(
    resource: Resource, items: Iterable[Stored], query: Mapping[str, str], now: datetime, metadata: Object
) -> Object:
    """A `Table` of the objects; `includeObject` of the query says how much of each object comes along."""
    columns = _columns(resource)
    include = query.get("includeObject", "Metadata")
    rows: list[Object] = []
    for stored in items:
        obj = stored.object
        row: Object = {"cells": [_cell(column, obj, now, custom=resource.custom) for column in columns]}
        if include == "Object":
            row["object"] = {**obj, "kind": resource.kind, "apiVersion": resource.api_version}
        elif include == "Metadata":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": obj["metadata"],
            }
        rows.append(row)
    definitions = [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in columns
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    }
