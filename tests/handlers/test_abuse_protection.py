"""`OPTIONS` permits the senders of CloudEvents that the configuration names, and calls no callback."""

from __future__ import annotations

import json
import socket

import pytest

from handlers.intake.receiver import validation_headers
from tests.handlers.world import HOST, SECRET, World, in_world, logged

ORIGIN = "eventgrid.azure.net"
SOURCES = f"""
sources:
- {{name: acr, kind: acr, secret: {{env: HARBOR}}, allowedHosts: [{HOST}], allowedOrigins: [EventGrid.azure.net]}}
- {{name: harbor, kind: harbor, secret: {{env: HARBOR}}, allowedHosts: [{HOST}]}}
"""


@in_world(sources=SOURCES)
async def test_a_named_origin_gets_the_rate_it_asks_for(world: World) -> None:
    asked = {"WebHook-Request-Origin": ORIGIN, "WebHook-Request-Rate": "120"}
    answer = await world.client.options("/webhooks/acr", headers=asked)

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["allow"] == "POST"
    assert answer.headers["webhook-allowed-origin"] == ORIGIN
    assert answer.headers["webhook-allowed-rate"] == "120"
    assert world.metric("warmhook_deliveries_total", source="acr", result="skipped", reason="handshake") == 1


@pytest.mark.parametrize(
    ("source", "headers"),
    [
        ("acr", {}),
        ("acr", {"WebHook-Request-Origin": "evil.example"}),
        ("acr", {"WebHook-Request-Origin": f"{ORIGIN}.evil.example"}),
        ("harbor", {"WebHook-Request-Origin": ORIGIN}),
    ],
)
@in_world(sources=SOURCES)
async def test_nobody_else_is_permitted(world: World, source: str, headers: dict[str, str]) -> None:
    answer = await world.client.options(f"/webhooks/{source}", headers=headers)

    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("webhook-")]
    assert world.metric("warmhook_deliveries_total", source=source, reason="origin-not-allowed") == 1


@in_world(sources=SOURCES)
async def test_the_callback_is_never_called(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*_arguments: object) -> None:
        raise AssertionError("somebody was called")

    monkeypatch.setattr(socket, "getaddrinfo", connect)
    monkeypatch.setattr(socket.socket, "connect", connect)
    asked = {"WebHook-Request-Origin": ORIGIN, "WebHook-Request-Callback": "http://127.0.0.1:1/called"}
    assert (await world.client.options("/webhooks/acr", headers=asked)).status_code == 200
    validation = {
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "data": {"validationCode": "c", "validationUrl": "http://127.0.0.1:1/called"},
    }
    answer = await world.client.post(f"/webhooks/acr?token={SECRET}", content=json.dumps([validation]))
    assert (answer.status_code, answer.json()) == (200, {"validationResponse": "c"})
    assert [line["reason"] for line in logged("delivery")] == ["handshake"] * 2


@in_world(sources=SOURCES)
async def test_a_permission_is_not_a_proof(world: World) -> None:
    asked = {"WebHook-Request-Origin": ORIGIN}
    assert (await world.client.options("/webhooks/acr", headers=asked)).status_code == 200
    assert (await world.client.post("/webhooks/acr", headers=asked, content=b"{}")).status_code == 401


@pytest.mark.parametrize("rate", ["-1", "1e9", "٣", "9" * 40, "*"])
def test_a_rate_that_is_no_number_is_answered_by_no_limit(rate: str) -> None:
    granted = validation_headers({"webhook-request-origin": "a", "webhook-request-rate": rate}, frozenset({"*"}))

    assert granted == {"allow": "POST", "webhook-allowed-origin": "a", "webhook-allowed-rate": "*"}
