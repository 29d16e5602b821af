"""The roles allow what the programs ask, and nothing that they do not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

import pytest

from tests.manifests.calls import Call, record, requested
from tests.manifests.rendered import BASE, KNATIVE, render
from warmhook.ports import Object

OBJECTS: Final = render(BASE)


class Right(NamedTuple):
    """One combination of what a rule allows."""

    account: str
    namespace: str
    """Empty: everywhere."""
    verb: str
    group: str
    resource: str
    name: str
    """Empty: any."""

    def allows(self, call: Call) -> bool:
        return (
            (self.account, self.verb, self.group, self.resource) == (call.account, call.verb, call.group, call.resource)
            and self.namespace in ("", call.namespace)
            and self.name in ("", call.name)
        )


def rights(objects: list[Object]) -> Iterator[Right]:
    roles = {(obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]): obj for obj in objects}
    for binding in objects:
        if binding["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            namespace = binding["metadata"].get("namespace", "")
            role = roles[binding["roleRef"]["kind"], namespace, binding["roleRef"]["name"]]
            for subject in binding["subjects"]:
                for rule in role["rules"]:
                    for verb in rule["verbs"]:
                        for group in rule["apiGroups"]:
                            for resource in rule["resources"]:
                                for name in rule.get("resourceNames", [""]):
                                    yield Right(subject["name"], namespace, verb, group, resource, name)


@cache
def calls() -> frozenset[Call]:
    return frozenset(record())


def test_a_request_is_seen_as_the_authorizer_sees_it() -> None:
    path = "/apis/warmhook.dev/v1alpha1/namespaces/shop/warmimages/web"
    assert requested("a", "GET", path, {}) == Call("a", "shop", "get", "warmhook.dev", "warmimages", "web")
    status = requested("a", "PATCH", f"{path}/status", {})
    assert status == Call("a", "shop", "patch", "warmhook.dev", "warmimages/status", "web")
    assert requested("a", "GET", "/api/v1/nodes", {"watch": "1"}) == Call("a", "", "watch", "", "nodes", "")
    one = requested("a", "GET", "/api/v1/namespaces/x/configmaps", {"fieldSelector": "metadata.name=y"})
    assert one == Call("a", "x", "list", "", "configmaps", "y")
    assert requested("a", "POST", "/api/v1/namespaces", {}) == Call("a", "", "create", "", "namespaces", "")
    assert requested("a", "GET", "/version", {}) is None


def test_the_programs_may_do_everything_that_they_do() -> None:
    given = set(rights(OBJECTS))
    assert len(calls()) > 30
    assert {call for call in calls() if not any(right.allows(call) for right in given)} == set()


@pytest.mark.parametrize("right", sorted(rights(OBJECTS)), ids="-".join)
def test_every_right_is_used(right: Right) -> None:
    assert any(right.allows(call) for call in calls())


def test_no_rule_has_a_wildcard_and_no_agent_reads_a_secret() -> None:
    for right in rights(OBJECTS):
        assert "*" not in "".join(right)
        assert right.account != "warmhook-agent" or right.resource in ("nodes", "configmaps")


def test_secrets_and_webhooks_of_others_are_out_of_reach() -> None:
    named = {(right.resource, right.name) for right in rights(OBJECTS) if right.verb != "create" and right.name}
    assert named == {
        ("secrets", "warmhook-tls"),
        ("mutatingwebhookconfigurations", "warmhook"),
        ("leases", "warmhook-watch"),
    }
    anything = {right.resource for right in rights(OBJECTS) if right.verb != "create" and not right.name}
    assert not anything & {resource for resource, _ in named}


def test_knative_adds_no_rights() -> None:
    assert set(rights(render(KNATIVE))) == set(rights(OBJECTS))
