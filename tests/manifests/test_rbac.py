"""The roles allow what the programs ask, and nothing that they do not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

import pytest

from adapters.service_account_tokens import ISSUER_PATH, KEYS_PATH
from devcluster.apiserver.rbac import Attributes, User, account, allowed_by, rule_allows
from nodeagent.image_use import ALLOW_PODS
from tests.manifests.calls import PARTS, Call, record, requested
from tests.manifests.rendered import BASE, KNATIVE, UI, find, pod_templates, render
from warmhook.delivery_records import CONFIGMAP
from warmhook.ports import Object
from warmhook.rights import AGENT, EACH_ITS_OWN, ONE_PROCESS, PAGE, RIGHTS

pytestmark = pytest.mark.slow

BOTH: Final = {"base": [*render(BASE), *render(UI)], "knative": [*render(KNATIVE), *render(UI)]}
# Which parts are one process, and so one account.
ACCOUNTS: Final[dict[str, dict[str, set[str]]]] = {
    "base": {
        "warmhook-receiver": {"receiver"},
        "warmhook-handlers": {"handlers", "admission", "watch"},
        "warmhook-agent": {"agent"},
        "warmhook-ui": {"ui"},
    },
    "knative": {f"warmhook-{part}": {part} for part in PARTS},
}

# Roles that an administrator binds to the accounts of these parts.
OPTIONAL: Final[dict[str, set[str]]] = {"pods": {"handlers", "agent"}, "rollouts": {"handlers", "watch"}}

both = pytest.mark.parametrize("name", BOTH)


class Right(NamedTuple):
    """One combination of what a rule allows."""

    part: str
    """Whose role it is."""
    namespace: str
    """Empty: everywhere."""
    verb: str
    group: str
    resource: str
    name: str
    """Empty: any."""

    def is_for(self, call: Call) -> bool:
        """Whether it is what allows the call."""
        names = [self.name] if self.name else []
        rule = {"verbs": [self.verb], "apiGroups": [self.group], "resources": [self.resource], "resourceNames": names}
        if self.resource.startswith("/"):
            rule = {"verbs": [self.verb], "nonResourceURLs": [self.resource]}
        return (
            call.part in OPTIONAL.get(self.part, {self.part})
            and self.namespace in ("", call.namespace)
            and rule_allows(rule, attributes(call))
        )


def attributes(call: Call) -> Attributes:
    if call.resource.startswith("/"):
        return Attributes(call.verb, path=call.resource)
    return Attributes(call.verb, call.group, call.resource, call.namespace, call.name)


AGGREGATED: Final = "rbac.authorization.k8s.io/aggregate-to-"


def is_for_people(role: Object) -> bool:
    return any(label.startswith(AGGREGATED) for label in role["metadata"].get("labels", {}))


def rights(objects: list[Object]) -> Iterator[Right]:
    """Of the programs."""
    roles = (obj for obj in objects if obj["kind"] in ("Role", "ClusterRole"))
    for role in (role for role in roles if not is_for_people(role)):
        part = role["metadata"]["name"].removeprefix("warmhook-")
        for rule in role["rules"]:
            for verb in rule["verbs"]:
                for path in rule.get("nonResourceURLs", []):
                    yield Right(part, "", verb, "", path, "")
                for group in rule.get("apiGroups", []):
                    for resource in rule["resources"]:
                        for named in rule.get("resourceNames", [""]):
                            yield Right(part, role["metadata"].get("namespace", ""), verb, group, resource, named)


def bound(objects: list[Object]) -> dict[str, set[str]]:
    """Account to the parts whose roles it has."""
    found: dict[str, set[str]] = {}
    for binding in (obj for obj in objects if obj["kind"] in ("RoleBinding", "ClusterRoleBinding")):
        part = binding["roleRef"]["name"].removeprefix("warmhook-")
        for subject in binding["subjects"]:
            found.setdefault(subject["name"], set()).add(part)
    return found


GIVEN: Final = sorted(set(rights(BOTH["base"])))


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
    assert requested("a", "GET", KEYS_PATH, {}) == Call("a", "", "get", "", KEYS_PATH, "")


def test_each_part_may_do_everything_that_it_does() -> None:
    assert {call.part for call in calls()} == set(PARTS)
    optional = [with_optional(role, part) for role, parts in OPTIONAL.items() for part in parts]
    objects = [*BOTH["knative"], *optional]
    refused = {call for call in calls() if not allowed_by(objects, user_of(call.part), attributes(call))}
    assert refused == set()


def test_doctor_reviews_the_rights_that_the_manifests_grant_and_no_others() -> None:
    in_system = {"warmhook-system": True, "": False}
    given = {
        (right.part, right.verb, right.group, right.resource, right.name, in_system[right.namespace])
        for right in GIVEN
        if right.part in PARTS
    }
    reviewed = [(one.part, one.verb, one.group, one.resource, one.name, one.in_system) for one in RIGHTS]
    assert set(reviewed) == given
    assert len(reviewed) == len(given)
    for name, accounts in (("base", ONE_PROCESS), ("knative", EACH_ITS_OWN)):
        assert {account: set(parts) for account, parts in {**accounts, **AGENT, **PAGE}.items()} == ACCOUNTS[name]


def user_of(part: str) -> User:
    """Whose ServiceAccount is that of the part alone."""
    return account("warmhook-agents" if part == "agent" else "warmhook-system", f"warmhook-{part}")


def with_optional(role: str, part: str) -> Object:
    """What an administrator binds."""
    name = f"warmhook-{role}"
    return {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"{name}-{part}"},
        "subjects": [{"kind": "User", "name": user_of(part).name}],
        "roleRef": {"kind": "ClusterRole", "name": name},
    }


@pytest.mark.parametrize("right", GIVEN, ids="-".join)
def test_every_right_is_used_by_the_part_that_has_it(right: Right) -> None:
    assert any(right.is_for(call) for call in calls())


@both
def test_a_process_has_the_rights_of_the_parts_that_it_is(name: str) -> None:
    assert bound(BOTH[name]) == ACCOUNTS[name]
    accounts = {obj["metadata"]["name"] for obj in BOTH[name] if obj["kind"] == "ServiceAccount"}
    assert accounts - {"warmhook-dead-letters"} == ACCOUNTS[name].keys()
    for obj, template in pod_templates(BOTH[name]):
        account = template["spec"]["serviceAccountName"]
        (container,) = template["spec"]["containers"]
        parts = ACCOUNTS[name].get(account, set())
        command = " ".join(container["command"])
        environ = {each["name"]: each.get("value", "") for each in container["env"]}
        groups = set(environ.get("WARMHOOK_SERVE", "").split(",")) - {"metrics", ""}
        runs = {{"webhooks": "receiver", "events": "handlers"}.get(group, group) for group in groups}
        runs |= {"watch"} if "watch" in command else set()
        runs |= {"agent"} if "nodeagent" in command else set()
        if account == "warmhook-dead-letters":
            assert (parts, runs) == (set(), {"dead-letters"})
        else:
            assert parts == runs, obj["metadata"]["name"]


def test_the_page_reads_and_asks_who_may_read_and_writes_nothing() -> None:
    given = {(right.resource, right.verb) for right in GIVEN if right.part == "ui"}
    writes = {each for each in given if each[1] not in ("get", "list", "watch")}
    # Reviews are answered and not stored.
    assert writes == {("tokenreviews", "create"), ("subjectaccessreviews", "create")}
    assert {resource for resource, _verb in given - writes} == {"configmaps", "nodes", "warmimages"}


@both
def test_pods_and_workloads_are_readable_only_where_an_administrator_binds_the_role(name: str) -> None:
    readable = {right.part for right in rights(BOTH[name]) if right.resource in ("pods", "deployments", "clonesets")}
    assert readable == OPTIONAL.keys()
    assert not OPTIONAL.keys() & {part for parts in bound(BOTH[name]).values() for part in parts}


def test_the_part_that_is_reached_from_outside_has_rights_on_policies_warmimages_and_deliveries_only() -> None:
    others = {right for right in GIVEN if right.part == "receiver" and right.group != "warmhook.dev"}
    assert others == {
        Right("receiver", "warmhook-system", verb, "", "configmaps", "warmhook-deliveries") for verb in ("get", "patch")
    }


def test_no_rule_has_a_wildcard() -> None:
    assert not [right for right in GIVEN if "*" in "".join(right)]


def test_an_agent_reads_nodes_one_by_one_and_writes_configmaps_of_its_namespace() -> None:
    expected = {("warmhook-system", "configmaps", verb) for verb in ("get", "list", "watch", "create", "patch")}
    given = {(right.namespace, right.resource, right.verb) for right in GIVEN if right.part == "agent"}
    assert given == expected | {("", "nodes", "get"), ("", ISSUER_PATH, "get"), ("", KEYS_PATH, "get")}


def test_the_command_in_the_log_of_an_agent_binds_the_role_that_lists_pods_to_its_account() -> None:
    role = find(BOTH["base"], "ClusterRole", "warmhook-pods")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]
    account = find(BOTH["base"], "ServiceAccount", "warmhook-agent")["metadata"]
    subject = f"{account['namespace']}:{account['name']}"
    assert ALLOW_PODS.endswith(f"--clusterrole={role['metadata']['name']} --serviceaccount={subject}")


def test_secrets_and_webhooks_of_others_are_out_of_reach() -> None:
    named = {(right.resource, right.name) for right in GIVEN if right.name}
    assert named == {
        ("secrets", "warmhook-tls"),
        ("mutatingwebhookconfigurations", "warmhook"),
        ("leases", "warmhook-watch"),
        ("configmaps", "warmhook-deliveries"),
    }
    anything = {(right.resource, right.verb) for right in GIVEN if not right.name}
    # RBAC cannot restrict a create by name. Handlers and agents have the ConfigMaps of nodes.
    assert {each for each in anything if each[0] in dict(named) and each[0] != "configmaps"} == {("leases", "create")}


def test_nobody_makes_a_token_a_pod_a_role_or_an_admission_policy() -> None:
    writes = {right.resource for right in GIVEN if right.verb not in ("get", "list", "watch")}
    assert writes == {
        "configmaps",
        "events",
        "leases",
        "mutatingwebhookconfigurations",
        "secrets",
        "subjectaccessreviews",
        "tokenreviews",
        "warmimages",
        "warmimages/status",
        "warmpolicies/status",
    }
    # Of a Secret there is, by name: who creates one can have a token written into it.
    assert {right.verb for right in GIVEN if right.resource == "secrets"} == {"get", "patch"}


@both
def test_deliveries_are_kept_in_a_configmap_that_is_shipped_without_content_so_that_applying_it_empties_nothing(
    name: str,
) -> None:
    configmap = find(BOTH[name], "ConfigMap", CONFIGMAP)
    assert configmap.keys() == {"apiVersion", "kind", "metadata"}


@both
def test_the_certificate_is_kept_in_a_secret_that_is_shipped_empty(name: str) -> None:
    secret = find(BOTH[name], "Secret", "warmhook-tls")
    assert "data" not in secret
    assert "stringData" not in secret
    assert secret["type"] == "Opaque"


PEOPLE: Final = {
    "warmhook-view": ({"view", "edit", "admin"}, {"get", "list", "watch"}),
    "warmhook-edit": ({"edit", "admin"}, {"create", "update", "patch", "delete", "deletecollection"}),
}


@both
def test_people_who_may_view_or_edit_a_namespace_may_do_the_same_with_its_policies_and_warmimages(name: str) -> None:
    roles = {obj["metadata"]["name"]: obj for obj in BOTH[name] if obj["kind"] == "ClusterRole" and is_for_people(obj)}
    assert roles.keys() == PEOPLE.keys()
    for role, (aggregated_to, verbs) in PEOPLE.items():
        labels = roles[role]["metadata"]["labels"]
        assert labels == {f"{AGGREGATED}{other}": "true" for other in aggregated_to}
        allowed = {
            (resource, verb)
            for rule in roles[role]["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            if rule["apiGroups"] == ["warmhook.dev"]
        }
        assert {verb for resource, verb in allowed if resource in ("warmpolicies", "warmimages")} == verbs
        # Nobody but the programs writes a status.
        assert {verb for resource, verb in allowed if resource.endswith("/status")} <= {"get"}


def test_knative_adds_no_rights() -> None:
    assert set(rights(BOTH["knative"])) == set(GIVEN)
