"""Whatever readers do to the page, probes and other readers get their answers."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from adapters.clock import Clock
from handlers.ui.access import NAMESPACES_MAX
from handlers.ui.cache import ClusterCache
from handlers.ui.page import Page
from handlers.ui.render_queue import RenderQueue
from tests.handlers.readers import SEES_WARMIMAGES, browser, grant, page, token
from tests.handlers.test_ui_access import two_tenants
from tests.handlers.world import HOST, NAMESPACE, START, World, in_world
from warmhook.inventory import ImageFacts
from warmhook.warmimages import ObjectKey


def many_namespaces(opened: Page) -> None:
    """As many with a WarmImage each as are asked about for one reader."""
    for number in range(NAMESPACES_MAX):
        key = ObjectKey(f"team-{number:03}", "web")
        opened.cache.inventory.set_image(ImageFacts(key, f"{HOST}/{key}:v1"))


@pytest.mark.anyio
async def test_a_page_is_made_in_a_thread_of_its_own_so_that_probes_are_answered_meanwhile() -> None:
    probed = threading.Event()

    def make() -> str:
        # Only the loop sets it.
        assert probed.wait(30)
        return threading.current_thread().name

    page_made = asyncio.create_task(RenderQueue().render("ada", make), name="page")
    await asyncio.sleep(0)
    probed.set()
    assert await page_made != threading.main_thread().name


@in_world()
async def test_a_reader_that_asks_for_hundreds_of_pages_at_once_keeps_no_other_reader_out(world: World) -> None:
    await two_tenants(world)
    going_on = asyncio.Event()
    at_once = most = 0

    async def offload(make: Any, *values: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await going_on.wait()
        at_once -= 1
        return make(*values)

    async with page(world, offload=offload) as opened, browser(opened) as client:
        by_name = {}
        for name in ("ada", "bob"):
            await grant(world, name, SEES_WARMIMAGES)
            by_name[name] = {"authorization": f"Bearer {await token(world, name)}"}
        flood = [asyncio.create_task(client.get("/ui/", headers=by_name["ada"])) for _ in range(300)]
        await asyncio.sleep(1)
        other = asyncio.create_task(client.get("/ui/", headers=by_name["bob"]))
        await asyncio.sleep(1)
        assert (await client.get("/ui/static/page.css")).status_code == 200
        going_on.set()
        assert (await other).status_code == 200
        statuses = [(await answer).status_code for answer in flood]
        assert (statuses.count(200), statuses.count(503)) == (8, 292)
        assert most == 1


@in_world()
async def test_readers_of_one_namespace_each_among_two_hundred_all_get_their_pages(world: World) -> None:
    async with page(world) as opened, browser(opened) as client:
        many_namespaces(opened)
        readers, statuses = [], Counter[int]()
        for number in range(24):
            await grant(world, f"reader-{number}", SEES_WARMIMAGES, "shop")
            readers.append({"authorization": f"Bearer {await token(world, f'reader-{number}')}"})
            statuses[(await client.get("/ui/", headers=readers[-1])).status_code] += 1
            await asyncio.sleep(10)
        for _ in range(8):
            for reader in readers:
                statuses[(await client.get("/ui/", headers=reader)).status_code] += 1
                await asyncio.sleep(1)
        assert set(statuses) == {200}


@in_world()
async def test_a_tenant_with_many_accounts_and_tokens_keeps_no_other_reader_out(world: World) -> None:
    async with page(world) as opened, browser(opened) as client:
        many_namespaces(opened)
        await grant(world, "ada", SEES_WARMIMAGES, owner="ops")
        ada = {"authorization": f"Bearer {await token(world, 'ada', owner='ops')}"}
        seen = []
        for number in range(180):
            # As fast as tokens are reviewed.
            bearer = await token(world, f"bot-{number}")
            await client.get("/ui/", headers={"authorization": f"Bearer {bearer}"})
            if number % 30 == 29:
                seen.append((await client.get("/ui/", headers=ada)).status_code)
            await asyncio.sleep(0.25)
        assert seen == [200] * 6


@in_world()
async def test_wrong_tokens_whose_reviews_hang_delay_no_review_of_a_reader(world: World) -> None:
    binding = await grant(world, "ada", SEES_WARMIMAGES)
    async with page(world) as opened, browser(opened) as client:
        ada = {"authorization": f"Bearer {await token(world, 'ada')}"}
        assert "You may see no WarmImages" not in (await client.get("/ui/", headers=ada)).text
        await world.admin.delete(binding)
        await asyncio.sleep(31)
        # Only those that are asked for first hang: an identity provider that somebody slows down.
        world.answer(None, "POST", "tokenreviews", times=20, after=600)
        wrong = [{"authorization": f"Bearer wrong-{number}"} for number in range(20)]
        flood = [asyncio.create_task(client.get("/ui/", headers=each)) for each in wrong]
        await asyncio.sleep(0.1)
        world.faults.clear()
        began = world.monotonic()
        assert "You may see no WarmImages" in (await client.get("/ui/", headers=ada)).text
        assert world.monotonic() - began < 1
        await asyncio.gather(*flood)


def test_counts_that_take_long_are_used_for_longer_so_that_other_work_goes_on() -> None:
    seconds = 0.0

    def monotonic() -> float:
        # Each look at the clock costs a second, so that counting does.
        nonlocal seconds
        seconds += 1
        return seconds

    cache = ClusterCache(NAMESPACE, Clock(lambda: START, monotonic, asyncio.sleep, Random(1).random))
    counts = []
    for number in range(30):
        cache.inventory.set_image(ImageFacts(ObjectKey("shop", f"web-{number}"), f"{HOST}/shop/web:v{number}"))
        counts.append(cache.counted().at)
    began = sorted(set(counts))
    assert len(began) > 2
    assert all(later - earlier >= 5 for earlier, later in pairwise(began))
