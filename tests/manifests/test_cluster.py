"""A real API server takes the manifests, and holds agents and handlers to what they say."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
from collections.abc import AsyncIterator, Awaitable
from itertools import count
from typing import Any

import pytest
import structlog

from adapters.clock import real_clock
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, NotFound, Refused
from adapters.kubernetes.paths import NODES, configmaps
from handlers.watch.webhook_certificate import CertRotator
from nodeagent.peers.annotations import PeerAnnotations
from nodeagent.reporter import Reporter
from tests.manifests.calls import Call, record
from tests.manifests.installation import Installation, installed, path_of
from tests.manifests.rendered import pod_templates
from tests.real.programs import eventually
from warmhook.node_lines import desired_name
from warmhook.node_report import LineReport, report_name
from warmhook.ports import Object

pytestmark = pytest.mark.cluster

LINE = "0123456789abcdef"
KIB = 1024


@installed
async def test_base_is_applied_and_applying_it_again_changes_nothing(installation: Installation) -> None:
    objects = installation.objects()
    stored = [await installation.apply(obj) for obj in objects]
    again = [await installation.apply(obj) for obj in objects]
    versions = [obj["metadata"].get("resourceVersion") for obj in stored]
    assert [obj["metadata"].get("resourceVersion") for obj in again] == versions


@installed
async def test_pod_security_takes_the_pods(installation: Installation) -> None:
    for obj, template in pod_templates(installation.objects()):
        namespace = obj["metadata"]["namespace"]
        pod = {**template, "apiVersion": "v1", "kind": "Pod"}
        pod["metadata"] = {**template["metadata"], "name": "tried"}
        path = f"/api/v1/namespaces/{namespace}/pods"
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        answer = await installation.send("POST", path, query, "application/json", pod)
        assert answer.status == 201, answer.body
        assert "warning" not in answer.headers
        # The other namespace would not have taken the agent's.
        if namespace == installation.agents:
            path = f"/api/v1/namespaces/{installation.system}/pods"
            answer = await installation.send("POST", path, query, "application/json", pod)
            assert answer.status == 403


@contextlib.asynccontextmanager
async def agent_of(installation: Installation, node: str) -> AsyncIterator[Kubernetes]:
    """A client with the token that a kubelet would give to the agent of that Node, which is made as well."""
    await installation.create(NODES, {"metadata": {"name": node}})
    spec = {
        "nodeName": node,
        "serviceAccountName": "warmhook-agent",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "agent", "image": "warmhook.invalid/agent:test"}],
    }
    pods = f"/api/v1/namespaces/{installation.agents}/pods"
    pod = await installation.create(pods, {"metadata": {"name": f"agent-{node}"}, "spec": spec})
    async with installation.as_account("warmhook-agent", pod=pod) as kubernetes:
        yield kubernetes


@contextlib.asynccontextmanager
async def reporting(
    kubernetes: Kubernetes, namespace: str, node: str, said: dict[str, LineReport]
) -> AsyncIterator[Reporter]:
    """The agent's own reporter, which says what is in `said`."""
    clock = real_clock()
    reporter = Reporter(kubernetes, namespace, node, clock, structlog.get_logger(), PeerAnnotations(clock))
    task = asyncio.create_task(reporter.run(lambda: dict(said)), name="report")
    try:
        yield reporter
    finally:
        task.cancel()
        await asyncio.wait([task])


async def refusal(write: Awaitable[Any]) -> str:
    """Why the API server refused; empty where it did not."""
    try:
        await write
    except Refused as error:
        if error.status in (403, 422):
            return str(error)
        raise
    return ""


def foreign_patches(node: str, other: str) -> dict[str, Object]:
    """What an agent may not make of its own report, by what is wrong with it."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": other, "uid": "00000000-0000-0000-0000-000000000000"}
    blocking = {**owner, "name": node, "blockOwnerDeletion": True}
    return {
        "a label of its own": {"metadata": {"labels": {"app.kubernetes.io/name": "x"}}},
        "the label of a desired ConfigMap": {"metadata": {"labels": {"warmhook.dev/kind": "desired"}}},
        "no label": {"metadata": {"labels": {"warmhook.dev/kind": None}}},
        "another node's name": {"metadata": {"annotations": {"warmhook.dev/node": other}}},
        "an annotation of its own": {"metadata": {"annotations": {"warmhook.dev/refused": "x"}}},
        "a finalizer": {"metadata": {"finalizers": ["example.com/stay"]}},
        "another owner": {"metadata": {"ownerReferences": [owner]}},
        "no owner": {"metadata": {"ownerReferences": None}},
        "an owner that blocks": {"metadata": {"ownerReferences": [blocking]}},
        "a time that is none": {"metadata": {"annotations": {"warmhook.dev/seen": "soon"}}},
        "a state that is none": {"metadata": {"labels": {f"line.warmhook.dev/{LINE}": "x"}}},
        "for ever": {"immutable": True},
        "bytes": {"binaryData": {"x": "AAAA"}},
        "more than 256 KiB": {"data": {LINE: "x" * 256 * KIB}},
        "more than 256 KiB in several": {"data": {f"{number:016x}": "x" * 60 * KIB for number in range(5)}},
        "few characters of many bytes": {"data": {LINE: "\u20ac" * 100 * KIB}},
    }


@installed
async def test_an_agent_writes_the_report_of_its_own_node_and_nothing_else(installation: Installation) -> None:
    admin, namespace = installation.kubernetes, installation.system
    node, other = f"{installation.prefix}-a", f"{installation.prefix}-b"
    path = configmaps(namespace, report_name(node))
    warm = LineReport("89abcdef", "warm")
    said = {LINE: warm, "f" * 16: LineReport("01234567", "failed", "NotFound", 4, "no such \u20ac image")}
    async with agent_of(installation, node) as agent, reporting(agent, namespace, node, said) as reporter:

        async def reports(version: str) -> bool:
            try:
                found = await admin.get(path)
            except NotFound:
                return False
            return version in found["metadata"]["annotations"].get("warmhook.dev/warm", "")

        await eventually(lambda: reports("89abcdef"), what="the report is created")
        said["e" * 16] = LineReport("76543210", "warm")
        reporter.wake.set()
        await eventually(lambda: reports("76543210"), what="the report is patched")

        other_report, desired = [
            await admin.create(configmaps(namespace), {"metadata": {"name": name}})
            for name in (report_name(other), desired_name(node))
        ]
        change: Object = {"data": {LINE: "x"}}

        async def in_force() -> bool:
            return "ValidatingAdmissionPolicy" in await refusal(
                agent.patch(configmaps(namespace, desired["metadata"]["name"]), change)
            )

        await eventually(in_force, what="the policy is in force")
        present = await admin.get(path)
        form = {key: present["metadata"][key] for key in ("labels", "annotations", "ownerReferences")}
        for foreign in (other_report, desired):
            assert await refusal(agent.patch(configmaps(namespace, foreign["metadata"]["name"]), change))
            assert await refusal(agent.delete(configmaps(namespace, foreign["metadata"]["name"])))
        for name in (report_name("whoever"), desired_name(other), "settings"):
            assert await refusal(agent.create(configmaps(namespace), {"metadata": {**form, "name": name}}))
        generated = {"metadata": {**form, "generateName": report_name("")}}
        assert await refusal(agent.create(configmaps(namespace), generated))
        for elsewhere in ("default", installation.agents):
            body = {"metadata": {**form, "name": report_name(node)}}
            assert await refusal(agent.create(configmaps(elsewhere), body))
        for what, patch in foreign_patches(node, other).items():
            assert "ValidatingAdmissionPolicy" in await refusal(agent.patch(path, patch)), what
        assert await refusal(agent.delete(path))
        assert not await refusal(agent.patch(path, {"data": {LINE: "x" * 200 * KIB}}))


@installed
async def test_a_token_that_is_bound_to_no_node_writes_nothing(installation: Installation) -> None:
    node = f"{installation.prefix}-a"
    body = {"metadata": {"name": report_name(node)}}
    collection = configmaps(installation.system)
    async with installation.as_account("warmhook-agent") as agent:

        async def in_force() -> bool:
            with contextlib.suppress(NotFound):
                await installation.kubernetes.delete(f"{collection}/{report_name(node)}")
            return "ValidatingAdmissionPolicy" in await refusal(agent.create(collection, body))

        await eventually(in_force, what="the policy is in force")
    async with installation.as_account("warmhook-handlers") as handlers:
        owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": "of-a-node"}
        labels = {"warmhook.dev/kind": "desired"}
        metadata = {"name": desired_name(node), "labels": labels, "ownerReferences": [owner]}
        assert not await refusal(handlers.create(collection, {"metadata": metadata}))


async def denied(installation: Installation, calls: set[Call]) -> set[Call]:
    """The calls that the authorizer would not let through."""

    async def is_denied(call: Call) -> bool:
        resource, _, subresource = call.resource.partition("/")
        own = call.namespace.replace("warmhook-system", installation.system)
        attributes = {"verb": call.verb, "group": call.group, "resource": resource, "subresource": subresource}
        home = installation.agents if call.part == "agent" else installation.system
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{home}:warmhook-{call.part}",
                "resourceAttributes": {**attributes, "namespace": own, "name": call.name},
            },
        }
        answer = await installation.kubernetes.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return not answer["status"]["allowed"]

    asked = sorted(calls)
    answers = await asyncio.gather(*(is_denied(call) for call in asked))
    return {call for call, no in zip(asked, answers, strict=True) if no}


FORBIDDEN = {
    Call("agent", namespace, verb, group, resource, "")
    for namespace, verb, group, resource in (
        ("warmhook-system", "get", "", "secrets"),
        ("warmhook-system", "delete", "", "configmaps"),
        ("warmhook-system", "create", "", "pods"),
        ("default", "patch", "", "configmaps"),
        ("", "list", "", "nodes"),
        ("", "patch", "", "nodes"),
        ("", "list", "warmhook.dev", "warmimages"),
    )
}
"""What an agent could do with the rights of `web`, or of anybody else."""


@pytest.fixture
def calls() -> set[Call]:
    """One of each form: names of WarmImages say nothing here."""
    return {call._replace(name="") if call.resource.startswith("warmimages") else call for call in record()}


@installed
async def test_the_authorizer_allows_what_the_programs_do_and_misses_every_rule_that_is_taken_away(
    installation: Installation, calls: set[Call]
) -> None:
    assert await denied(installation, FORBIDDEN) == FORBIDDEN
    for binding in (obj for obj in installation.objects() if "subjects" in obj):
        # Several parts share an account in base, where one's rights would hide that another lacks them.
        part = binding["roleRef"]["name"].rpartition("warmhook-")[2]
        binding["subjects"][0]["name"] = f"warmhook-{part}"
        await installation.apply(binding)

    async def none_is() -> bool:
        return not await denied(installation, calls)

    async def some_are() -> bool:
        return bool(await denied(installation, calls))

    await eventually(none_is, what="everything is allowed")
    for role in (obj for obj in installation.objects() if obj["kind"] in ("Role", "ClusterRole")):
        for index in range(len(role["rules"])):
            less = copy.deepcopy(role)
            rule = less["rules"].pop(index)
            await installation.apply(less)
            await eventually(some_are, what=f"without {rule} something is denied")
        await installation.apply(role)
    await eventually(none_is, what="everything is allowed again")


CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"


@installed
async def test_watch_changes_two_fields_of_its_webhook_configuration_and_nothing_else(
    installation: Installation,
) -> None:
    service = {"name": "warmhook-admission", "namespace": installation.system, "port": 443}
    nothing = {"apiGroups": ["x.invalid"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["x"]}
    hook = {
        "name": "pods.warmhook.dev",
        "clientConfig": {"service": service},
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "rules": [nothing],
    }
    # Its name is the cluster's, so this cannot run beside a Warmhook that is installed.
    path = f"{CONFIGURATIONS}/warmhook"
    shipped = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "warmhook"},
        "webhooks": [hook],
    }

    async def applied() -> None:
        query = {"fieldManager": "warmhook-test"}
        answer = await installation.send("PATCH", path, query, "application/apply-patch+yaml", shipped)
        assert answer.status in (200, 201), answer.body

    await applied()
    installation.made.append(path)

    async def patched(**client: Any) -> str:
        (present,) = (await watch.get(path))["webhooks"]
        return await refusal(watch.patch(path, {"webhooks": [{**present, "clientConfig": client}]}))

    async with installation.as_account("warmhook-handlers") as watch:
        tries = count()

        async def in_force() -> bool:
            # Another one each time, for what changes nothing is allowed.
            labels = {"try": str(next(tries))}
            return "ValidatingAdmissionPolicy" in await refusal(watch.patch(path, {"metadata": {"labels": labels}}))

        await eventually(in_force, what="the policy is in force")
        assert await patched(url="https://example.com/")
        system = installation.system
        await CertRotator(watch, system, real_clock(), random.Random(1)).reconcile()
        (told,) = (await watch.get(path))["webhooks"]
        assert told["clientConfig"]["service"]["path"].startswith("/admission/pods/")
        assert told["clientConfig"]["caBundle"]
        trusted = {"caBundle": "QUFB", "service": {**service, "path": "/admission/pods/" + "x" * 43}}
        assert not await patched(**trusted)
        assert not await patched(**{**trusted, "service": {**service, "path": "/admission/pods/" + "y" * 43}})
        assert await patched(service={**service, "path": "/events"})
        assert await patched(service={**service, "name": "other"})
        (present,) = (await watch.get(path))["webhooks"]
        rules = [{**present["rules"][0], "resources": ["secrets"], "apiGroups": [""]}]
        assert await refusal(watch.patch(path, {"webhooks": [{**present, "rules": rules}]}))
        assert await refusal(watch.patch(path, {"metadata": {"labels": {"mine": "x"}}}))
        assert await refusal(watch.patch(path, {"webhooks": []}))
        secrets = f"/api/v1/namespaces/{installation.system}/secrets"
        assert await refusal(watch.create(secrets, {"metadata": {"name": "mine"}}))
        assert not await refusal(watch.patch(f"{secrets}/warmhook-tls", {"data": {"ca.crt": "QUFB"}}))
        # Who applies the manifests again meets no conflict, and takes nothing away.
        before = (await watch.get(path))["webhooks"]
        await applied()
        assert (await watch.get(path))["webhooks"] == before
        own = configmaps(installation.system)

        async def is_held() -> bool:
            return bool(await refusal(watch.create(own, {"metadata": {"name": f"config-{next(tries)}"}})))

        await eventually(is_held, what="the policy for ConfigMaps is in force")


@installed
async def test_nothing_is_left_behind(installation: Installation) -> None:
    paths = [path_of(obj) for obj in installation.objects()]
    kubernetes = installation.kubernetes
    await installation.clear()
    for path in paths:
        if installation.prefix in path:
            with pytest.raises(KubernetesError):
                await kubernetes.get(path)
