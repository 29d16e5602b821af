"""Each ServiceAccount of Warmhook writes what is its work, and is refused everything that RBAC cannot tell from it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import pytest

from nodeagent.reporter import rewrite
from tests.manifests.admission import Request, is_reviewed, refusals, request
from tests.manifests.rendered import BASE, find, render
from warmhook import __version__
from warmhook.api import PEER_ANNOTATION, TRANSFERS_ANNOTATION, VERSION_ANNOTATION
from warmhook.delivery_records import CONFIGMAP, DeliveryRecord, RecentDeliveries, key_of
from warmhook.node_lines import diff, new_configmap, node_patch
from warmhook.node_report import LineReport, report_name, report_patch, seen_patch
from warmhook.peers import TRANSFERS_MAX, PeerReport, Transfer, encode_peer, encode_transfers
from warmhook.ports import Object

pytestmark = pytest.mark.slow

AGENTS: Final = "warmhook-agents:warmhook-agent"
HANDLERS: Final = "warmhook-system:warmhook-handlers"
NODE: Final = "node-1"
UID: Final = "54c63f73-5599-4584-bb64-354389b36a36"
LINE: Final = "0123456789abcdef"
VERSION: Final = "89abcdef"
SEEN: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
KIB: Final = 1024
KEY: Final = "A" * 42 + "_"
PEERS: Final = (
    PeerReport("10.0.0.5:9465", KEY),
    PeerReport("[::1]:1", KEY, 2**40),
    PeerReport(f"[{'fd00:' * 7}fd00]:65535", KEY, 1, {"[fd00::1]:5000": 2**40, "a_b.example.com": 0}),
    PeerReport("10.0.0.5:9465", KEY, 0, {f"{'r' * 63}.{number}.example.com:5000": 2**40 for number in range(4)}),
)
TRANSFERS: Final = [Transfer(f"{number:08x}", 10**9, 10**9, 10**6, 10**6, 100) for number in range(TRANSFERS_MAX)]
OTHERS: Final = 200
"""Lines beyond those that an agent takes; each has a label and a value."""
TOKEN: Final = "20260301-" + "0af5" * 12


def merged(obj: object, patch: object) -> object:
    """A JSON merge patch (RFC 7386), applied."""
    if not isinstance(patch, dict):
        return patch
    result = dict(obj) if isinstance(obj, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def patched(obj: Object, patch: Object) -> Object:
    result = merged(obj, patch)
    assert isinstance(result, dict)
    return result


# --- agents ----------------------------------------------------------------------------------------------------------


def report() -> Object:
    """What the agent itself creates: a warm line, and one in each other state."""
    lines = {
        LINE: LineReport(VERSION, "warm"),
        "1" * 16: LineReport(VERSION, "failed", "NotFound", 4, "no such \u20ac image"),
        "2" * 16: LineReport(VERSION, "waiting"),
        "3" * 16: LineReport(VERSION, "pulling"),
        "4" * 16: LineReport("01234567", "warm", moved="sha256:" + "a" * 64),
    }
    obj = new_configmap(report_name(NODE), report_patch(NODE, UID, SEEN, {}, lines))
    return patched(obj, {"metadata": {"namespace": "warmhook-system"}})


def by_agent(new: Object | None, old: Object | None = None, *, node: str = NODE) -> Request:
    return request(AGENTS, new, old, node=node)


def of_agent(asked: Request) -> list[str]:
    return refusals("warmhook-agent-writes", asked)


def test_an_agent_takes_back_what_somebody_has_put_into_its_report_and_the_policy_refuses() -> None:
    foreign = {
        "metadata": {"labels": {"team": "x"}, "annotations": {"note": "x"}, "finalizers": ["example.com/x"]},
        "binaryData": {"x": "eA=="},
    }
    there = patched(report(), foreign)
    whole = report_patch(NODE, UID, SEEN, {}, {LINE: LineReport(VERSION, "warm")})
    assert of_agent(by_agent(patched(there, rewrite(whole, there)), there))
    assert of_agent(by_agent(patched(there, rewrite(whole, there, bare=True)), there)) == []


def test_an_agent_writes_and_renews_its_report() -> None:
    assert of_agent(by_agent(report())) == []
    empty = new_configmap(report_name(NODE), report_patch(NODE, UID, SEEN, {}, {}))
    assert of_agent(by_agent(patched(empty, {"metadata": {"namespace": "warmhook-system"}}))) == []
    for patch in (
        seen_patch(NODE, UID, SEEN.replace(microsecond=7)),
        {"data": {LINE: "x" * 200 * KIB}},
        {"metadata": {"annotations": {"warmhook.dev/warm": ",".join(f"{number:08x}" for number in range(1024))}}},
        *({"metadata": {"annotations": {PEER_ANNOTATION: encode_peer(peer)}}} for peer in PEERS),
        {"metadata": {"annotations": {TRANSFERS_ANNOTATION: encode_transfers(TRANSFERS)}}},
        {"metadata": {"annotations": {TRANSFERS_ANNOTATION: ""}}},
        {"metadata": {"annotations": {VERSION_ANNOTATION: __version__}}},
        {"metadata": {"annotations": {VERSION_ANNOTATION: "1.10.0-rc.1+build.5"}}},
        {"immutable": False},
    ):
        assert of_agent(by_agent(patched(report(), patch), report())) == []


def test_the_largest_report_that_an_agent_has_to_write_is_taken() -> None:
    lines = {f"{number:016x}": LineReport(f"{number:08x}", "warm") for number in range(256)}
    failed = LineReport(VERSION, "failed", "TooManyLines", 4, "\u20ac" * 30)
    lines |= {f"{number:016x}": failed for number in range(1000, 1000 + OTHERS)}
    obj = new_configmap(report_name(NODE), report_patch(NODE, UID, SEEN, {}, lines))
    assert of_agent(by_agent(patched(obj, {"metadata": {"namespace": "warmhook-system"}}))) == []


def test_an_agent_writes_no_other_configmap() -> None:
    other = patched(report(), {"metadata": {"name": report_name("node-2")}})
    elsewhere = patched(report(), {"metadata": {"namespace": "warmhook-agents"}})
    desired = patched(report(), {"metadata": {"name": f"warmhook-desired-{NODE}"}})
    for foreign in (other, elsewhere, desired):
        assert of_agent(by_agent(foreign))
        assert of_agent(by_agent(foreign, foreign))
    assert of_agent(by_agent(None, report()))
    assert of_agent(by_agent(report(), node="node-2"))
    assert of_agent(by_agent(report(), node=""))
    assert of_agent(request("default:other", report())) == []


OWNER: Final = {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": UID}


FOREIGN_METADATA: Final[dict[str, Object]] = {
    "a label of its own": {"labels": {"app.kubernetes.io/name": "x"}},
    "the label of desired state": {"labels": {"warmhook.dev/kind": "desired"}},
    "no kind": {"labels": {"warmhook.dev/kind": None}},
    "a short key": {"labels": {"line.warmhook.dev/short": f"failed-{VERSION}"}},
    "a state that needs no label": {"labels": {f"line.warmhook.dev/{LINE}": f"warm-{VERSION}"}},
    "a state without a version": {"labels": {f"line.warmhook.dev/{LINE}": "failed-"}},
    "many lines": {"labels": {f"line.warmhook.dev/{number:016x}": f"failed-{VERSION}" for number in range(1025)}},
    "another node": {"annotations": {"warmhook.dev/node": "node-2"}},
    "an annotation of its own": {"annotations": {"warmhook.dev/refused": "x"}},
    "no time": {"annotations": {"warmhook.dev/seen": "soon"}},
    "another time zone": {"annotations": {"warmhook.dev/seen": "2026-03-01T12:00:00+02:00"}},
    "a long time": {"annotations": {"warmhook.dev/seen": "2026-03-01T12:00:00Z" + " " * 100}},
    "warm without versions": {"annotations": {"warmhook.dev/warm": "everything"}},
    "many versions": {"annotations": {"warmhook.dev/warm": ",".join([VERSION] * 2000)}},
    "a version with words": {"annotations": {VERSION_ANNOTATION: "0.1.0 <b>"}},
    "no version": {"annotations": {VERSION_ANNOTATION: ""}},
    "a long version": {"annotations": {VERSION_ANNOTATION: "1" * 65}},
    "a peer without a key": {"annotations": {PEER_ANNOTATION: '{"a":"10.0.0.5:9465"}'}},
    "a peer with a name": {"annotations": {PEER_ANNOTATION: f'{{"a":"peer.example.com:9465","k":"{KEY}"}}'}},
    "a peer with a short key": {"annotations": {PEER_ANNOTATION: '{"a":"10.0.0.5:9465","k":"AAAA"}'}},
    "a peer with a word for a rate": {"annotations": {PEER_ANNOTATION: f'{{"a":"10.0.0.5:9465","b":"x","k":"{KEY}"}}'}},
    "a peer with more": {"annotations": {PEER_ANNOTATION: encode_peer(PEERS[0])[:-1] + ',"x":1}'}},
    "a long peer": {"annotations": {PEER_ANNOTATION: encode_peer(PEERS[0]) + " " * 500}},
    "transfers without numbers": {"annotations": {TRANSFERS_ANNOTATION: VERSION}},
    "transfers with words": {"annotations": {TRANSFERS_ANNOTATION: f"{VERSION}:1:2:3:4:x"}},
    "many transfers": {"annotations": {TRANSFERS_ANNOTATION: ",".join([encode_transfers(TRANSFERS)] * 4)}},
    "a finalizer": {"finalizers": ["example.com/stay"]},
    "owners that are gone": {"ownerReferences": None},
    "no owner": {"ownerReferences": []},
    "two owners": {"ownerReferences": [OWNER, OWNER]},
    "another Node as owner": {"ownerReferences": [{**OWNER, "name": "node-2"}]},
    "an owner of another version": {"ownerReferences": [{**OWNER, "apiVersion": "example.com/v1"}]},
    "an owner of another kind": {"ownerReferences": [{**OWNER, "kind": "Pod"}]},
    "an odd uid": {"ownerReferences": [{**OWNER, "uid": "x y"}]},
    "a controller": {"ownerReferences": [{**OWNER, "controller": True}]},
    "an owner that blocks": {"ownerReferences": [{**OWNER, "blockOwnerDeletion": True}]},
}


@pytest.mark.parametrize("metadata", FOREIGN_METADATA.values(), ids=FOREIGN_METADATA)
def test_a_report_has_the_metadata_of_a_report_only(metadata: Object) -> None:
    assert of_agent(by_agent(patched(report(), {"metadata": metadata}), report()))


@pytest.mark.parametrize(
    "change",
    [
        {"immutable": True},
        {"binaryData": {"x": "AAAA"}},
        {"data": {LINE: "x" * 256 * KIB}},
        {"data": {f"{number:016x}": "x" * 60 * KIB for number in range(5)}},
        {"data": {LINE: "\u20ac" * 100 * KIB}},
        {"data": {f"{number:016x}": "" for number in range(1025)}},
    ],
    ids=["immutable", "bytes", "one value", "several values", "few characters of many bytes", "many keys"],
)
def test_a_report_can_be_changed_by_whoever_cleans_up_and_is_small(change: Object) -> None:
    assert of_agent(by_agent(patched(report(), change), report()))


# --- handlers --------------------------------------------------------------------------------------------------------


def desired(name: str = f"warmhook-desired-{NODE}") -> Object:
    obj = new_configmap(name, node_patch(NODE, UID, diff({}, {})))
    return patched(obj, {"metadata": {"namespace": "warmhook-system"}})


def of_handlers(asked: Request) -> list[str]:
    return refusals("warmhook-handler-writes", asked)


def test_handlers_write_desired_state_and_delete_what_belongs_to_nodes() -> None:
    assert of_handlers(request(HANDLERS, desired())) == []
    assert of_handlers(request(HANDLERS, desired(), desired())) == []
    assert of_handlers(request(HANDLERS, None, desired())) == []
    assert of_handlers(request(HANDLERS, None, report())) == []


def test_handlers_change_neither_reports_nor_the_configuration_of_the_receiver() -> None:
    config = desired("warmhook-config-5h2k7g4f9d")
    assert of_handlers(request(HANDLERS, config))
    assert of_handlers(request(HANDLERS, config, config))
    assert of_handlers(request(HANDLERS, None, config))
    assert of_handlers(request(HANDLERS, report(), report()))
    assert of_handlers(request(HANDLERS, patched(desired(), {"metadata": {"labels": None}}), desired()))
    for change in (
        {"metadata": {"finalizers": ["example.com/stay"]}},
        {"metadata": {"ownerReferences": None}},
        {"metadata": {"ownerReferences": [{**OWNER, "name": "node-2"}]}},
        {"metadata": {"ownerReferences": [{**OWNER, "blockOwnerDeletion": True}]}},
        {"immutable": True},
    ):
        assert of_handlers(request(HANDLERS, patched(desired(), change), desired())), change
    assert of_handlers(request("kube-system:generic-garbage-collector", None, config)) == []


# --- the receiver ----------------------------------------------------------------------------------------------------

RECEIVER: Final = "warmhook-system:warmhook-receiver"


def deliveries(**change: Any) -> Object:
    metadata = {"name": CONFIGMAP, "namespace": "warmhook-system", "labels": {"app.kubernetes.io/part-of": "warmhook"}}
    return {"kind": "ConfigMap", "metadata": metadata | change.pop("metadata", {}), **change}


def of_receiver(new: Object | None, old: Object | None = None) -> list[str]:
    asked = request(RECEIVER, new, old)
    return refusals("warmhook-delivery-writes", asked) + refusals("warmhook-handler-writes", asked)


def test_the_receiver_writes_deliveries_also_where_those_of_many_pods_are() -> None:
    recent = RecentDeliveries()
    for number in range(400):
        images = (f"{'x' * 500}:{number}",) * 3
        recent.add(DeliveryRecord(SEEN, f"\u20ac{number}", "harbor", "accepted", images=images, detail="\u20ac" * 300))
    values = {key_of(f"warmhook-web-{number}", 8080): recent.encode(SEEN) for number in range(40)}
    assert of_receiver(deliveries(data=values), deliveries()) == []
    assert of_receiver(deliveries(data={}), deliveries(data=values)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": {"labels": {"warmhook.dev/kind": "report"}}},
        {"metadata": {"annotations": {"warmhook.dev/node": NODE}}},
        {"metadata": {"finalizers": ["example.com/stay"]}},
        {"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": UID}]}},
        {"immutable": True},
        {"binaryData": {"x": "AAAA"}},
        {"data": {"web.8080": "x" * (16 * KIB + 1)}},
        {"data": {"web.8080": "\u20ac" * 6 * KIB}},
        {"data": {str(number): "" for number in range(65)}},
    ],
    ids=["labels", "annotations", "finalizer", "owner", "immutable", "bytes", "long", "few characters", "many keys"],
)
def test_the_receiver_changes_nothing_else_of_the_deliveries(change: Object) -> None:
    assert of_receiver(deliveries(**change), deliveries())


def test_the_receiver_writes_no_other_configmap_and_nobody_else_writes_the_deliveries() -> None:
    for other in (desired(), report(), patched(deliveries(), {"metadata": {"name": "warmhook-config-5h2k7g4f9d"}})):
        assert of_receiver(other)
        assert of_receiver(other, other)
    assert of_receiver(deliveries())
    assert of_receiver(None, deliveries())
    assert of_handlers(request(HANDLERS, deliveries(), deliveries()))
    assert of_handlers(request(HANDLERS, None, deliveries()))
    assert of_agent(by_agent(deliveries(), deliveries()))


# --- objects in the namespaces of others -----------------------------------------------------------------------------

FINALIZER: Final = {"finalizers": ["example.com/stay"]}
OWNED: Final = {
    "ownerReferences": [{**OWNER, "apiVersion": "apps/v1", "kind": "Deployment", "blockOwnerDeletion": True}]
}


def elsewhere(kind: str, **metadata: object) -> Object:
    return {"kind": kind, "metadata": {"name": "app-0123456789", "namespace": "shop", **metadata}}


def of_metadata(user: str, new: Object, old: Object | None = None) -> list[str]:
    return refusals("warmhook-metadata-writes", request(user, new, old))


@pytest.mark.parametrize("kind", ["WarmImage", "Event"])
@pytest.mark.parametrize("user", [RECEIVER, HANDLERS])
def test_nobody_keeps_the_namespace_or_an_object_of_others_from_being_deleted(user: str, kind: str) -> None:
    plain = elsewhere(kind)
    for metadata in (FINALIZER, OWNED):
        assert of_metadata(user, elsewhere(kind, **metadata))
        assert of_metadata(user, elsewhere(kind, **metadata), plain)
        assert of_metadata(user, plain, elsewhere(kind, **metadata))
    assert of_metadata(user, elsewhere(kind, finalizers=["a/b", "c/d"]), elsewhere(kind, finalizers=["a/b"]))


def test_fields_that_others_set_do_not_keep_warmhook_from_its_work() -> None:
    states: tuple[Object, ...] = ({}, {"finalizers": []}, FINALIZER, OWNED, {**FINALIZER, **OWNED})
    for metadata in states:
        old = elsewhere("WarmImage", **metadata)
        assert (
            of_metadata(RECEIVER, patched(old, {"metadata": {"labels": {"warmhook.dev/policy": "0" * 16}}}), old) == []
        )
    assert of_metadata(RECEIVER, elsewhere("WarmImage")) == []
    assert of_metadata(HANDLERS, elsewhere("Event")) == []
    for user in ("shop:admin", "kube-system:generic-garbage-collector"):
        assert of_metadata(user, elsewhere("WarmImage", **FINALIZER), elsewhere("WarmImage")) == []


# --- watch and the webhook configuration -----------------------------------------------------------------------------


def configuration() -> Object:
    """As the API server keeps it: with defaults and bookkeeping."""
    obj = find(render(BASE), "MutatingWebhookConfiguration", "warmhook")
    (hook,) = obj["webhooks"]
    metadata = {"uid": UID, "resourceVersion": "7", "generation": 1, "creationTimestamp": "2026-03-01T12:00:00Z"}
    managed = [{"manager": "kubectl", "operation": "Apply", "time": "2026-03-01T12:00:00Z"}]
    return {
        **obj,
        "metadata": {**obj["metadata"], **metadata, "managedFields": managed},
        "webhooks": [hook, {**hook, "name": "other.warmhook.dev"}],
    }


def hooked(*changes: Object, **metadata: object) -> Object:
    """The configuration with its first webhooks changed by these merge patches."""
    obj = configuration()
    hooks = [patched(hook, change) for hook, change in zip(obj["webhooks"], [*changes, {}, {}], strict=False)]
    return {**obj, "metadata": patched(obj["metadata"], dict(metadata)), "webhooks": hooks}


def client(**change: object) -> Object:
    return {"clientConfig": change}


def of_watch(new: Object | None, old: Object | None = None) -> list[str]:
    return refusals("warmhook-webhook-writes", request(HANDLERS, new, old))


TRUSTED: Final = client(caBundle="QUFB", service={"path": f"/admission/pods/{TOKEN}"})


def test_watch_writes_the_certificate_and_the_path() -> None:
    assert of_watch(configuration(), configuration()) == []
    assert of_watch(hooked(TRUSTED, TRUSTED), configuration()) == []
    other = client(caBundle="QkJC", service={"path": "/admission/pods/" + "y" * 43})
    assert of_watch(hooked(other, TRUSTED, resourceVersion="8", generation=2), hooked(TRUSTED, TRUSTED)) == []
    assert of_watch(hooked(managedFields=[]), configuration()) == []


CHANGES: Final[dict[str, Object]] = {
    "a foreign server": client(url="https://example.com/", service=None),
    "a server beside the Service": client(url="https://example.com/"),
    "another Service": client(service={"name": "mine"}),
    "another namespace": client(service={"namespace": "default"}),
    "another port": client(service={"port": 8080}),
    "no Service": client(service=None),
    "a path elsewhere": client(service={"path": "/events"}),
    "a path without a token": client(service={"path": "/admission/pods"}),
    "a short token": client(service={"path": "/admission/pods/short"}),
    "a path with more behind the token": client(service={"path": f"/admission/pods/{TOKEN}/../../events"}),
    "other objects": {"rules": [{"apiGroups": ["*"], "resources": ["secrets"]}]},
    "all namespaces": {"namespaceSelector": {"matchExpressions": None}},
    "all Pods": {"objectSelector": None},
    "no conditions": {"matchConditions": []},
    "conditions that are gone": {"matchConditions": None},
    "a failure that stops Pods": {"failurePolicy": "Fail"},
    "a longer wait": {"timeoutSeconds": 30},
    "another name": {"name": "more.warmhook.dev"},
    "a field of a later Kubernetes": {"later": True},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_watch_changes_nothing_else_of_a_webhook(change: Object) -> None:
    assert of_watch(hooked(change), configuration())
    trusted = hooked(TRUSTED, TRUSTED)
    first, second = trusted["webhooks"]
    assert of_watch({**trusted, "webhooks": [patched(first, change), second]}, trusted)


@pytest.mark.parametrize(
    "metadata",
    [
        {"labels": {"mine": "x"}},
        {"labels": None},
        {"annotations": {"cert-manager.io/inject-ca-from": "default/mine"}},
        {"finalizers": ["example.com/stay"]},
        {"ownerReferences": [OWNER]},
    ],
    ids=["a label", "no labels", "another authority", "a finalizer", "an owner"],
)
def test_watch_changes_no_metadata_of_the_configuration(metadata: Object) -> None:
    assert of_watch(hooked(**metadata), configuration())


def test_watch_adds_removes_and_swaps_no_webhook_and_makes_and_deletes_no_configuration() -> None:
    one, two = configuration()["webhooks"]
    for hooks in ([one], [one, two, {**one, "name": "third.warmhook.dev"}], [two, one], [one, one], []):
        assert of_watch({**configuration(), "webhooks": hooks}, configuration())
    assert of_watch(configuration())
    assert of_watch(None, configuration())
    other = patched(configuration(), {"metadata": {"name": "other"}})
    assert of_watch(other, other)


def test_administrators_and_other_programs_are_not_held() -> None:
    change = hooked(client(url="https://example.com/", service=None))
    for user in ("cert-manager:cert-manager-cainjector", "warmhook-system-2:watch"):
        assert refusals("warmhook-webhook-writes", request(user, change, configuration())) == []


# --- Pods and the webhook --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "reviewed"),
    [
        ({}, True),
        ({"annotations": {"kubernetes.io/config.hash": "x"}}, True),
        ({"annotations": {"kubernetes.io/config.mirror": "x"}}, False),
        ({"ownerReferences": [{"kind": "ReplicaSet", "name": "a"}]}, True),
        ({"ownerReferences": [{"kind": "DaemonSet", "name": "a"}]}, False),
    ],
)
def test_mirror_pods_and_pods_of_daemonsets_are_not_reviewed(metadata: Object, reviewed: bool) -> None:
    assert is_reviewed({"metadata": metadata}) == reviewed
