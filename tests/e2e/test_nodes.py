"""A node that joins, leaves or is registered again has exactly what the policies say."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.kubernetes.paths import node
from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image, write_image
from devcluster.registry.serve import serve_registry
from tests.e2e.stack import Options, Stack, events_of, open_stack
from tests.real.programs import real_time

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

PLATFORM = f"linux/{architecture()}"
BASE, FIRST = (incompressible_image(0.1, f"{i}", platform=PLATFORM) for i in range(2))
# Deletions of ConfigMaps under a running agent, and by the sync.
QUICK = {"WARMHOOK_CHECK_SECONDS": "1"}
PUSHES = 8


async def leave(stack: Stack, name: str) -> None:
    """The node goes for good: its agent first, then its Node."""
    assert await stack.stop(stack.agents[name]) == 0
    await stack.kubernetes.delete(node(name))


async def has_gone(stack: Stack, name: str) -> bool:
    return await stack.desired(name) is None and await stack.report(name) is None


@real_time
async def test_a_node_that_joins_gets_everything_without_a_push_and_leaves_nothing_behind(
    folder: Path,
) -> None:
    async with (
        serve_registry(folder) as registry,
        open_stack(Options(registry.host, agent=QUICK), nodes=("node-1",)) as stack,
    ):
        write_image(folder, "base/sidecar", "1.4", BASE)
        named = f"{registry.host}/base/sidecar:1.4"
        await stack.apply_policy({"images": [named], "push": [{"repository": f"{registry.host}/shop/**"}]})
        pushed = await stack.push(registry, "shop/app", "1", FIRST)
        for image in (named, pushed):
            await stack.becomes(image, "1/1")
        deliveries = len(events_of(stack.web, "delivery"))

        await stack.cluster.join("node-2")
        for image in (named, pushed):
            await stack.becomes(image, "2/2")
        assert {tag for it in await stack.images("node-2") for tag in it.tags} == {named, pushed}
        assert len(events_of(stack.web, "delivery")) == deliveries

        report = await stack.report("node-2")
        assert report is not None
        assert [it["kind"] for it in report["metadata"]["ownerReferences"]] == ["Node"]
        await leave(stack, "node-2")

        async def gone() -> bool:
            return await has_gone(stack, "node-2")

        await stack.eventually(gone, what="both ConfigMaps of the Node that left are gone")
        for image in (named, pushed):
            await stack.becomes(image, "1/1")


@real_time
async def test_the_sync_takes_away_what_a_node_leaves_where_no_garbage_collector_runs(folder: Path) -> None:
    options = Options("127.0.0.1:1", web={"WARMHOOK_SYNC_SECONDS": "1"})
    async with open_stack(options, nodes=("node-1",), api_arguments=("--no-garbage-collector",)) as stack:
        await stack.apply_policy({"images": ["127.0.0.1:1/base/absent:1"]})

        async def has_both() -> bool:
            return await stack.desired("node-1") is not None and await stack.report("node-1") is not None

        await stack.eventually(has_both, what="the node has both ConfigMaps")
        # Nobody sees the Node go: only the sync can find what it left.
        await stack.stop(stack.web)
        await leave(stack, "node-1")
        assert await has_both()
        await stack.start_web()

        async def gone() -> bool:
            return await has_gone(stack, "node-1")

        await stack.eventually(gone, what="the sync removes both ConfigMaps")
        await stack.becomes("127.0.0.1:1/base/absent:1", "0/0")


@real_time
async def test_a_node_registered_again_while_pushes_go_on_loses_none_of_them(folder: Path) -> None:
    async with (
        serve_registry(folder) as registry,
        open_stack(Options(registry.host, agent=QUICK)) as stack,
    ):
        await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
        pushed: list[str] = []

        async def push_one_after_another() -> None:
            for i in range(PUSHES):
                image = incompressible_image(0.05, f"again-{i}", platform=PLATFORM)
                pushed.append(await stack.push(registry, f"shop/app-{i}", "1", image))

        async def register_again() -> None:
            await stack.eventually(lambda: len(pushed) >= 2, what="pushes have begun")
            await stack.kubernetes.delete(node("node-2"))
            await stack.eventually(lambda: len(pushed) >= 4, what="pushes go on")
            await stack.register("node-2")

        async with asyncio.TaskGroup() as group:
            group.create_task(push_one_after_another(), name="push")
            group.create_task(register_again(), name="register again")
        for image in pushed:
            await stack.becomes(image, "2/2")
        assert {tag for it in await stack.images("node-2") for tag in it.tags} == set(pushed)
        uid = (await stack.kubernetes.get(node("node-2")))["metadata"]["uid"]
        for configmap in (await stack.desired("node-2"), await stack.report("node-2")):
            assert configmap is not None
            assert [it["uid"] for it in configmap["metadata"]["ownerReferences"]] == [uid]
