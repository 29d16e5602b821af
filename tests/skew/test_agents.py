"""Handlers of today, and agents of a version before and after them side by side, bring a push to every node."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from devcluster.cluster import Cluster, Plan, open_cluster
from devcluster.install import NAMESPACE as SYSTEM
from devcluster.install import create_namespace, install
from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image
from tests.real.programs import real_time
from tests.skew.other_agent import NEWER, REASON
from tests.support.stack import SECRET, BaseStack, events_of, inherited, source_of, stack_folder
from warmhook import __version__
from warmhook.node_report import Report, read_report

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

_OTHER: Final = Path(__file__).with_name("other_agent.py")
VERSIONS: Final = {"node-1": "newer", "node-2": "older", "node-3": ""}


def _as_version(command: Sequence[str], node: str) -> Sequence[str]:
    """The agent of a node; other programs of the node are today's."""
    version = VERSIONS[node] if command[-1] == "nodeagent" else ""
    return (sys.executable, str(_OTHER), version) if version else command


async def _environ(name: str) -> Mapping[str, str]:
    return {"WARMHOOK_SECRET": SECRET} if name == "web" else {"PYTHONPATH": str(_OTHER.parents[2])}


@contextlib.asynccontextmanager
async def three_versions() -> AsyncIterator[tuple[Cluster, BaseStack]]:
    """A node with a newer agent, one with an older agent, one with today's, and `web --watch`."""
    with stack_folder() as folder:
        plan = Plan(folder, folder / "kubeconfig", environ=_environ, on_node=_as_version)
        async with open_cluster(plan, inherited()) as cluster:
            await cluster.start_api()
            await install(cluster.kubernetes)
            await create_namespace(cluster.kubernetes, "shop")
            await cluster.start_registry()
            stack = BaseStack(cluster, cluster.registry, system=SYSTEM, namespace="shop")
            async with stack.http:
                await asyncio.gather(cluster.start_web([source_of(cluster.registry)]), cluster.join(*VERSIONS))
                yield cluster, stack


async def reports(stack: BaseStack) -> dict[str, tuple[dict[str, Any], Report]]:
    """The metadata of each node's report, as it is and as it is read."""
    found = {node: await stack.report(node) or {"metadata": {}} for node in VERSIONS}
    return {node: (obj["metadata"], read_report(obj["metadata"])) for node, obj in found.items()}


@real_time
async def test_a_push_reaches_nodes_whose_agents_are_newer_and_older_than_the_handlers() -> None:
    async with three_versions() as (cluster, stack):
        template = {"pull": {"backoffLimit": 0}}
        await stack.apply_policy({"push": [{"repository": f"{cluster.registry}/shop/**"}], "template": template})
        for tag in ("v1", "v2"):
            image = incompressible_image(0.1, tag, platform=f"linux/{architecture()}")
            pushed = await stack.push_to(cluster.plan.registry_root, "shop/app", tag, image)
            await stack.becomes(pushed, "3/3")

        async def alike() -> bool:
            # The line of the earlier push leaves each node in its own time.
            return len({report.warm for _, report in (await reports(stack)).values()}) == 1

        await stack.eventually(alike, what="all nodes report the same image")
        said = await reports(stack)
        assert {node: report.agent for node, (_, report) in said.items()} == {
            "node-1": NEWER,
            "node-2": "",
            "node-3": __version__,
        }
        assert "warmhook.dev/forecast" in said["node-1"][0]["annotations"]
        # A refresh adds a field to lines that the older agent does not know.
        (warmimage,) = [obj["metadata"] for obj in await stack.warmimages() if obj["spec"]["image"] == pushed]
        path = f"/apis/warmhook.dev/v1alpha1/namespaces/shop/warmimages/{warmimage['name']}"
        await cluster.kubernetes.patch(path, {"metadata": {"annotations": {"warmhook.dev/refresh": "now"}}})

        async def refreshed() -> bool:
            handled = (await stack.status(pushed)).get("refreshHandled") == "now"
            return handled and await stack.counts(pushed) == "3/3"

        await stack.eventually(refreshed, what="all nodes are warm after a refresh")
        await stack.notify("shop/absent", "v1", "sha256:" + "0" * 64)
        absent = f"{cluster.registry}/shop/absent:v1"

        async def failed() -> bool:
            return (await stack.status(absent)).get("failed") == len(VERSIONS)

        await stack.eventually(failed, what="no node has an image that is not there")
        newer, *others = (await stack.status(absent))["failures"]
        assert (newer["reason"], newer["message"].partition(":")[0]) == ("RuntimeError", REASON)
        assert [(failure["node"], failure["reason"]) for failure in others] == [
            ("node-2", "NotFound"),
            ("node-3", "NotFound"),
        ]
        for program in (*cluster.agents.values(), *cluster.webs.values()):
            for event in ("malformed-line", "report-refused", "failed", "event-failed"):
                assert events_of(program, event) == [], program.name
