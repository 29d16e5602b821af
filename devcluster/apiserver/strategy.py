"""Decode, complete and validate the object of a request before it is stored."""

from __future__ import annotations

from typing import Any

from devcluster.apiserver import builtins, crds, managed_fields, metadata, schema
from devcluster.apiserver.errors import Cause, bad_request, conflict, invalid, unparseable_number
from devcluster.apiserver.paths import Target
from devcluster.apiserver.resources import Resource
from devcluster.apiserver.store import Stored
from warmhook.ports import Object

CRDS = "customresourcedefinitions.apiextensions.k8s.io"
"""The table of CustomResourceDefinitions."""


def check_kind(resource: Resource, given: Object) -> None:
    """Raise `StatusError` for an object of another kind than the path's; custom ones must say which they are."""
    if resource.custom and not given.get("kind"):
        which = f"the object provided is unrecognized (must be of type {resource.kind})"
        raise bad_request(f"{which}: Object 'Kind' is missing")
    version, kind = given.get("apiVersion", resource.api_version), given.get("kind", resource.kind)
    if version != resource.api_version:
        raise bad_request(
            f"the API version in the data ({version}) does not match the expected API version ({resource.api_version})"
        )
    if kind != resource.kind and resource.custom:
        raise invalid(resource, "", [Cause("kind", f'Invalid value: "{kind}": must be {resource.kind}')])
    if kind != resource.kind:
        raise bad_request(f"{kind} in version {version!r} cannot be handled as a {resource.kind}")


def check_type(resource: Resource, given: Object) -> None:
    """Raise `StatusError` for an object that is of another kind than the path's, or cannot be decoded."""
    check_kind(resource, given)
    if error := type_error(resource, given):
        raise bad_request(f"{resource.kind} in version {resource.version!r} cannot be handled: {error}")


def type_error(resource: Resource, obj: Object) -> str | None:
    """What a typed decoder would complain of: values of another type than their field."""
    return metadata.type_error(resource, obj) or (None if resource.custom else builtins.type_error(resource, obj))


def check_identity(target: Target, old: Stored, meta: Object, *, patched: bool) -> None:
    """Raise `StatusError` for an update meant for another name (400), version (409) or uid (PUT 409, PATCH 422)."""
    resource, name = target.resource, target.name
    if meta.get("name", name) != name:
        raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
    if resource.namespaced and (meta.get("namespace") or target.namespace) != target.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    version = meta.get("resourceVersion") or "0"
    if not version.isdecimal():
        raise unparseable_number(f'strconv.ParseUint: parsing "{version}": invalid syntax')
    uid = old.object["metadata"]["uid"]
    other = (meta.get("uid") or uid) != uid
    if other and not patched:
        why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {uid}"
        storage = f"Code: 4, Key: /registry/{resource.table}/{'/'.join(filter(None, target.key))}, ResourceVersion: 0"
        raise conflict(resource, name, f"StorageError: invalid object, {storage}, AdditionalErrorMsg: {why}")
    if version not in ("0", str(old.version)):
        raise conflict(resource, name)
    if other:
        cause = Cause("metadata.uid", f'Invalid value: "{meta["uid"]}": field is immutable')
        raise invalid(resource, name, [cause, cause])


def decoded(resource: Resource, mode: str, given: Object, warnings: list[str]) -> Object:
    """A request's object without what its kind does not have.

    `mode` is the query's `fieldValidation`: Strict raises `StatusError` 400, Warn appends to `warnings`.
    """
    meta: Any = given.get("metadata") or {}
    unknown = metadata.unknown(meta)
    if resource.schema is not None:
        obj = schema.pruned(resource.schema, given, unknown=unknown)
    else:
        known = ("kind", "apiVersion", "metadata", *resource.fields)
        unknown += [name for name in given if name not in known]
        obj = {name: value for name, value in given.items() if name in known}
    fields = [f'unknown field "{path}"' for path in unknown]
    if fields and mode == "Strict":
        raise bad_request(
            f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
            f"strict decoding error: {', '.join(fields)}"
        )
    if mode == "Warn":
        warnings += fields
    normal = metadata.normalized(meta)
    if managed_fields.is_reset(meta):
        normal["managedFields"] = meta["managedFields"]
    obj = {**obj, "metadata": normal}
    obj["kind"], obj["apiVersion"] = resource.kind, resource.api_version
    return obj


def completed(resource: Resource, obj: Object, *, new: bool) -> Object:
    """The object with defaults and what the server adds, in the form that the server keeps."""
    if resource.schema is not None:
        filled: Object = schema.defaulted(resource.schema, obj)
        return filled
    if resource.table == CRDS:
        obj = crds.normalized(obj)
        return crds.created(obj) if new else obj
    obj = builtins.normalized(resource, obj)
    return builtins.created(resource, obj) if new else obj


def with_server_metadata(before: Object, meta: Object) -> Object:
    """Metadata of a request with what belongs to the server put back."""
    lasting = ("name", "namespace", "generateName", *metadata.SERVER_OWNED)
    kept: Object = {name: before[name] for name in lasting if name in before and name != "managedFields"}
    mine = {name: value for name, value in meta.items() if name not in metadata.SERVER_OWNED}
    return {**mine, **kept}


def only_writable(target: Target, obj: Object, old: Object) -> Object:
    """The part of a request that its path may write; the rest stays as it was."""
    if not target.resource.status:
        return obj
    if target.subresource == "status":
        fresh = dict(old) if target.resource.custom else {**old, "metadata": obj["metadata"]}
        if target.resource.custom:
            meta = {name: value for name, value in old["metadata"].items() if name != "managedFields"}
            fresh["metadata"] = meta
        source = obj
    else:
        fresh, source = dict(obj), old
    fresh.pop("status", None)
    if "status" in source:
        fresh["status"] = source["status"]
    return fresh


def counted(resource: Resource, obj: Object, old: Object) -> Object:
    """The object with its generation raised where something changed that counts."""
    if resource.counted is None:
        return obj
    names = resource.counted
    if not names:
        uncounted = {"apiVersion", "kind", "metadata", *(("status",) if resource.status else ())}
        names = tuple({*obj, *old} - uncounted)
    if all(obj.get(name) == old.get(name) for name in names):
        return obj
    return {**obj, "metadata": {**obj["metadata"], "generation": old["metadata"].get("generation", 0) + 1}}


def is_same(obj: Object, old: Object) -> bool:
    """Whether an update changes nothing."""
    skipped = ("apiVersion", "kind")
    return {k: v for k, v in obj.items() if k not in skipped} == {k: v for k, v in old.items() if k not in skipped}


def validate(resource: Resource, obj: Object, old: Object | None) -> None:
    """Raise `StatusError` 422 with everything that is wrong."""
    meta, before = obj["metadata"], (old or {}).get("metadata", {})
    name = meta.get("name", "")
    found: list[Cause] = list(metadata.name_causes(resource, name)) if old is None else []
    maps = list(metadata.label_causes(meta.get("labels") or {}, before.get("labels") or {}))
    maps += metadata.annotation_causes(meta.get("annotations") or {}, before.get("annotations") or {})
    if meta.get("ownerReferences") != before.get("ownerReferences"):
        maps += metadata.owner_causes(meta.get("ownerReferences") or [])
    # The real server validates an update's metadata on four paths, and reports what is wrong four times.
    found += maps if old is None or resource.custom else maps * 4
    if "deletionTimestamp" in before:
        added = [item for item in meta.get("finalizers") or [] if item not in (before.get("finalizers") or [])]
        message = "Forbidden: no new finalizers can be added if the object is being deleted"
        found += [Cause("metadata.finalizers", message, "FieldValueForbidden") for _ in added[:1]]
    if resource.schema is not None:
        found += schema.causes(resource.schema, {k: v for k, v in obj.items() if k != "metadata"})
        found += schema.transition_causes(resource.schema, obj, old or {})
    elif resource.table == CRDS:
        found += crds.causes(obj)
    else:
        found += builtins.causes(resource, obj, old)
    if found:
        raise invalid(resource, name, found)
