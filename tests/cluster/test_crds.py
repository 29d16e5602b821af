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
    ("WarmPolicy", {}),
    push(*({"repository": "a" * 64, "tags": ["b" * 64], "exclude": ["c" * 64]} for _ in range(32))),
]
REFUSED = [
    *map(image, ["Not An Image!", "nginx:", "nginx@sha256:abc", "https://ghcr.io/a"]),
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
    push(*({"repository": "a" * 500} for _ in range(5))),
    push({"repository": "a", "tags": ["b" * 100] * 60}),
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
