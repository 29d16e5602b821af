"""List the groups, versions and kinds that the server serves, as kubectl discovers them."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from devcluster.apiserver.resources import Registry, Resource
from warmhook.ports import Object

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_STATUS_VERBS = ["get", "patch", "update"]
_VERSION: Object = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.0+warmhook",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "none",
    "platform": "linux/amd64",
}


def _resource(resource: Resource) -> list[Object]:
    entry: Object = {
        "name": resource.plural,
        "singularName": resource.singular or resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": _VERBS,
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    found = [entry]
    if resource.status:
        found.append(
            {
                "name": f"{resource.plural}/status",
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": resource.kind,
                "verbs": _STATUS_VERBS,
            }
        )
    return found


def _resources(registry: Registry, group: str, version: str) -> Object:
    entries = [entry for r in registry if (r.group, r.version) == (group, version) for entry in _resource(r)]
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": entries}


def _group(registry: Registry, group: str) -> Object:
    versions = list(dict.fromkeys(r.version for r in registry if r.group == group))
    named = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": named, "preferredVersion": named[0]}


def _groups(registry: Registry) -> Object:
    names = dict.fromkeys(r.group for r in registry if r.group)
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(registry, name) for name in names]}


def _openapi_root(registry: Registry) -> Object:
    paths: Object = {}
    for r in registry:
        path = f"apis/{r.api_version}" if r.group else f"api/{r.version}"
        kinds = sorted(other.kind for other in registry if other.api_version == r.api_version)
        mark = sha256(",".join(kinds).encode()).hexdigest()[:16]
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={mark}"}
    return {"paths": paths}


def _openapi(registry: Registry, group: str, version: str) -> Object:
    """As much OpenAPI as kubectl reads to learn that the server validates fields itself."""
    base = f"/apis/{group}/{version}" if group else f"/api/{version}"
    paths: Object = {}
    schemas: Object = {}
    for r in registry:
        if (r.group, r.version) != (group, version):
            continue
        gvk = {"group": group, "version": version, "kind": r.kind}
        scope = "/namespaces/{namespace}" if r.namespaced else ""
        parameters = [
            {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
            for name in ("dryRun", "fieldManager", "fieldValidation")
        ]
        paths[f"{base}{scope}/{r.plural}/{{name}}"] = {
            "patch": {
                "operationId": f"patch{r.kind}",
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": gvk,
                "parameters": parameters,
                "responses": {"200": {"description": "OK"}},
            }
        }
        shape = r.schema or {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        name = ".".join([*reversed((group or "core").split(".")), version, r.kind])
        schemas[name] = {**shape, "x-kubernetes-group-version-kind": [gvk]}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Warmhook development cluster", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def document(registry: Registry, path: str) -> Object | None:
    """The document at a path of discovery or OpenAPI; `None` if there is none."""
    fixed: dict[str, Callable[[], Object]] = {
        "version": lambda: _VERSION,
        "api": lambda: {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        "apis": lambda: _groups(registry),
        "openapi/v3": lambda: _openapi_root(registry),
    }
    path = path.strip("/")
    if path in fixed:
        return fixed[path]()
    make: Callable[[Registry, str, str], Object] = _resources
    if path.startswith("openapi/v3/"):
        path, make = path.removeprefix("openapi/v3/"), _openapi
    parts = path.split("/")
    if parts[0] == "api" and len(parts) == 2 and registry.serves("", parts[1]):
        return make(registry, "", parts[1])
    if parts[0] == "apis" and len(parts) == 3 and registry.serves(parts[1], parts[2]):
        return make(registry, parts[1], parts[2])
    if parts[0] == "apis" and len(parts) == 2 and any(r.group == parts[1] for r in registry):
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(registry, parts[1])}
    return None
