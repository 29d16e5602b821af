"""Create, update, patch and delete stored objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from uuid import UUID

from devcluster.apiserver import crds, managed_fields, metadata, strategy
from devcluster.apiserver.errors import (
    Cause,
    StatusError,
    already_exists,
    bad_request,
    forbidden,
    invalid,
    not_found,
    precondition_failed,
    unparseable_number,
    unprocessable_patch,
    unsupported_media_type,
)
from devcluster.apiserver.patches import json_patched, merge_patched
from devcluster.apiserver.paths import Target
from devcluster.apiserver.reads import found
from devcluster.apiserver.resources import Registry, Resource
from devcluster.apiserver.store import Store, Stored
from devcluster.apiserver.strategic_merge import strategic_merged
from devcluster.apiserver.strategy import CRDS
from warmhook.ports import Json, Object, Utcnow

_PRECONDITIONS = (
    ("uid", "UID", "have been deleted and then recreated"),
    ("resourceVersion", "ResourceVersion", "have been modified"),
)
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_MERGE = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Request:
    """A write."""

    target: Target
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def dry_run(self) -> bool:
        """Whether nothing is to be stored."""
        return self.query.get("dryRun") == "All"

    @property
    def field_validation(self) -> str:
        """What becomes of unknown fields: `Strict`, `Warn` or `Ignore`."""
        return self.query.get("fieldValidation") or "Warn"

    @property
    def manager(self) -> str:
        """Who writes, as managedFields names it."""
        return self.query.get("fieldManager") or self.headers.get("user-agent", "").partition("/")[0] or "unknown"


@dataclass(slots=True)
class Written:
    """The outcome of a write."""

    status: int
    stored: Stored | None = None
    """The object to answer with."""
    gone: Stored | None = None
    """The deleted object, if the answer is a `Status`."""
    warnings: list[str] = field(default_factory=list)


def _time(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is no JSON")


def _parse_json(body: bytes) -> Json:
    return json.loads(body, parse_constant=_no_constant)


def _parse_object(body: bytes) -> Object:
    """The object in a body. Raises `StatusError` 400."""
    try:
        value = _parse_json(body)
    except ValueError as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from None
    if not isinstance(value, dict):
        raise bad_request("the object provided is unrecognized: it is no object")
    return value


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "application/json").partition(";")[0].strip().lower()


class Writes:
    """The writing half of the server."""

    def __init__(self, store: Store, registry: Registry, now: Utcnow, random: Random) -> None:
        self._store = store
        self._registry = registry
        self._now = now
        self._random = random

    # --- create ----------------------------------------------------------------------------------------------------

    def create(self, request: Request) -> Written:
        """POST to a collection."""
        return self._create(request, self._given(request))

    def draft(self, request: Request) -> Object:
        """The object of a create as webhooks are shown it: with defaults, without what storing adds."""
        resource, obj = request.target.resource, self._decoded(request, self._given(request), [])
        meta = {key: value for key, value in obj["metadata"].items() if key not in metadata.SERVER_OWNED}
        obj = {**obj, "metadata": meta | ({"namespace": request.target.namespace} if resource.namespaced else {})}
        obj = strategy.completed(resource, obj, new=True)
        managed = managed_fields.created_by(request.manager, "Update", _time(self._now()), obj)
        return {**obj, "metadata": {**obj["metadata"], "managedFields": managed}, "status": {}}

    @staticmethod
    def _given(request: Request) -> Object:
        """The whole object that a POST or PUT carries."""
        if _media_type(request.headers) != "application/json":
            raise unsupported_media_type(("application/json",), custom=request.target.resource.custom)
        return _parse_object(request.body)

    def _decoded(self, request: Request, given: Object, warnings: list[str]) -> Object:
        """The object of a create, in a namespace that may be written to."""
        resource = request.target.resource
        strategy.check_type(resource, given)
        obj = strategy.decoded(resource, request.field_validation, given, warnings)
        self._check_namespace(request.target, obj["metadata"])
        return obj

    def _create(self, request: Request, given: Object, operation: str = "Update") -> Written:
        target, resource = request.target, request.target.resource
        warnings: list[str] = []
        obj = self._decoded(request, given, warnings)
        if obj["metadata"].get("resourceVersion"):
            raise unparseable_number("resourceVersion should not be set on objects to be created")
        now = _time(self._now())
        obj = {**obj, "metadata": self._new_metadata(target, obj["metadata"], now)}
        name = obj["metadata"]["name"]
        if resource.custom and resource.status:
            obj.pop("status", None)
        obj = strategy.completed(resource, obj, new=True)
        strategy.validate(resource, obj, None)
        key = (target.namespace or "", name)
        if key in self._store.table(resource.table).items:
            raise already_exists(resource, name)
        if managed := managed_fields.created_by(request.manager, operation, now, obj):
            obj["metadata"] = {**obj["metadata"], "managedFields": managed}
        if request.dry_run:
            return Written(201, Stored(obj, 0), warnings=warnings)
        stored = self._store.put(resource.table, key, obj)
        if resource.table == CRDS:
            self._serve(key, stored)
        return Written(201, stored, warnings=warnings)

    def _new_metadata(self, target: Target, given: Object, now: str) -> Object:
        resource = target.resource
        meta = {key: value for key, value in given.items() if key not in metadata.SERVER_OWNED}
        meta["name"] = meta.get("name") or self._generated(resource, target, meta.get("generateName", ""))
        if resource.namespaced:
            meta["namespace"] = target.namespace
        meta["uid"] = str(UUID(int=self._random.getrandbits(128), version=4))
        if resource.counted is not None:
            meta["generation"] = 1
        meta["creationTimestamp"] = now
        return meta

    def _generated(self, resource: Resource, target: Target, prefix: str) -> str:
        if not prefix:
            return ""
        items = self._store.table(resource.table).items
        while True:
            name = prefix[:58] + "".join(self._random.choices(_SUFFIX_LETTERS, k=5))
            if (target.namespace or "", name) not in items:
                return name

    def _check_namespace(self, target: Target, meta: Object) -> None:
        if not target.resource.namespaced:
            return
        if target.namespace is None:
            raise bad_request("an object of a namespaced kind is created in a namespace")
        if meta.get("namespace", target.namespace) != target.namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        resource = self._registry.find("", "v1", "namespaces")
        if resource is None:
            return
        namespace = self._store.table("namespaces").items.get(("", target.namespace))
        if namespace is None:
            raise not_found(resource, target.namespace)
        if "deletionTimestamp" in namespace.object["metadata"]:
            why = f"unable to create new content in namespace {target.namespace} because it is being terminated"
            raise forbidden(target.resource, str(meta.get("name", "")), why)

    # --- update ----------------------------------------------------------------------------------------------------

    def replace(self, request: Request) -> Written:
        """PUT of an object or its status."""
        target, resource = request.target, request.target.resource
        given = self._given(request)
        strategy.check_type(resource, given)
        old = found(self._store, target, {})
        version = (given.get("metadata") or {}).get("resourceVersion")
        if not version and not resource.blind_put:
            cause = Cause("metadata.resourceVersion", "Invalid value: 0: must be specified for an update")
            raise invalid(resource, target.name, [cause])
        return self._update(request, old, given)

    def patch(self, request: Request) -> Written:
        """PATCH of an object or its status."""
        target, resource = request.target, request.target.resource
        kind = _media_type(request.headers)
        accepted = [_JSON_PATCH, _MERGE, _APPLY] if resource.custom else [_JSON_PATCH, _MERGE, _STRATEGIC, _APPLY]
        if kind not in accepted:
            raise unsupported_media_type(accepted, custom=resource.custom)
        if kind == _APPLY:
            return self._apply(request)
        try:
            patch = _parse_json(request.body)
        except ValueError as broken:
            raise bad_request(f"error decoding patch: {broken}") from None
        if kind == _MERGE and not isinstance(patch, dict):
            raise bad_request("error decoding patch: a merge patch is an object")
        old = found(self._store, target, {})
        base = {**old.object, "kind": resource.kind, "apiVersion": resource.api_version}
        apply: Callable[[Json, Json], Json] = {
            _MERGE: merge_patched,
            _JSON_PATCH: json_patched,
            _STRATEGIC: strategic_merged,
        }[kind]
        patched = apply(base, patch)
        if not isinstance(patched, dict) or not isinstance(patched.get("metadata"), dict):
            raise unprocessable_patch("the result is no object with metadata")
        if error := strategy.type_error(resource, patched):
            raise unprocessable_patch(error)
        strategy.check_kind(resource, patched)
        return self._update(request, old, patched)

    def _apply(self, request: Request) -> Written:
        """Create an object by server-side apply; the apply of an object that exists is not supported here."""
        target, resource = request.target, request.target.resource
        if not request.query.get("fieldManager"):
            raise bad_request("fieldManager is required for apply patch")
        config = _parse_object(request.body)
        if error := strategy.type_error(resource, config):
            raise bad_request(error)
        if not config.get("kind") or not config.get("apiVersion"):
            raise bad_request("kind and apiVersion must be set in an apply patch")
        meta = config["metadata"] = config.get("metadata") or {}
        if meta.setdefault("name", target.name) != target.name:
            raise bad_request("the name in the patch does not match the name on the URL")
        if target.key in self._store.table(resource.table).items:
            raise unsupported_media_type((_JSON_PATCH, _MERGE), custom=resource.custom)
        if target.subresource:
            raise not_found(resource, target.name)
        return self._create(request, config, "Apply")

    def _update(self, request: Request, old: Stored, given: Object) -> Written:
        target, resource = request.target, request.target.resource
        before: Object = old.object["metadata"]
        patched = "patch" in _media_type(request.headers)
        strategy.check_identity(target, old, given.get("metadata") or {}, patched=patched)
        warnings: list[str] = []
        obj = strategy.decoded(resource, request.field_validation, given, warnings)
        reset = managed_fields.is_reset(obj["metadata"])
        obj = {**obj, "metadata": strategy.with_server_metadata(before, obj["metadata"])}
        obj = strategy.only_writable(target, obj, old.object)
        obj = strategy.completed(resource, obj, new=False)
        strategy.validate(resource, obj, old.object)
        obj = strategy.counted(resource, obj, old.object)
        meta = obj["metadata"]
        if "managedFields" in before and not reset:
            obj["metadata"] = meta = {**meta, "managedFields": before["managedFields"]}
        if strategy.is_same(obj, old.object):
            return Written(200, old, warnings=warnings)
        if request.dry_run:
            return Written(200, Stored(obj, old.version), warnings=warnings)
        if "deletionTimestamp" in meta and not meta.get("finalizers") and resource.table != "namespaces":
            self._remove(resource, target)
            return Written(200, Stored(obj, old.version), warnings=warnings)
        stored = self._store.put(resource.table, target.key, obj)
        if resource.table == CRDS and not target.subresource:
            self._serve(target.key, stored)
        return Written(200, stored, warnings=warnings)

    # --- delete ----------------------------------------------------------------------------------------------------

    def delete(self, request: Request) -> Written:
        """DELETE of an object."""
        target, resource = request.target, request.target.resource
        if target.subresource:
            raise StatusError(405, "MethodNotAllowed", "the server does not allow this method", {})
        options = _parse_object(request.body) if request.body.strip() else {}
        preconditions = options.get("preconditions") or {}
        if not isinstance(preconditions, dict):
            raise bad_request("DeleteOptions: preconditions must be an object")
        old = found(self._store, target, {})
        meta: Object = old.object["metadata"]
        for name, title, happened in _PRECONDITIONS:
            wanted = preconditions.get(name)
            if wanted is not None and str(meta.get(name)) != wanted:
                given = f"the {title} in the precondition ({wanted})"
                why = f"{given} does not match the {title} in record ({meta.get(name)}). The object might {happened}"
                raise precondition_failed(resource, target.name, why)
        return self.delete_stored(target, old, dry_run=request.dry_run)

    def delete_stored(self, target: Target, old: Stored, *, dry_run: bool = False) -> Written:
        """Delete, or mark as deleting what finalizers or a namespace's contents hold."""
        resource, meta = target.resource, old.object["metadata"]
        held = bool(meta.get("finalizers")) or resource.table == "namespaces"
        if held and "deletionTimestamp" in meta:
            return Written(200, old)
        if dry_run:
            return Written(200, old) if held else Written(200, gone=old)
        if not held:
            self._remove(resource, target)
            return Written(200, old) if resource.plural == "pods" else Written(200, gone=old)
        meta = {**meta, "deletionTimestamp": _time(self._now()), "deletionGracePeriodSeconds": 0}
        if "generation" in meta:
            meta["generation"] += 1
        obj = {**old.object, "metadata": meta}
        if resource.table == "namespaces":
            del meta["deletionGracePeriodSeconds"]
            obj["status"] = {**obj.get("status", {}), "phase": "Terminating"}
        return Written(200, self._store.put(resource.table, target.key, obj))

    def _remove(self, resource: Resource, target: Target) -> None:
        if resource.table == CRDS:
            for key in list(self._store.table(target.name).items):
                self._store.remove(target.name, key)
            self._registry.replace(target.name, [])
        self._store.remove(resource.table, target.key)

    # --- shared ----------------------------------------------------------------------------------------------------

    def _serve(self, key: tuple[str, str], stored: Stored) -> None:
        """Serve the kind of a definition, and mark the definition as established."""
        self._registry.replace(stored.object["metadata"]["name"], crds.served(stored.object))
        obj = crds.established(stored.object, _time(self._now()))
        if not stored.object["status"]["conditions"]:
            self._store.put(CRDS, key, obj)
