"""The shipped roles hold what the programs need, and no more."""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.paths import events
from adapters.kubernetes.transport import open_transport
from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image
from tests.cluster.access import allowed, shipped_rbac
from tests.cluster.stack import open_stack
from tests.real.programs import eventually
from warmhook.ports import Object

IMAGES = [incompressible_image(0.1, f"{i}", platform=f"linux/{architecture()}") for i in range(2)]
EVENTS = events("default")
# Used only where the MutatingWebhookConfiguration `warmhook` exists; that name is the cluster's, not a test's.
OF_ADMISSION = {"mutatingwebhookconfigurations", "secrets"}


def rules_of(account: str) -> list[Object]:
    """Every rule that is bound to the ServiceAccount."""
    objects = shipped_rbac()
    roles = {(obj["kind"], obj["metadata"]["name"]): obj for obj in objects if "rules" in obj}
    bindings = [obj for obj in objects if any(it["name"] == account for it in obj.get("subjects", []))]
    bound = [roles[obj["roleRef"]["kind"], obj["roleRef"]["name"]] for obj in bindings]
    return [rule for role in bound for rule in role["rules"]]


def rights_of(*accounts: str) -> set[tuple[str, str]]:
    """Resource and verb of every rule."""
    rules = [rule for account in accounts for rule in rules_of(account)]
    return {(it, verb) for rule in rules for it in rule["resources"] for verb in rule["verbs"]}


def test_every_role_is_bound_and_every_subject_is_shipped() -> None:
    objects = shipped_rbac()
    accounts = {obj["metadata"]["name"] for obj in objects if obj["kind"] == "ServiceAccount"}
    bindings = [obj for obj in objects if "roleRef" in obj]
    assert {subject["name"] for obj in bindings for subject in obj["subjects"]} == accounts
    bound = {(obj["roleRef"]["kind"], obj["roleRef"]["name"]) for obj in bindings}
    assert bound == {(obj["kind"], obj["metadata"]["name"]) for obj in objects if "rules" in obj}


@pytest.mark.parametrize("account", ["warmhook-receiver", "warmhook-handlers", "warmhook-agent"])
def test_no_rule_has_a_wildcard_or_reaches_a_secret_but_the_certificate(account: str) -> None:
    rules = rules_of(account)
    assert rules
    assert "*" not in {text for rule in rules for field in ("apiGroups", "resources", "verbs") for text in rule[field]}
    about_secrets = [rule for rule in rules if "secrets" in rule["resources"]]
    assert [rule.get("resourceNames") for rule in about_secrets] == [["warmhook-tls"]] * len(about_secrets)


def test_an_agent_may_read_nodes_one_by_one_and_write_configmaps_of_its_namespace() -> None:
    expected = {("configmaps", verb) for verb in ("get", "list", "watch", "create", "patch")}
    assert rights_of("warmhook-agent") == expected | {("nodes", "get")}


@pytest.mark.cluster
def test_an_agent_may_not_do_what_only_web_or_nobody_does() -> None:
    async def run() -> None:
        async with open_stack() as stack:
            (node,) = await stack.join("node-1")
            async with open_transport(str(stack.folder / f"agent-{node}.kubeconfig")) as transport:
                agent, here = Kubernetes(transport), stack.place.namespace
                assert await allowed(agent, here, "patch", "configmaps")
                assert await allowed(agent, "", "get", "nodes")
                for namespace, verb, resource in (
                    (here, "get", "secrets"),
                    (here, "delete", "configmaps"),
                    (here, "create", "pods"),
                    ("default", "patch", "configmaps"),
                    ("", "list", "nodes"),
                    ("", "patch", "nodes"),
                ):
                    assert not await allowed(agent, namespace, verb, resource), (namespace, verb, resource)
                assert not await allowed(agent, "", "list", "warmimages", group="warmhook.dev")
            assert await stack.refusals() == []

    asyncio.run(run())


@pytest.mark.cluster
def test_web_uses_every_right_that_is_not_for_admission() -> None:
    async def run() -> None:
        async with open_stack() as stack:
            (node,) = await stack.join("node-1")
            await stack.start_web()
            await stack.keep(2)
            await stack.becomes(await stack.push("0", IMAGES[0]), "1/1")
            # From here on it has listed everything, and is told of each change.
            # Too long for the names of its ConfigMaps: it gets an Event instead.
            long = f"{stack.place.prefix}-{'n' * 230}"
            await stack.register(long)

            async def told() -> bool:
                found = (await stack.kubernetes.list(EVENTS, fields=f"involvedObject.name={long}")).items
                for event in found:
                    stack.place.note(f"{EVENTS}/{event['metadata']['name']}")
                return [event["reason"] for event in found] == ["NodeNameTooLong"]

            await stack.eventually(told, what="the Node has an Event")
            await stack.keep(1)
            await stack.becomes(await stack.push("1", IMAGES[1]), "1/1")
            assert await stack.stop(stack.agents[node]) == 0
            await stack.unregister(node)

            rights = rights_of("warmhook-receiver", "warmhook-handlers")
            missing = {(it.partition("/")[0], verb) for it, verb in rights if verb != "list"}
            missing = {(resource, verb) for resource, verb in missing if resource not in OF_ADMISSION}

            async def used() -> bool:
                asked = [dict(re.findall(r'(\w+)="(\w*)"', line)) for line in await stack.requests()]
                verbs = {"post": "create", "put": "update"}
                missing.difference_update((it["kind"], verbs.get(it["verb"], it["verb"])) for it in asked)
                return not missing

            # HTTP does not tell a list from a get. A Lease is first renewed after seconds.
            with contextlib.suppress(TimeoutError):
                await eventually(used, what="web has used its rights", seconds=30)
            assert missing == set()
            assert await stack.refusals() == []

    asyncio.run(run())


@pytest.mark.cluster
def test_a_right_that_is_taken_away_is_missed_and_named() -> None:
    async def run() -> None:
        async with open_stack() as stack:
            role = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{stack.place.prefix}-warmhook-handlers"
            rules = (await stack.kubernetes.get(role))["rules"]
            fewer = [rule for rule in rules if "warmimages/status" not in rule["resources"]]
            await stack.kubernetes.patch(role, {"rules": fewer})
            await stack.join("node-1")
            await stack.start_web()
            await stack.keep()
            image = await stack.push("1", IMAGES[0])

            async def missed() -> bool:
                return any("warmimages/status" in line for line in await stack.refusals())

            await stack.eventually(missed, what="the log names what may not be patched")
            assert await stack.counts(image) == "None/None"

            await stack.kubernetes.patch(role, {"rules": rules})
            await stack.becomes(image, "1/1")

    asyncio.run(run())
