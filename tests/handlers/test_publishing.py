"""With a sink, do others hear of pushes too, without acceptance depending on it and without anything going round?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from adapters.cloudevents import BATCHED, STRUCTURED, read_events, write_batch
from adapters.environment import BadSetting
from handlers.publishing import NotPublished, Post, Publisher, open_publisher
from handlers.settings import Settings, read_settings
from handlers.watch.run import open_post, write_for
from tests.handlers.world import DIGEST, HOST, START, World, digest, harbor_push, in_world, status
from warmhook.events import CHANGED, PUSHED, REPORTED, SYNC, Changed, changed_event, sync_event
from warmhook.ports import Object

SOURCES = f"""
sources:
- {{name: harbor, kind: harbor, secret: {{env: HARBOR}}, registryHost: {HOST}}}
- {{name: events, kind: cloudevents, secret: {{env: HARBOR}}, allowedHosts: [{HOST}]}}
"""


def with_sink(case: Callable[[World, list[Object]], Awaitable[None]], post: Post | None = None) -> None:
    """Run a case in a world whose `web` has a sink; what it took is in the list."""

    async def run(world: World) -> None:
        taken: list[Object] = []

        async def take(body: bytes) -> None:
            taken.append(json.loads(body))

        publisher = Publisher(post or take, {"team": "shop"}, world.metrics.count_published)
        world.client = world.new_client(world.new_app(publisher=publisher))
        await world.add_policy(push=[{"repository": f"{HOST}/shop/**", "keep": 9}])
        await case(world, taken)

    in_world(run, sources=SOURCES)


def test_an_accepted_push_is_published_with_its_identity_and_the_overrides() -> None:
    async def case(world: World, taken: list[Object]) -> None:
        assert (await world.push()).status_code == 202

        (event,) = taken
        (obj,) = (await world.warmimages()).values()
        assert event["id"] == obj["metadata"]["annotations"]["warmhook.dev/event-id"]
        assert (event["type"], event["subject"], event["team"]) == (PUSHED, f"{HOST}/shop/app:v1", "shop")
        assert (event["data"]["image"], event["data"]["digest"]) == (f"{HOST}/shop/app:v1", DIGEST)
        assert world.metric("warmhook_published_total", result="published") == 1

    with_sink(case)


def test_what_is_skipped_or_not_believed_is_not_published() -> None:
    async def case(world: World, taken: list[Object]) -> None:
        await world.push(secret="wrong")
        await world.deliver({"type": "DELETE_ARTIFACT"})
        event = {"specversion": "1.0", "id": "1", "source": "/", "type": "t", "data": {"image": "evil.example/a:1"}}
        await world.deliver(event, source="events")

        assert taken == []

    with_sink(case)


def test_every_image_of_a_delivery_is_an_event_of_its_own() -> None:
    async def case(world: World, taken: list[Object]) -> None:
        body = harbor_push(world.now(), "v1", "shop/app", DIGEST)
        more = {"digest": digest("b"), "tag": "v2", "resource_url": f"{HOST}/shop/app:v2"}
        body["event_data"]["resources"].append(more)
        await world.deliver(body)

        assert [event["subject"] for event in taken] == [f"{HOST}/shop/app:v1", f"{HOST}/shop/app:v2"]

    with_sink(case)


async def _refuse(_body: bytes) -> None:
    raise NotPublished("K_SINK: 503")


async def _hang(_body: bytes) -> None:
    await asyncio.sleep(3600)


@pytest.mark.parametrize(("post", "seconds"), [(_refuse, 0), (_hang, 0.8)])
def test_a_push_is_accepted_in_time_whatever_becomes_of_the_broker(post: Post, seconds: float) -> None:
    async def case(world: World, _taken: list[Object]) -> None:
        began = world.monotonic()
        assert (await world.push()).status_code == 202
        assert world.monotonic() - began == pytest.approx(seconds)
        assert len(await world.warmimages()) == 1
        assert world.metric("warmhook_published_total", result="failed") == 1

    with_sink(case, post)


def test_a_push_that_was_not_accepted_is_published_again_under_the_same_id() -> None:
    async def case(world: World, taken: list[Object]) -> None:
        body = harbor_push(world.now(), "v1", "shop/app", DIGEST)
        world.faults.append(lambda _method, _path: status(503))
        assert (await world.deliver(body)).status_code == 503
        world.faults.clear()
        await asyncio.sleep(5)
        assert (await world.deliver(body)).status_code == 202

        assert len({event["id"] for event in taken}) == 1

    with_sink(case)


# --- loops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PUSHED, CHANGED, REPORTED, SYNC])
def test_our_own_events_are_no_pushes_at_a_webhook(kind: str) -> None:
    async def case(world: World, taken: list[Object]) -> None:
        event = {"specversion": "1.0", "id": "1", "source": "/", "type": kind, "data": {"image": f"{HOST}/shop/app:v1"}}
        assert (await world.deliver(event, source="events")).status_code == 202
        assert taken == []
        assert await world.warmimages() == {}
        assert world.metric("warmhook_deliveries_total", source="events", reason="replication-echo") == 1

    with_sink(case)


def test_a_published_push_that_comes_back_changes_nothing_and_is_not_published_again() -> None:
    async def case(world: World, taken: list[Object]) -> None:
        await world.push()
        world.writes()
        headers = {"content-type": STRUCTURED}
        answer = await world.client.post("/events", content=json.dumps(taken[0]).encode(), headers=headers)

        assert (answer.status_code, answer.content) == (204, b"")
        assert world.writes() == []
        assert len(taken) == 1

    with_sink(case)


@pytest.mark.parametrize("kind", ["com.example.foreign", "harbor.artifact.pushed", "dev.warmhook.unknown.v1"])
def test_events_takes_no_foreign_type(kind: str) -> None:
    async def case(world: World, taken: list[Object]) -> None:
        assert (await world.event(kind)).status_code == 400
        assert taken == []

    with_sink(case)


# --- where watch posts -----------------------------------------------------------------------------------------------


def test_watch_tells_a_sink_one_event_per_request_with_the_overrides() -> None:
    events = [changed_event(Changed("Node", "", name), START) for name in "ab"] + [sync_event(1, START)]
    settings = Settings(sink="http://broker.example", sink_extensions={"team": "shop"})

    requests = write_for(settings)(events)

    assert [content_type for content_type, _ in requests] == [STRUCTURED] * 3
    assert [json.loads(body)["team"] for _, body in requests] == ["shop"] * 3
    assert [read_events({"content-type": STRUCTURED}, body, START)[0] for _, body in requests] == events


def test_watch_tells_the_handlers_in_one_batch_where_there_is_no_sink() -> None:
    events = [sync_event(number, START) for number in range(3)]

    assert write_for(Settings())(events) == [(BATCHED, write_batch(events))]


def test_the_sink_is_posted_to_without_the_token_of_the_handlers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(202)

    client = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **given: client(transport=httpx.MockTransport(answer), **given))
    (tmp_path / "token").write_text("s3cret")
    environ = {"WARMHOOK_EVENTS_TOKEN_FILE": str(tmp_path / "token"), "K_SINK": "http://broker.example/in"}
    settings = read_settings(environ)

    async def run() -> None:
        async with open_post(settings) as post, open_publisher(settings, lambda _result: None) as publisher:
            for content_type, body in write_for(settings)([sync_event(1, START)]):
                await post(content_type, body)
            assert publisher is not None
            await publisher.publish([sync_event(1, START)])

    asyncio.run(run())
    assert [str(request.url) for request in asked] == ["http://broker.example/in"] * 2
    assert {request.headers["content-type"] for request in asked} == {STRUCTURED}
    assert not any("authorization" in request.headers for request in asked)


def test_without_a_sink_nothing_is_opened() -> None:
    async def run() -> None:
        async with open_publisher(Settings(), lambda _result: None) as publisher:
            assert publisher is None

    asyncio.run(run())


def test_the_overrides_are_those_of_a_sink_binding() -> None:
    given = {"K_SINK": "http://b", "K_CE_OVERRIDES": '{"extensions": {"team": "shop"}}'}

    assert read_settings(given).sink_extensions == {"team": "shop"}
    assert read_settings({"K_CE_OVERRIDES": "{}"}).sink_extensions == {}
    assert read_settings({}).sink is None


@pytest.mark.parametrize(
    "overrides",
    [
        "x",
        "[]",
        '{"extensions": []}',
        '{"extensions": {"id": "1"}}',
        '{"extensions": {"a-b": "1"}}',
        '{"extensions": {"a": 1}}',
    ],
)
def test_overrides_that_cannot_be_used_stop_the_program(overrides: str) -> None:
    with pytest.raises(BadSetting, match="K_CE_OVERRIDES"):
        read_settings({"K_CE_OVERRIDES": overrides})


def test_a_sink_that_is_no_address_stops_the_program() -> None:
    with pytest.raises(BadSetting, match="K_SINK"):
        read_settings({"K_SINK": "broker"})
