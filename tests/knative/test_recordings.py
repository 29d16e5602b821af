"""What a real Knative sent is understood, and the stand-in for its Broker does as that did."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import structlog

from tests.handlers.world import World, in_world
from tests.knative.recordings import Message, needs_recordings, read_answer, read_request, recorded
from tests.support.broker import Broker, Delivery, Trigger
from tests.support.instant import instantly
from warmhook.events import PING, SYNC

pytestmark = needs_recordings

STRUCTURED = {"content-type": "application/cloudevents+json"}


def post(world: World, path: str, message: Message, **headers: str) -> Any:
    """The recorded request, to `web`."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    sent = {name: text for name, text in message.headers.items() if name not in ("host", "content-length")}
    return world.client.post(path, content=message.body, headers=sent | named)


# --- what handlers get ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recorded("delivered-"))
@in_world()
async def test_whatever_form_an_event_arrives_in_it_is_read(world: World, name: str) -> None:
    await world.add_nodes("a")
    await world.add_warmimage("x")
    answer = await post(world, "/events", read_request(name), ce_type=SYNC)
    # An answer with a body would count as 502 and be repeated.
    assert (answer.status_code, answer.content) == (204, b"")
    assert list(await world.lines()) == ["a"]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("warmhook-sync", 204),
        ("warmhook-report-changed", 204),
        ("warmhook-pod-admitted", 204),
        ("warmhook-image-pushed", 204),
        ("pingsource-sync", 204),
        ("warmhook-object-changed", 400),  # a type of old
        ("apiserversource-reference", 400),
    ],
)
@in_world()
async def test_events_that_were_delivered_are_answered_with_an_empty_body_or_refused(
    world: World, name: str, status: int
) -> None:
    answer = await post(world, "/events", read_request(name))
    assert answer.status_code == status
    assert answer.content == b"" or status == 400


def test_a_ping_is_what_the_trigger_of_pings_filters() -> None:
    headers = read_request("pingsource-sync").headers
    source = "/apis/v1/namespaces/warmhook-system/pingsources/warmhook-sync"
    assert (headers["ce-type"], headers["ce-source"]) == (PING, source)


# --- dead letters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "destination", "answer"),
    [
        ("deadletter-400-with-body", "400", "http://192.0.2.2:18080/400-text", "some text"),
        ("deadletter-503-after-7-attempts", "503", "http://192.0.2.2:18080/503-text", "some text"),
        ("deadletter-404-after-7-attempts", "404", "http://192.0.2.2:18080/404", ""),
        ("deadletter-502-nonempty-reply", "", "", ""),
    ],
)
@in_world(serve=frozenset({"dead-letters"}))
async def test_a_dead_letter_becomes_a_line_and_a_count(
    world: World, name: str, code: str, destination: str, answer: str
) -> None:
    message = read_request(name)
    response = await post(world, "/dead-letters", message)
    assert (response.status_code, response.content) == (202, b"")
    (line,) = [entry for entry in structlog.get_config()["processors"][0].entries if entry["event"] == "dead-letter"]
    assert (line["event_id"], line["type"]) == (message.headers["ce-id"], message.headers["ce-type"])
    assert (line["code"], line["destination"], line["answer"]) == (code, destination, answer)
    assert world.metric("warmhook_dead_letters_total", type="foreign", code=code or "none") == 1
    assert world.requests == []


# --- the stand-in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recorded("ingress-"))
def test_the_stand_in_takes_and_refuses_what_the_broker_does(name: str) -> None:
    request, answer = read_request(name), read_answer(name)
    method, path, _ = request.first_line.split(" ")

    status, headers = asyncio.run(Broker([]).ingress(method, path, request.headers, request.body))

    assert f" {status} " in answer.first_line
    assert answer.body == b""
    names = ("allow", "webhook-allowed-origin", "webhook-allowed-rate")
    expected = {name: answer.headers[name] for name in names if name in answer.headers}
    assert headers == expected or (status == 404 and headers.items() >= expected.items())


FORMS: dict[str, tuple[dict[str, str], dict[str, Any] | bytes]] = {
    "delivered-from-structured": (
        STRUCTURED,
        {
            "specversion": "1.0",
            "id": "s1",
            "source": "/x",
            "type": "t.ok",
            "subject": "a/b",
            "time": "2026-11-21T15:00:00Z",
            "myext": "m",
            "datacontenttype": "application/json",
            "data": {"k": "v"},
        },
    ),
    "delivered-without-data": (STRUCTURED, {"specversion": "1.0", "id": "s3", "source": "/x", "type": "t.ok"}),
    "delivered-without-datacontenttype": (
        STRUCTURED,
        {"specversion": "1.0", "id": "body1", "source": "/x", "type": "t.body", "data": {}},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_stand_in_delivers_as_the_broker_does(name: str) -> None:
    message = read_request(name)
    headers, body = FORMS[name]
    taken: list[tuple[dict[str, str], bytes]] = []

    async def take(given: dict[str, str], data: bytes) -> tuple[int, bytes]:
        taken.append((given, data))
        return 204, b""

    broker = Broker([Trigger(take)], name="scratch/broker")
    asyncio.run(broker.ingress("POST", "/scratch/broker", headers, json.dumps(body).encode()))

    ((given, data),) = taken
    assert given.pop("ce-knativearrivaltime")
    assert given == message.attributes()
    assert data == message.body


@pytest.mark.parametrize(
    ("name", "status", "body", "attempts"),
    [
        ("deadletter-400-with-body", 400, b"some text", 1),
        ("deadletter-503-after-7-attempts", 503, b"some text", 7),
        ("deadletter-404-after-7-attempts", 404, b"", 7),
        ("deadletter-502-nonempty-reply", 200, b"accepted\n", 7),
    ],
)
def test_the_stand_in_buries_as_the_broker_does(name: str, status: int, body: bytes, attempts: int) -> None:
    message = read_request(name)
    taken: list[tuple[dict[str, str], bytes]] = []

    async def fail(_given: dict[str, str], _data: bytes) -> tuple[int, bytes]:
        return status, body

    async def bury(given: dict[str, str], data: bytes) -> tuple[int, bytes]:
        taken.append((given, data))
        return 202, b""

    trigger = Trigger(fail, destination=message.headers.get("ce-knativeerrordest", ""), delivery=Delivery())
    broker = Broker([trigger], name="scratch/broker", dead_letters=bury)
    sent = {
        name: text for name, text in message.attributes().items() if "knative" not in name and name != "kn-namespace"
    }

    async def run() -> float:
        await broker.ingress("POST", "/scratch/broker", sent, message.body)
        return asyncio.get_running_loop().time()

    seconds = instantly(run())
    ((given, data),) = taken
    assert given.pop("ce-knativearrivaltime")
    assert given == message.attributes()
    assert data == message.body
    assert trigger.attempts == attempts
    assert seconds == pytest.approx(31.5 if attempts == 7 else 0, abs=0.1)
