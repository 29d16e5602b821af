"""Parse the path of a request: kind, namespace, object, subresource."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from devcluster.apiserver.errors import PageNotFound, StatusError, method_not_allowed
from devcluster.apiserver.resources import Registry, Resource
from devcluster.apiserver.store import Key


@dataclass(frozen=True, slots=True)
class Target:
    """The kind, collection, object or subresource that a path names."""

    resource: Resource
    namespace: str | None
    """`None` if the path names none: cluster-scoped kinds, or all namespaces."""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Key:
        """The key of the object named."""
        return (self.namespace or "", self.name)


def _absent(registry: Registry, group: str) -> Exception:
    if registry.is_built_in(group):
        return StatusError(404, "NotFound", "the server could not find the requested resource", {})
    return PageNotFound()


def parse_path(registry: Registry, path: str) -> Target:
    """Read a path of resources. Raises `PageNotFound`, or `StatusError` 404 and 405 for what a kind does not have."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise PageNotFound
    namespace: str | None = None
    if rest[0] == "namespaces" and len(rest) > 2 and not (len(rest) == 3 and rest[2] in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    resource = registry.find(group, version, rest[0])
    if resource is None or len(rest) > 3 or (namespace is not None and not resource.namespaced):
        raise _absent(registry, group)
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if subresource and not (subresource == "status" and resource.status):
        raise _absent(registry, group)
    if name and resource.namespaced and namespace is None:
        raise method_not_allowed()
    return Target(resource, namespace, name, subresource)
