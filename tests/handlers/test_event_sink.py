"""Events are sent in process, over HTTP and to a sink. Acceptance needs no sink, and no event goes round."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import httpx
import pytest
import structlog

from adapters.cloudevents import STRUCTURED, read_event, write_event
from adapters.env import BadSetting
from adapters.kubernetes import paths
from adapters.kubernetes.errors import KubernetesError, Unavailable
from handlers.app import Resources, Web
from handlers.event_sink import (
    AT_ONCE,
    QUEUE_BYTES,
    QUEUE_MAX,
    Post,
    Publisher,
    Refused,
    RetryLater,
    open_event_sink,
    open_in_process,
)
from handlers.settings import Settings, read_settings
from tests.handlers.world import (
    DIGEST,
    HOST,
    NAMESPACE,
    START,
    AsyncTest,
    World,
    digest,
    giving,
    harbor_push,
    in_world,
    run_in_world,
    status,
)
from tests.support.instant import instant, instantly
from warmhook.events import CHANGED, PUSHED, REPORTED, SYNC, Event, NotAnEvent, sync_event

SOURCES = f"""
sources:
- {{name: harbor, kind: harbor, secret: {{env: HARBOR}}, registryHost: {HOST}}}
- {{name: events, kind: cloudevents, secret: {{env: HARBOR}}, allowedHosts: [{HOST}]}}
"""


async def add_sink(world: World, post: Post) -> None:
    """`web` has this sink, and a policy wants every push."""
    settings = replace(world.settings, sink="http://broker.example/in")
    world.client = world.new_client(world.new_app(settings, post))
    await world.add_policy(push=[{"repository": f"{HOST}/shop/**", "keep": 9}])


def _run_with_sink(case: AsyncTest) -> None:
    """Run a test in a world whose `web` has a sink; the events that it took are in the list."""

    async def run(world: World) -> None:
        taken: list[Event] = []

        async def take(event: Event) -> None:
            taken.append(event)

        await add_sink(world, take)
        await case(world, taken)

    run_in_world(run, sources=SOURCES)


with_sink = giving(2, _run_with_sink)


@with_sink
async def test_an_accepted_push_is_published_with_its_identity(world: World, taken: list[Event]) -> None:
    assert (await world.push()).status_code == 202

    (event,) = taken
    (obj,) = (await world.warmimages()).values()
    assert event.id == obj["metadata"]["annotations"]["warmhook.dev/event-id"]
    assert (event.type, event.subject) == (PUSHED, f"{HOST}/shop/app:v1")
    assert (event.data["image"], event.data["digest"]) == (f"{HOST}/shop/app:v1", DIGEST)
    assert world.metric("warmhook_published_total", result="published") == 1


@with_sink
async def test_a_push_that_is_skipped_or_not_authenticated_is_not_published(world: World, taken: list[Event]) -> None:
    await world.push(secret="wrong")
    await world.deliver({"type": "DELETE_ARTIFACT"})
    event = {"specversion": "1.0", "id": "1", "source": "/", "type": "t", "data": {"image": "evil.example/a:1"}}
    await world.deliver(event, source="events")

    assert taken == []


@with_sink
async def test_every_image_of_a_delivery_is_an_event_of_its_own(world: World, taken: list[Event]) -> None:
    body = harbor_push(world.now(), "v1", "shop/app", DIGEST)
    more = {"digest": digest("b"), "tag": "v2", "resource_url": f"{HOST}/shop/app:v2"}
    body["event_data"]["resources"].append(more)
    await world.deliver(body)

    assert [event.subject for event in taken] == [f"{HOST}/shop/app:v1", f"{HOST}/shop/app:v2"]


async def _hang(_event: Event) -> None:
    await asyncio.sleep(3600)


@pytest.mark.parametrize("broker", ["refuses", "hangs", "answers after its repeats"])
@in_world(sources=SOURCES)
async def test_a_push_is_accepted_at_once_whatever_its_broker_does(world: World, broker: str) -> None:
    async def take(_event: Event) -> None:
        await asyncio.sleep({"refuses": 0, "hangs": 3600}.get(broker, 31.8))
        if broker == "refuses":
            raise RetryLater("K_SINK: 503")

    await add_sink(world, take)
    began = world.monotonic()
    assert (await world.push()).status_code == 202
    assert world.monotonic() == began
    assert len(await world.warmimages()) == 1
    # A refusal is counted at once.
    assert world.metric("warmhook_published_total") == (broker == "refuses")
    await asyncio.sleep(32)
    assert world.metric("warmhook_published_total", result="published") == (broker == "answers after its repeats")


def test_events_for_a_broker_that_hangs_are_bounded_in_number_and_bytes() -> None:
    counted: list[str] = []
    large = replace(sync_event(1, START), data={"text": "x" * (QUEUE_BYTES // 10)})

    async def run() -> None:
        many = Publisher(_hang, counted.append)
        many.publish([sync_event(number, START) for number in range(AT_ONCE + QUEUE_MAX + 5)])
        many.publish([sync_event(1, START)])
        assert counted == ["dropped"] * 6
        await many.drain(1)
        few = Publisher(_hang, counted.append)
        few.publish([large] * AT_ONCE)
        counted.clear()
        few.publish([large] * 12)
        assert counted == ["dropped"] * 3
        await few.drain(1)

    with structlog.testing.capture_logs() as entries:
        instantly(run())
    lines = [entry for entry in entries if entry["event"] == "publish-dropped"]
    assert len(lines) == 2


def test_a_process_that_ends_gives_what_is_under_way_a_moment() -> None:
    counted: list[str] = []

    async def soon(_event: Event) -> None:
        await asyncio.sleep(2)

    async def run() -> float:
        slow, stuck = Publisher(soon, counted.append), Publisher(_hang, counted.append)
        slow.publish([sync_event(1, START)])
        await slow.drain(3)
        assert counted == ["published"]
        stuck.publish([sync_event(1, START)])
        await stuck.drain(3)
        assert counted == ["published", "failed"]
        return asyncio.get_running_loop().time()

    with structlog.testing.capture_logs():
        assert instantly(run()) == pytest.approx(5, abs=0.01)


@with_sink
async def test_a_push_that_was_not_accepted_is_published_again_under_the_same_id(
    world: World, taken: list[Event]
) -> None:
    body = harbor_push(world.now(), "v1", "shop/app", DIGEST)
    world.answer(status(503))
    assert (await world.deliver(body)).status_code == 503
    world.faults.clear()
    await asyncio.sleep(5)
    assert (await world.deliver(body)).status_code == 202

    assert len({event.id for event in taken}) == 1


# --- loops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PUSHED, CHANGED, REPORTED, SYNC])
@with_sink
async def test_our_own_events_are_no_pushes_at_a_webhook(world: World, taken: list[Event], kind: str) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/", "type": kind, "data": {"image": f"{HOST}/shop/app:v1"}}
    assert (await world.deliver(event, source="events")).status_code == 202
    assert taken == []
    assert await world.warmimages() == {}
    assert world.metric("warmhook_deliveries_total", source="events", reason="replication-echo") == 1


@with_sink
async def test_a_published_push_that_comes_back_changes_nothing_and_is_not_published_again(
    world: World, taken: list[Event]
) -> None:
    await world.push()
    world.writes()
    headers = {"content-type": STRUCTURED}
    answer = await world.client.post("/events", content=write_event(taken[0]), headers=headers)

    assert (answer.status_code, answer.content) == (204, b"")
    assert world.writes() == []
    assert len(taken) == 1


@pytest.mark.parametrize("kind", ["com.example.foreign", "harbor.artifact.pushed", "dev.warmhook.unknown.v1"])
@with_sink
async def test_events_takes_no_foreign_type(world: World, taken: list[Event], kind: str) -> None:
    assert (await world.event(kind)).status_code == 400
    assert taken == []


# --- where watch posts -----------------------------------------------------------------------------------------------


def posted(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], answer: Callable[[httpx.Request], httpx.Response]
) -> list[httpx.Request]:
    """What is sent when one event is posted and one published."""
    asked: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answer(request)

    client = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **given: client(transport=httpx.MockTransport(take), **given))
    settings = read_settings(environ)

    async def run() -> None:
        async with open_event_sink(settings) as post:
            assert post is not None
            await post(sync_event(1, START))
            publisher = Publisher(post, lambda _result: None)
            publisher.publish([sync_event(1, START)])
            await publisher.drain(1)

    asyncio.run(run())
    return asked


def test_the_sink_is_posted_to_with_the_overrides_and_without_the_token_of_the_handlers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("s3cret")
    overrides = '{"extensions": {"team": "shop"}}'
    token_file = str(tmp_path / "token")
    environ = {"WARMHOOK_EVENTS_TOKEN_FILE": token_file, "K_SINK": "http://b.example/in", "K_CE_OVERRIDES": overrides}

    asked = posted(monkeypatch, environ, lambda _request: httpx.Response(202))

    assert [str(request.url) for request in asked] == ["http://b.example/in"] * 2
    assert {request.headers["content-type"] for request in asked} == {STRUCTURED}
    assert [json.loads(request.content)["team"] for request in asked] == ["shop"] * 2
    assert [read_event({"content-type": STRUCTURED}, request.content, START) for request in asked] == [
        sync_event(1, START)
    ] * 2
    assert not any("authorization" in request.headers for request in asked)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (httpx.ReadTimeout(""), "ReadTimeout"),
        (httpx.ConnectError("refused"), "refused"),
        (TimeoutError(), "270 seconds"),
    ],
)
def test_a_post_that_fails_says_how(monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str) -> None:
    def fail(_request: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(RetryLater, match=f"http://b.example/in: .*{problem}"):
        posted(monkeypatch, {"K_SINK": "http://user:pass@b.example/in"}, fail)


SINK = "http://broker.example/in"
OTHER = "http://warmhook.example/events"
LEASE = paths.leases(NAMESPACE, "warmhook-watch")


@pytest.mark.parametrize(
    ("settings", "posts"),
    [
        (Settings(), False),
        (Settings(watch=True), False),
        (Settings(watch=True, port=8081, events_url="http://127.0.0.1:8081/events"), False),
        (Settings(watch=True, sink=SINK), True),
        (Settings(watch=True, events_url=OTHER), True),
        (Settings(watch=True, serve=frozenset({"webhooks"})), True),
        (Settings(sink=SINK), True),
        (Settings(sink=SINK, serve=frozenset({"events", "admission"})), False),
        (Settings(serve=frozenset({"admission"})), True),
    ],
)
@instant
async def test_a_connection_is_opened_only_where_another_process_takes_events(settings: Settings, posts: bool) -> None:
    async with open_event_sink(settings) as post:
        assert (post is not None) == posts


# --- in process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "raised", "wait"),
    [
        (NotAnEvent("no"), Refused("no"), None),
        (Unavailable("busy", retry_after_seconds=6.2), RetryLater("busy"), 7),
        (Unavailable("busy"), RetryLater("busy"), 1),
        (KubernetesError("broken"), RetryLater("broken"), 1),
        (KeyError("a mistake"), RetryLater("KeyError('a mistake')"), None),
    ],
)
@instant
async def test_an_error_of_a_handler_is_what_its_answer_would_be(
    error: Exception, raised: Exception, wait: int | None
) -> None:
    async def fail(_event: Event) -> None:
        raise error

    with structlog.testing.capture_logs() as entries, pytest.raises(type(raised)) as caught:
        async with open_in_process(fail) as post:
            await post(sync_event(1, START))
    assert str(caught.value) == str(raised)
    assert getattr(caught.value, "retry_after_seconds", None) == wait
    assert [entry["event"] for entry in entries] == ["event-failed"] * isinstance(error, KeyError)


@instant
async def test_a_handler_has_thirty_seconds() -> None:
    with pytest.raises(RetryLater, match="30 seconds"):
        async with open_in_process(_hang) as post:
            await post(sync_event(1, START))
    assert asyncio.get_running_loop().time() == pytest.approx(30 + 5)


@pytest.mark.parametrize(("seconds", "ends"), [(3, "handled"), (30, "cancelled")])
@instant
async def test_a_handler_whose_sender_is_gone_goes_on_for_five_seconds(seconds: float, ends: str) -> None:
    ended: list[str] = []

    async def handle(_event: Event) -> None:
        try:
            await asyncio.sleep(seconds)
            ended.append("handled")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with open_in_process(handle) as post:
        sending = asyncio.ensure_future(post(sync_event(1, START)))
        await asyncio.sleep(0.1)
        sending.cancel()
    await asyncio.sleep(0)
    assert ended == [ends]
    assert asyncio.get_running_loop().time() == pytest.approx(min(seconds, 5.1))


@in_world(nodes="a", policy=True, watch=True, events_open=False)
async def test_web_that_watches_handles_its_events_without_a_request_to_itself(world: World) -> None:
    async with world.app.router.lifespan_context(world.app):
        await asyncio.sleep(5)
        assert (await world.push()).status_code == 202
        await asyncio.sleep(5)
        assert await world.lines() == {"a": [f"{HOST}/shop/app:v1"]}
        assert world.metric("warmhook_events_total", type=SYNC, result="handled") == 1
        assert world.metric("warmhook_events_total", type=CHANGED, result="handled") >= 1
        assert (await world.event(SYNC)).status_code == 401
    assert not (await world.admin.get(LEASE))["spec"].get("holderIdentity")


@in_world(watch=True)
async def test_web_that_is_told_to_stop_releases_the_lease_before_its_last_requests_end(world: World) -> None:
    resources = Resources(world.transport, world.credentials, world.clock, Random(2), world.metrics)
    web = Web(world.settings, world.configuration, resources)
    async with web.lifespan(world.app):
        await asyncio.sleep(5)
        assert (await world.admin.get(LEASE))["spec"]["holderIdentity"]
        for _ in range(2):
            web.stop_watching()
            await asyncio.sleep(0.1)
        assert not (await world.admin.get(LEASE))["spec"].get("holderIdentity")


@in_world(nodes="a", policy=True, watch=True)
async def test_an_event_that_cannot_be_handled_now_is_dispatched_again(world: World) -> None:
    async with world.app.router.lifespan_context(world.app):
        await asyncio.sleep(5)
        world.answer(status(503), part="/configmaps")
        await world.add_warmimage("x")
        await asyncio.sleep(60)
        assert world.metric("warmhook_events_total", type=CHANGED, result="unavailable") > 1
        world.faults.clear()
        await asyncio.sleep(20)
        assert await world.lines() == {"a": [f"{HOST}/shop/app:v1"]}


def test_the_overrides_are_those_of_a_sink_binding() -> None:
    given = {"K_SINK": "http://b", "K_CE_OVERRIDES": '{"extensions": {"team": "shop"}}'}

    assert read_settings(given).sink_extensions == {"team": "shop"}
    assert read_settings({"K_CE_OVERRIDES": "{}"}).sink_extensions == {}
    assert read_settings({}).sink is None


@pytest.mark.parametrize("overrides", ['{"extensions": []}', '{"extensions": {"a-b": "1"}}'])
def test_overrides_that_cannot_be_used_stop_the_program(overrides: str) -> None:
    with pytest.raises(BadSetting, match="K_CE_OVERRIDES"):
        read_settings({"K_CE_OVERRIDES": overrides})
