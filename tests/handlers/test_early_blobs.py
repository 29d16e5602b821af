"""Blobs that are pushed before their manifest are noted where the last image of their repository is."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from adapters.kubernetes import paths
from tests.handlers.world import HOST, WARMIMAGES, World, digest, in_world, status
from warmhook.early_blobs import EARLY_SECONDS, EarlyBlobs, read_early_blobs
from warmhook.ports import Object
from warmhook.warmimages import ObjectKey

MIB = 1024 * 1024
SOURCES = f"""
sources:
- {{name: harbor, kind: harbor, secret: {{env: HARBOR}}, registryHost: {HOST}}}
- {{name: registry, kind: distribution, secret: {{env: HARBOR}}, registryHost: {HOST}, earlyBlobs: true}}
- {{name: other, kind: distribution, secret: {{env: HARBOR}}, allowedHosts: [{HOST}], earlyBlobs: true}}
- {{name: plain, kind: distribution, secret: {{env: HARBOR}}, registryHost: {HOST}}}
"""


def blob_event(letter: str, size_bytes: object = 5 * MIB, *, repository: str = "shop/app", **changed: Any) -> Object:
    """What Distribution sends for a layer."""
    target = {"mediaType": "application/octet-stream", "digest": digest(letter), "size": size_bytes}
    event = {"id": f"e-{letter}", "action": "push", "target": target | {"repository": repository}}
    return event | {"request": {"host": "registry.internal:5000"}} | changed


async def push_blobs(world: World, *events: Object, source: str = "registry", **more: Any) -> int:
    answer = await world.deliver({"events": list(events)}, source=source, **more)
    await asyncio.sleep(3)
    return answer.status_code


async def noted(world: World, tag: str = "v1") -> EarlyBlobs | None:
    """What the WarmImage of that tag says."""
    obj = (await world.warmimages())[f"{HOST}/shop/app:{tag}"]
    return read_early_blobs((obj["metadata"].get("annotations") or {}).get("warmhook.dev/early-blobs"))


@in_world(policy=True, sources=SOURCES)
async def test_a_blob_is_noted_at_the_image_that_was_pushed_last(world: World) -> None:
    await world.push("v1", ago=60)
    await world.push("v2", content=digest("b"))
    before = world.now().timestamp()
    assert await push_blobs(world, blob_event("c")) == 202
    assert await noted(world, "v2") == EarlyBlobs(int(before) + EARLY_SECONDS, {digest("c"): 5 * MIB})
    assert await noted(world, "v1") is None
    assert world.metric("warmhook_early_blobs_total", result="noted") == 1
    assert world.metric("warmhook_deliveries_total", result="skipped", reason="early-blob") == 1


@in_world(policy=True, sources=SOURCES)
async def test_blobs_that_come_together_cost_two_writes(world: World) -> None:
    await world.push()
    world.requests.clear()
    letters = "bcdef0123456789"
    await asyncio.gather(*(push_blobs(world, blob_event(letter)) for letter in letters))
    found = await noted(world)
    assert found is not None
    assert found.sizes.keys() == {digest(letter) for letter in letters}
    assert len(world.writes()) <= 2


@in_world(policy=True, sources=SOURCES)
async def test_a_blob_of_a_push_that_has_ended_meanwhile_is_not_noted(world: World) -> None:
    moments = [(world.now() + timedelta(seconds=seconds)).isoformat() for seconds in (-30, 30)]
    await world.push()
    before, after = (blob_event(letter, timestamp=at) for letter, at in zip("cd", moments, strict=True))
    assert await push_blobs(world, before, after) == 202
    found = await noted(world)
    assert found is not None
    assert list(found.sizes) == [digest("d")]


@in_world(policy=True, sources=SOURCES)
async def test_a_repeated_delivery_writes_nothing(world: World) -> None:
    await world.push()
    await push_blobs(world, blob_event("c"))
    world.requests.clear()
    await push_blobs(world, blob_event("c"), blob_event("c", action="mount"))
    assert world.writes() == []
    assert world.metric("warmhook_early_blobs_total", result="skipped") == 1


@in_world(policy=True, sources=SOURCES)
async def test_the_next_push_of_the_tag_ends_what_was_noted(world: World) -> None:
    await world.push("v1", ago=60)
    await push_blobs(world, blob_event("c"))
    assert (await world.push("v1", content=digest("b"))).status_code == 202
    assert await noted(world) is None


@in_world(policy=True, sources=SOURCES)
async def test_a_change_of_the_policy_keeps_what_was_noted(world: World) -> None:
    await world.push()
    await push_blobs(world, blob_event("c"))
    path = paths.warmpolicies(ObjectKey("shop", "shop"))
    await world.admin.patch(path, {"spec": {"template": {"pull": {"priority": 5}}}})
    await world.changed("WarmPolicy", "shop")
    assert await noted(world) is not None


@pytest.mark.parametrize(
    ("source", "event"),
    [
        ("plain", blob_event("c")),
        ("other", blob_event("c")),
        ("registry", blob_event("c", repository="shop/new")),
        ("registry", blob_event("c", 5000)),
        ("registry", blob_event("c", "large")),
        ("registry", blob_event("c", action="pull")),
    ],
    ids=["setting", "host", "repository", "small", "size", "action"],
)
@in_world(policy=True, sources=SOURCES)
async def test_nothing_else_is_noted(world: World, source: str, event: Object) -> None:
    await world.push()
    world.requests.clear()
    assert await push_blobs(world, event, source=source) == 202
    assert world.writes() == []


@in_world(policy=True, sources=SOURCES)
async def test_without_the_secret_nothing_is_noted(world: World) -> None:
    await world.push()
    world.requests.clear()
    assert await push_blobs(world, blob_event("c"), secret="wrong") == 401
    assert world.requests == []


@in_world(policy=True, sources=SOURCES)
async def test_a_suspended_image_gets_no_blobs(world: World) -> None:
    await world.push()
    (obj,) = (await world.warmimages()).values()
    await world.admin.patch(paths.warmimages(ObjectKey("shop", obj["metadata"]["name"])), {"spec": {"suspend": True}})
    await push_blobs(world, blob_event("c"))
    assert await noted(world) is None


@in_world(policy=True, sources=SOURCES)
async def test_an_api_server_that_hangs_delays_no_answer_and_what_it_does_not_take_is_counted(world: World) -> None:
    await world.push()
    world.answer(None, "PATCH", "warmimages", after=60, times=1)
    began = world.monotonic()
    answer = await world.deliver({"events": [blob_event("c")]}, source="registry")
    assert (answer.status_code, world.monotonic()) == (202, began)
    await asyncio.sleep(10)
    assert world.metric("warmhook_early_blobs_total", result="dropped") == 1
    await push_blobs(world, blob_event("d"))
    found = await noted(world)
    assert found is not None
    assert digest("d") in found.sizes


@in_world(policy=True, sources=SOURCES)
async def test_a_refused_write_is_dropped_and_the_delivery_is_accepted(world: World) -> None:
    await world.push()
    world.answer(status(403), "PATCH", "warmimages")
    assert await push_blobs(world, blob_event("c")) == 202
    assert world.metric("warmhook_early_blobs_total", result="dropped") == 1


@in_world(policy=True, sources=SOURCES)
async def test_an_image_that_cannot_be_written_keeps_no_blob_from_another(world: World) -> None:
    await world.push()
    await world.push(repository="shop/other")
    (path,) = {
        f"{WARMIMAGES}/{obj['metadata']['name']}"
        for image, obj in (await world.warmimages()).items()
        if "shop/other" in image
    }
    world.answer(None, "PATCH", path, after=60)
    # These take the first rounds, so that the others share one.
    first = [blob_event("c", repository=f"shop/none{number}") for number in range(8)]
    await push_blobs(world, *first, blob_event("c"), blob_event("d", repository="shop/other"))
    await asyncio.sleep(10)
    assert (await noted(world) or EarlyBlobs(0)).sizes == {digest("c"): 5 * MIB}
    assert world.metric("warmhook_early_blobs_total", result="noted") == 1
    assert world.metric("warmhook_early_blobs_total", result="dropped") == 1


@in_world(policy=True, sources=SOURCES)
async def test_blobs_of_too_many_repositories_are_dropped_and_counted(world: World) -> None:
    await push_blobs(world, *(blob_event("c", repository=f"shop/app{number}") for number in range(200)))
    dropped = world.metric("warmhook_early_blobs_total", result="dropped")
    assert dropped + world.metric("warmhook_early_blobs_total", result="skipped") == 200
    assert 100 < dropped < 200


@in_world(policy=True, sources=SOURCES)
async def test_a_manifest_in_the_same_delivery_is_accepted_as_always(world: World) -> None:
    manifest = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest("d"),
        "repository": "shop/app",
        "tag": "v1",
    }
    event = blob_event("x") | {"target": manifest}
    assert await push_blobs(world, blob_event("c"), event) == 202
    assert list(await world.warmimages()) == [f"{HOST}/shop/app:v1"]
    assert world.metric("warmhook_deliveries_total", result="accepted") == 1
