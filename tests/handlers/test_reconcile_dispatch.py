"""The clients and forms that `/events` accepts, and its answers."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.handlers.world import DIGEST, HOST, NAMESPACE, WARMIMAGES, World, digest, in_world, status
from warmhook.ports import Response, Unreachable

SYNC = "dev.warmhook.sync.v1"
CHANGED = "dev.warmhook.objects.changed.v1"
PUSHED = "dev.warmhook.image.pushed.v1"
STRUCTURED = {"content-type": "application/cloudevents+json"}
BATCHED = {"content-type": "application/cloudevents-batch+json"}
FIELDS = {"specversion": "1.0", "id": "1", "source": "/test"}
EMPTY = json.dumps({**FIELDS, "type": "dev.warmhook.report.changed.v1", "data": {"warmimages": []}}).encode()
"""An event that asks nothing of the API server."""


@in_world(warmimage="x")
async def test_binary_and_structured_events_are_handled_alike(world: World) -> None:
    change = {"objects": [{"kind": "WarmImage", "namespace": "shop", "name": "x"}]}
    binary = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/t", "ce-type": CHANGED}
    posts: list[tuple[dict[str, str], Any]] = [
        ({"content-type": "application/json", **binary}, change),
        (STRUCTURED, {**FIELDS, "type": CHANGED, "data": change}),
    ]
    for number, (headers, body) in enumerate(posts):
        await world.add_nodes(f"n{number}")
        answer = await world.client.post("/events", content=json.dumps(body).encode(), headers=headers)
        assert (answer.status_code, answer.content) == (204, b"")
        assert len(await world.lines()) == number + 1


@pytest.mark.parametrize("number", [0, 1, 2])
@in_world()
async def test_a_batch_is_refused_as_a_broker_refuses_it(world: World, number: int) -> None:
    batch = json.dumps([{**FIELDS, "type": SYNC}] * number).encode()
    answer = await world.client.post("/events", content=batch, headers=BATCHED)
    assert answer.status_code == 400
    assert world.requests == []


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("com.example.foreign", {}),
        (CHANGED, {}),
        (CHANGED, {"objects": []}),
        (CHANGED, {"objects": {"kind": "Node", "name": "b"}}),
        (CHANGED, {"objects": ["Node"]}),
        (CHANGED, {"objects": [{"kind": "Secret", "namespace": "a", "name": "b"}]}),
        (CHANGED, {"objects": [{"kind": "WarmImage", "namespace": "", "name": "b"}]}),
        (CHANGED, {"objects": [{"kind": ["Node"], "namespace": "", "name": "b"}]}),
        (CHANGED, {"objects": [{"kind": "Node", "name": "b", "resourceVersion": "9" * 5000}]}),
        (CHANGED, {"objects": [{"kind": "Node", "name": "b"}] * 501}),
        ("dev.warmhook.report.changed.v1", {}),
        ("dev.warmhook.report.changed.v1", {"warmimages": ["no-namespace"]}),
        ("dev.warmhook.report.changed.v1", {"warmimages": [1]}),
        ("dev.warmhook.report.changed.v1", {"warmimages": ["shop/a"] * 501}),
        (PUSHED, {}),
        (PUSHED, {"image": "nginx", "source": "harbor"}),
        (PUSHED, {"image": "NGINX:1", "source": "harbor"}),
        (PUSHED, {"image": "nginx:1", "source": 1}),
        (PUSHED, {"image": "nginx:1", "source": "harbor", "digest": "sha256:short"}),
        (PUSHED, {"image": "nginx:1", "source": "harbor", "pushedAt": "yesterday"}),
    ],
)
@in_world()
async def test_an_event_that_can_never_work_is_answered_400_and_asks_nothing_of_the_api_server(
    world: World, kind: str, data: Any
) -> None:
    answer = await world.event(kind, data)
    assert answer.status_code == 400, answer.text
    assert world.requests == []


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"\xff", b"[1]"])
@pytest.mark.parametrize("content_type", ["application/cloudevents+json", "text/plain"])
@in_world()
async def test_a_body_that_is_no_event_is_answered_400(world: World, content_type: str, body: bytes) -> None:
    answer = await world.client.post("/events", content=body, headers={"content-type": content_type})
    assert answer.status_code == 400


@in_world(policy=True)
async def test_a_warmimage_that_lagging_lists_go_on_naming_is_deleted_once(world: World) -> None:
    for number in range(5):
        await world.push(f"v{number}", content=digest(str(number)), ago=10 - number)
    names = [obj["metadata"]["name"] for obj in (await world.warmimages()).values()]
    items = (await world.admin.list(WARMIMAGES)).items
    listed = Response(200, {}, json.dumps({"metadata": {}, "items": items}).encode())
    world.faults.append(lambda method, path: listed if (method, path) == ("GET", WARMIMAGES) else None)
    world.asked()
    for name in names:
        await world.changed("WarmImage", name)
    assert len(await world.warmimages()) == 1
    deletes = [path for method, path in world.requests if method == "DELETE"]
    assert len(deletes) == 4 == len(set(deletes))


@in_world(nodes="a", warmimage="x")
async def test_an_object_that_cannot_be_read_keeps_no_other_of_its_event_from_being_handled(world: World) -> None:
    good = {"kind": "WarmImage", "namespace": "shop", "name": "x"}
    answer = await world.event(CHANGED, {"objects": [{"kind": "Later", "name": "b"}, good, {}]})
    assert answer.status_code == 400
    assert await world.lines() == {"a": [f"{HOST}/shop/app:v1"]}


@pytest.mark.parametrize("fault", [status(503), status(429, retry_after="7"), status(500), Unreachable("down")])
@in_world(warmimage="x")
async def test_an_event_that_can_work_later_is_answered_503_with_retry_after(
    world: World, fault: Response | Unreachable
) -> None:
    world.answer(fault)
    answer = await world.changed("WarmImage", "x")
    assert answer.status_code == 503
    asked = fault.headers.get("retry-after", "1") if isinstance(fault, Response) else "1"
    assert answer.headers["retry-after"] == asked
    assert world.metric("warmhook_events_total", type=CHANGED, result="unavailable") == 1


@in_world()
async def test_an_event_whose_write_the_api_server_refuses_for_good_is_not_asked_for_again(world: World) -> None:
    await world.add_policy(images=["nginx:1"])
    world.answer(status(403), "POST")
    assert (await world.changed("WarmPolicy", "shop")).status_code == 204


@pytest.mark.slow
@in_world(nodes="a", warmimage="x")
async def test_syncs_that_come_together_are_two_however_many_they_are(world: World) -> None:
    world.answer(None, after=0.05)
    first = asyncio.create_task(world.event(SYNC))
    await asyncio.sleep(0.07)
    await world.add_warmimage("y", f"{HOST}/shop/other:v1")
    world.asked()
    answers = await asyncio.gather(first, *(world.event(SYNC) for _ in range(300)))
    assert {answer.status_code for answer in answers} == {204}
    assert world.asked()["GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps"] <= 3
    # The second began after all of them had come.
    assert await world.lines() == {"a": [f"{HOST}/shop/app:v1", f"{HOST}/shop/other:v1"]}


@in_world(nodes="a", warmimage="x")
async def test_a_ping_of_knative_is_a_sync(world: World) -> None:
    assert (await world.event("dev.knative.sources.ping", {"any": "thing"})).status_code == 204
    assert await world.lines() == {"a": [f"{HOST}/shop/app:v1"]}


@in_world()
async def test_a_pushed_event_is_accepted_again_only_for_hosts_of_its_source(world: World) -> None:
    await world.add_policy(push=[{"repository": "**"}])
    pushed = {"image": f"{HOST}/shop/app:v1", "digest": DIGEST, "source": "harbor"}
    for data in ({**pushed, "image": "evil.example.com/a:1"}, {**pushed, "source": "unknown"}):
        assert (await world.event(PUSHED, data)).status_code == 204
    assert await world.warmimages() == {}
    assert (await world.event(PUSHED, pushed)).status_code == 204
    assert list(await world.warmimages()) == [f"{HOST}/shop/app:v1"]


# --- who may post ----------------------------------------------------------------------------------------------------


HOSTS = ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1"]


async def status_of_post(world: World, authorization: str, host: str = "10.0.0.1") -> int:
    """The answer to an event."""
    headers = {**STRUCTURED, "authorization": authorization, "x-forwarded-for": "127.0.0.1"}
    return (await world.new_client(world.app, host).post("/events", content=EMPTY, headers=headers)).status_code


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer wrong", "s3cret", "bearer s3cret"])
@in_world()
async def test_only_the_token_lets_events_in_wherever_they_come_from(
    world: World, tmp_path: Path, host: str, authorization: str
) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    world.restart(events_open=False, events_token_file=token)
    assert await status_of_post(world, authorization, host) == 401
    assert await status_of_post(world, "Bearer s3cret", host) == 204


@pytest.mark.parametrize("host", HOSTS)
@in_world(events_open=False)
async def test_without_a_token_file_nobody_may_post(world: World, host: str) -> None:
    for authorization in ("", "Bearer ", "Bearer None", "Bearer wrong"):
        assert await status_of_post(world, authorization, host) == 401


@in_world(events_open=True)
async def test_anybody_may_post_if_the_network_protects_the_endpoint(world: World) -> None:
    assert await status_of_post(world, "") == 204


@in_world()
async def test_with_a_token_everybody_needs_it_and_it_may_be_rotated(world: World, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    world.restart(events_open=False, events_token_file=token)
    post = partial(status_of_post, world)
    assert await post("Bearer first") == 204
    for wrong in ("", "first", "Bearer ", "Bearer firs", "bearer first", "Basic first"):
        assert await post(wrong, "127.0.0.1") == 401
    token.write_text("second")
    assert await post("Bearer second") == 204
    assert await post("Bearer first") == 401
    token.write_text("")
    assert await post("Bearer ") == 401
    token.unlink()
    assert await post("Bearer second") == 503
    assert world.requests == []


@in_world()
async def test_foreign_types_do_not_fill_the_metrics(world: World) -> None:
    for number in range(5):
        await world.event(f"dev.made-up.{number}")
    assert world.metric("warmhook_events_total", type="foreign", result="refused") == 5
    assert "made-up" not in world.metrics.exposition().decode()
