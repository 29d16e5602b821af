"""The embedded API server answers access and token reviews by the RBAC objects that it stores."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from devcluster.apiserver import ApiServer
from devcluster.apiserver.rbac import Attributes, rule_allows
from warmhook.ports import Json, Object

RBAC = "/apis/rbac.authorization.k8s.io/v1"
REVIEWS = "/apis/authorization.k8s.io/v1"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
AGENT = "system:serviceaccount:shop:agent"
AGENT_GROUPS = ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]


class Client:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.server = ApiServer(lambda: self.time, Random(0))
        self.create("/api/v1/namespaces", "shop")

    def send(self, path: str, body: Json, **headers: str) -> tuple[int, Any]:
        headers = {"content-type": "application/json"} | {key.replace("_", "-"): text for key, text in headers.items()}
        answer = self.server.handle("POST", path, {}, headers, json.dumps(body).encode())
        return answer.status, json.loads(answer.body)

    def create(self, collection: str, name: str, **fields: Any) -> None:
        labels = fields.pop("labels", {})
        status, made = self.send(collection, {"metadata": {"name": name, "labels": labels}, **fields})
        assert status == 201, made

    def role(self, name: str, *rules: Object, namespace: str = "", **fields: Any) -> None:
        collection = f"{RBAC}/namespaces/{namespace}/roles" if namespace else f"{RBAC}/clusterroles"
        self.create(collection, name, rules=list(rules), **fields)

    def bind(self, role: str, subject: Object, *, namespace: str = "", kind: str = "ClusterRole") -> None:
        collection = f"{RBAC}/namespaces/{namespace}/rolebindings" if namespace else f"{RBAC}/clusterrolebindings"
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}
        self.create(collection, f"{role}-bound", subjects=[subject], roleRef=reference)

    def may(self, verb: str, resource: str, *, user: str = AGENT, groups: Any = (), **attributes: str) -> bool:
        asked = {"verb": verb, "resource": resource, **attributes}
        spec = {"user": user, "groups": list(groups), "resourceAttributes": asked}
        status, review = self.send(f"{REVIEWS}/subjectaccessreviews", {"spec": spec})
        assert status == 201, review
        return bool(review["status"]["allowed"])

    def self_may(self, verb: str, resource: str, **headers: str) -> bool:
        spec = {"resourceAttributes": {"verb": verb, "resource": resource}}
        _, review = self.send(f"{REVIEWS}/selfsubjectaccessreviews", {"spec": spec}, **headers)
        return bool(review["status"]["allowed"])

    def token(self, **spec: Any) -> str:
        status, answer = self.send("/api/v1/namespaces/shop/serviceaccounts/agent/token", {"spec": spec})
        assert status == 201
        return str(answer["status"]["token"])

    def review(self, token: str, **spec: Any) -> Object:
        status, answer = self.send(TOKEN_REVIEWS, {"spec": {"token": token, **spec}})
        assert status == 201
        found: Object = answer["status"]
        return found


@pytest.fixture
def client() -> Client:
    return Client()


def rule(verbs: str, resources: str, group: str = "", **more: Any) -> Object:
    return {"apiGroups": [group], "resources": resources.split(), "verbs": verbs.split(), **more}


ACCOUNT = {"kind": "ServiceAccount", "name": "agent", "namespace": "shop"}
READ = rule("get list", "configmaps")


def test_nobody_may_anything_before_a_role_is_bound(client: Client) -> None:
    client.role("reader", READ)
    assert not client.may("get", "configmaps", namespace="shop")


def test_a_cluster_role_that_is_bound_for_the_cluster_holds_everywhere(client: Client) -> None:
    client.role("reader", READ)
    client.bind("reader", ACCOUNT)
    assert client.may("get", "configmaps", namespace="shop")
    assert client.may("list", "configmaps")
    assert not client.may("delete", "configmaps", namespace="shop")
    assert not client.may("get", "secrets", namespace="shop")
    assert not client.may("get", "configmaps", namespace="shop", user="system:serviceaccount:shop:other")


@pytest.mark.parametrize("kind", ["Role", "ClusterRole"])
def test_a_role_that_is_bound_in_a_namespace_holds_in_that_namespace_only(client: Client, kind: str) -> None:
    client.role("reader", READ, namespace="shop" if kind == "Role" else "")
    client.bind("reader", {"kind": "ServiceAccount", "name": "agent"}, namespace="shop", kind=kind)
    assert client.may("get", "configmaps", namespace="shop")
    assert not client.may("get", "configmaps", namespace="other")
    assert not client.may("list", "configmaps")


@pytest.mark.parametrize(
    ("subject", "allowed"),
    [
        ({"kind": "Group", "name": "system:serviceaccounts"}, True),
        ({"kind": "Group", "name": "system:serviceaccounts:shop"}, True),
        ({"kind": "Group", "name": "system:authenticated"}, True),
        ({"kind": "Group", "name": "system:serviceaccounts:other"}, False),
        ({"kind": "User", "name": AGENT}, True),
        ({"kind": "User", "name": "agent"}, False),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else str(value),
)
def test_users_and_groups_are_subjects(client: Client, subject: Object, allowed: bool) -> None:
    client.role("reader", READ)
    client.bind("reader", subject)
    assert client.may("get", "configmaps", groups=AGENT_GROUPS) == allowed


def test_an_aggregated_role_has_the_rules_of_those_that_its_selectors_find(client: Client) -> None:
    label = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    client.role("warmhook-view", rule("list", "warmimages", "warmhook.dev"), labels=label)
    client.bind("view", {"kind": "User", "name": "jane"}, namespace="shop")
    assert client.may("list", "warmimages", user="jane", group="warmhook.dev", namespace="shop")
    assert not client.may("list", "warmimages", user="jane", group="warmhook.dev")
    assert client.may("get", "configmaps", user="jane", namespace="shop")
    assert not client.may("patch", "configmaps", user="jane", namespace="shop")


def test_administrators_may_everything_and_a_wildcard_means_everything(client: Client) -> None:
    assert client.may("delete", "nodes", user="root", groups=["system:masters"])
    client.bind("cluster-admin", {"kind": "User", "name": "jane"})
    assert client.may("delete", "nodes", user="jane")


ONE = Attributes("get", "", "configmaps", "shop", "one")


@pytest.mark.parametrize(
    ("given", "request_", "allowed"),
    [
        (rule("get", "configmaps", resourceNames=["one"]), ONE, True),
        (rule("get", "configmaps", resourceNames=["two"]), ONE, False),
        (rule("list", "configmaps", resourceNames=["one"]), Attributes("list", "", "configmaps", "shop"), False),
        (rule("*", "*", "*"), ONE, True),
        (rule("get", "configmaps", "apps"), ONE, False),
        (rule("patch", "warmimages/status"), Attributes("patch", "", "warmimages/status", "shop", "x"), True),
        (rule("patch", "warmimages"), Attributes("patch", "", "warmimages/status", "shop", "x"), False),
        (rule("patch", "*/status"), Attributes("patch", "", "warmimages/status", "shop", "x"), True),
        (rule("patch", "*/status"), Attributes("patch", "", "warmimages", "shop", "x"), False),
        ({"verbs": ["get"], "nonResourceURLs": ["/openid/*"]}, Attributes("get", path="/openid/v1/jwks"), True),
        ({"verbs": ["get"], "nonResourceURLs": ["/openid"]}, Attributes("get", path="/openid/v1/jwks"), False),
        ({"verbs": ["get"], "nonResourceURLs": ["*"]}, ONE, False),
        ({"verbs": None, "apiGroups": None}, ONE, False),
    ],
)
def test_a_rule_allows_what_it_names(given: Object, request_: Attributes, allowed: bool) -> None:
    assert rule_allows(given, request_) == allowed


def test_a_path_that_is_no_resource_is_reviewed(client: Client) -> None:
    client.role("keys", {"verbs": ["get"], "nonResourceURLs": ["/openid/v1/jwks"]})
    client.bind("keys", ACCOUNT)
    spec = {"user": AGENT, "nonResourceAttributes": {"verb": "get", "path": "/openid/v1/jwks"}}
    _, review = client.send(f"{REVIEWS}/subjectaccessreviews", {"spec": spec})
    assert review["status"] == {
        "allowed": True,
        "reason": 'RBAC: allowed by ClusterRoleBinding "keys-bound" of ClusterRole "keys" to ServiceAccount "agent"',
    }


@pytest.mark.parametrize(
    "spec",
    [
        {"user": "jane"},
        {"resourceAttributes": {"verb": "get"}},
        {"user": "jane", "resourceAttributes": {"verb": "get"}, "nonResourceAttributes": {"verb": "get"}},
        None,
    ],
)
def test_a_review_that_asks_nothing_is_invalid(client: Client, spec: Json) -> None:
    status, answer = client.send(f"{REVIEWS}/subjectaccessreviews", {"spec": spec})
    assert (status, answer["reason"]) == (422, "Invalid")


def test_a_caller_is_the_administrator_or_whom_its_token_or_its_headers_name(client: Client) -> None:
    client.role("reader", READ)
    client.bind("reader", ACCOUNT)
    assert client.self_may("delete", "nodes")
    own = {"authorization": f"Bearer {client.token()}"}
    assert client.self_may("get", "configmaps", **own)
    assert not client.self_may("delete", "nodes", **own)
    assert client.self_may("get", "configmaps", impersonate_user=AGENT)
    assert not client.self_may("get", "configmaps", impersonate_user="jane")
    spec = {"resourceAttributes": {"verb": "get", "resource": "pods"}}
    headers = {"authorization": "Bearer no.real.token"}
    assert client.send(f"{REVIEWS}/selfsubjectaccessreviews", {"spec": spec}, **headers)[0] == 401


def test_a_token_of_this_server_is_reviewed_to_its_account(client: Client) -> None:
    assert client.review(client.token())["user"]["username"] == AGENT
    reviewed = client.review(client.token(audiences=["a", "b"]), audiences=["b", "c"])
    assert reviewed["authenticated"]
    assert reviewed["audiences"] == ["b"]
    assert reviewed["user"]["groups"] == AGENT_GROUPS


def test_a_token_of_others_for_others_or_of_old_is_not_authenticated(client: Client) -> None:
    assert "authenticated" not in client.review(Client().token())
    assert "authenticated" not in client.review("x")
    assert "authenticated" not in client.review(client.token(audiences=["peers"]))
    token = client.token(expirationSeconds=600)
    client.time += timedelta(seconds=601)
    assert "authenticated" not in client.review(token)
