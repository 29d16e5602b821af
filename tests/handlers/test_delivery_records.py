"""The last deliveries are in the cluster soon, cost few writes, and no push depends on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.applications import Starlette

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.tasks import in_background
from handlers.intake.delivery_writer import DeliveryWriter
from tests.handlers.world import DIGEST, HOST, NAMESPACE, SECRET, World, in_world, logged, status
from warmhook.delivery_records import CONFIGMAP, DeliveryRecord
from warmhook.ports import Response

PATH = paths.configmaps(NAMESPACE, CONFIGMAP)


def running(world: World, app: Starlette | None = None) -> contextlib.AbstractAsyncContextManager[Any]:
    """The background tasks of `web` run meanwhile."""
    app = app or world.app
    return app.router.lifespan_context(app)


@contextlib.asynccontextmanager
async def writing(world: World, key: str = "web") -> AsyncIterator[DeliveryWriter]:
    """The writer of another process runs meanwhile."""
    writer = DeliveryWriter(Kubernetes(world.transport), NAMESPACE, key, world.clock)
    async with in_background(writer.run(), "delivery records"):
        yield writer


def unauthorized(world: World) -> DeliveryRecord:
    return DeliveryRecord(world.now(), "harbor", "harbor", "unauthorized", "bad-secret")


async def recorded(world: World) -> list[DeliveryRecord]:
    return await world.cluster.delivery_records()


async def data(world: World) -> dict[str, str]:
    return (await world.admin.get(PATH)).get("data") or {}


def writes(world: World) -> int:
    """How often deliveries were written since the last time."""
    return world.writes().count(("PATCH", PATH))


@contextlib.asynccontextmanager
async def refusing(world: World, answer: Callable[[str, str], Response | None]) -> AsyncIterator[None]:
    world.faults.append(answer)
    yield
    world.faults.remove(answer)


def refused(code: int) -> Callable[[str, str], Response | None]:
    return lambda _method, path: status(code, "Forbidden") if path == PATH else None


@in_world(policy=True)
async def test_a_delivery_is_recorded_soon_with_its_result_and_its_image(world: World) -> None:
    async with running(world):
        await world.push()
        await world.push("v1", secret="wrong")
        await world.push("v2", repository="other/app")
        await asyncio.sleep(3)
        found = {one.result: one for one in await recorded(world)}
    assert found.keys() == {"accepted", "unauthorized", "skipped"}
    accepted, skipped = found["accepted"], found["skipped"]
    assert (accepted.source, accepted.kind, accepted.images) == ("harbor", "harbor", (f"{HOST}/shop/app:v1@{DIGEST}",))
    assert len(accepted.event_id) == 32
    assert (skipped.reason, skipped.images) == ("no-policy", (f"{HOST}/other/app:v2@{DIGEST}",))
    assert found["unauthorized"].images == ()


@in_world(policy=True)
async def test_a_delivery_whose_body_was_not_read_is_recorded_too(world: World) -> None:
    async with running(world):
        await world.deliver(b"x" * 2 * 1024 * 1024)
        await asyncio.sleep(3)
    assert [(one.result, one.reason) for one in await recorded(world)] == [("refused", "too-large")]


@in_world()
async def test_a_flood_costs_few_writes(world: World) -> None:
    async with writing(world) as writer:
        await asyncio.sleep(60)
        world.writes()
        for _ in range(600):
            for _ in range(20):
                writer.add(unauthorized(world))
            await asyncio.sleep(1)
        assert 5 <= writes(world) <= 10
        await asyncio.sleep(300)
        assert writes(world) <= 1
        for _ in range(60):
            writer.add(unauthorized(world))
            await asyncio.sleep(1)
        assert 5 <= writes(world) <= 7


@in_world()
async def test_without_deliveries_nothing_is_written(world: World) -> None:
    async with writing(world):
        await asyncio.sleep(7 * 24 * 3600)
        assert world.asked()["GET", PATH] <= 30
    assert writes(world) == 0


@in_world()
async def test_records_stay_while_their_process_runs_and_a_day_longer(world: World) -> None:
    async with writing(world, "stays") as stays:
        async with writing(world, "goes") as goes:
            for writer in (stays, goes):
                writer.add(unauthorized(world))
            await asyncio.sleep(60)
            assert (await data(world)).keys() == {"stays", "goes"}
        await asyncio.sleep(20 * 3600)
        assert (await data(world)).keys() == {"stays", "goes"}
        await asyncio.sleep(20 * 3600)
        assert (await data(world)).keys() == {"stays"}
        assert len(await recorded(world)) == 1


@in_world(policy=True)
async def test_a_process_that_starts_again_keeps_what_it_wrote_before(world: World) -> None:
    for tag in ("v1", "v2"):
        async with running(world, app := world.new_app()):
            world.client = world.new_client(app)
            await asyncio.sleep(5)
            await world.push(tag)
    assert [one.images[0].partition("@")[0] for one in await recorded(world)] == [
        f"{HOST}/shop/app:v2",
        f"{HOST}/shop/app:v1",
    ]


@pytest.mark.parametrize("code", [403, 404, 422, 500])
@in_world(policy=True)
async def test_a_push_is_accepted_as_fast_if_deliveries_cannot_be_written(world: World, code: int) -> None:
    async with refusing(world, refused(code)), running(world):
        for _ in range(20):
            began = world.monotonic()
            assert (await world.push()).status_code == 202
            assert world.monotonic() == began
            await asyncio.sleep(30)
        (line,) = logged("deliveries-not-recorded")
        assert ("hint" in line) == (code != 500)
    assert await data(world) == {}


@in_world(policy=True)
async def test_a_push_does_not_wait_for_a_write_that_hangs(world: World) -> None:
    async def hang(_method: str, path: str) -> None:
        if path == PATH:
            await asyncio.sleep(3600)

    world.faults.append(hang)
    async with running(world):
        await asyncio.sleep(2)
        began = world.monotonic()
        assert (await world.push()).status_code == 202
        assert world.monotonic() == began


@in_world(policy=True)
async def test_deliveries_are_written_when_that_is_possible_again(world: World) -> None:
    async with running(world):
        async with refusing(world, refused(404)):
            await world.push()
            await asyncio.sleep(3600)
        await asyncio.sleep(400)
        assert [one.result for one in await recorded(world)] == ["accepted"]
        async with refusing(world, refused(403)):
            await world.push("v2")
            await asyncio.sleep(60)
        assert len(logged("deliveries-not-recorded")) == 2


@in_world(policy=True)
async def test_a_process_that_ends_writes_what_came_last(world: World) -> None:
    async with running(world):
        await asyncio.sleep(60)
        await world.push()
    assert [one.result for one in await recorded(world)] == ["accepted"]


@in_world(policy=True)
async def test_nothing_secret_is_kept(world: World) -> None:
    body = {"type": "PUSH_ARTIFACT", "token": "of-the-body", "event_data": {"password": "of-the-body"}}
    async with running(world):
        await world.deliver(body)
        await world.deliver(body, secret="wrong-secret")
        await world.deliver(b"of-the-body")
        await world.push()
        await asyncio.sleep(30)
    text = str(await data(world))
    assert len(await recorded(world)) == 4
    assert not [secret for secret in (SECRET, "wrong-secret", "of-the-body") if secret in text]


@in_world(policy=True)
async def test_a_delivery_with_many_images_names_three_and_says_how_many_more(world: World) -> None:
    resource = {"digest": DIGEST, "tag": "v", "resource_url": ""}
    body = {
        "type": "PUSH_ARTIFACT",
        "occur_at": int(world.now().timestamp()),
        "event_data": {
            "resources": [resource | {"tag": f"v{number}"} for number in range(9)],
            "repository": {"name": "app", "namespace": "shop", "repo_full_name": "shop/app"},
        },
    }
    async with running(world):
        assert (await world.deliver(body)).status_code == 202
    (found,) = await recorded(world)
    assert (len(found.images), found.more_images) == (3, 6)
