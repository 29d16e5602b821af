"""Validate and normalize the metadata of an object."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from devcluster.apiserver.errors import Cause
from devcluster.apiserver.resources import Resource
from warmhook.ports import Json, Object

SERVER_OWNED = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)
_KNOWN = frozenset(
    (*SERVER_OWNED, "annotations", "finalizers", "generateName", "labels", "name", "namespace", "ownerReferences")
)
_DROPPED_WHEN_EMPTY = ("annotations", "finalizers", "labels", "managedFields", "ownerReferences")
_ANNOTATIONS_LIMIT_BYTES = 256 * 1024

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character"
)
_NAME_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character"
)
_KEY_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character"
)


def go_type(value: Json) -> str:
    """What Go's JSON decoder calls a value."""
    names: dict[type, str] = {
        str: "string",
        bool: "bool",
        int: "number",
        float: "number",
        list: "array",
        dict: "object",
    }
    return names.get(type(value), "null")


def map_error(holder: Object, name: str, where: str) -> str | None:
    """What a typed decoder would complain of in a map of strings."""
    value = holder.get(name)
    if value is None:
        return None
    if not isinstance(value, dict):
        return f"json: cannot unmarshal {go_type(value)} into Go struct field {where}.{name} of type map[string]string"
    for member in value.values():
        if member is not None and not isinstance(member, str):
            return f"json: cannot unmarshal {go_type(member)} into Go struct field {where}.{name} of type string"
    return None


def _metadata_errors(metadata: Object) -> Iterator[str | None]:
    for name in ("labels", "annotations"):
        yield map_error(metadata, name, "ObjectMeta.metadata")
    for name in ("name", "generateName", "namespace", "resourceVersion", "uid"):
        if not isinstance(metadata.get(name, ""), str | None):
            yield f"json: cannot unmarshal {go_type(metadata[name])} into Go struct field ObjectMeta.metadata.{name}"
    for name, item in (("finalizers", str), ("ownerReferences", dict), ("managedFields", dict)):
        value = metadata.get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(member, item) for member in value)):
            yield f"json: cannot unmarshal into Go struct field ObjectMeta.metadata.{name}"
    for owner in metadata.get("ownerReferences") or []:
        if not all(isinstance(owner.get(name, ""), str) for name in ("apiVersion", "kind", "name", "uid")):
            yield "json: cannot unmarshal into Go struct field OwnerReference.metadata.ownerReferences"


def _errors(resource: Resource, obj: Object) -> Iterator[str | None]:
    metadata = obj.get("metadata")
    if isinstance(metadata, dict | None):
        yield from _metadata_errors(metadata or {})
    else:
        yield f"json: cannot unmarshal {go_type(metadata)} into Go struct field {resource.kind}.metadata"


def type_error(resource: Resource, obj: Object) -> str | None:
    """What a typed decoder would complain of in `metadata`."""
    return next((error for error in _errors(resource, obj) if error), None)


def unknown(metadata: Object) -> list[str]:
    """Paths of metadata fields that do not exist."""
    return [f"metadata.{name}" for name in metadata if name not in _KNOWN]


def normalized(metadata: Object) -> Object:
    """Metadata without unknown fields, nulls and empty collections."""
    result: dict[str, Any] = {}
    for name, value in metadata.items():
        if name not in _KNOWN or value is None or (not value and name in _DROPPED_WHEN_EMPTY):
            continue
        if name in ("labels", "annotations") and None in value.values():
            value = {key: member or "" for key, member in value.items()}  # noqa: PLW2901 - Go reads null as ""
        result[name] = value
    return result


def name_causes(resource: Resource, name: str) -> Iterator[Cause]:
    """What is wrong with a name."""
    field = "metadata.name"
    if not name:
        yield Cause(field, "Required value: name or generateName is required", "FieldValueRequired")
        return
    label = resource.plural == "namespaces"
    limit = 63 if label else 253
    if len(name) > limit:
        yield Cause(field, f'Invalid value: "{name}": must be no more than {limit} characters')
    if not (_LABEL_NAME if label else _SUBDOMAIN).fullmatch(name):
        yield Cause(field, f'Invalid value: "{name}": {_NAME_RULE}')


def _key_causes(key: str, field: str) -> Iterator[Cause]:
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _SUBDOMAIN.fullmatch(prefix)):
        yield Cause(field, f'Invalid value: "{key}": prefix part {_NAME_RULE}')
    if not _QUALIFIED.fullmatch(name):
        yield Cause(field, f'Invalid value: "{key}": {_KEY_RULE}')


def label_causes(labels: Object, old: Object) -> Iterator[Cause]:
    """What is wrong with labels; those that the old object had too were judged before."""
    if labels is old:
        return
    for key, value in labels.items():
        if old.get(key) == value:
            continue
        if key not in old:
            yield from _key_causes(key, "metadata.labels")
        if not _LABEL_VALUE.fullmatch(value):
            yield Cause("metadata.labels", f'Invalid value: "{value}": {_VALUE_RULE}')


def owner_causes(owners: list[Object]) -> Iterator[Cause]:
    """What is wrong with owner references."""
    for owner in owners:
        for name in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(name):
                rule = "version must not be empty" if name == "apiVersion" else "must not be empty"
                yield Cause(f"metadata.ownerReferences.{name}", f'Invalid value: "": {rule}')


def annotation_causes(annotations: Object, old: Object) -> Iterator[Cause]:
    """What is wrong with annotations."""
    if annotations is old:
        return
    for key in annotations:
        if key not in old:
            yield from _key_causes(key.lower(), "metadata.annotations")
    if sum(len(key) + len(value.encode("utf-8", "surrogatepass")) for key, value in annotations.items()) > (
        _ANNOTATIONS_LIMIT_BYTES
    ):
        message = f"Too long: may not be more than {_ANNOTATIONS_LIMIT_BYTES} bytes"
        yield Cause("metadata.annotations", message, "FieldValueTooLong")
