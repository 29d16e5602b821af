"""The new image of a changed workload is on the nodes of its Pods before the rollout reaches them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from adapters.kubernetes import paths
from adapters.kubernetes.pods import WORKLOAD_KINDS
from adapters.kubernetes.transport import POOL_SIZE
from devcluster.apiserver import InProcessTransport
from handlers.watch.rollouts import NAMESPACES_MAX
from tests.handlers.world import HOST, POLICIES, World, in_world, logged, status
from tests.support.crds import clone_set_crd
from warmhook.ports import Response
from warmhook.status import find_condition

ROLLOUTS: Final[dict[str, Any]] = {"rollouts": {"selector": {}}}
APPS: Final = "/apis/apps/v1/"


def image(version: int, name: str = "app") -> str:
    return f"{HOST}/shop/{name}:v{version}"


async def lines(world: World) -> dict[str, list[str]]:
    """Only of nodes that have lines."""
    return {node: images for node, images in (await world.lines()).items() if images}


class _Noted(InProcessTransport):
    """Notes what `watch` asks."""

    def __init__(self, world: World) -> None:
        super().__init__(world.server, user_agent="watch", before=self._note)
        self.asked: list[str] = []
        self.refused = ""

    async def _note(self, _method: str, path: str) -> Response | None:
        self.asked.append(path)
        return status(403, "Forbidden") if self.refused and self.refused in path else None

    def of_workloads(self) -> list[str]:
        return [path for path in self.asked if path.startswith("/apis/apps")]


@asynccontextmanager
async def watched(world: World, **policy: Any) -> AsyncIterator[_Noted]:
    """A policy with rollouts, and a watch that has sent its first sync."""
    if policy:
        await world.add_policy(**policy)
    transport = _Noted(world)
    async with world.watching(transport=transport, sync_seconds=86400):
        await asyncio.sleep(2)
        yield transport


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
@in_world(nodes="abc")
async def test_a_changed_workload_has_its_new_image_on_the_nodes_of_its_pods_at_once(world: World, kind: str) -> None:
    await world.set_workload("web", image(1), kind=kind)
    await world.add_pod("web-1", "a", app="web")
    await world.add_pod("web-2", "b", app="web")
    await world.add_pod("db-1", "c", app="db")
    async with watched(world, **ROLLOUTS):
        await world.set_workload("web", image(2), kind=kind)
        await asyncio.sleep(1)
        assert await lines(world) == {"a": [image(1), image(2)], "b": [image(1), image(2)]}


@in_world(nodes="a")
async def test_clonesets_are_seen_as_soon_as_their_crd_exists(world: World) -> None:
    await world.add_pod("web-1", "a", app="web")
    async with watched(world, **ROLLOUTS) as watch:
        await asyncio.sleep(3600)
        absent = [path for path in watch.asked if "clonesets" in path]
        assert 0 < len(absent) < 60
        assert not logged("watch-interrupted", "rollouts-not-watched")
        await world.admin.create(paths.CRDS, clone_set_crd())
        await asyncio.sleep(600)
        await world.set_workload("web", image(1), kind="CloneSet")
        await asyncio.sleep(1)
        assert await lines(world) == {"a": [image(1)]}


@in_world(nodes="a")
async def test_without_a_policy_with_rollouts_no_workload_is_watched(world: World) -> None:
    async with watched(world, images=[image(1)]) as watch:
        await asyncio.sleep(3600)
        assert not watch.of_workloads()
        await world.admin.patch(f"{POLICIES}/shop", {"spec": ROLLOUTS})
        await asyncio.sleep(1)
        assert watch.of_workloads()
        assert {path.partition("/namespaces/")[2].partition("/")[0] for path in watch.of_workloads()} == {"shop"}
        await world.admin.patch(f"{POLICIES}/shop", {"spec": {"rollouts": None}})
        await asyncio.sleep(1)
        watch.asked.clear()
        await asyncio.sleep(3600)
        assert not watch.of_workloads()


@in_world(nodes="a")
async def test_only_workloads_that_the_selector_matches_count(world: World) -> None:
    await world.add_pod("web-1", "a", app="web")
    await world.add_pod("db-1", "a", app="db")
    await world.set_workload("web", image(1), warm="true")
    await world.set_workload("db", image(1, "db"))
    async with watched(world, rollouts={"selector": {"matchLabels": {"warm": "true"}}}):
        assert await lines(world) == {"a": [image(1)]}
        await world.admin.patch(
            f"{paths.workloads('Deployment', 'shop')}/db", {"metadata": {"labels": {"warm": "true"}}}
        )
        await asyncio.sleep(1)
        assert await lines(world) == {"a": [image(1), image(1, "db")]}


@in_world(nodes="a")
async def test_two_images_of_a_container_stay_and_none_without_the_workload(world: World) -> None:
    await world.add_pod("web-1", "a", app="web")
    async with watched(world, **ROLLOUTS):
        for version in (1, 2, 3):
            await world.set_workload("web", image(version))
            await asyncio.sleep(5)
        assert await lines(world) == {"a": [image(2), image(3)]}
        # A rollback: the image before it is now the newer one of the two.
        await world.set_workload("web", image(2))
        await asyncio.sleep(5)
        await world.set_workload("web", image(4))
        await asyncio.sleep(5)
        assert await lines(world) == {"a": [image(2), image(4)]}
        await world.admin.delete(f"{paths.workloads('Deployment', 'shop')}/web")
        await asyncio.sleep(5)
        assert await lines(world) == {}
        assert await world.warmimages() == {}


@in_world(nodes="ab")
async def test_workloads_with_one_image_share_it_on_the_nodes_of_all_of_them(world: World) -> None:
    for name, node in (("web", "a"), ("api", "b")):
        await world.add_pod(f"{name}-1", node, app=name)
        await world.set_workload(name, image(1))
    async with watched(world, **ROLLOUTS):
        assert await lines(world) == {"a": [image(1)], "b": [image(1)]}
        assert len(await world.warmimages()) == 1
        await world.admin.delete(f"{paths.workloads('Deployment', 'shop')}/web")
        await asyncio.sleep(5)
        assert await lines(world) == {"b": [image(1)]}


@in_world(nodes="ab")
async def test_an_image_of_very_many_workloads_is_on_the_nodes_of_any_pod_and_costs_no_further_write(
    world: World,
) -> None:
    for number in range(20):
        await world.add_pod(f"w{number}-1", "ab"[number % 2], app=f"w{number}")
        await world.set_workload(f"w{number}", image(1))
    await world.add_policy(**ROLLOUTS)
    await world.sync()
    assert await lines(world) == {"a": [image(1)], "b": [image(1)]}
    await asyncio.sleep(90000)
    world.requests.clear()
    await world.sync()
    assert not [path for _, path in world.writes() if "warmimages" in path and not path.endswith("/status")]


@in_world(nodes="a")
async def test_a_change_of_the_status_alone_wakes_nobody(world: World) -> None:
    await world.set_workload("web", image(1))
    async with watched(world, **ROLLOUTS):
        world.requests.clear()
        for number in range(10):
            path = f"{paths.workloads('Deployment', 'shop')}/web/status"
            await world.admin.patch(path, {"status": {"readyReplicas": number}})
            await asyncio.sleep(2)
        assert not world.requests


@in_world(nodes="a")
async def test_what_workloads_wanted_stays_while_they_cannot_be_read(world: World) -> None:
    await world.add_pod("web-1", "a", app="web")
    await world.set_workload("web", image(1))
    await world.add_policy(**ROLLOUTS)
    await world.sync()
    await world.admin.delete(f"{paths.workloads('Deployment', 'shop')}/web")
    world.answer(status(403, "Forbidden"), "GET", APPS)
    await world.sync()
    assert await lines(world) == {"a": [image(1)]}
    observed = find_condition((await world.admin.get(f"{POLICIES}/shop"))["status"], "Observed")
    assert observed["reason"] == "Forbidden"
    assert "--clusterrole=warmhook-rollouts" in observed["message"]
    world.faults.clear()
    await world.sync()
    assert await lines(world) == {}


@in_world(nodes="a")
async def test_a_watch_that_is_refused_is_logged_once_and_a_sync_sees_the_rollout(world: World) -> None:
    await world.add_pod("web-1", "a", app="web")
    async with watched(world) as watch:
        watch.refused = "/deployments"
        await world.add_policy(**ROLLOUTS)
        await asyncio.sleep(3600)
        (line,) = logged("rollouts-not-watched")
        assert "warmhook-rollouts" in line["hint"]
        assert len([path for path in watch.of_workloads() if "/deployments" in path]) < 100
        await world.set_workload("web", image(1))
        await world.sync()
        assert await lines(world) == {"a": [image(1)]}


@in_world(nodes="a")
async def test_the_template_of_the_policy_narrows_the_nodes_of_rollouts(world: World) -> None:
    await world.add_nodes("b", pool="web")
    for node in "ab":
        await world.add_pod(f"web-{node}", node, app="web")
    await world.set_workload("web", image(1))
    await world.add_policy(**ROLLOUTS, template={"nodes": {"selector": {"matchLabels": {"pool": "web"}}}})
    await world.sync()
    assert await lines(world) == {"b": [image(1)]}


@in_world(nodes="a")
async def test_a_policy_without_rollouts_again_lets_its_images_go_and_deleting_it_as_well(world: World) -> None:
    await world.add_pod("web-1", "a", app="web")
    await world.set_workload("web", image(1))
    async with watched(world, **ROLLOUTS):
        assert await lines(world) == {"a": [image(1)]}
        await world.admin.patch(f"{POLICIES}/shop", {"spec": {"rollouts": None}})
        await asyncio.sleep(2)
        assert await lines(world) == {}


def test_the_watches_of_all_namespaces_leave_half_of_the_connections_for_requests() -> None:
    assert NAMESPACES_MAX * len(WORKLOAD_KINDS) <= POOL_SIZE // 2


@in_world(nodes="a")
async def test_only_so_many_namespaces_are_watched(world: World) -> None:
    for number in range(NAMESPACES_MAX + 3):
        await world.add_namespace(f"n{number}")
        await world.add_policy(namespace=f"n{number}", **ROLLOUTS)
    async with watched(world) as watch:
        namespaces = {path.partition("/namespaces/")[2].partition("/")[0] for path in watch.of_workloads()}
        assert len(namespaces) == NAMESPACES_MAX
        assert len(logged("rollouts-not-watched")) == 1
