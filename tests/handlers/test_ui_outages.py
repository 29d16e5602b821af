"""The page says what it cannot read and why, and never that nothing is there."""

from __future__ import annotations

import asyncio
import html
import re

import pytest

from tests.handlers.readers import browser, page
from tests.handlers.test_ui_access import two_tenants
from tests.handlers.world import World, in_world
from warmhook.ports import Response

CASES = [("v1alpha1/warmimages", 404, "install the CRDs"), ("v1/nodes", 403, "check the ClusterRole")]


def text_of(page_html: str) -> str:
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", page_html)).split())


@pytest.mark.parametrize(("part", "status", "hint"), CASES, ids=["CRD absent", "nodes not allowed"])
@in_world()
async def test_a_kind_that_cannot_be_read_is_named_with_what_to_do(
    world: World, part: str, status: int, hint: str
) -> None:
    await two_tenants(world)
    world.answer(Response(status, {}, b"{}"), "GET", part)
    async with page(world, access="loopback", wait=False) as opened, browser(opened) as client:
        await asyncio.sleep(60)
        for path in ("/ui/", "/ui/failing"):
            text = text_of((await client.get(path)).text)
            assert f"{status}; {hint}" in text
            assert "has not answered" not in text
            assert "No image is failing" not in text
        for path in ("/ui/images/shop/none", "/ui/nodes/none"):
            assert (await client.get(path)).status_code == 503
        world.faults.clear()
        await asyncio.sleep(120)
        assert "Not current" not in (await client.get("/ui/")).text


@in_world()
async def test_deliveries_that_cannot_be_read_are_not_said_to_be_none(world: World) -> None:
    await two_tenants(world)
    world.answer(Response(403, {}, b"{}"), "GET", "configmaps")
    async with page(world, access="loopback", wait=False) as opened, browser(opened) as client:
        await asyncio.sleep(60)
        text = text_of((await client.get("/ui/deliveries")).text)
        assert "Deliveries: 403" in text
        assert "No registry has delivered" not in text
        world.faults.clear()
        await asyncio.sleep(120)
        assert "vault" in (await client.get("/ui/deliveries")).text
