"""Ask the API server whose token it is, and what that user may do.

https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/ and
https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/subject-access-review-v1/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, Refused, Unavailable
from warmhook.ports import Object
from warmhook.rights import Right

_NAME_MAX: Final = 1024
"""Characters of the name of a user. A longer one that was cut could be that of somebody else."""


@dataclass(frozen=True, slots=True)
class User:
    """Who a token belongs to, as the API server says."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Action:
    """What somebody wants to do."""

    verb: str
    resource: str
    group: str = ""
    namespace: str = ""
    """Empty: in all namespaces, or of the cluster."""
    name: str = ""
    """Empty: any."""
    subresource: str = ""
    path: str = ""
    """For what is no resource, which is then empty."""

    def __str__(self) -> str:
        where = f" in the namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{where}"

    def as_attributes(self) -> Object:
        """The part of the spec of a review that says it."""
        if self.path:
            return {"nonResourceAttributes": {"verb": self.verb, "path": self.path}}
        named = {"verb": self.verb, "group": self.group, "resource": self.resource, "subresource": self.subresource}
        named |= {"namespace": self.namespace, "name": self.name}
        return {"resourceAttributes": {field: value for field, value in named.items() if value or field == "group"}}


def action_of(right: Right, system_namespace: str) -> Action:
    """What a part of the programs does by a right that it has."""
    if right.resource.startswith("/"):
        return Action(right.verb, "", path=right.resource)
    resource, _, subresource = right.resource.partition("/")
    namespace = system_namespace if right.in_system else ""
    return Action(right.verb, resource, right.group, namespace, right.name, subresource)


def service_account(namespace: str, name: str) -> User:
    """A ServiceAccount as its tokens authenticate it."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return User(f"system:serviceaccount:{namespace}:{name}", groups=groups)


async def review_token(kubernetes: Kubernetes, token: str) -> User | None:
    """The user of a token for the API server; `None` if it is not valid, or the name of its user is too long.

    Raises `Unavailable`, and `Refused` where tokens may not be reviewed. No error repeats the token.
    """
    status = await _review(kubernetes, paths.TOKEN_REVIEWS, "authentication.k8s.io/v1", "TokenReview", {"token": token})
    user = status.get("user")
    if status.get("authenticated") is not True or not isinstance(user, dict) or not user.get("username"):
        return None
    name = str(user["username"])
    if len(name) > _NAME_MAX:
        return None
    extra = user.get("extra") or {}
    return User(
        name=name,
        uid=str(user.get("uid") or ""),
        groups=tuple(map(str, user.get("groups") or ())),
        extra=tuple(sorted((str(key), tuple(map(str, values))) for key, values in extra.items())),
    )


async def review_access(kubernetes: Kubernetes, user: User, action: Action) -> bool:
    """Whether the user may do it. Raises as `review_token`."""
    spec: Object = {
        "user": user.name,
        "groups": list(user.groups),
        "extra": {key: list(values) for key, values in user.extra},
        **action.as_attributes(),
    }
    if user.uid:
        spec["uid"] = user.uid
    status = await _review(kubernetes, paths.ACCESS_REVIEWS, "authorization.k8s.io/v1", "SubjectAccessReview", spec)
    return status.get("allowed") is True and status.get("denied") is not True


async def review_own_access(kubernetes: Kubernetes, action: Action) -> bool:
    """Whether the client itself may do it. Raises as `review_token`."""
    path, spec = paths.OWN_ACCESS_REVIEWS, action.as_attributes()
    status = await _review(kubernetes, path, "authorization.k8s.io/v1", "SelfSubjectAccessReview", spec)
    return status.get("allowed") is True


async def _review(kubernetes: Kubernetes, path: str, api_version: str, kind: str, spec: Object) -> dict[str, Any]:
    try:
        answer = await kubernetes.create(path, {"apiVersion": api_version, "kind": kind, "spec": spec})
    except KubernetesError as error:
        # The message of the server, or of a proxy, may quote what was sent.
        kept = Unavailable if isinstance(error, Unavailable) else Refused
        raise kept(f"{kind}: {error.status} {error.reason}", status=error.status, reason=error.reason) from None
    status = answer.get("status")
    return status if isinstance(status, dict) else {}
