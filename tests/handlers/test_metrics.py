"""`web` counts what it writes and which images were warm, and says whether it leads and when its certificate ends."""

from __future__ import annotations

import asyncio
import base64
import math
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from adapters.certificates import LIFETIME, make_pair
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.webhook_secret import SECRET
from handlers.app import Resources, Web, create_app
from handlers.metrics import Metrics
from handlers.serving.credentials import Credentials
from tests.handlers.test_admission import WARM, add_ready_nodes, ask, pods_policy, running, warm_on
from tests.handlers.world import NAMESPACE, START, World, in_world
from tests.warmhook.test_admission_review import review
from warmhook.api import KIND_LABEL
from warmhook.node_report import LineReport


def new_credentials(world: World) -> Credentials:
    return Credentials(Kubernetes(world.transport), NAMESPACE)


def holders(world: World) -> dict[str, float]:
    """The images that were admitted so far, by which nodes had them."""
    counted = {
        name: world.metric("warmhook_admitted_images_total", nodes=name)
        for name in ("all", "some", "none", "unwanted", "unknown")
    }
    return {name: count for name, count in counted.items() if count}


@pytest.mark.slow
@in_world()
async def test_images_of_pods_are_counted_by_the_nodes_that_had_them_when_the_pod_came(world: World) -> None:
    await add_ready_nodes(world, *"ab")
    await world.add_policy(**pods_policy(images=["nginx:1"]))
    pod = review({"containers": [{"image": "nginx:1"}]}, metadata=WARM)
    await ask(world, pod)
    assert holders(world) == {"unknown": 1}, "before the first list nothing is known"
    async with world.watching(), running(world.app):
        await asyncio.sleep(10)
        await ask(world, pod)
        assert holders(world) == {"unknown": 1, "none": 1}
        await warm_on(world, "a")
        await ask(world, pod)
        assert holders(world) == {"unknown": 1, "none": 1, "some": 1}
        await warm_on(world, "a", "b")
        await ask(world, pod)
        assert holders(world) == {"unknown": 1, "none": 1, "some": 1, "all": 1}
        await ask(world, review({"containers": [{"image": "nginx:1"}, {"image": "other:1"}]}, metadata={}))
        assert holders(world) == {"unknown": 1, "none": 1, "some": 1, "all": 2, "unwanted": 1}


@in_world()
async def test_a_silent_node_does_not_make_an_image_less_than_warm(world: World) -> None:
    await add_ready_nodes(world, *"ab")
    await world.add_policy(**pods_policy(images=["nginx:1"]))
    async with world.watching(), running(world.app):
        await asyncio.sleep(10)
        for _ in range(4):
            await asyncio.sleep(240)
            (one,) = [each for each in await world.cluster.desired() if each.node == "a"]
            await world.report("a", {key: LineReport(version, "warm") for key, version in one.lines.items()})
        await asyncio.sleep(5)
        await ask(world, review({"containers": [{"image": "nginx:1"}]}, metadata=WARM))
        assert holders(world) == {"all": 1}


@in_world()
async def test_the_bytes_of_the_configmaps_of_nodes_are_counted(world: World) -> None:
    await world.add_nodes("a", "b")
    await world.add_policy(images=["nginx:1"])
    async with world.watching(), running(world.app):
        await asyncio.sleep(10)
    listed = await world.admin.list(paths.configmaps(NAMESPACE), labels=f"{KIND_LABEL}=desired")
    sizes = [len(str(obj)) for obj in listed.items]
    assert len(sizes) == 2
    assert sum(sizes) / 2 < world.metric("warmhook_written_bytes_total") < 10 * sum(sizes)


@in_world()
async def test_only_one_of_two_webs_that_watch_leads_and_one_that_does_not_watch_says_nothing(world: World) -> None:
    seen = [Metrics(), Metrics(), Metrics()]
    assert [math.isnan(value) for value in map(leader, seen)] == [True] * 3
    async with asyncio.TaskGroup() as group:
        stop = asyncio.Event()
        for number, metrics in enumerate(seen):
            settings = replace(world.settings, watch=number < 2, host="host")
            resources = Resources(world.transport, new_credentials(world), world.clock, Random(number), metrics)
            group.create_task(serve(Web(settings, world.configuration, resources), stop))
        await asyncio.sleep(30)
        assert sorted(map(leader, seen[:2])) == [0, 1]
        assert math.isnan(leader(seen[2]))
        stop.set()


def leader(metrics: Metrics) -> float:
    value = metrics.registry.get_sample_value("warmhook_leader")
    assert value is not None
    return value


async def serve(web: Web, stop: asyncio.Event) -> None:
    async with create_app(web).router.lifespan_context(create_app(web)):
        await stop.wait()


async def keep_certificate(world: World, certificate: bytes, key: bytes) -> None:
    data = {"tls.crt": base64.b64encode(certificate).decode(), "tls.key": base64.b64encode(key).decode()}
    await world.admin.patch(paths.secrets(NAMESPACE, SECRET), {"data": data})


@in_world()
async def test_the_end_of_the_certificate_is_shown_and_none_is_no_number(world: World) -> None:
    credentials = world.credentials
    await credentials.look()
    assert math.isnan(expiry(world))
    pair = make_pair(["web.example.com"], START)
    await keep_certificate(world, pair.certificate, pair.key)
    await credentials.look()
    assert expiry(world) == (START - timedelta(hours=1) + LIFETIME).timestamp()
    await keep_certificate(world, b"no certificate", pair.key)
    await credentials.look()
    assert math.isnan(expiry(world))


def expiry(world: World) -> float:
    value = world.metrics.registry.get_sample_value("warmhook_certificate_expiry_timestamp_seconds")
    assert value is not None
    return value
