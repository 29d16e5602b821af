"""Answer who a token belongs to, and who may do what: TokenReview, SubjectAccessReview and SelfSubjectAccessReview.

https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/subject-access-review-v1/ and
https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/
The server evaluates the RBAC objects that are stored; it does not refuse requests by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from devcluster.apiserver.errors import StatusError, bad_request, internal_json, method_not_allowed
from devcluster.apiserver.rbac import ADMINISTRATORS, GROUP, Attributes, User, account, allowed_by
from devcluster.apiserver.store import Store
from devcluster.apiserver.tokens import TokenIssuer
from warmhook.ports import Object, Response

_AUTHORIZATION: Final = "/apis/authorization.k8s.io/v1/"
_KINDS: Final = {
    f"{_AUTHORIZATION}subjectaccessreviews": "SubjectAccessReview",
    f"{_AUTHORIZATION}selfsubjectaccessreviews": "SelfSubjectAccessReview",
    "/apis/authentication.k8s.io/v1/tokenreviews": "TokenReview",
}
_TABLES: Final = tuple(f"{kind}.{GROUP}" for kind in ("roles", "clusterroles", "rolebindings", "clusterrolebindings"))
_TABLE_KINDS: Final = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
_ADMINISTRATOR: Final = User("kubernetes-admin", (ADMINISTRATORS, "system:authenticated"))


class Reviews:
    """The reviews of one server; nothing of them is stored."""

    def __init__(self, store: Store, tokens: TokenIssuer) -> None:
        self._store, self._tokens = store, tokens

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response | None:
        """The answer; `None` for a path of others. Raises `StatusError`."""
        kind = _KINDS.get(path.rstrip("/"))
        if kind is None:
            return None
        if method != "POST":
            raise method_not_allowed()
        spec = _spec(kind, body)
        status = self._token(spec) if kind == "TokenReview" else self._access(kind, spec, headers)
        group = "authentication.k8s.io/v1" if kind == "TokenReview" else "authorization.k8s.io/v1"
        review = {"kind": kind, "apiVersion": group, "metadata": {}, "spec": spec, "status": status}
        return Response(201, {"content-type": "application/json"}, internal_json(review))

    def _token(self, spec: Object) -> Object:
        verified = self._tokens.verify(str(spec.get("token") or ""), spec.get("audiences") or ())
        if verified is None:
            return {"user": {}, "error": "[invalid bearer token, token lookup failed]"}
        user = account(verified.namespace, verified.account)
        found = {"username": user.name, "uid": verified.uid, "groups": list(user.groups)}
        return {"authenticated": True, "user": found, "audiences": list(verified.audiences)}

    def _access(self, kind: str, spec: Object, headers: Mapping[str, str]) -> Object:
        if kind == "SelfSubjectAccessReview":
            user = self._caller(headers)
        else:
            user = User(str(spec.get("user") or ""), tuple(spec.get("groups") or ()))
            if not user.name and not user.groups:
                raise _required(kind, "spec.user", "at least one of user or group must be specified")
        why = allowed_by(self._roles(), user, _attributes(kind, spec))
        return {"allowed": True, "reason": why} if why else {"allowed": False}

    def _caller(self, headers: Mapping[str, str]) -> User:
        """Who sends the request: a ServiceAccount by its token, else the administrator or whom that impersonates."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            verified = self._tokens.verify(token.strip(), ())
            if verified is None:
                raise StatusError(401, "Unauthorized", "Unauthorized")
            return account(verified.namespace, verified.account)
        if name := headers.get("impersonate-user"):
            groups = tuple(filter(None, headers.get("impersonate-group", "").split(",")))
            if name.startswith("system:serviceaccount:") and not groups and name.count(":") == 3:
                return account(*name.split(":")[2:])
            return User(name, (*groups, "system:authenticated"))
        return _ADMINISTRATOR

    def _roles(self) -> list[Object]:
        return [
            {**stored.object, "kind": kind}
            for table, kind in zip(_TABLES, _TABLE_KINDS, strict=True)
            for stored in self._store.table(table).items.values()
        ]


def _spec(kind: str, body: bytes) -> Object:
    try:
        given = json.loads(body)
    except ValueError as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from None
    if not isinstance(given, dict) or not isinstance(given.get("spec"), dict):
        raise _required(kind, "spec", "an object is expected")
    spec: Object = given["spec"]
    return spec


def _attributes(kind: str, spec: Object) -> Attributes:
    resource: Object = spec.get("resourceAttributes") or {}
    other: Object = spec.get("nonResourceAttributes") or {}
    if bool(resource) == bool(other):
        raise _required(kind, "spec", "exactly one of nonResourceAttributes or resourceAttributes must be specified")
    if other:
        return Attributes(str(other.get("verb", "")), path=str(other.get("path", "")))
    named = "/".join(filter(None, (resource.get("resource", ""), resource.get("subresource", ""))))
    return Attributes(
        resource.get("verb", ""),
        resource.get("group", ""),
        named,
        resource.get("namespace", ""),
        resource.get("name", ""),
    )


def _required(kind: str, field: str, why: str) -> StatusError:
    return StatusError(422, "Invalid", f'{kind} "" is invalid: {field}: Invalid value: {why}', {"kind": kind})
