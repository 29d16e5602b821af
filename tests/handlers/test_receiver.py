"""Senders get the right answer, and each delivery is logged and counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog

from devcluster.apiserver import ApiServer
from tests.handlers.world import DIGEST, HOST, SECRET, World, digest, harbor_push, in_world, logged, status
from warmhook.ports import Response, Unreachable

MIB = 1024 * 1024
QUAY = f"""
sources:
- {{name: harbor, kind: harbor, secret: {{env: HARBOR}}, registryHost: {HOST}}}
- {{name: quay, kind: quay, secret: {{env: HARBOR}}, allowedHosts: [quay.io]}}
- {{name: events, kind: cloudevents, secret: {{env: HARBOR}}, allowedHosts: [{HOST}]}}
"""


def deliveries() -> list[Any]:
    """The delivery lines of the log so far."""
    return logged("delivery")


@in_world(policy=True)
async def test_an_accepted_push_is_a_warmimage_before_the_answer_is_sent(world: World) -> None:
    answer = await world.push()
    assert (answer.status_code, answer.content) == (202, b"")
    (obj,) = (await world.warmimages()).values()
    assert obj["spec"]["image"] == f"{HOST}/shop/app:v1"
    assert obj["spec"]["digest"] == DIGEST


@in_world(policy=True)
async def test_a_webhook_calls_no_registry_and_lists_no_node(world: World) -> None:
    await world.push()
    assert {path for _, path in world.requests} == {
        "/apis/warmhook.dev/v1alpha1/warmpolicies",
        "/apis/warmhook.dev/v1alpha1/namespaces/shop/warmimages",
    }


@pytest.mark.parametrize("secret", ["", "wrong", SECRET[:-1], SECRET + "x"])
@in_world()
async def test_a_wrong_secret_is_answered_401_and_asks_nothing_of_the_api_server(world: World, secret: str) -> None:
    assert (await world.push(secret=secret)).status_code == 401
    assert world.requests == []
    assert world.metric("warmhook_deliveries_total", result="unauthorized", reason="bad-secret") == 1


@in_world()
async def test_an_unknown_source_is_404_and_another_method_405(world: World) -> None:
    assert (await world.push(source="gitlab")).status_code == 404
    for method in ("GET", "PUT", "HEAD", "DELETE"):
        assert (await world.client.request(method, "/webhooks/harbor")).status_code == 405


@in_world()
async def test_a_body_over_one_mebibyte_is_refused_while_it_comes_whatever_its_length_claims(world: World) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 64 * 1024
            yield b"x" * 64 * 1024

    headers = {"authorization": SECRET, "content-length": "10"}
    answer = await world.client.post("/webhooks/harbor", content=body(), headers=headers)
    assert answer.status_code == 413
    assert sent <= MIB + 128 * 1024
    assert world.metric("warmhook_deliveries_total", result="refused", reason="too-large") == 1
    assert (await world.deliver(b" " * MIB)).status_code == 202


@in_world()
async def test_a_body_that_trickles_in_too_slowly_is_given_up(world: World) -> None:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(1)

    answer = await world.client.post("/webhooks/harbor", content=body(), headers={"authorization": SECRET})
    assert (answer.status_code, world.monotonic()) == (408, 10)
    assert [line["reason"] for line in deliveries()] == ["slow-body"]


@in_world()
async def test_the_oldest_of_too_many_bodies_is_dropped_and_none_is_left_behind(world: World) -> None:
    go = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b" " * (MIB - 1)
        await go.wait()

    waiting = [asyncio.create_task(world.client.post("/webhooks/harbor", content=body())) for _ in range(64)]
    await asyncio.sleep(1)
    assert (await world.deliver(b" " * 1000)).status_code == 202
    go.set()
    answers = [answer.status_code for answer in await asyncio.gather(*waiting)]
    assert answers == [503] + [401] * 63
    assert (await world.deliver(b" ")).status_code == 202


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"{", "malformed"), (b"", "malformed"), ({"type": "DELETE_ARTIFACT"}, None), ({}, None)],
)
@in_world()
async def test_a_delivery_with_the_right_secret_is_answered_202_even_if_it_is_skipped(
    world: World, body: Any, reason: str | None
) -> None:
    answer = await world.deliver(body)
    assert (answer.status_code, answer.content) == (202, b"")
    (line,) = deliveries()
    assert line["result"] == "skipped"
    assert reason in {None, line["reason"]}


@in_world()
async def test_a_push_that_no_policy_wants_is_skipped(world: World) -> None:
    assert (await world.push()).status_code == 202
    assert [line["reason"] for line in deliveries()] == ["no-policy"]


@in_world(sources=QUAY)
async def test_a_host_that_is_not_allowed_is_skipped_whoever_says_it(world: World) -> None:
    await world.add_policy(push=[{"repository": "**"}])
    repository = {"repository": "shop/app", "namespace": "shop", "name": "app", "updated_tags": ["v1"]}
    addresses = {"docker_url": "evil.example.com/shop/app", "homepage": "https://quay.io/repository/shop/app"}
    answer = await world.client.post(f"/webhooks/quay?token={SECRET}", json=repository | addresses)
    assert answer.status_code == 202
    assert [line["reason"] for line in deliveries()] == ["host-not-allowed"]
    assert await world.warmimages() == {}


@in_world()
async def test_several_images_in_one_delivery_are_all_accepted_under_one_log_line(world: World) -> None:
    await world.add_policy(push=[{"repository": f"{HOST}/shop/**", "keep": 9}])
    body = harbor_push(world.now(), "v1", "shop/app", DIGEST)
    more = {"digest": digest("b"), "tag": "v2", "resource_url": f"{HOST}/shop/app:v2"}
    body["event_data"]["resources"].append(more)
    assert (await world.deliver(body)).status_code == 202
    assert sorted(await world.warmimages()) == [f"{HOST}/shop/app:v1", f"{HOST}/shop/app:v2"]
    (line,) = deliveries()
    assert len(line["images"]) == 2


@in_world(policy=True)
async def test_the_log_line_and_the_metrics_of_a_delivery_have_the_documented_names(world: World) -> None:
    await world.push()
    (line,) = deliveries()
    assert line.keys() == {
        "event", "log_level", "source", "kind", "result", "reason", "images", "event_id", "seconds",
    }  # fmt: skip
    assert (line["source"], line["kind"], line["result"]) == ("harbor", "harbor", "accepted")
    assert line["images"] == (f"{HOST}/shop/app:v1@{DIGEST}",)
    assert len(line["event_id"]) == 32
    (obj,) = (await world.warmimages()).values()
    assert obj["metadata"]["annotations"]["warmhook.dev/event-id"] == line["event_id"]
    assert world.metric("warmhook_deliveries_total", source="harbor", kind="harbor", result="accepted") == 1
    assert world.metric("warmhook_delivery_seconds_count") == 1
    assert world.metric("warmhook_api_requests_total", kind="warmpolicies", verb="get", code="200") == 1
    assert "shop/app" not in world.metrics.exposition().decode()


@in_world(policy=True)
async def test_the_same_delivery_again_changes_nothing_and_is_logged_as_a_duplicate(world: World) -> None:
    body = harbor_push(world.now(), "v1", "shop/app", DIGEST)
    assert (await world.deliver(body)).status_code == 202
    world.writes()
    await asyncio.sleep(100)
    assert (await world.deliver(body)).status_code == 202
    assert world.writes() == []
    assert [line["reason"] for line in deliveries()] == ["", "duplicate"]


# --- when the API server does not take it ----------------------------------------------------------------------------


@in_world(policy=True)
async def test_a_slow_api_server_is_answered_503_after_eight_hundred_milliseconds(world: World) -> None:
    world.answer(None, after=3)
    answer = await world.push()
    assert (answer.status_code, answer.headers["retry-after"], answer.content) == (503, "5", b"")
    assert world.monotonic() == pytest.approx(0.8)
    assert [line["reason"] for line in deliveries()] == ["slow-api-server"]
    world.faults.clear()
    await asyncio.sleep(5)
    assert (await world.push(ago=5)).status_code == 202
    assert len(await world.warmimages()) == 1


@pytest.mark.parametrize(
    ("fault", "reason", "method"),
    [
        (Unreachable("refused"), "api-server-unreachable", "GET"),
        (status(503), "api-server-503", "GET"),
        (status(429), "api-server-429", "GET"),
        (status(403), "api-server-403", "GET"),
        (Unreachable("refused"), "api-server-unreachable", "POST"),
        (status(503), "api-server-503", "POST"),
        (status(429), "api-server-429", "POST"),
    ],
)
@in_world(policy=True)
async def test_a_push_that_the_api_server_did_not_take_is_answered_503(
    world: World, fault: Response | Unreachable, reason: str, method: str
) -> None:
    world.answer(fault, method)
    answer = await world.push()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert [(line["result"], line["reason"]) for line in deliveries()] == [("unavailable", reason)]
    world.faults.clear()
    await asyncio.sleep(5)
    assert (await world.push(ago=5)).status_code == 202


# --- secrets ---------------------------------------------------------------------------------------------------------


@in_world()
async def test_a_rotated_secret_needs_no_restart(world: World, tmp_path: Path) -> None:
    files = [tmp_path / "old", tmp_path / "new"]
    for file, text in zip(files, ("old-secret", "new-secret\n"), strict=True):
        file.write_text(text)
    sources = f"""
sources:
- name: harbor
  kind: harbor
  secret: [{{file: {files[0]}}}, {{file: {files[1]}}}]
  registryHost: {HOST}
"""
    world.restart(sources=sources)
    for secret, answer in (("old-secret", 202), ("new-secret", 202), ("other", 401)):
        assert (await world.push(secret=secret)).status_code == answer
    files[0].write_text("newest-secret")
    for secret, answer in (("old-secret", 401), ("newest-secret", 202)):
        assert (await world.push(secret=secret)).status_code == answer
    files[1].unlink()
    unreadable = await world.push(secret="newest-secret")
    assert (unreadable.status_code, unreadable.headers["retry-after"]) == (503, "5")
    assert deliveries()[-1]["reason"] == "secret-unreadable"


@in_world(policy=True, sources=QUAY)
async def test_secrets_are_in_no_log_line_answer_metric_or_object(world: World) -> None:
    answers = [await world.push(), await world.push(secret="falsch" + SECRET)]
    answers.append(await world.client.post(f"/webhooks/quay?token={SECRET}", content=b"{"))
    answers.append(await world.client.post(f"/webhooks/quay?token=falsch{SECRET}", content=b"{"))
    answers.append(await world.client.get(f"/webhooks/{SECRET}"))
    said = [answer.text + str(answer.headers) for answer in answers]
    said.append(str(structlog.get_config()["processors"][0].entries))
    said.append(world.metrics.exposition().decode())
    said.append(json.dumps(list((await world.warmimages()).values())))
    assert not [text for text in said if SECRET in text]


# --- the rest --------------------------------------------------------------------------------------------------------


@in_world()
async def test_health_is_answered_while_the_api_server_is_down(world: World) -> None:
    world.answer(Unreachable("down"))
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await world.client.get(path)).status_code == 200
    assert world.requests == []


@in_world()
async def test_an_api_server_that_never_was_there_is_the_senders_503(world: World) -> None:
    world.transport.server = ApiServer(world.now, Random(5))
    assert (await world.push()).status_code == 503


@in_world(sources=f"sources: [{{name: acr, kind: acr, secret: {{env: HARBOR}}, allowedHosts: [{HOST}]}}]", policy=True)
async def test_a_push_beside_a_handshake_is_accepted_and_the_handshake_answered(world: World) -> None:
    common = {"subject": "", "eventTime": "2026-03-01T12:00:00Z", "dataVersion": "1", "topic": "/x"}
    kind = "Microsoft.EventGrid.SubscriptionValidationEvent"
    validation = {**common, "id": "1", "eventType": kind, "data": {"validationCode": "0123"}}
    target = {"repository": "shop/app", "tag": "v1", "digest": DIGEST}
    media_type = "application/vnd.oci.image.manifest.v1+json"
    pushed: dict[str, Any] = {"id": "e", "timestamp": common["eventTime"], "action": "push", "request": {"host": HOST}}
    pushed["target"] = {**target, "mediaType": media_type}
    push = {**common, "id": "2", "eventType": "Microsoft.ContainerRegistry.ImagePushed", "data": pushed}
    for first, second in ((validation, push), (push, validation)):
        headers = {"aeg-event-type": "SubscriptionValidation", "authorization": f"Bearer {SECRET}"}
        world.answer(status(503), "POST PATCH")
        refused = await world.client.post("/webhooks/acr", json=[first, second], headers=headers)
        assert refused.status_code in ({503} if not await world.warmimages() else {200})
        world.faults.clear()
        answer = await world.client.post("/webhooks/acr", json=[first, second], headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"validationResponse": "0123"})
        assert list(await world.warmimages()) == [f"{HOST}/shop/app:v1"]
    assert [line["result"] for line in deliveries()] == ["unavailable", "accepted", "skipped", "skipped"]
