"""A real API server takes the CRDs with their rules in CEL, and refuses what no program can use.

The embedded API server evaluates no CEL. An API server that serves nothing but CRDs is enough for these tests.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import pytest

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import Conflict, NotFound, Refused
from adapters.kubernetes.paths import CRDS
from adapters.kubernetes.transport import open_transport
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from tests.real.programs import eventually, real_time
from warmhook.api import API_VERSION

pytestmark = pytest.mark.cluster

COLLECTIONS = {"WarmImage": "warmimages", "WarmPolicy": "warmpolicies"}
Spec = dict[str, Any]


def image(text: str) -> tuple[str, Spec]:
    return "WarmImage", {"image": text}


def selector(**fields: Any) -> tuple[str, Spec]:
    return "WarmImage", {"image": "nginx", "nodes": {"selector": fields}}


def affinity(**requirement: Any) -> tuple[str, Spec]:
    terms = [{"matchExpressions": [{"key": "cores", **requirement}]}]
    return "WarmImage", {"image": "nginx", "nodes": {"affinity": {"nodeSelectorTerms": terms}}}


def toleration(**fields: Any) -> tuple[str, Spec]:
    return "WarmPolicy", {"template": {"nodes": {"tolerations": [fields]}}}


def pull(**fields: Any) -> tuple[str, Spec]:
    return "WarmPolicy", {"template": {"pull": fields}}


def schedule(text: str, **fields: Any) -> tuple[str, Spec]:
    return pull(refreshWindows=[{"schedule": text, **fields}])


def lifetime(**fields: Any) -> tuple[str, Spec]:
    return "WarmImage", {"image": "nginx", "lifetime": fields}


def pods(**fields: Any) -> tuple[str, Spec]:
    return "WarmImage", {"image": "nginx", "pods": {"owners": [{"kind": "Deployment", "name": "web"}], **fields}}


def semver(text: str) -> tuple[str, Spec]:
    return "WarmPolicy", {"push": [{"repository": "ghcr.io/**", "semver": text}]}


def push(*rules: Spec) -> tuple[str, Spec]:
    return "WarmPolicy", {"push": list(rules)}


TAKEN = [
    *map(image, ["nginx", "ghcr.io/a/b:v1", f"[::1]:5000/a@sha256:{'a' * 64}", "localhost:5000/a__b/c-d:latest"]),
    *map(semver, [">=1.2 <3", "1.x || ~4.1", "^0.2.3", "*", "v1.2.3-rc.1+b", " >=1.2, <3 ", "!=1.2.3"]),
    selector(
        matchLabels={"pool": "web", "example.com/kind": ""}, matchExpressions=[{"key": "b", "operator": "Exists"}]
    ),
    selector(matchExpressions=[{"key": "a", "operator": "In", "values": ["x"]}]),
    affinity(operator="Gt", values=["3"]),
    toleration(operator="Exists"),
    toleration(key="a", operator="Gt", value="3"),
    toleration(key="example.com/a", value="b", effect="NoExecute"),
    *map(schedule, ["0 3 * * *", "@daily", "*/5 9-17 * * MON-fri", "0,30 0 1-7,15 jan,DEC 7", "10/20 * ? * ?"]),
    schedule("@hourly", timeZone="America/Argentina/Buenos_Aires", durationSeconds=3600),
    pull(secrets=["regcred"], sharePrivate=True),
    pull(sharePrivate=True),
    lifetime(type="Once", deadlineSeconds=60, ttlSecondsAfterFinished=0),
    lifetime(expireAfterSeconds=60),
    pods(),
    pods(affinity={"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}),
    ("WarmImage", {"image": f"nginx:1@sha256:{'a' * 64}", "digest": f"sha256:{'a' * 64}"}),
    ("WarmImage", {"image": "nginx:1", "digest": f"sha256:{'a' * 64}"}),
    ("WarmImage", {"image": "nginx", "onRemoval": "Delete"}),
    ("WarmPolicy", {}),
    push(*({"repository": "ghcr.io/" + "a" * 56, "tags": ["b" * 64], "exclude": ["c" * 64]} for _ in range(32))),
]
REFUSED = [
    *map(
        image,
        ["Not An Image!", "nginx:", "nginx@sha256:abc", "https://ghcr.io/a", "a..b", "Registry/a", "-a.io/b", "a/b/"],
    ),
    *map(semver, [">=1.2 <", "one", "1.2.3.4", ">= latest", "||", "1,,2"]),
    selector(matchLabels={"bad key!": "x"}),
    selector(matchLabels={"a": "b c"}),
    selector(matchExpressions=[{"key": "a", "operator": "In"}]),
    selector(matchExpressions=[{"key": "a", "operator": "Exists", "values": ["x"]}]),
    selector(
        matchLabels={f"a{number}": "x" for number in range(40)},
        matchExpressions=[{"key": f"b{number}", "operator": "Exists"} for number in range(40)],
    ),
    affinity(operator="Gt", values=["x"]),
    affinity(operator="Lt", values=["1", "2"]),
    affinity(operator="NotIn"),
    toleration(key="a", operator="Lt", value="x"),
    toleration(operator="Exists", value="x"),
    toleration(value="x"),
    toleration(key="bad key!"),
    *map(schedule, ["", "* * * *", "60 * * * *", "0 24 * * *", "0 0 0 * *", "0 0 * 13 *", "@often", "0 0 * * 8"]),
    schedule("@daily", timeZone="Europe Paris"),
    schedule("@daily", durationSeconds=1),
    pull(secrets=["regcred"]),
    pull(secrets=["regcred", "regcred"], sharePrivate=True),
    pull(refreshIntervalSeconds=1),
    lifetime(deadlineSeconds=60),
    lifetime(type="Keep", ttlSecondsAfterFinished=60),
    lifetime(type="Never"),
    pods(owners=[]),
    pods(owners=[{"kind": "Deployment", "name": "web"}] * 2),
    ("WarmImage", {"image": f"nginx:1@sha256:{'a' * 64}", "digest": f"sha256:{'b' * 64}"}),
    ("WarmImage", {"image": "nginx", "onRemoval": "Delete", "lifetime": {"type": "Once"}}),
    ("WarmImage", {"image": "nginx", "nodes": {"names": ["Not A Name"]}}),
    ("WarmPolicy", {"images": ["nginx", "nginx"]}),
    push({"repository": "shop/**"}),
    push({"repository": "https://ghcr.io/**"}),
    push(*({"repository": "ghcr.io/" + "a" * 492} for _ in range(5))),
    push({"repository": "ghcr.io/a", "tags": ["b" * 100] * 60}),
    ("WarmPolicy", {"pods": {"selector": {"matchExpressions": [{"key": "a", "operator": "NotIn"}]}}}),
]


async def answer(kubernetes: Kubernetes, kind: str, spec: Spec) -> int:
    """What the API server says to an object of this kind; it is not kept."""
    name = f"warmhook-test-{os.getpid()}"
    path = f"/apis/{API_VERSION}/namespaces/default/{COLLECTIONS[kind]}"
    try:
        await kubernetes.create(
            path, {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        )
    except Refused as error:
        return error.status
    await kubernetes.delete(f"{path}/{name}")
    return 201


async def check_changes(kubernetes: Kubernetes) -> None:
    """The image stays, and field selectors know it."""
    name, folder = f"warmhook-test-{os.getpid()}", f"/apis/{API_VERSION}/namespaces/default/warmimages"
    obj = {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": {"name": name}}
    await kubernetes.create(folder, {**obj, "spec": {"image": f"{name}:1", "policyName": name}})
    try:
        await kubernetes.patch(f"{folder}/{name}", {"spec": {"suspend": True}})
        with pytest.raises(Refused, match="create another WarmImage"):
            await kubernetes.patch(f"{folder}/{name}", {"spec": {"image": f"{name}:2"}})
        for selector in (f"spec.image={name}:1", f"spec.policyName={name}"):
            found = await kubernetes.list(folder, fields=selector)
            assert [each["metadata"]["name"] for each in found.items] == [name]
        assert (await kubernetes.list(folder, fields=f"spec.image={name}:2")).items == []
    finally:
        await kubernetes.delete(f"{folder}/{name}")


@real_time
async def test_what_can_be_used_is_taken_and_what_cannot_is_refused() -> None:
    kubeconfig = os.environ.get("WARMHOOK_TEST_KUBECONFIG")
    if not kubeconfig:
        pytest.skip("WARMHOOK_TEST_KUBECONFIG names no cluster")
    async with open_transport(kubeconfig) as transport, contextlib.AsyncExitStack() as made:
        kubernetes = Kubernetes(transport)
        for crd in (warmimage_crd(), warmpolicy_crd()):
            # One that is there stays as it is: it may be in use.
            with contextlib.suppress(Conflict):
                await kubernetes.create(CRDS, crd)
                made.push_async_callback(kubernetes.delete, f"{CRDS}/{crd['metadata']['name']}")

        async def served() -> bool:
            try:
                return all([await answer(kubernetes, *TAKEN[0]) == 201, await answer(kubernetes, *TAKEN[-1]) == 201])
            except NotFound:
                return False

        await eventually(served, what="both kinds are served")
        assert [it for it in TAKEN if await answer(kubernetes, *it) != 201] == []
        assert [it for it in REFUSED if await answer(kubernetes, *it) != 422] == []
        await check_changes(kubernetes)
