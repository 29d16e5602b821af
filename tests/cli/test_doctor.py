"""`warmhook doctor` finds what is wrong with an installation, and nothing in one that is in order."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import pytest

from adapters.certificates import make_pair
from adapters.kubernetes import paths
from cli.doctor.checks import run_checks
from cli.doctor.command import summary
from tests.cli.installed import NAMESPACE, NOW, Installed, condition, installed, prepared
from warmhook.api import DROPPED_ANNOTATION, KIND_LABEL, TRUNCATED_LABEL
from warmhook.checks import Check
from warmhook.delivery_records import DeliveryRecord
from warmhook.doctor_objects import delivery_checks
from warmhook.ports import Object

pytestmark = pytest.mark.usefixtures(prepared.__name__)
ROLES = "/apis/rbac.authorization.k8s.io/v1"
SUBJECTS = (
    *("apiserver", "clock", "you", "crds", "rights", "programs", "daemonset", "versions", "leader"),
    *(
        "agents",
        "agent-versions",
        "node-clocks",
        "lines",
        "admission",
        "certificate",
        "deliveries",
        "policies",
        "images",
    ),
    *("quota", "others"),
)


def checks_after(*changes: Callable[[Installed], Awaitable[object]]) -> list[Check]:
    found: list[Check] = []

    async def test(here: Installed) -> None:
        for change in changes:
            await change(here)
        found.extend(await run_checks(here.cluster))

    installed(test)
    return found


def test_everything_is_in_order_in_an_installation_that_works() -> None:
    checks = checks_after()
    assert [check.subject for check in checks] == list(SUBJECTS)
    assert [check for check in checks if check.state != "ok"] == []


@dataclass(frozen=True, slots=True)
class Case:
    subject: str
    state: str
    reason: str
    words: str
    change: Callable[[Installed], Awaitable[object]]


def patch(path: str, body: Object) -> Callable[[Installed], Awaitable[object]]:
    return lambda here: here.admin.patch(path, body)


def delete(path: str) -> Callable[[Installed], Awaitable[object]]:
    return lambda here: here.admin.delete(path)


async def move_api_clock(here: Installed) -> None:
    here.date = NOW + timedelta(minutes=3)
    await here.lead(here.date)
    for name in ("node-1", "node-2", "node-3"):
        await here.report(name, seen=here.date)


async def move_api_clock_a_little(here: Installed) -> None:
    here.date = NOW - timedelta(seconds=10)


async def refuse_rights(here: Installed) -> None:
    here.refused.append("/subjectaccessreviews")


async def hide_version(here: Installed) -> None:
    here.refused.append("/version")


async def refuse_secrets(here: Installed) -> None:
    here.refused.append("/secrets/")


async def be_a_viewer(here: Installed) -> None:
    token_path = "/api/v1/namespaces/shop/serviceaccounts/viewer/token"
    token = (await here.admin.create(token_path, {"spec": {}}))["status"]["token"]
    headers = here.cluster.transport._headers  # type: ignore[attr-defined]
    here.cluster.transport._headers = lambda given: headers(  # type: ignore[attr-defined]
        {**given, "authorization": f"Bearer {token}"}
    )


async def add_knative_account(here: Installed) -> None:
    await here.admin.create(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": "warmhook-watch"}})


async def add_page_account(here: Installed) -> None:
    await here.admin.create(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": "warmhook-ui"}})


async def delete_lines(here: Installed) -> None:
    metadata = {
        "name": "warmhook-desired-node-2",
        "labels": {KIND_LABEL: "desired", TRUNCATED_LABEL: "true"},
        "annotations": {DROPPED_ANNOTATION: "a,b"},
    }
    await here.admin.create(paths.configmaps(NAMESPACE), {"metadata": metadata})


async def install_kruise(here: Installed) -> None:
    names = {"plural": "imagepulljobs", "kind": "ImagePullJob"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    spec = {"group": "apps.kruise.io", "scope": "Namespaced", "names": names, "versions": [version]}
    await here.admin.create(paths.CRDS, {"metadata": {"name": "imagepulljobs.apps.kruise.io"}, "spec": spec})


async def change_crd(here: Installed) -> None:
    path = f"{paths.CRDS}/warmpolicies.warmhook.dev"
    crd = await here.admin.get(path)
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["preferWarm"]
    await here.admin.replace(path, crd)


async def take_right(here: Installed) -> None:
    path = f"{ROLES}/clusterroles/warmhook-handlers"
    role = await here.admin.get(path)
    rules = [rule for rule in role["rules"] if "nodes" not in rule["resources"]]
    await here.admin.patch(path, {"rules": rules})


async def certify_long_ago(here: Installed) -> None:
    pair = make_pair(["x"], NOW - timedelta(days=100))
    await here.certify(pair, pair.authority)


async def certify_for_others(here: Installed) -> None:
    await here.certify(make_pair(["x"], NOW), make_pair(["x"], NOW).authority)


async def certify_some_time_ago(here: Installed) -> None:
    pair = make_pair(["x"], NOW - timedelta(days=75))
    await here.certify(pair, pair.authority)


async def lose_certificate(here: Installed) -> None:
    await here.admin.patch(paths.secrets(NAMESPACE, "warmhook-tls"), {"data": {"tls.crt": None}})


def deployment(name: str, **status: int) -> Callable[[Installed], Awaitable[object]]:
    return patch(f"{paths.workloads('Deployment', NAMESPACE)}/{name}/status", {"status": status})


def daemon_set(**status: int) -> Callable[[Installed], Awaitable[object]]:
    path = f"{paths.workloads('DaemonSet', 'warmhook-agents')}/warmhook-agent/status"
    return patch(path, {"status": status})


DAEMON_SET = f"{paths.workloads('DaemonSet', 'warmhook-agents')}/warmhook-agent"
WEBHOOK = paths.mutating_webhooks("warmhook")
QUOTA = "/api/v1/namespaces/warmhook-agents/resourcequotas/warmhook-critical-pods"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/admission-x"
CONFIG = paths.configmaps(NAMESPACE, "warmhook-config")
OLDER = {"containers": [{"name": "agent", "image": "ghcr.io/x/warmhook:0.0.9"}]}

CASES: Sequence[Case] = (
    Case("clock", "wrong", "ClockSkew", "180 s ahead of this machine", move_api_clock),
    Case("clock", "waiting", "ClockSkew", "10 s behind this machine", move_api_clock_a_little),
    Case("you", "unknown", "RightMissing", "get leases in warmhook-system", be_a_viewer),
    Case("crds", "wrong", "NotInstalled", "warmimages.warmhook.dev", delete(f"{paths.CRDS}/warmimages.warmhook.dev")),
    Case("crds", "wrong", "OtherSchema", "warmpolicies.warmhook.dev", change_crd),
    Case("rights", "wrong", "RightMissing", "warmhook-handlers may not get nodes", take_right),
    Case(
        "rights",
        "wrong",
        "RightMissing",
        "warmhook-agents/warmhook-agent may not",
        delete(f"{ROLES}/namespaces/{NAMESPACE}/rolebindings/warmhook-agent"),
    ),
    Case(
        "rights",
        "wrong",
        "NoAccount",
        "warmhook-system/warmhook-receiver",
        delete(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/warmhook-receiver"),
    ),
    Case("rights", "wrong", "NoAccount", "warmhook-system/warmhook-admission", add_knative_account),
    Case("rights", "wrong", "RightMissing", "warmhook-system/warmhook-ui may not", add_page_account),
    Case("apiserver", "unknown", "NoVersion", "it may be no API server", hide_version),
    Case("rights", "unknown", "Unread", "could not be reviewed", refuse_rights),
    Case("programs", "wrong", "NotAvailable", "warmhook-web", deployment("warmhook-web", availableReplicas=0)),
    Case("programs", "waiting", "RollingOut", "1 of 2 Pods updated", deployment("warmhook-web", updatedReplicas=1)),
    Case("daemonset", "wrong", "NotAvailable", "no agent of 3", daemon_set(numberAvailable=0)),
    Case("daemonset", "waiting", "RollingOut", "2 of the newest version", daemon_set(updatedNumberScheduled=2)),
    Case("daemonset", "wrong", "NoNodes", "selects no node", daemon_set(desiredNumberScheduled=0)),
    Case("daemonset", "unknown", "NoDaemonSet", "warmhook-agent", delete(DAEMON_SET)),
    Case(
        "versions",
        "waiting",
        "OtherVersion",
        "warmhook:0.0.9",
        patch(DAEMON_SET, {"spec": {"template": {"spec": OLDER}}}),
    ),
    Case("leader", "wrong", "NoLeader", "no watch has ever led", delete(paths.leases(NAMESPACE, "warmhook-watch"))),
    Case("leader", "wrong", "NoLeader", "none has followed", lambda here: here.lead(NOW, holder="")),
    Case("leader", "wrong", "NoLeader", "300 s ago", lambda here: here.lead(NOW - timedelta(minutes=5))),
    Case("leader", "wrong", "ClockSkew", "in the future", lambda here: here.lead(NOW + timedelta(minutes=5))),
    Case("agents", "waiting", "AgentMissing", "node-4", lambda here: here.add_node("node-4")),
    Case("agents", "wrong", "NameTooLong", "more than 236 characters", lambda here: here.add_node("n" * 240)),
    Case(
        "agents",
        "wrong",
        "AgentSilent",
        "node-2",
        lambda here: here.report("node-2", seen=NOW - timedelta(minutes=11)),
    ),
    Case(
        "agent-versions",
        "waiting",
        "OtherVersion",
        "others another one: node-2 (0.0.9)",
        lambda here: here.report("node-2", version="0.0.9"),
    ),
    Case(
        "agent-versions", "waiting", "OtherVersion", "node-2 (unknown)", lambda here: here.report("node-2", version="")
    ),
    Case(
        "node-clocks",
        "wrong",
        "ClockSkew",
        "node-2 by 120 s",
        lambda here: here.report("node-2", seen=NOW + timedelta(minutes=2)),
    ),
    Case("lines", "wrong", "TooManyLines", "node-2 for 2", delete_lines),
    Case("admission", "skipped", "", "no MutatingWebhookConfiguration", delete(WEBHOOK)),
    Case("admission", "wrong", "FailsClosed", "failurePolicy is Fail", lambda here: here.change_webhook(policy="Fail")),
    Case("admission", "wrong", "NoAuthority", "caBundle is empty", lambda here: here.change_webhook(caBundle=None)),
    Case(
        "admission",
        "wrong",
        "NoToken",
        "no token",
        lambda here: here.change_webhook(service={"name": "warmhook-admission", "namespace": NAMESPACE}),
    ),
    Case(
        "admission",
        "wrong",
        "NoEndpoints",
        "warmhook-admission",
        patch(SLICES, {"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": False}}]}),
    ),
    Case("certificate", "wrong", "Expired", "expired at 2026-02-19", certify_long_ago),
    Case("certificate", "wrong", "NotTrusted", "does not have its CA", certify_for_others),
    Case("certificate", "waiting", "ExpiresSoon", "should have been renewed", certify_some_time_ago),
    Case("certificate", "wrong", "NoCertificate", "has no certificate", lose_certificate),
    Case("certificate", "unknown", "Unread", "403", refuse_secrets),
    Case(
        "deliveries",
        "wrong",
        "OnlyRefused",
        "harbor: all 1 recorded ones were refused, the last one 5m ago: wrong-secret",
        lambda here: here.deliver("harbor", "unauthorized", reason="wrong-secret"),
    ),
    Case(
        "deliveries",
        "waiting",
        "NoDelivery",
        "harbor: none is recorded",
        patch(paths.configmaps(NAMESPACE, "warmhook-deliveries"), {"data": None}),
    ),
    Case(
        "deliveries",
        "waiting",
        "NoSource",
        "no source is configured",
        patch(CONFIG, {"data": {"config.yaml": "sources: []"}}),
    ),
    Case(
        "deliveries",
        "unknown",
        "NoRecords",
        "warmhook-deliveries",
        delete(paths.configmaps(NAMESPACE, "warmhook-deliveries")),
    ),
    Case(
        "policies",
        "wrong",
        "Invalid",
        "shop/broken: Ready",
        lambda here: here.add_policy("broken", images=["x"], status=condition("Ready", "False", "Invalid", "spec.x")),
    ),
    Case(
        "images",
        "wrong",
        "NodesFailed",
        "1 of 1 WarmImages",
        lambda here: here.add_warmimage("w", status=condition("Degraded", "True", "NodesFailed")),
    ),
    Case(
        "images",
        "waiting",
        "UnderWay",
        "1 of 1 WarmImages are under way",
        lambda here: here.add_warmimage("w", status=condition("Ready", "False", "NotAllWarm")),
    ),
    Case(
        "images",
        "ok",
        "",
        "no condition of 1 WarmImages",
        lambda here: here.add_warmimage("w", status=condition("Ready", "False", "Suspended")),
    ),
    Case(
        "quota",
        "wrong",
        "QuotaFull",
        "allows 3 Pods",
        patch(f"{QUOTA}/status", {"status": {"hard": {"pods": "3"}, "used": {"pods": "3"}}}),
    ),
    Case("quota", "skipped", "", "no quota", delete(QUOTA)),
    Case("others", "ok", "OtherPrefetcher", "OpenKruise", install_kruise),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.subject}-{case.state}-{case.reason}")
def test_names_what_is_wrong_and_what_mends_it(case: Case) -> None:
    checks = checks_after(case.change)
    assert list(dict.fromkeys(check.subject for check in checks)) == list(SUBJECTS)
    (found,) = [check for check in checks if check.subject == case.subject]
    assert (found.state, found.reason) == (case.state, case.reason), found
    assert case.words in found.message
    assert found.mend or found.state in ("ok", "skipped", "unknown")


def test_a_missing_quota_matters_where_agents_have_no_pods() -> None:
    (quota,) = [
        check for check in checks_after(delete(QUOTA), daemon_set(currentNumberScheduled=0)) if check.subject == "quota"
    ]
    assert (quota.state, quota.reason) == ("wrong", "NoQuota")


@pytest.mark.parametrize(
    ("refused", "unknown"),
    [
        ("/configmaps", {"agents", "agent-versions", "node-clocks", "lines", "deliveries"}),
        ("/nodes", {"agents", "agent-versions", "node-clocks", "lines"}),
        ("/deployments", {"programs", "daemonset", "versions"}),
        ("/customresourcedefinitions", {"crds", "others"}),
        ("v1alpha1/warmimages", {"policies", "images"}),
        ("/mutatingwebhookconfigurations", {"admission", "certificate"}),
        ("/leases", {"leader"}),
        ("/resourcequotas", {"quota"}),
    ],
)
def test_what_may_not_be_read_is_unknown_and_hides_nothing_else(refused: str, unknown: set[str]) -> None:
    async def refuse(here: Installed) -> None:
        here.refused.append(refused)

    checks = checks_after(refuse)
    assert {check.subject for check in checks if check.state == "unknown"} == unknown
    assert all("403" in check.message for check in checks if check.state == "unknown")
    assert {check.subject for check in checks if check.state == "ok"} == set(SUBJECTS) - unknown


def test_a_check_that_hangs_is_unknown_and_delays_nothing_for_long() -> None:
    async def hang(here: Installed) -> None:
        transport = here.cluster.transport
        request = transport.request

        async def slow(method: str, path: str, **given: object) -> object:
            if path.endswith("/leases/warmhook-watch"):
                await here.clock.sleep(3600)
            return await request(method, path, **given)  # type: ignore[arg-type]

        transport.request = slow  # type: ignore[method-assign,assignment]

    checks = checks_after(hang)
    (leader,) = [check for check in checks if check.subject == "leader"]
    assert (leader.state, leader.message) == ("unknown", "could not be read: not read within 15 s")
    assert {check.subject for check in checks if check.state == "ok"} == set(SUBJECTS) - {"leader"}


def test_an_answer_that_nobody_foresaw_is_unknown_and_hides_nothing_else() -> None:
    path = f"{paths.CRDS}/warmimages.warmhook.dev"

    async def break_answers(here: Installed) -> None:
        here.server.store.put(
            "customresourcedefinitions.apiextensions.k8s.io", ("", path.rpartition("/")[2]), {"metadata": {"name": "x"}}
        )

    checks = checks_after(break_answers)
    (crds,) = [check for check in checks if check.subject == "crds"]
    assert (crds.state, crds.message) == ("unknown", "could not be read: unexpected KeyError")


def test_nothing_secret_is_in_a_check() -> None:
    async def test(here: Installed) -> None:
        secret = await here.admin.get(paths.secrets(NAMESPACE, "warmhook-tls"))
        text = json.dumps([check.as_object() for check in await run_checks(here.cluster)])
        assert not [value for value in secret["data"].values() if value[:40] in text]
        assert "7" * 48 not in text

    installed(test)


def test_a_schema_that_differs_in_words_alone_is_the_same() -> None:
    async def reword(here: Installed) -> None:
        path = f"{paths.CRDS}/warmpolicies.warmhook.dev"
        crd = await here.admin.get(path)
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "In other words."
        await here.admin.replace(path, crd)

    (crds,) = [check for check in checks_after(reword) if check.subject == "crds"]
    assert crds.state == "ok"


def test_of_many_sources_those_in_order_are_counted() -> None:
    names = [f"source-{number:02}" for number in range(30)]

    async def add(here: Installed) -> None:
        listed = ", ".join(f"{{name: {name}}}" for name in names)
        await here.admin.patch(CONFIG, {"data": {"config.yaml": f"sources: [{listed}]"}})
        await here.deliver(names[0], "unauthorized", reason="wrong-secret")

    found = [check for check in checks_after(add) if check.subject == "deliveries"]
    assert len(found) == 21
    assert found[0].reason == "OnlyRefused"
    assert found[-1].message == "0 further sources are in order, and 10 are not"


def test_the_summary_counts_each_state() -> None:
    checks = [Check("a", "ok", ""), Check("b", "ok", ""), Check("c", "wrong", "")]
    assert summary(checks) == "3 checks: 2 ok, 1 wrong"


@pytest.mark.parametrize(
    ("result", "reason", "words"),
    [("unauthorized", "bad-secret", "compare the secret"), ("refused", "host-not-allowed", "what each reason means")],
)
def test_of_refused_deliveries_secrets_are_compared_only_where_the_secret_was_wrong(
    result: str, reason: str, words: str
) -> None:
    refused = DeliveryRecord(NOW, "harbor", "harbor", result, reason=reason)
    (check,) = delivery_checks([refused], ["harbor"], NOW, "warm")
    assert (check.reason, words in check.mend) == ("OnlyRefused", True)


def test_the_command_that_shows_all_sources_names_the_namespace_of_the_installation() -> None:
    names = [f"source-{number:02}" for number in range(30)]
    assert "kubectl -n warm get configmap" in delivery_checks([], names, NOW, "warm")[-1].mend
