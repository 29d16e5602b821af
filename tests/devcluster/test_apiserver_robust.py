"""Every request gets an answer, whatever is in it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.kubernetes.warmimage import warmimage_crd
from devcluster.apiserver import ApiServer

pytestmark = pytest.mark.slow

_COLLECTIONS = {
    "namespaces": "/api/v1/namespaces",
    "nodes": "/api/v1/nodes",
    "configmaps": "/api/v1/namespaces/default/configmaps",
    "secrets": "/api/v1/namespaces/default/secrets",
    "pods": "/api/v1/namespaces/default/pods",
    "events": "/api/v1/namespaces/default/events",
    "crds": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "warmimages": "/apis/warmhook.dev/v1alpha1/namespaces/default/warmimages",
}
_WORDS = """metadata spec status data stringData labels annotations name namespace uid finalizers ownerReferences
managedFields resourceVersion taints containers conditions versions names group scope image nodes limit pull lifetime
key effect type involvedObject $patch preconditions op path value schema openAPIV3Schema properties default items"""
_KEYS = st.sampled_from(_WORDS.split())
_SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "x", "a/b", "1", "metadata", "/metadata"])
)
_JSON: st.SearchStrategy[Any] = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=12
)
_TYPES = st.sampled_from(
    [
        "application/json",
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ]
)
_ACCEPTS = st.sampled_from(
    [
        "application/json",
        "application/json;as=Table;g=meta.k8s.io;v=v1",
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        "text/plain",
    ]
)
_QUERY = st.dictionaries(
    st.sampled_from(
        [
            "labelSelector",
            "fieldSelector",
            "limit",
            "continue",
            "resourceVersion",
            "resourceVersionMatch",
            "dryRun",
            "fieldManager",
            "force",
        ]
    ),
    st.sampled_from(
        ["", "a", "a in (b", "!", "metadata.name=x", "1", "-1", "All", "Exact", "NotOlderThan", "true", "e30="]
    ),
    max_size=3,
)


@given(
    collection=st.sampled_from(sorted(_COLLECTIONS)),
    seed=st.none() | st.just({}) | _JSON,
    tail=st.sampled_from(["", "/x", "/x/status", "/y"]),
    method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]),
    kind=_TYPES,
    accept=_ACCEPTS,
    query=_QUERY,
    body=_JSON,
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_request_breaks_the_server(
    collection: str, seed: Any, tail: str, method: str, kind: str, accept: str, query: dict[str, str], body: Any
) -> None:
    server = ApiServer(lambda: datetime.now(UTC), Random(0))
    plain = {"content-type": "application/json", "accept": "application/json"}
    defined = server.handle("POST", _COLLECTIONS["crds"], {}, plain, json.dumps(warmimage_crd()).encode())
    assert defined.status == 201
    path = _COLLECTIONS[collection]
    if seed is not None:
        first = {**(seed if isinstance(seed, dict) else {"spec": seed}), "metadata": {"name": "x"}}
        assert server.handle("POST", path, {}, plain, json.dumps(first).encode()).status < 500
    headers = {"content-type": kind, "accept": accept}
    answer = server.handle(method, path + tail, query, headers, json.dumps(body).encode())
    assert answer.status < 500 or answer.status == 504
    if answer.headers["content-type"] == "application/json":
        json.loads(answer.body)
    table = {"accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}
    assert server.handle("GET", path, {}, table).status == 200
    server.collect()


@pytest.mark.parametrize("options", [{"preconditions": True}, {"preconditions": ["a"]}])
def test_options_of_a_delete_that_have_the_wrong_shape_are_answered_400(options: Any) -> None:
    server = ApiServer(lambda: datetime.now(UTC), Random(0))
    plain = {"content-type": "application/json", "accept": "application/json"}
    path = _COLLECTIONS["configmaps"]
    assert server.handle("POST", path, {}, plain, json.dumps({"metadata": {"name": "x"}}).encode()).status == 201
    assert server.handle("DELETE", f"{path}/x", {}, plain, json.dumps(options).encode()).status == 400
