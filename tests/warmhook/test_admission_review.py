"""Every AdmissionReview is answered, and the fields of its Pod are read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from warmhook.admission_review import ADMISSION_SKIPS, Admitted, answer_object, read_review
from warmhook.events import ADMITTED, Event, NotAnEvent, admitted_event, read_admitted
from warmhook.labels import Requirement
from warmhook.timestamps import parse_time

PAYLOADS = Path(os.environ.get("WARMHOOK_TEST_PAYLOADS") or "absent")
RECORDED = Path(os.environ.get("WARMHOOK_TEST_APISERVER") or "absent") / "admission-requests.json"
NOW = parse_time("2026-03-01T12:00:00Z")
DIGEST = "sha256:" + "a" * 64

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def review(spec: Any = None, *, metadata: Any = None, **request: Any) -> dict[str, Any]:
    """As the API server sends it."""
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p", **(metadata or {})},
        "spec": {"containers": [{"image": "nginx:1"}]} if spec is None else spec,
    }
    body = {
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "shop",
        "operation": "CREATE",
        "dryRun": False,
        "object": pod,
        **request,
    }
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": body}


def admitted(*args: Any, **more: Any) -> Admitted:
    outcome = read_review(review(*args, **more), "warmhook-system").outcome
    assert isinstance(outcome, Admitted), outcome
    return outcome


def skip(**more: Any) -> object:
    return read_review(review(**more), "warmhook-system").outcome


def owned(kind: str, name: str, **labels: str) -> dict[str, Any]:
    return {"labels": labels, "ownerReferences": [{"kind": kind, "name": name, "uid": "o-1", "controller": True}]}


def test_every_image_is_found_once_in_the_order_in_which_they_run() -> None:
    spec = {
        "initContainers": [{"image": "busybox"}, {"image": "ghcr.io/a/proxy:2", "restartPolicy": "Always"}],
        "containers": [{"image": f"quay.io/a/app:1@{DIGEST}"}, {"image": "busybox:latest"}],
        "ephemeralContainers": [{"image": "ghcr.io/a/debug"}],
        "volumes": [{"image": {"reference": "r.example/model:8b"}}, {"emptyDir": {}}],
    }
    assert list(map(str, admitted(spec).images)) == [
        "docker.io/library/busybox:latest",
        "ghcr.io/a/proxy:2",
        f"quay.io/a/app:1@{DIGEST}",
        "ghcr.io/a/debug:latest",
        "r.example/model:8b",
    ]


def test_text_that_is_no_image_is_left_to_the_kubelet() -> None:
    spec = {"containers": [{"image": "UPPER/case:::"}, {"image": ""}, {}, 7, {"image": "nginx"}]}
    assert list(map(str, admitted(spec).images)) == ["docker.io/library/nginx:latest"]
    assert read_review(review({"containers": [{"image": "::"}]}), "x").outcome == "malformed"


@pytest.mark.parametrize(
    ("metadata", "owner"),
    [
        (owned("ReplicaSet", "web-5d4f8", **{"pod-template-hash": "5d4f8"}), "Deployment/web"),
        (owned("ReplicaSet", "web-5d4f8"), "ReplicaSet/web-5d4f8"),
        (owned("Job", "night-29384756"), "CronJob/night"),
        (owned("Job", "once"), "Job/once"),
        (owned("StatefulSet", "db"), "StatefulSet/db"),
        ({"generateName": "web-", "name": ""}, "Pod/web-"),
        ({}, "Pod/p"),
    ],
)
def test_the_owner_is_what_outlives_a_rollout_or_a_run(metadata: dict[str, Any], owner: str) -> None:
    assert admitted(metadata=metadata).owner == owner


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("not-a-pod", {"kind": {"group": "batch", "version": "v1", "kind": "CronJob"}}),
        ("not-a-pod", {"subResource": "exec", "kind": {"group": "", "version": "v1", "kind": "PodExecOptions"}}),
        ("not-create", {"operation": "UPDATE"}),
        ("not-create", {"operation": "UPDATE", "subResource": "ephemeralcontainers"}),
        ("dry-run", {"dryRun": True}),
        ("mirror-pod", {"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
        ("daemonset-pod", {"metadata": owned("DaemonSet", "agent")}),
        ("own-pod", {"namespace": "warmhook-system"}),
        ("own-pod", {"metadata": {"labels": {"app.kubernetes.io/part-of": "warmhook"}}}),
        ("too-large", {"metadata": {"labels": {f"k{n}": "v" for n in range(200)}}}),
    ],
)
def test_a_pod_that_asks_for_nothing_has_a_reason(reason: str, change: dict[str, Any]) -> None:
    assert reason in ADMISSION_SKIPS
    assert skip(**change) == reason


def test_a_node_name_is_a_constraint_on_the_name() -> None:
    pod = admitted({"containers": [{"image": "nginx"}], "nodeName": "n1"})
    (term,) = pod.constraints.affinity or ()
    assert term.fields == (Requirement("metadata.name", "In", ("n1",)),)


def test_an_event_carries_all_of_it() -> None:
    spec = {
        "containers": [{"image": "nginx"}],
        "nodeSelector": {"pool": "web"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "regcred"}, {"name": "regcred"}, {}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "z", "operator": "Gt", "values": ["4"]}]}]
                }
            }
        },
    }
    pod = admitted(spec, metadata=owned("ReplicaSet", "web-1", **{"pod-template-hash": "1"}))
    event = admitted_event(pod, NOW)
    assert event.subject == "shop/Deployment/web"
    assert event.data["pullSecrets"] == ["regcred"]
    read = read_admitted(event)
    assert (read.images, read.constraints, read.labels) == (pod.images, pod.constraints, pod.labels)
    assert event.id == admitted_event(pod, parse_time("2026-03-02T12:00:00Z")).id


@given(
    st.dictionaries(st.sampled_from(["namespace", "owner", "images", "labels", "affinity", "tolerations"]), ANYTHING)
)
def test_any_data_is_a_pod_or_refused(data: dict[str, Any]) -> None:
    event = Event(ADMITTED, "/x", "1", NOW, "", {"namespace": "shop", "owner": "Pod/p", **data})
    try:
        assert read_admitted(event).namespace
    except NotAnEvent:
        return


# --- every body is answered ------------------------------------------------------------------------------------------


@st.composite
def bent_reviews(draw: st.DrawFn) -> Any:
    """A real review in which any part at all is replaced by anything."""
    terms = [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}], "matchFields": []}]
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
    spec = {
        "containers": [{"image": "nginx"}],
        "volumes": [{"image": {"reference": "a/b"}}],
        "nodeSelector": {"a": "b"},
        "affinity": affinity,
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "x"}],
    }
    body: Any = review(spec, metadata=owned("ReplicaSet", "web-1", app="web"))
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = None
        place: Any = None
        found = body
        while isinstance(found, dict | list) and found and (holder is None or draw(st.integers(0, 5))):
            holder = found
            place = draw(st.sampled_from(sorted(found) if isinstance(found, dict) else range(len(found))))
            found = found[place]
        if holder is None:
            return draw(ANYTHING)
        holder[place] = draw(ANYTHING)
    return body


def answered(body: Any) -> None:
    read = read_review(body, "warmhook-system")
    answer = json.loads(json.dumps(answer_object(read)))
    given_uid = (body.get("request") or {}) if isinstance(body, dict) else {}
    given_uid = given_uid.get("uid") if isinstance(given_uid, dict) else ""
    assert answer["response"] == {"uid": given_uid if isinstance(given_uid, str) else "", "allowed": True}
    assert answer["kind"] == "AdmissionReview"
    if isinstance(read.outcome, Admitted):
        event = admitted_event(read.outcome, NOW)
        assert len(json.dumps(event.data)) < 512 * 1024
        assert read_admitted(event).constraints == read.outcome.constraints
    else:
        assert read.outcome in ADMISSION_SKIPS


@given(ANYTHING)
def test_any_json_is_answered(body: Any) -> None:
    answered(body)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(bent_reviews())
def test_any_bent_review_is_answered(body: Any) -> None:
    answered(body)


@pytest.mark.nightly
@settings(max_examples=20_000, deadline=None)
@given(bent_reviews())
def test_very_many_bent_reviews_are_answered(body: Any) -> None:
    answered(body)


# --- captured --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (PAYLOADS / "EXPECTED.json").exists(), reason="WARMHOOK_TEST_PAYLOADS names no such folder")
def test_captured_reviews_say_what_is_expected() -> None:
    expected = json.loads((PAYLOADS / "EXPECTED.json").read_text())
    cases = {name: case for name, case in expected.items() if name.startswith("admission/")}
    assert len(cases) >= 9
    for name, case in cases.items():
        outcome = read_review(json.loads((PAYLOADS / name).read_text()), "warmhook-system").outcome
        if isinstance(outcome, Admitted):
            assert (list(map(str, outcome.images)), None) == (case["emit"], case.get("skip")), name
        else:
            assert ([], outcome) == (case["emit"], case["skip"]), name


@pytest.mark.skipif(not RECORDED.exists(), reason="WARMHOOK_TEST_APISERVER names no folder with recorded requests")
def test_reviews_of_a_real_api_server_are_read() -> None:
    first, second = (entry["body"] for entry in json.loads(RECORDED.read_text()))
    read = read_review(first, "warmhook-system")
    assert read.uid == first["request"]["uid"]
    pod = read.outcome
    assert isinstance(pod, Admitted)
    assert (pod.namespace, pod.owner, pod.labels, pod.pull_secrets) == (
        "default",
        "Pod/web-",
        {"app": "web"},
        ("regcred",),
    )
    assert [str(image) for image in pod.images][:3] == [
        "docker.io/library/busybox:1.36",
        "ghcr.io/acme/proxy:2",
        "harbor.example.com/shop/app:v2",
    ]
    assert [it.key for it in pod.tolerations] == ["gpu"]
    (term,) = pod.constraints.affinity or ()
    assert [it.key for it in term.expressions] == ["pool", "topology.kubernetes.io/zone"]
    assert read_review(second, "warmhook-system").outcome == "dry-run"
