"""The embedded API server has controllers, a history, and faults on the way to it: what the contract leaves out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from devcluster.apiserver import ApiServer, InProcessTransport
from devcluster.apiserver.journal import persisted
from devcluster.apiserver.patches import merge_patched
from devcluster.apiserver.views import json_path
from tests.support.instant import instantly
from warmhook.ports import Json, Object, Response, Unreachable

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
THINGS = "/apis/x.dev/v1/things"
START = datetime(2026, 1, 1, tzinfo=UTC)


class Client:
    """Requests to a fresh server, answered with JSON."""

    def __init__(self, **options: Any) -> None:
        self.time = START
        self.server = ApiServer(lambda: self.time, Random(0), **options)

    def send(
        self, method: str, path: str, body: Json = None, kind: str = "application/json", **query: str
    ) -> tuple[int, Any]:
        headers = {"content-type": kind, "accept": "application/json", "user-agent": "tests/1"}
        content = b"" if body is None else json.dumps(body).encode()
        answer = self.server.handle(method, path, query, headers, content)
        return answer.status, json.loads(answer.body)

    def create(self, collection: str, name: str, **fields: Any) -> Object:
        body = {"metadata": {"name": name, **fields.pop("metadata", {})}, **fields}
        status, made = self.send("POST", collection, body)
        assert status == 201, made
        return dict(made)

    def patch(self, path: str, body: Json) -> Object:
        status, obj = self.send("PATCH", path, body, "application/merge-patch+json")
        assert status == 200, obj
        return dict(obj)

    def watch(self, path: str, headers: Mapping[str, str] | None = None, **query: str) -> list[tuple[str, Any]]:
        """All events of a watch until its time is over."""
        begun = self.server.watch(path, {"timeoutSeconds": "1", **query}, headers or {})
        assert not isinstance(begun, Response), begun.body

        async def read() -> list[Object]:
            return [json.loads(line) async for line in begun.lines()]

        return [(event["type"], event["object"]) for event in instantly(read())]

    def define_things(self) -> None:
        """Serve a custom kind at `THINGS`, with one object `t`."""
        names = {"plural": "things", "kind": "Thing"}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        spec = {"group": "x.dev", "scope": "Cluster", "names": names, "versions": [version]}
        self.create(CRDS, "things.x.dev", spec=spec)
        self.create(THINGS, "t", kind="Thing")


@pytest.fixture
def client() -> Client:
    return Client()


# --- controllers -----------------------------------------------------------------------------------------------------


def owner(node: Object) -> Object:
    reference = {"apiVersion": "v1", "kind": "Node", "name": node["metadata"]["name"], "uid": node["metadata"]["uid"]}
    return {"ownerReferences": [reference]}


def test_dependents_go_when_their_owners_uid_is_gone(client: Client) -> None:
    node = client.create("/api/v1/nodes", "n1")
    client.create(CONFIGMAPS, "owned", metadata=owner(node))
    client.create(CONFIGMAPS, "free")
    client.server.collect()
    assert client.send("GET", f"{CONFIGMAPS}/owned")[0] == 200
    client.send("DELETE", "/api/v1/nodes/n1")
    client.create("/api/v1/nodes", "n1")
    assert client.server.collect() == 1
    assert client.send("GET", f"{CONFIGMAPS}/owned")[0] == 404
    assert client.send("GET", f"{CONFIGMAPS}/free")[0] == 200


def test_a_new_node_of_the_same_name_can_adopt_before_the_collector_comes(client: Client) -> None:
    client.create(CONFIGMAPS, "owned", metadata=owner(client.create("/api/v1/nodes", "n1")))
    client.send("DELETE", "/api/v1/nodes/n1")
    again = client.create("/api/v1/nodes", "n1")
    client.patch(f"{CONFIGMAPS}/owned", {"metadata": owner(again)})
    client.server.collect()
    assert client.send("GET", f"{CONFIGMAPS}/owned")[0] == 200


def test_a_dying_namespace_takes_its_contents_along(client: Client) -> None:
    client.create("/api/v1/namespaces", "shop")
    client.create("/api/v1/namespaces/shop/configmaps", "a", metadata={"finalizers": ["x.dev/y"]})
    client.create("/api/v1/namespaces/shop/secrets", "b")
    assert client.send("DELETE", "/api/v1/namespaces/shop")[1]["status"]["phase"] == "Terminating"
    status, problem = client.send("POST", "/api/v1/namespaces/shop/secrets", {"metadata": {"name": "c"}})
    assert (status, problem["reason"]) == (403, "Forbidden")
    client.server.collect()
    assert client.send("GET", "/api/v1/namespaces/shop/secrets")[1]["items"] == []
    assert client.send("GET", "/api/v1/namespaces/shop")[0] == 200
    client.patch("/api/v1/namespaces/shop/configmaps/a", {"metadata": {"finalizers": None}})
    client.server.collect()
    assert client.send("GET", "/api/v1/namespaces/shop")[0] == 404


def test_objects_need_a_namespace_that_exists(client: Client) -> None:
    status, problem = client.send("POST", "/api/v1/namespaces/none/configmaps", {"metadata": {"name": "a"}})
    assert (status, problem["details"]) == (404, {"name": "none", "kind": "namespaces"})


def test_a_node_is_tainted_until_it_reports_ready(client: Client) -> None:
    node = client.create("/api/v1/nodes", "n1")
    assert [taint["key"] for taint in node["spec"]["taints"]] == ["node.kubernetes.io/not-ready"]
    ready = [{"type": "Ready", "status": "True"}]
    client.patch("/api/v1/nodes/n1/status", {"status": {"conditions": ready}})
    client.server.collect()
    assert "taints" not in client.send("GET", "/api/v1/nodes/n1")[1]["spec"]


# --- reads -----------------------------------------------------------------------------------------------------------


def test_pages_without_selector_say_how_much_remains(client: Client) -> None:
    for i in range(5):
        client.create(CONFIGMAPS, f"c{i}")
    _, page = client.send("GET", CONFIGMAPS, limit="2")
    assert page["metadata"]["remainingItemCount"] == 3


def test_a_continued_list_is_expired_after_compaction(client: Client) -> None:
    for i in range(3):
        client.create(CONFIGMAPS, f"c{i}")
    _, page = client.send("GET", CONFIGMAPS, limit="2")
    client.create(CONFIGMAPS, "later")
    client.server.compact()
    status, problem = client.send("GET", CONFIGMAPS, limit="2", **{"continue": page["metadata"]["continue"]})
    assert (status, problem["reason"]) == (410, "Expired")


def test_a_list_at_an_exact_version_shows_the_past(client: Client) -> None:
    made = client.create(CONFIGMAPS, "a", data={"k": "1"})
    client.patch(f"{CONFIGMAPS}/a", {"data": {"k": "2"}})
    client.create(CONFIGMAPS, "b")
    version = made["metadata"]["resourceVersion"]
    _, past = client.send("GET", CONFIGMAPS, resourceVersion=version, resourceVersionMatch="Exact")
    assert [item["data"] for item in past["items"]] == [{"k": "1"}]


def test_pods_are_chosen_by_node_and_phase(client: Client) -> None:
    pods = "/api/v1/namespaces/default/pods"
    for name, node in (("a", "n1"), ("b", "n2"), ("c", "n1")):
        client.create(pods, name, spec={"nodeName": node, "containers": [{"name": "c", "image": "i"}]})
    client.patch(f"{pods}/c/status", {"status": {"phase": "Succeeded"}})
    _, found = client.send("GET", "/api/v1/pods", fieldSelector="spec.nodeName=n1,status.phase!=Succeeded")
    assert [item["metadata"]["name"] for item in found["items"]] == ["a"]


def test_a_table_has_the_columns_of_its_kind() -> None:
    client = Client()
    client.create(CONFIGMAPS, "a", data={"k": "1"})
    client.time += timedelta(minutes=5)
    headers = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    table = json.loads(client.server.handle("GET", CONFIGMAPS, {}, headers).body)
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert table["rows"][0]["cells"] == ["a", 1, "5m"]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


def test_the_form_of_a_list_is_not_served_for_one_object(client: Client) -> None:
    client.create(CONFIGMAPS, "a")
    for path, form in ((CONFIGMAPS, "PartialObjectMetadata"), (f"{CONFIGMAPS}/a", "PartialObjectMetadataList")):
        headers = {"accept": f"application/json;as={form};g=meta.k8s.io;v=v1"}
        assert client.server.handle("GET", path, {}, headers).status == 406


# --- writes ----------------------------------------------------------------------------------------------------------


def test_a_whole_collection_is_deleted_by_selector(client: Client) -> None:
    for name, color in (("a", "red"), ("b", "blue")):
        client.create(CONFIGMAPS, name, metadata={"labels": {"color": color}})
    assert client.send("DELETE", CONFIGMAPS, labelSelector="color=red")[0] == 200
    assert [item["metadata"]["name"] for item in client.send("GET", CONFIGMAPS)[1]["items"]] == ["b"]


def test_a_removed_definition_takes_its_objects_along(client: Client) -> None:
    client.define_things()
    assert client.send("DELETE", f"{CRDS}/things.x.dev")[0] == 200
    assert client.server.handle("GET", THINGS, {}, {}).status == 404


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"data": {"a": NaN}}', b"a: b"])
def test_a_body_that_is_no_json_object_is_a_bad_request(client: Client, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    assert client.server.handle("POST", CONFIGMAPS, {}, headers, body).status == 400


def test_patches_share_what_they_do_not_touch() -> None:
    old = {"a": {"b": {"c": 1}}, "d": {"e": 1}}
    new = merge_patched(old, {"d": {"e": 2}})
    assert new["a"] is old["a"]
    assert old["d"] == {"e": 1}


# --- watches ---------------------------------------------------------------------------------------------------------


def test_a_watch_may_begin_with_the_list_and_a_bookmark(client: Client) -> None:
    client.create(CONFIGMAPS, "a")
    begun = client.watch(
        CONFIGMAPS, sendInitialEvents="true", allowWatchBookmarks="true", resourceVersionMatch="NotOlderThan"
    )
    assert [kind for kind, _ in begun[:2]] == ["ADDED", "BOOKMARK"]
    assert begun[1][1]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_bookmarks_come_every_minute_and_before_the_end(client: Client) -> None:
    seen = client.watch(CONFIGMAPS, allowWatchBookmarks="true", timeoutSeconds="150")
    assert [kind for kind, _ in seen] == ["BOOKMARK"] * 4


def test_a_stopping_server_ends_its_watches(client: Client) -> None:
    begun = client.server.watch(CONFIGMAPS, {}, {})
    assert not isinstance(begun, Response)

    async def case() -> int:
        async def read() -> int:
            return sum([1 async for _ in begun.lines()])

        task = asyncio.create_task(read(), name="watch")
        await asyncio.sleep(1)
        client.server.end_watches()
        return await asyncio.wait_for(task, 1)

    assert instantly(case()) == 0


# --- faults on the way -----------------------------------------------------------------------------------------------


def test_a_hook_may_answer_or_break_before_the_server_does(client: Client) -> None:
    faults: list[Response | Unreachable] = [Unreachable("cut"), Response(429, {}, b"")]

    async def before(_method: str, _path: str) -> Response | None:
        fault = faults.pop() if faults else None
        if isinstance(fault, Unreachable):
            raise fault
        return fault

    transport = InProcessTransport(client.server, before=before)
    assert instantly(transport.request("GET", CONFIGMAPS)).status == 429
    with pytest.raises(Unreachable):
        instantly(transport.request("GET", CONFIGMAPS))
    assert instantly(transport.request("GET", CONFIGMAPS)).status == 200


def test_an_answer_may_be_lost_after_its_request_had_its_effect(client: Client) -> None:
    async def after(_method: str, _path: str, _answer: Response) -> Response:
        raise Unreachable("the answer was lost")

    transport = InProcessTransport(client.server, after=after)
    with pytest.raises(Unreachable):
        instantly(transport.request("POST", CONFIGMAPS, body={"metadata": {"name": "a"}}))
    assert client.send("GET", f"{CONFIGMAPS}/a")[0] == 200


@pytest.mark.parametrize(("limit_bytes", "lines"), [(0, 0), (10, 0), (100_000, 2)])
def test_a_stream_may_be_cut_at_any_byte(client: Client, limit_bytes: int, lines: int) -> None:
    for name in ("a", "b"):
        client.create(CONFIGMAPS, name)
    transport = InProcessTransport(client.server, cut_stream=lambda _path: limit_bytes)
    seen: list[bytes] = []

    async def case() -> None:
        async with transport.stream(CONFIGMAPS, query={"watch": "1", "timeoutSeconds": "1"}) as stream:
            async for line in stream.lines:
                seen.append(line)  # noqa: PERF401 - what came before the cut must be kept

    with contextlib.nullcontext() if limit_bytes > 1000 else pytest.raises(Unreachable):
        instantly(case())
    assert len(seen) == lines


# --- the rest --------------------------------------------------------------------------------------------------------


def test_a_cluster_outlives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "cluster"
    first = Client()
    with persisted(first.server, path):
        first.create(CONFIGMAPS, "kept", data={"a": "1"})
        first.create(CONFIGMAPS, "gone")
        last = first.send("DELETE", f"{CONFIGMAPS}/gone")
        version = int(first.send("GET", CONFIGMAPS)[1]["metadata"]["resourceVersion"])
    assert last[0] == 200
    with path.open("ab") as file:
        file.write(b'{"version": 999, "cut short by a ki')
    second = Client()
    with persisted(second.server, path):
        _, found = second.send("GET", CONFIGMAPS)
        assert [item["data"] for item in found["items"]] == [{"a": "1"}]
        assert int(found["metadata"]["resourceVersion"]) == version
        assert int(second.create(CONFIGMAPS, "new")["metadata"]["resourceVersion"]) == version + 1
        ((kind, status),) = second.watch(CONFIGMAPS, resourceVersion=str(version - 1))
        assert (kind, status["code"]) == ("ERROR", 410)


def test_a_restored_cluster_serves_its_custom_kinds(tmp_path: Path) -> None:
    first, second = Client(), Client()
    with persisted(first.server, tmp_path / "cluster"):
        first.define_things()
    with persisted(second.server, tmp_path / "cluster"):
        assert second.send("GET", f"{THINGS}/t")[0] == 200


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (".spec.image", "i"),
        (".status.conditions[?(@.type=='Ready')].status", "True"),
        (".nope.nope", None),
    ],
)
def test_printer_columns_find_their_values(path: str, value: str | None) -> None:
    obj = {
        "spec": {"image": "i"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
    }
    assert json_path(obj, path) == value
