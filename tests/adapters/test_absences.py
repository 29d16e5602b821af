"""What is not installed is asked for seldom, and noticed within minutes once it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.warmimage import warmimage_crd
from adapters.kubernetes.warmpolicy import warmpolicy_crd
from adapters.kubernetes.webhook_secret import SECRET
from devcluster.apiserver import ApiServer
from handlers.serving.credentials import Credentials
from tests.handlers.test_webhook_certificate import CONFIGURATIONS, configuration
from tests.handlers.world import HOST, NAMESPACE, START, World
from tests.support.instant import instant
from warmhook.ports import Response, Unreachable

pytestmark = pytest.mark.slow

HOUR = 3600
# After an hour they are asked for every five minutes.
SELDOM = 14
SECRET_PATH = f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}"


@contextlib.asynccontextmanager
async def bare() -> AsyncIterator[World]:
    """`web --watch` in a cluster with a node, the namespaces and the empty Secret, and nothing else of Warmhook."""
    loop = asyncio.get_running_loop()
    world = World(ApiServer(lambda: START + timedelta(seconds=loop.time()), Random(1)))
    for name in (NAMESPACE, "shop"):
        await world.admin.create("/api/v1/namespaces", {"metadata": {"name": name}})
    await world.admin.create(paths.secrets(NAMESPACE), {"metadata": {"name": SECRET}})
    await world.add_nodes("node-1")
    world.credentials = Credentials(Kubernetes(world.transport), NAMESPACE)
    world.app = world.new_app()
    world.client = world.new_client(world.app)
    async with world.app.router.lifespan_context(world.app), world.watching(transport=world.transport):
        yield world


@instant
async def test_crds_and_admission_that_are_not_installed_are_asked_for_every_five_minutes() -> None:
    async with bare() as world:
        await asyncio.sleep(HOUR)
        world.asked()
        await asyncio.sleep(HOUR)
        asked = world.asked()
        assert asked["GET", f"{CONFIGURATIONS}/warmhook"] <= SELDOM
        assert asked["GET", SECRET_PATH] <= SELDOM
        # By `watch` and by admission.
        assert asked["GET", paths.warmpolicies()] <= 2 * SELDOM
        # And by each sync, which lists ConfigMaps before.
        assert asked["GET", paths.warmimages()] <= 3 * SELDOM


@instant
async def test_a_sync_is_not_repeated_because_the_crds_are_missing() -> None:
    async with bare() as world:
        await asyncio.sleep(HOUR)
        assert world.metric("warmhook_events_total", type="dev.warmhook.sync.v1") <= HOUR / 300 + 1
        assert world.metric("warmhook_events_total", type="dev.warmhook.sync.v1", result="denied") > 0


@instant
async def test_a_late_installation_is_noticed_within_minutes() -> None:
    async with bare() as world:
        await asyncio.sleep(4 * HOUR)
        for crd in (warmimage_crd(), warmpolicy_crd()):
            await world.admin.create(paths.CRDS, crd)
        await world.add_policy("named", images=[f"{HOST}/base/sidecar:1"])
        await world.admin.create(CONFIGURATIONS, configuration())
        await asyncio.sleep(310)
        assert await world.lines() == {"node-1": [f"{HOST}/base/sidecar:1"]}
        await asyncio.sleep(310)
        (hook,) = (await world.admin.get(f"{CONFIGURATIONS}/warmhook"))["webhooks"]
        token = hook["clientConfig"]["service"]["path"].rpartition("/")[2]
        assert world.credentials.accept(token)


@instant
async def test_an_api_server_that_is_out_of_reach_says_nothing_about_what_is_installed() -> None:
    async with bare() as world:
        await world.admin.create(CONFIGURATIONS, configuration())

        def down(_method: str, _path: str) -> Response | None:
            raise Unreachable("connection refused")

        world.faults.append(down)
        await asyncio.sleep(HOUR)
        world.faults.clear()
        await asyncio.sleep(60)
        (hook,) = (await world.admin.get(f"{CONFIGURATIONS}/warmhook"))["webhooks"]
        assert world.credentials.accept(hook["clientConfig"]["service"]["path"].rpartition("/")[2])
