"""In which form does a client want an object: whole, metadata only, or as rows of a table?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal, TypeAlias

from devcluster.apiserver import tables
from devcluster.apiserver.errors import internal_json, not_acceptable
from devcluster.apiserver.resources import Resource
from devcluster.apiserver.store import Stored
from warmhook.ports import Object

__all__ = ["View", "list_body", "object_body", "parse_accept", "watch_body"]

View: TypeAlias = Literal["", "Table", "PartialObjectMetadata", "PartialObjectMetadataList"]
"""The `as` of the Accept header; empty for whole objects."""

_VIEWS: dict[str, View] = {
    "": "",
    "Table": "Table",
    "PartialObjectMetadata": "PartialObjectMetadata",
    "PartialObjectMetadataList": "PartialObjectMetadataList",
}
_PARTIAL = b'{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":'


def parse_accept(accept: str) -> View:
    """The first form that can be served; everything is served as JSON. Raises `StatusError` 406."""
    for choice in (accept or "*/*").split(","):
        kind, *parameters = (part.strip() for part in choice.split(";"))
        if kind.lower() not in ("application/json", "application/*", "*/*"):
            continue
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        view = _VIEWS.get(values.get("as", ""))
        if view is None or (view and (values.get("g"), values.get("v")) != ("meta.k8s.io", "v1")):
            continue
        return view
    raise not_acceptable("only the following media types are accepted: application/json")


def _head(resource: Resource) -> bytes:
    return b'{"kind":"%b","apiVersion":"%b",' % (resource.kind.encode(), resource.api_version.encode())


def _whole(resource: Resource, stored: Stored) -> bytes:
    return _head(resource) + stored.members() + b"}"


def object_body(view: View, resource: Resource, stored: Stored, query: Mapping[str, str], now: datetime) -> bytes:
    """One object as JSON. Raises `StatusError` 406 for the form of a list."""
    if view == "":
        return _whole(resource, stored)
    if view == "PartialObjectMetadata":
        return _PARTIAL + stored.metadata() + b"}"
    if view == "Table":
        return internal_json(tables.table(resource, [stored], query, now, {"resourceVersion": str(stored.version)}))
    raise not_acceptable("you may not specify as=PartialObjectMetadataList when requesting an individual object")


def list_body(
    view: View,
    resource: Resource,
    items: Iterable[Stored],
    metadata: Object,
    query: Mapping[str, str],
    now: datetime,
) -> bytes:
    """A list as JSON. Raises `StatusError` 406 for the form of a single object."""
    if view == "Table":
        return internal_json(tables.table(resource, items, query, now, metadata))
    if view == "PartialObjectMetadata":
        raise not_acceptable("you may not specify as=PartialObjectMetadata when requesting a list")
    if view == "":
        # Items of built-in lists come without kind and apiVersion, custom ones with them.
        head = _head(resource) if resource.custom else b"{"
        kind, version = resource.list_type, resource.api_version
        parts = [head + stored.members() + b"}" for stored in items]
    else:
        kind, version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        parts = [_PARTIAL + stored.metadata() + b"}" for stored in items]
    opening = internal_json({"kind": kind, "apiVersion": version, "metadata": metadata})[:-1]
    # The real server sends an empty list of metadata as null, every other as [].
    return opening + b',"items":' + (b"[%b]}" % b",".join(parts) if parts or view == "" else b"null}")


def watch_body(
    view: View, resource: Resource, stored: Stored, query: Mapping[str, str], now: datetime, *, first: bool
) -> bytes:
    """One object of a watch event as JSON; the first row of a watched table brings the columns."""
    if view != "Table":
        return object_body(view, resource, stored, query, now)
    table = tables.table(resource, [stored], query, now, {"resourceVersion": str(stored.version)})
    if not first:
        table["columnDefinitions"] = []
    return internal_json(table)
