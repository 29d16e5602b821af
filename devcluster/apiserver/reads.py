"""Read objects and lists at the version that a request names."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from devcluster.apiserver import selectors
from devcluster.apiserver.errors import bad_request, expired, not_found, too_large_version
from devcluster.apiserver.paths import Target
from devcluster.apiserver.store import Compacted, Key, Store, Stored
from warmhook.ports import Object


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list or watch chooses."""

    namespace: str | None
    name: str | None
    """The one name that a field selector allows; `None` if it allows several."""
    matches: Callable[[Key, Stored], bool]
    everything: bool
    """Whether nothing but the namespace limits it."""


def parse_selection(target: Target, query: Mapping[str, str]) -> Selection:
    """The selectors of a query. Raises `StatusError` 400."""
    labels = selectors.parse_labels(query.get("labelSelector", ""))
    fields = selectors.parse_fields(query.get("fieldSelector", ""), target.resource.field_paths)
    if target.name:
        fields.append(("metadata.name", target.name, True))
    name = next((value for field, value, equal in fields if field == "metadata.name" and equal), None)
    namespace = target.namespace

    def matches(key: Key, stored: Stored) -> bool:
        if namespace is not None and key[0] != namespace:
            return False
        if labels:
            mine = stored.object["metadata"].get("labels") or {}
            if not all(term(mine) for term in labels):
                return False
        return all((selectors.value_at(stored.object, field) == value) == equal for field, value, equal in fields)

    return Selection(namespace, name, matches, everything=not labels and not fields)


def parse_version(query: Mapping[str, str]) -> int | None:
    """The query's `resourceVersion`; `None` if it is absent. Raises `StatusError` 400."""
    text = query.get("resourceVersion", "")
    if not text:
        return None
    if not text.isdigit():
        raise bad_request(f"Invalid resource version: {text!r}")
    return int(text)


def found(store: Store, target: Target, query: Mapping[str, str]) -> Stored:
    """One object. Raises `StatusError` 404, and 504 for a version that does not exist yet."""
    wanted = parse_version(query)
    if wanted is not None and wanted > store.version:
        raise too_large_version(wanted, store.version)
    stored = store.table(target.resource.table).items.get(target.key)
    if stored is None:
        raise not_found(target.resource, target.name)
    return stored


def _parse_continue(text: str) -> tuple[int, Key]:
    try:
        version, namespace, name = json.loads(base64.urlsafe_b64decode(text))
        return int(version), (str(namespace), str(name))
    except (ValueError, TypeError):
        raise bad_request("continue key is not valid") from None


def _continue(version: int, last: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps([version, *last]).encode()).decode()


def _snapshot(store: Store, target: Target, query: Mapping[str, str]) -> tuple[int, Mapping[Key, Stored]]:
    """The version to list at, and the objects as of it."""
    table = store.table(target.resource.table)
    wanted = parse_version(query)
    match = query.get("resourceVersionMatch", "")
    if match and (wanted is None or match not in ("Exact", "NotOlderThan")):
        raise bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided, and must be known")
    if query.get("continue"):
        if wanted:
            raise bad_request("specifying resource version is not allowed when using continue")
        wanted, match = _parse_continue(query["continue"])[0], "Exact"
    if wanted is not None and wanted > store.version:
        raise too_large_version(wanted, store.version)
    if match != "Exact" or wanted is None:
        return store.version, table.items
    try:
        return wanted, table.at(wanted)
    except Compacted:
        raise expired("The provided continue parameter or resourceVersion is too old") from None


def listed(store: Store, target: Target, query: Mapping[str, str]) -> tuple[list[Stored], Object]:
    """The objects of a list, in order of namespace and name, and the list's metadata. Raises `StatusError`."""
    selection = parse_selection(target, query)
    version, items = _snapshot(store, target, query)
    table = store.table(target.resource.table)
    keys = table.keys(selection.namespace) if items is table.items else sorted(items)
    if selection.name is not None and selection.namespace is not None:
        keys = [key for key in ((selection.namespace, selection.name),) if key in items]
    if query.get("continue"):
        last = _parse_continue(query["continue"])[1]
        keys = [key for key in keys if key > last]
    limit = query.get("limit", "")
    if limit and not limit.isdigit():
        raise bad_request(f"invalid limit {limit!r}")
    size = int(limit or 0)
    chosen: list[Stored] = []
    metadata: Object = {"resourceVersion": str(version)}
    last_key: Key = ("", "")
    for i, key in enumerate(keys):
        stored = items[key]
        if not selection.matches(key, stored):
            continue
        if size and len(chosen) == size:
            metadata["continue"] = _continue(version, last_key)
            if selection.everything:
                metadata["remainingItemCount"] = len(keys) - i
            break
        chosen.append(stored)
        last_key = key
    return chosen, metadata
