"""An API server behaves as Warmhook relies on: one suite for the embedded one and for a real cluster.

Everything is created in the namespace `default` under a prefix of its own and removed one by one: the cluster of
`WARMHOOK_TEST_KUBECONFIG` may be shared.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

import jwt
import pytest

from adapters.kubernetes.transport import open_transport
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from adapters.service_account_tokens import ISSUER_PATH, KEYS_PATH
from devcluster.apiserver import ApiServer, InProcessTransport
from tests.support.apiserver import apiserver
from tests.support.cases import as_test
from tests.support.instant import instantly
from warmhook.ports import Json, Object, Response, Transport

JSON = {"content-type": "application/json"}
MERGE = {"content-type": "application/merge-patch+json"}
JSON_PATCH = {"content-type": "application/json-patch+json"}
METADATA_LIST = {"accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
METADATA = {"accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
NODES = "/api/v1/nodes"
OTHER_UID = "00000000-0000-4000-8000-000000000000"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True, slots=True)
class Cluster:
    """An API server under test."""

    open: Callable[[], AbstractAsyncContextManager[Transport]]
    run: Callable[[Coroutine[Any, Any, None]], None]
    """Runs a case: in time, or without waiting where no socket is involved."""


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The kubeconfig of an embedded server that runs as a process of its own."""
    folder = tmp_path_factory.mktemp("apiserver")
    with apiserver(folder):
        yield str(folder / "kubeconfig")


@pytest.fixture(
    params=[
        "in-process",
        pytest.param("http", marks=pytest.mark.e2e),
        pytest.param("cluster", marks=pytest.mark.cluster),
    ]
)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """The server of this case."""
    if request.param == "in-process":
        server = ApiServer(lambda: datetime.now(UTC), Random(0))

        @asynccontextmanager
        async def here() -> AsyncIterator[Transport]:
            yield InProcessTransport(server)

        return Cluster(here, instantly)
    if request.param == "http":
        path: str = request.getfixturevalue("kubeconfig")
    else:
        path = os.environ.get("WARMHOOK_TEST_KUBECONFIG", "")
        if not path:
            pytest.skip("WARMHOOK_TEST_KUBECONFIG names no cluster")
    return Cluster(lambda: open_transport(path), asyncio.run)


class Place:
    """A corner of the cluster: unique names, and a list of what to remove."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.prefix = "whc-" + secrets.token_hex(4)
        self._made: list[str] = []

    async def send(
        self,
        method: str,
        path: str,
        body: Json = None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Response:
        headers = headers or {"POST": JSON, "PUT": JSON, "PATCH": MERGE}.get(method)
        return await self.transport.request(method, path, query=query or {}, headers=headers or {}, body=body)

    async def create(self, collection: str, body: Object) -> Object:
        """Create an object and remember to remove it."""
        answer = await self.send("POST", collection, body)
        assert answer.status == 201, answer.body
        made: Object = json.loads(answer.body)
        self._made.append(f"{collection}/{made['metadata']['name']}")
        return made

    async def configmap(self, name: str = "", **fields: Any) -> Object:
        metadata = {"name": self.path(name).rpartition("/")[2], **fields.pop("metadata", {})}
        return await self.create(CONFIGMAPS, {"metadata": metadata, **fields})

    def path(self, name: str = "") -> str:
        return f"{CONFIGMAPS}/{self.prefix}{name}"

    async def patch(self, path: str, body: Json, query: Mapping[str, str] | None = None) -> Response:
        return await self.send("PATCH", path, body, query=query)

    async def clear(self) -> None:
        for path in reversed(self._made):
            await self.patch(path, {"metadata": {"finalizers": None}})
            assert (await self.send("DELETE", path)).status in (200, 202, 404)


def on_each_api_server(case: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a case, which runs in a place of its own on each API server."""

    def run(case: Callable[[Place], Awaitable[None]], cluster: Cluster) -> None:
        async def whole() -> None:
            async with cluster.open() as transport:
                place = Place(transport)
                try:
                    await asyncio.wait_for(case(place), 60)
                finally:
                    await place.clear()

        cluster.run(whole())

    return as_test(case, run, "cluster")


def read(answer: Response) -> Any:
    return json.loads(answer.body)


def reason(answer: Response) -> tuple[int, str]:
    return answer.status, read(answer)["reason"]


def version_of(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])


def names(answer: Response) -> list[str]:
    assert answer.status == 200, answer.body
    return [item["metadata"]["name"] for item in read(answer)["items"]]


async def events(place: Place, path: str, query: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Any:
    """All events of a watch that its timeout ends; bookmarks are left out."""
    query = {"watch": "1", "timeoutSeconds": "1", **query}
    async with place.transport.stream(path, query=query, headers=headers or {}) as stream:
        assert stream.status == 200
        found = [json.loads(line) async for line in stream.lines]
    return [(event["type"], event["object"]) for event in found if event["type"] != "BOOKMARK"]


# --- writes ----------------------------------------------------------------------------------------------------------


@on_each_api_server
async def test_an_object_is_created_read_and_deleted(place: Place) -> None:
    made = await place.configmap(data={"a": "1"})
    assert made["metadata"]["uid"]
    assert read(await place.send("GET", place.path()))["data"] == {"a": "1"}
    gone = read(await place.send("DELETE", place.path()))
    assert (gone["kind"], gone["status"], gone["details"]["uid"]) == ("Status", "Success", made["metadata"]["uid"])
    answer = await place.send("GET", place.path())
    assert reason(answer) == (404, "NotFound")
    assert read(answer)["details"] == {"name": place.prefix, "kind": "configmaps"}


@on_each_api_server
async def test_a_name_is_taken_once(place: Place) -> None:
    await place.configmap()
    answer = await place.send("POST", CONFIGMAPS, {"metadata": {"name": place.prefix}})
    assert reason(answer) == (409, "AlreadyExists")


@on_each_api_server
async def test_a_patch_of_an_absent_object_is_not_found(place: Place) -> None:
    assert reason(await place.patch(place.path("none"), {"data": {"a": "1"}})) == (404, "NotFound")


@on_each_api_server
async def test_merge_patches_of_different_keys_commute(place: Place) -> None:
    await place.configmap()
    for key in ("a", "b"):
        await place.patch(place.path(), {"data": {key: key}, "metadata": {"labels": {key: key}}})
    await place.patch(place.path(), {"data": {"a": None}, "metadata": {"labels": {"a": None}}})
    obj = read(await place.send("GET", place.path()))
    assert (obj["data"], obj["metadata"]["labels"]) == ({"b": "b"}, {"b": "b"})


@on_each_api_server
async def test_a_patch_that_changes_nothing_leaves_the_version(place: Place) -> None:
    made = await place.configmap(data={"a": "1"})
    same = read(await place.patch(place.path(), {"data": {"a": "1"}}))
    assert version_of(same) == version_of(made)
    other = read(await place.patch(place.path(), {"data": {"a": "2"}}))
    assert version_of(other) > version_of(made)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@on_each_api_server
async def test_a_stale_version_is_a_conflict(place: Place, method: str) -> None:
    made = await place.configmap()
    await place.patch(place.path(), {"data": {"a": "1"}})
    stale = {"resourceVersion": made["metadata"]["resourceVersion"], "name": place.prefix}
    answer = await place.send(method, place.path(), {"metadata": stale, "data": {"b": "2"}})
    assert reason(answer) == (409, "Conflict")


@on_each_api_server
async def test_a_write_meant_for_another_uid_changes_nothing(place: Place) -> None:
    await place.configmap()
    meant = {"metadata": {"name": place.prefix, "uid": OTHER_UID}, "data": {"a": "1"}}
    assert reason(await place.patch(place.path(), meant)) == (422, "Invalid")
    put = await place.send("PUT", place.path(), meant)
    assert reason(put) == (409, "Conflict")
    assert "data" not in read(await place.send("GET", place.path()))


@on_each_api_server
async def test_a_null_for_an_absent_member_changes_nothing(place: Place) -> None:
    made = await place.configmap()
    nulls = {"data": {"a": None}, "metadata": {"labels": {"a": None}, "annotations": {"a": None}}}
    same = read(await place.patch(place.path(), nulls))
    assert same == made
    set_beside = {"data": {"a": None, "b": "1"}, "metadata": {"labels": {"a": None, "b": "1"}}}
    obj = read(await place.patch(place.path(), set_beside))
    assert (obj["data"], obj["metadata"]["labels"]) == ({"b": "1"}, {"b": "1"})


@on_each_api_server
async def test_a_new_object_keeps_an_empty_text_for_a_null(place: Place) -> None:
    made = await place.configmap(metadata={"labels": {"a": None}, "annotations": {"a": None}}, data={"a": None})
    assert (made["metadata"]["labels"], made["metadata"]["annotations"]) == ({"a": ""}, {"a": ""})
    assert made["data"] == {"a": ""}


@on_each_api_server
async def test_a_patch_replaces_all_owners_and_each_needs_a_uid(place: Place) -> None:
    await place.configmap()
    for number in "12":
        owner = {"apiVersion": "v1", "kind": "Node", "name": place.prefix, "uid": OTHER_UID[:-1] + number}
        owned = read(await place.patch(place.path(), {"metadata": {"ownerReferences": [owner]}}))
        assert owned["metadata"]["ownerReferences"] == [owner]
    nobody = {**owner, "uid": ""}
    answer = await place.patch(place.path(), {"metadata": {"ownerReferences": [nobody]}})
    assert reason(answer) == (422, "Invalid")
    assert {cause["field"] for cause in read(answer)["details"]["causes"]} == {"metadata.ownerReferences.uid"}


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's, for the megabyte below
@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"data": {"has/slash": "x"}}, "data[has/slash]"),
        ({"metadata": {"labels": {"a": "has space"}}}, "metadata.labels"),
        ({"data": {"k": "x" * 1_100_000}}, "[]"),
        ({"data": {"k": 1}}, "patch"),
    ],
)
@on_each_api_server
async def test_an_illegal_patch_names_its_field(place: Place, patch: Object, field: str) -> None:
    await place.configmap()
    answer = await place.patch(place.path(), patch)
    assert reason(answer) == (422, "Invalid")
    assert field in {cause["field"] for cause in read(answer)["details"]["causes"]}


@on_each_api_server
async def test_a_delete_for_another_uid_or_version_deletes_nothing(place: Place) -> None:
    made = await place.configmap()
    uid, version = made["metadata"]["uid"], made["metadata"]["resourceVersion"]
    for wrong in ({"uid": OTHER_UID}, {"resourceVersion": "1"}, {"uid": uid, "resourceVersion": "1"}):
        answer = await place.send("DELETE", place.path(), {"preconditions": wrong})
        assert reason(answer) == (409, "Conflict")
        assert read(answer)["details"] == {"name": place.prefix, "kind": "ConfigMap"}
    right = {"preconditions": {"uid": uid, "resourceVersion": version}}
    assert (await place.send("DELETE", place.path(), right)).status == 200


@on_each_api_server
async def test_a_finalizer_holds_a_deleted_object(place: Place) -> None:
    await place.configmap(metadata={"finalizers": ["warmhook.dev/contract"]})
    held = read(await place.send("DELETE", place.path()))
    assert held["metadata"]["deletionTimestamp"]
    assert (await place.send("GET", place.path())).status == 200
    await place.patch(place.path(), {"metadata": {"finalizers": None}})
    assert (await place.send("GET", place.path())).status == 404


@on_each_api_server
async def test_a_generated_name_begins_with_its_prefix(place: Place) -> None:
    made = await place.create(CONFIGMAPS, {"metadata": {"generateName": place.prefix}})
    assert made["metadata"]["name"].startswith(place.prefix)
    assert len(made["metadata"]["name"]) == len(place.prefix) + 5


@on_each_api_server
async def test_a_dry_run_stores_nothing(place: Place) -> None:
    answer = await place.send("POST", CONFIGMAPS, {"metadata": {"name": place.prefix}}, query={"dryRun": "All"})
    assert answer.status == 201
    assert (await place.send("GET", place.path())).status == 404


@on_each_api_server
async def test_managed_fields_stay_away_after_a_reset(place: Place) -> None:
    made = await place.configmap(metadata={"managedFields": [{}]}, data={"a": "1"})
    assert made["metadata"]["managedFields"][0]["fieldsV1"] == {"f:data": {".": {}, "f:a": {}}} or (
        made["metadata"]["managedFields"][0]["fieldsV1"] == {"f:data": {"f:a": {}}}
    )
    reset = {"metadata": {"managedFields": [{}]}, "data": {"b": "2"}}
    assert "managedFields" not in read(await place.patch(place.path(), reset))["metadata"]
    later = read(await place.patch(place.path(), {"data": {"c": "3"}}))
    assert "managedFields" not in later["metadata"]


# --- lists -----------------------------------------------------------------------------------------------------------


async def three(place: Place) -> int:
    """`-1` without the label `line`, `-2` and `-3` with the values `v2` and `v3`; returns the last version."""
    for number, line in (("1", {}), ("2", {"line": "v2"}), ("3", {"line": "v3"})):
        labels = {"of": place.prefix, **line}
        made = await place.configmap(f"-{number}", metadata={"labels": labels}, data={"k": number})
    return version_of(made)


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ("line", "23"),
        ("!line", "1"),
        ("line=v2", "2"),
        ("line!=v2", "13"),
        ("line in (v2,v9)", "2"),
        ("line notin (v2)", "13"),
        ("line in (v2, v3),line notin (v3)", "2"),
    ],
)
@on_each_api_server
async def test_label_selectors_choose(place: Place, selector: str, chosen: str) -> None:
    await three(place)
    query = {"labelSelector": f"of={place.prefix},{selector}"}
    answer = await place.send("GET", CONFIGMAPS, query=query, headers=METADATA_LIST)
    assert names(answer) == [f"{place.prefix}-{number}" for number in chosen]
    assert all(item.keys() == {"kind", "apiVersion", "metadata"} for item in read(answer)["items"])


@pytest.mark.parametrize("query", [{"labelSelector": "a b"}, {"fieldSelector": "data.k=v"}])
@on_each_api_server
async def test_a_bad_selector_is_a_bad_request(place: Place, query: Mapping[str, str]) -> None:
    assert reason(await place.send("GET", CONFIGMAPS, query=query)) == (400, "BadRequest")


@on_each_api_server
async def test_pages_are_one_list(place: Place) -> None:
    await three(place)
    query = {"labelSelector": f"of={place.prefix}", "limit": "2"}
    first = await place.send("GET", CONFIGMAPS, query=query)
    await place.configmap("-4", metadata={"labels": {"of": place.prefix}})
    rest = await place.send("GET", CONFIGMAPS, query={**query, "continue": read(first)["metadata"]["continue"]})
    assert [*names(first), *names(rest)] == [f"{place.prefix}-{number}" for number in "123"]
    assert read(rest)["metadata"]["resourceVersion"] == read(first)["metadata"]["resourceVersion"]
    assert "remainingItemCount" not in read(first)["metadata"]


@on_each_api_server
async def test_a_list_not_older_than_a_write_shows_it(place: Place) -> None:
    version = await three(place)
    query = {
        "labelSelector": f"of={place.prefix}",
        "resourceVersion": str(version),
        "resourceVersionMatch": "NotOlderThan",
    }
    answer = await place.send("GET", CONFIGMAPS, query=query, headers=METADATA_LIST)
    assert len(names(answer)) == 3
    assert version_of(read(answer)) >= version


@on_each_api_server
async def test_an_empty_list_of_metadata_has_no_items(place: Place) -> None:
    answer = await place.send("GET", CONFIGMAPS, query={"labelSelector": f"of={place.prefix}"}, headers=METADATA_LIST)
    assert not read(answer)["items"]  # null, not a list
    assert version_of(read(answer)) > 0


@on_each_api_server
async def test_nodes_are_listed_as_of_another_kinds_version(place: Place) -> None:
    path = await things(place)
    await place.create(NODES, {"metadata": {"name": place.prefix, "labels": {"of": place.prefix}}})
    version = (await place.create(path, _thing(path, "a", image="x")))["metadata"]["resourceVersion"]
    query = {"resourceVersion": version, "resourceVersionMatch": "NotOlderThan"}
    query["labelSelector"] = f"of={place.prefix},kubernetes.io/os!=windows"
    answer = await place.send("GET", NODES, query=query, headers=METADATA_LIST)
    assert names(answer) == [place.prefix]
    assert version_of(read(answer)) >= int(version)


@on_each_api_server
async def test_a_version_of_the_future_times_out_with_a_hint(place: Place) -> None:
    made = await place.configmap()
    future = str(version_of(made) + 1_000_000_000)
    query = {"resourceVersion": future, "resourceVersionMatch": "NotOlderThan"}
    answer = await place.send("GET", CONFIGMAPS, query=query)
    assert reason(answer) == (504, "Timeout")
    details = read(answer)["details"]
    assert details["causes"][0]["reason"] == "ResourceVersionTooLarge"
    assert details["retryAfterSeconds"] >= 1


# --- watches ---------------------------------------------------------------------------------------------------------


@on_each_api_server
async def test_a_watch_sends_the_changes_since_a_version(place: Place) -> None:
    made = await place.configmap(data={"a": "1"})
    await place.configmap("-other")
    await place.patch(place.path(), {"data": {"a": "2"}})
    await place.patch(place.path(), {"data": {"a": "2"}})
    await place.send("DELETE", place.path())
    query = {
        "fieldSelector": f"metadata.name={place.prefix}",
        "resourceVersion": made["metadata"]["resourceVersion"],
    }
    seen = await events(place, CONFIGMAPS, query)
    assert [(kind, obj["data"]) for kind, obj in seen] == [("MODIFIED", {"a": "2"}), ("DELETED", {"a": "2"})]
    assert version_of(seen[0][1]) < version_of(seen[1][1])


@on_each_api_server
async def test_a_watch_sends_writes_while_it_is_open(place: Place) -> None:
    made = await place.configmap()
    query = {"watch": "1", "timeoutSeconds": "20", "resourceVersion": made["metadata"]["resourceVersion"]}
    query["fieldSelector"] = f"metadata.name={place.prefix}"
    async with place.transport.stream(CONFIGMAPS, query=query, headers=METADATA) as stream:
        lines = aiter(stream.lines)
        await place.patch(place.path(), {"metadata": {"labels": {"a": "1"}}})
        event = json.loads(await asyncio.wait_for(anext(lines), 10))
    assert (event["type"], event["object"]["kind"]) == ("MODIFIED", "PartialObjectMetadata")
    assert event["object"]["metadata"]["labels"] == {"a": "1"}


@on_each_api_server
async def test_leaving_and_entering_the_selector_looks_like_deletion_and_creation(place: Place) -> None:
    version = await three(place)
    for line in (None, "v5"):
        await place.patch(place.path("-2"), {"metadata": {"labels": {"line": line}}})
    query = {"labelSelector": f"of={place.prefix},line", "resourceVersion": str(version)}
    seen = await events(place, CONFIGMAPS, query, METADATA)
    labels = [(kind, obj["metadata"]["labels"]["line"]) for kind, obj in seen]
    assert labels == [("DELETED", "v2"), ("ADDED", "v5")]


@on_each_api_server
async def test_a_watch_without_a_version_begins_with_what_exists(place: Place) -> None:
    await three(place)
    seen = await events(place, CONFIGMAPS, {"labelSelector": f"of={place.prefix},line"})
    assert sorted((kind, obj["data"]["k"]) for kind, obj in seen) == [("ADDED", "2"), ("ADDED", "3")]


@on_each_api_server
async def test_a_watch_from_a_forgotten_version_is_expired(place: Place) -> None:
    seen = await events(place, CONFIGMAPS, {"resourceVersion": "1"})
    if all(kind != "ERROR" for kind, _ in seen):
        pytest.skip("this cluster still knows its first version: etcd forgets every five minutes")
    ((kind, status),) = seen
    assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")


@on_each_api_server
async def test_an_object_of_almost_a_megabyte_arrives_in_one_event(place: Place) -> None:
    await place.configmap(data={"k": "x" * 1_000_000})
    ((kind, obj),) = await events(place, CONFIGMAPS, {"fieldSelector": f"metadata.name={place.prefix}"})
    assert (kind, len(obj["data"]["k"])) == ("ADDED", 1_000_000)


# --- other kinds -----------------------------------------------------------------------------------------------------


@on_each_api_server
async def test_a_node_takes_taints_by_json_patch_and_conditions_by_its_status(place: Place) -> None:
    made = await place.create("/api/v1/nodes", {"metadata": {"name": place.prefix, "labels": {"pool": "web"}}})
    path = f"/api/v1/nodes/{place.prefix}"
    mine = {"key": "warmhook.dev/contract", "effect": "PreferNoSchedule"}
    patch = [
        {"op": "test", "path": "/spec/taints", "value": made["spec"]["taints"]},
        {"op": "add", "path": "/spec/taints/-", "value": mine},
    ]
    tainted = await place.send("PATCH", path, patch, headers=JSON_PATCH)
    assert mine in read(tainted)["spec"]["taints"]
    assert reason(await place.send("PATCH", path, patch, headers=JSON_PATCH)) == (422, "Invalid")
    condition = {"type": "warmhook.dev/Warm", "status": "True", "reason": "AllWarm"}
    headers = {"content-type": "application/strategic-merge-patch+json"}
    status = {"status": {"conditions": [condition]}}
    answer = await place.send("PATCH", f"{path}/status", status, headers=headers)
    assert [item["type"] for item in read(answer)["status"]["conditions"]] == ["warmhook.dev/Warm"]
    partial = read(await place.send("GET", path, headers=METADATA))
    assert (partial["kind"], partial["metadata"]["labels"]["pool"]) == ("PartialObjectMetadata", "web")


@on_each_api_server
async def test_a_lease_changes_hands_only_at_the_version_that_was_read(place: Place) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 15}
    made = await place.create(leases, {"metadata": {"name": place.prefix}, "spec": spec})
    taken = {**made, "spec": {**spec, "holderIdentity": "b"}}
    path = f"{leases}/{place.prefix}"
    assert read(await place.send("PUT", path, taken))["spec"]["holderIdentity"] == "b"
    late = {**made, "spec": {**spec, "holderIdentity": "c"}}
    assert reason(await place.send("PUT", path, late)) == (409, "Conflict")
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "spec": {"holderIdentity": "c"}}
    assert reason(await place.patch(path, stale)) == (409, "Conflict")
    # A MicroTime has six digits after the point; nothing else is read.
    for illegal in ({"leaseDurationSeconds": 0}, {"renewTime": "2026-01-01T00:00:00Z"}):
        assert reason(await place.patch(path, {"spec": illegal})) == (422, "Invalid")
    assert (await place.patch(path, {"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}})).status == 200


@on_each_api_server
async def test_events_about_nodes_belong_to_the_namespace_default(place: Place) -> None:
    event = {
        "metadata": {"generateName": f"{place.prefix}-"},
        "involvedObject": {"kind": "Node", "name": place.prefix, "apiVersion": "v1"},
        "reason": "Contract",
        "message": "m",
        "type": "Normal",
        "source": {"component": "contract"},
        "count": 1,
    }
    await place.create("/api/v1/namespaces/default/events", event)
    found = await place.send("GET", "/api/v1/events", query={"fieldSelector": f"involvedObject.name={place.prefix}"})
    assert len(names(found)) == 1
    named = {**event, "metadata": {"name": place.prefix}}
    await place.create("/api/v1/namespaces/default/events", named)
    again = await place.send("POST", "/api/v1/namespaces/default/events", named)
    assert reason(again) == (409, "AlreadyExists")
    answer = await place.send("POST", "/api/v1/namespaces/kube-system/events", event)
    assert reason(answer) == (422, "Invalid")


@on_each_api_server
async def test_an_unknown_path_is_not_found(place: Place) -> None:
    path = f"/apis/{place.prefix}.warmhook.dev/v1/namespaces/default/things"
    assert (await place.send("GET", path)).status == 404


# --- custom resources ------------------------------------------------------------------------------------------------

_SPEC = {
    "type": "object",
    "required": ["image"],
    "properties": {
        "image": {"type": "string", "minLength": 1, "maxLength": 100},
        "parallelism": {"type": "integer", "minimum": 1, "default": 10},
        "limit": {"x-kubernetes-int-or-string": True},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}


async def things(place: Place) -> str:
    """Define a kind of this place's own; returns the path of its objects."""
    group = f"{place.prefix}.warmhook.dev"
    status = {"type": "object", "properties": {"warm": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"spec": _SPEC, "status": status}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    }
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    await place.create(CRDS, {"metadata": {"name": f"things.{group}"}, "spec": spec})
    return await served(place, f"/apis/{group}/v1/namespaces/default/things")


async def served(place: Place, path: str) -> str:
    """`path`, once the server knows the new kind."""
    for _ in range(100):
        if (await place.send("GET", path)).status == 200:
            return path
        await asyncio.sleep(0.1)  # a real server takes about a second
    raise AssertionError(f"{path} is not served")


def _thing(path: str, name: str, **spec: Any) -> Object:
    return {"apiVersion": path.split("/")[2] + "/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec}


@on_each_api_server
async def test_a_custom_resource_is_defaulted_pruned_and_counted(place: Place) -> None:
    path = await things(place)
    made = await place.create(path, _thing(path, "a", image="x", unknown=1, limit="30%", free={"any": [1]}))
    assert made["spec"] == {"image": "x", "parallelism": 10, "limit": "30%", "free": {"any": [1]}}
    assert made["metadata"]["generation"] == 1
    changed = read(await place.patch(f"{path}/a", {"spec": {"image": "y"}, "status": {"warm": 1}}))
    assert changed["metadata"]["generation"] == 2
    assert "status" not in changed
    reported = read(await place.patch(f"{path}/a/status", {"status": {"warm": 3}, "spec": {"image": "z"}}))
    assert (reported["status"], reported["spec"]["image"]) == ({"warm": 3}, "y")
    assert reported["metadata"]["generation"] == 2


@on_each_api_server
async def test_a_null_brings_a_default_back_and_removes_from_a_status(place: Place) -> None:
    path = await things(place)
    await place.create(path, _thing(path, "a", image="x", parallelism=3, limit=1))
    nulls = {"spec": {"parallelism": None, "limit": None, "free": None}}
    assert read(await place.patch(f"{path}/a", nulls))["spec"] == {"image": "x", "parallelism": 10}
    assert reason(await place.patch(f"{path}/a", {"spec": {"image": None}})) == (422, "Invalid")
    for warm, status in ((2, {"warm": 2}), (None, {})):
        answer = await place.patch(f"{path}/a/status", {"status": {"warm": warm}})
        assert read(answer)["status"] == status
    assert reason(await place.patch(f"{path}/b/status", {"status": {"warm": 1}})) == (404, "NotFound")
    stale = {"metadata": {"resourceVersion": "1"}, "spec": {"image": "y"}}
    assert reason(await place.patch(f"{path}/a", stale)) == (409, "Conflict")


@on_each_api_server
async def test_custom_resources_are_listed_and_watched_as_metadata(place: Place) -> None:
    path = await things(place)
    for name in "ab":
        made = await place.create(
            path, _thing(path, name, image="x") | {"metadata": {"name": name, "labels": {"l": name}}}
        )
    query = {"labelSelector": "l in (a, b)", "limit": "500"}
    listing = await place.send("GET", path, query=query, headers=METADATA_LIST)
    assert names(listing) == ["a", "b"]
    await place.patch(f"{path}/b/status", {"status": {"warm": 1}})
    await place.send("DELETE", f"{path}/b", {"preconditions": {"uid": made["metadata"]["uid"]}})
    query = {"labelSelector": "l", "resourceVersion": read(listing)["metadata"]["resourceVersion"]}
    seen = await events(place, path, query, METADATA)
    assert [(kind, obj["kind"], obj["metadata"]["name"]) for kind, obj in seen] == [
        ("MODIFIED", "PartialObjectMetadata", "b"),
        ("DELETED", "PartialObjectMetadata", "b"),
    ]
    # The version of the deletion, from where a watch goes on; not that of the object's last change.
    versions = [version_of(made), *(version_of(obj) for _, obj in seen)]
    assert versions == sorted(set(versions))


@pytest.mark.parametrize(
    ("crd", "good", "bad", "fields"),
    [
        (
            warmimage_crd,
            {"image": "x.example/a:1", "nodes": {"limit": "30%"}},
            {
                "digest": "x",
                "nodes": {"limit": "130%"},
                "pull": {"policy": "Never", "timeoutSeconds": 0},
                "pushedAt": "?",
            },
            {"digest", "image", "nodes.limit", "pull.policy", "pull.timeoutSeconds", "pushedAt"},
        ),
        (
            warmpolicy_crd,
            {"push": [{"repository": "x.example/**"}]},
            {"images": [""], "push": [{"tags": [""], "keep": 0}], "template": {"nodes": {"limit": -1}}},
            {"images[0]", "push[0].tags[0]", "push[0].keep", "push[0].repository", "template.nodes.limit"},
        ),
    ],
)
@on_each_api_server
async def test_the_definitions_of_warmhook_default_and_refuse(
    place: Place, crd: Callable[[], Object], good: Object, bad: Object, fields: set[str]
) -> None:
    definition = crd()
    spec = definition["spec"]
    spec["group"] = f"{place.prefix}.warmhook.dev"
    names = spec["names"]
    # Short names are for the whole cluster, and Warmhook itself may be installed.
    names.pop("shortNames")
    definition["metadata"]["name"] = f"{names['plural']}.{spec['group']}"
    await place.create(CRDS, definition)
    path = await served(place, f"/apis/{spec['group']}/v1alpha1/namespaces/default/{names['plural']}")
    head = {"apiVersion": f"{spec['group']}/v1alpha1", "kind": names["kind"], "metadata": {"name": "a"}}
    made = await place.create(path, {**head, "spec": good})
    template = made["spec"].get("template", made["spec"])
    numbers = {"timeoutSeconds": 600, "backoffLimit": 3, "priority": 0}
    private: Object = {"secrets": [], "sharePrivate": False}
    assert template["pull"] == {"policy": "IfNotPresent", **numbers, **private, "pinned": False, "refreshWindows": []}
    assert template["lifetime"] == {"type": "Keep"}
    answer = await place.send("POST", path, {**head, "spec": bad})
    assert reason(answer) == (422, "Invalid")
    assert {cause["field"].removeprefix("spec.") for cause in read(answer)["details"]["causes"]} == fields
    answer = await place.send("POST", path, {"metadata": {"name": "b"}, "spec": good})
    assert reason(answer) == (400, "BadRequest")


@on_each_api_server
async def test_a_custom_resource_that_breaks_its_schema_is_refused(place: Place) -> None:
    path = await things(place)
    answer = await place.send("POST", path, _thing(path, "a", parallelism=0))
    assert reason(answer) == (422, "Invalid")
    fields = {cause["field"] for cause in read(answer)["details"]["causes"]}
    assert fields == {"spec.parallelism", "spec.image"}
    strict = {"fieldValidation": "Strict"}
    answer = await place.send("POST", path, _thing(path, "a", image="x", nope=1), query=strict)
    assert reason(answer) == (400, "BadRequest")


@on_each_api_server
async def test_a_custom_resource_is_put_only_with_a_version(place: Place) -> None:
    path = await things(place)
    made = await place.create(path, _thing(path, "a", image="x"))
    blind = await place.send("PUT", f"{path}/a", _thing(path, "a", image="y"))
    assert reason(blind) == (422, "Invalid")
    made["spec"]["image"] = "y"
    assert (await place.send("PUT", f"{path}/a", made)).status == 200


@on_each_api_server
async def test_strategic_merge_is_for_built_in_kinds(place: Place) -> None:
    path = await things(place)
    await place.create(path, _thing(path, "a", image="x"))
    headers = {"content-type": "application/strategic-merge-patch+json"}
    answer = await place.send("PATCH", f"{path}/a", {"spec": {"image": "y"}}, headers=headers)
    assert reason(answer) == (415, "UnsupportedMediaType")


@on_each_api_server
async def test_a_definition_that_is_not_structural_is_refused(place: Place) -> None:
    group = f"{place.prefix}.warmhook.dev"
    shape: Object = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {}}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": shape}}
    spec: Object = {"group": group, "scope": "Namespaced", "versions": [version]}
    spec["names"] = {"plural": "things", "singular": "thing", "kind": "Thing"}
    answer = await place.send("POST", CRDS, {"metadata": {"name": f"things.{group}"}, "spec": spec})
    assert reason(answer) == (422, "Invalid")


# --- tokens ----------------------------------------------------------------------------------------------------------

TOKENS = "/api/v1/namespaces/default/serviceaccounts/default/token"


@on_each_api_server
async def test_a_token_names_its_node_and_is_signed_by_a_key_that_the_server_publishes(place: Place) -> None:
    node = await place.create(NODES, {"metadata": {"name": place.prefix}})
    bound = {"apiVersion": "v1", "kind": "Node", "name": place.prefix, "uid": node["metadata"]["uid"]}
    spec = {"audiences": ["contract"], "expirationSeconds": 600, "boundObjectRef": bound}
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    answer = await place.send("POST", TOKENS, asked)
    assert answer.status == 201, answer.body
    token = read(answer)["status"]["token"]
    issuer = read(await place.send("GET", ISSUER_PATH))["issuer"]
    keys = read(await place.send("GET", KEYS_PATH, headers={"accept": "application/jwk-set+json"}))
    key = jwt.PyJWKSet(keys["keys"])[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, audience="contract", issuer=issuer)
    assert claims["sub"] == "system:serviceaccount:default:default"
    assert claims["kubernetes.io"]["node"] == {"name": place.prefix, "uid": node["metadata"]["uid"]}
    assert 500 <= claims["exp"] - claims["iat"] <= 700


@on_each_api_server
async def test_the_keys_are_given_in_their_own_type_only(place: Place) -> None:
    assert (await place.send("GET", KEYS_PATH, headers={"accept": "application/json"})).status == 406


@on_each_api_server
async def test_a_token_is_for_a_node_that_is_there_and_for_ten_minutes_at_least(place: Place) -> None:
    bound = {"apiVersion": "v1", "kind": "Node", "name": f"{place.prefix}-none"}
    absent = {"spec": {"audiences": ["contract"], "boundObjectRef": bound}}
    assert (await place.send("POST", TOKENS, absent)).status == 404
    short = {"spec": {"audiences": ["contract"], "expirationSeconds": 60}}
    assert reason(await place.send("POST", TOKENS, short)) == (422, "Invalid")


# --- reviews ---------------------------------------------------------------------------------------------------------

RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
REVIEWED_SECONDS = 20
"""The API server sees a new binding a moment later."""


async def may_read(place: Place, name: str) -> bool:
    asked = {"namespace": "default", "verb": "get", "resource": "configmaps", "name": name}
    spec = {"user": f"system:serviceaccount:default:{place.prefix}", "resourceAttributes": asked}
    answer = await place.send("POST", ACCESS_REVIEWS, {"spec": spec})
    assert answer.status == 201, answer.body
    return bool(read(answer)["status"]["allowed"])


@on_each_api_server
async def test_a_review_says_what_a_role_lets_an_account_do(place: Place) -> None:
    assert not await may_read(place, "one")
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get"]}
    await place.create(f"{RBAC}/roles", {"metadata": {"name": place.prefix}, "rules": [rule]})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": place.prefix}
    subject = {"kind": "ServiceAccount", "name": place.prefix, "namespace": "default"}
    binding = {"metadata": {"name": place.prefix}, "roleRef": reference, "subjects": [subject]}
    await place.create(f"{RBAC}/rolebindings", binding)
    async with asyncio.timeout(REVIEWED_SECONDS):
        while True:
            if await may_read(place, "one"):
                break
            await asyncio.sleep(0.1)
    assert not await may_read(place, "two")


@on_each_api_server
async def test_a_review_says_whose_token_it_is(place: Place) -> None:
    spec = {"audiences": ["contract"], "expirationSeconds": 600}
    token = read(await place.send("POST", TOKENS, {"spec": spec}))["status"]["token"]
    reviewed = read(await place.send("POST", TOKEN_REVIEWS, {"spec": {"token": token, "audiences": ["contract"]}}))
    assert reviewed["status"]["authenticated"]
    assert reviewed["status"]["user"]["username"] == "system:serviceaccount:default:default"
    other = read(await place.send("POST", TOKEN_REVIEWS, {"spec": {"token": token, "audiences": ["other"]}}))
    assert not other["status"].get("authenticated", False)
