"""Evaluate RBAC: decide whether roles and bindings allow a request.

https://kubernetes.io/docs/reference/access-authn-authz/rbac/; the meaning of `*` and of names is that of
k8s.io/kubernetes/pkg/apis/rbac/v1/evaluation_helpers.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warmhook.ports import Object

GROUP: Final = "rbac.authorization.k8s.io"
ADMINISTRATORS: Final = "system:masters"
"""This group may do everything, whatever roles there are."""

_ACCOUNT: Final = "system:serviceaccount"
_AGGREGATED: Final = "rbac.authorization.k8s.io/aggregate-to-"
_READ: Final = ("get", "list", "watch")
_WRITE: Final = ("create", "delete", "deletecollection", "patch", "update")


@dataclass(frozen=True, slots=True)
class User:
    """Who sends a request."""

    name: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a request does. `path` is set for what is no resource, everything between for resources."""

    verb: str
    group: str = ""
    resource: str = ""
    """With its subresource: `warmimages/status`."""
    namespace: str = ""
    """Empty: of the cluster, or of all namespaces."""
    name: str = ""
    """Empty: not said, as in lists and creates."""
    path: str = ""


def account(namespace: str, name: str) -> User:
    """A ServiceAccount as its tokens authenticate it."""
    groups = (f"{_ACCOUNT}s", f"{_ACCOUNT}s:{namespace}", "system:authenticated")
    return User(f"{_ACCOUNT}:{namespace}:{name}", groups)


def rule_allows(rule: Object, request: Attributes) -> bool:
    """Whether one rule of a role allows the request, wherever the role is bound."""
    if not _has(rule, "verbs", (request.verb, "*")):
        return False
    if request.path:
        return any(_path_matches(pattern, request.path) for pattern in rule.get("nonResourceURLs") or ())
    _, _, subresource = request.resource.partition("/")
    resources = ("*", request.resource, *([f"*/{subresource}"] if subresource else []))
    names = rule.get("resourceNames") or ()
    return (
        _has(rule, "apiGroups", (request.group, "*"))
        and _has(rule, "resources", resources)
        and (not names or request.name in names)
    )


def allowed_by(objects: Iterable[Object], user: User, request: Attributes) -> str:
    """The binding that allows the request, as the API server names it; empty if none does.

    `objects`: the Roles, ClusterRoles, RoleBindings and ClusterRoleBindings; others are ignored.
    """
    if ADMINISTRATORS in user.groups:
        return f'RBAC: allowed by group "{ADMINISTRATORS}"'
    given = list(objects)
    roles = {(one["kind"], *_place(one)): one for one in [*_DEFAULTS, *given] if one.get("kind") in _ROLES}
    for binding in given:
        namespace, name = _place(binding)
        if binding.get("kind") not in _BINDINGS or (namespace and namespace != request.namespace):
            continue
        subjects = [subject for subject in binding.get("subjects") or () if _is_subject(subject, namespace, user)]
        reference = binding["roleRef"]
        role = roles.get((reference["kind"], namespace if reference["kind"] == "Role" else "", reference["name"]))
        if subjects and role and any(rule_allows(rule, request) for rule in _rules(role, roles)):
            bound = f"{binding['kind']} {_quoted(name, namespace)} of {reference['kind']} {_quoted(reference['name'])}"
            return f"RBAC: allowed by {bound} to {subjects[0]['kind']} {_quoted(subjects[0]['name'])}"
    return ""


_ROLES: Final = ("Role", "ClusterRole")
_BINDINGS: Final = ("RoleBinding", "ClusterRoleBinding")


def _has(rule: Object, field: str, accepted: Sequence[str]) -> bool:
    return any(value in accepted for value in rule.get(field) or ())


def _path_matches(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern.removesuffix("*")))


def _place(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _quoted(name: str, namespace: str = "") -> str:
    return f'"{name}/{namespace}"' if namespace else f'"{name}"'


def _is_subject(subject: Object, namespace: str, user: User) -> bool:
    match subject.get("kind"):
        case "User":
            return bool(user.name == subject["name"])
        case "Group":
            return subject["name"] in user.groups
        case "ServiceAccount":
            return user.name == f"{_ACCOUNT}:{subject.get('namespace') or namespace}:{subject['name']}"
    return False


def _rules(role: Object, roles: Mapping[Any, Object]) -> Iterator[Object]:
    """The rules of a role, and those of the ClusterRoles that it aggregates: no controller copies them here."""
    yield from role.get("rules") or ()
    for selector in (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or ():
        wanted = (selector.get("matchLabels") or {}).items()
        for other in roles.values():
            if wanted and wanted <= (other["metadata"].get("labels") or {}).items():
                yield from other.get("rules") or ()


def _default(name: str, resources: Sequence[str], verbs: Sequence[str], *aggregates: str) -> Object:
    return {
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "aggregationRule": {
            "clusterRoleSelectors": [{"matchLabels": {f"{_AGGREGATED}{to}": "true"}} for to in aggregates]
        },
        "rules": [{"apiGroups": ["", "apps"], "resources": list(resources), "verbs": list(verbs)}],
    }


_SEEN: Final = ("configmaps", "pods", "deployments", "daemonsets", "statefulsets", "services", "events")
_DEFAULTS: Final[Sequence[Object]] = (
    {
        "kind": "ClusterRole",
        "metadata": {"name": "cluster-admin"},
        "rules": [
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            {"nonResourceURLs": ["*"], "verbs": ["*"]},
        ],
    },
    _default("view", _SEEN, _READ, "view"),
    _default("edit", (*_SEEN, "secrets"), (*_READ, *_WRITE), "edit", "view"),
    _default("admin", (*_SEEN, "secrets"), (*_READ, *_WRITE), "admin", "edit", "view"),
)
"""The ClusterRoles for people that every cluster has, as much of them as Warmhook's objects meet. A stored role of the
same name replaces one."""
