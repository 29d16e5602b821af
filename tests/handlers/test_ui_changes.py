"""Open pages are told of changes that their readers may see, and of nothing after their rights end."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from handlers.ui.page import Page
from tests.handlers.readers import SEES_WARMIMAGES, browser, grant, page, token
from tests.handlers.test_ui_access import DOWN, two_tenants
from tests.handlers.world import HOST, World, in_world
from tests.support.instant import until


@dataclass
class Opened:
    """One stream."""

    status: int = 0
    text: str = ""
    ended: bool = False
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the browser goes away."""

    @property
    def numbers(self) -> list[int]:
        return [int(number) for number in re.findall(r"data: (\d+)", self.text)]


@contextlib.asynccontextmanager
async def stream(opened: Page, bearer: str = "") -> AsyncIterator[Opened]:
    """A browser that listens."""
    found = Opened()
    headers = [(b"host", b"127.0.0.1:8081")]
    if bearer:
        headers.append((b"authorization", f"Bearer {bearer}".encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/ui/changes",
        "raw_path": b"/ui/changes",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8081),
    }
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await found.left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found.status = message["status"]
        else:
            found.text += message.get("body", b"").decode()

    async def run() -> None:
        await opened.application()(scope, receive, send)
        found.ended = True

    task = asyncio.create_task(run(), name="stream")
    try:
        await until(lambda: found.status != 0)
        yield found
    finally:
        found.left.set()
        task.cancel()
        await asyncio.wait([task])


@in_world()
async def test_a_page_is_told_of_a_change_within_seconds_and_hears_that_the_stream_lives(world: World) -> None:
    await two_tenants(world)
    async with page(world, access="loopback") as opened, stream(opened) as told:
        await until(lambda: len(told.numbers) == 1)
        await world.add_warmimage("new", f"{HOST}/shop/new:v1")
        assert await until(lambda: len(told.numbers) == 2) < 3
        await asyncio.sleep(60)
        assert len(told.numbers) == 2
        assert told.text.count("\n:\n") >= 3


@in_world()
async def test_a_reader_is_told_nothing_of_the_changes_of_others(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES, "shop")
    async with page(world) as opened, stream(opened, await token(world, "ada")) as told:
        await until(lambda: len(told.numbers) == 1)
        await world.add_warmimage("more", f"{HOST}/bank/more:v1", namespace="bank")
        await asyncio.sleep(60)
        assert len(told.numbers) == 1
        await world.add_warmimage("more", f"{HOST}/shop/more:v1")
        await until(lambda: len(told.numbers) == 2)


@in_world()
async def test_what_a_reader_may_no_longer_see_is_told_no_longer(world: World) -> None:
    await two_tenants(world)
    binding = await grant(world, "ada", SEES_WARMIMAGES)
    async with page(world) as opened, stream(opened, await token(world, "ada")) as told:
        await until(lambda: bool(told.numbers))
        await world.admin.delete(binding)
        await asyncio.sleep(31)
        before = len(told.numbers)
        await world.add_warmimage("more", f"{HOST}/bank/more:v1", namespace="bank")
        await asyncio.sleep(60)
        assert len(told.numbers) == before


@in_world()
async def test_a_stream_ends_with_its_token(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES)
    async with page(world) as opened, stream(opened, await token(world, "ada", 600)) as told:
        await asyncio.sleep(590)
        assert not told.ended
        assert await until(lambda: told.ended) <= 45


@in_world()
async def test_a_stream_outlives_an_api_server_that_is_gone_for_a_while(world: World) -> None:
    await two_tenants(world)
    await grant(world, "ada", SEES_WARMIMAGES)
    async with page(world) as opened, stream(opened, await token(world, "ada")) as told:
        await until(lambda: bool(told.numbers))
        world.answer(DOWN)
        await asyncio.sleep(120)
        assert not told.ended
        world.faults.clear()
        await world.add_warmimage("more", f"{HOST}/shop/more:v1")
        await until(lambda: len(told.numbers) > 1)


@in_world()
async def test_streams_are_few_and_one_reader_does_not_take_them_all(world: World) -> None:
    await two_tenants(world)
    async with page(world, streams=18) as opened, contextlib.AsyncExitStack() as stack:
        given = {account: await token(world, account) for account in ("ada", "bob")}
        for account, expected in (("ada", 16), ("bob", 2)):
            found = [await stack.enter_async_context(stream(opened, given[account])) for _ in range(17)]
            assert sorted(one.status for one in found) == [200] * expected + [503] * (17 - expected)
        # Other pages are read as before.
        async with browser(opened, authorization=f"Bearer {given['bob']}") as client:
            assert (await client.get("/ui/")).status_code == 200


@in_world()
async def test_a_browser_that_leaves_makes_room(world: World) -> None:
    async with page(world, access="loopback", streams=1) as opened:
        async with stream(opened) as first, stream(opened) as second:
            assert (first.status, second.status) == (200, 503)
        async with stream(opened) as third:
            assert third.status == 200


@in_world()
async def test_streams_end_when_the_process_does(world: World) -> None:
    async with page(world, access="loopback") as opened, stream(opened) as told:
        opened.close()
        assert await until(lambda: told.ended) < 3


@in_world()
async def test_objects_that_go_leave_the_page_also_if_nobody_watched(world: World) -> None:
    await two_tenants(world)
    async with page(world, access="loopback") as opened, browser(opened) as client:
        inventory = opened.cache.inventory
        assert (set(inventory.nodes), set(inventory.desired), len(inventory.images)) == ({"a"}, {"a"}, 2)
        world.answer(DOWN)
        await asyncio.sleep(295)
        await world.admin.delete("/api/v1/nodes/a")
        await world.admin.delete("/api/v1/namespaces/warmhook-system/configmaps/warmhook-desired-a")
        await world.admin.delete("/apis/warmhook.dev/v1alpha1/namespaces/bank/warmimages/vault")
        world.faults.clear()
        await until(lambda: not inventory.nodes and len(inventory.images) == 1 and not inventory.desired)
        await until(lambda: opened.cache.staleness.seconds == 0)
        assert (await client.get("/ui/nodes/a")).status_code == 404


@in_world()
async def test_a_request_for_headers_alone_takes_no_stream(world: World) -> None:
    async with page(world, access="loopback", streams=1) as opened, browser(opened) as client:
        async with asyncio.timeout(5):
            answer = await client.head("/ui/changes")
        assert answer.headers["content-type"].startswith("text/event-stream")
        async with stream(opened) as told:
            assert told.status == 200
