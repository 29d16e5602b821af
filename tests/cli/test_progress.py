"""A node is called warm when its report says so, and never otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from io import StringIO
from itertools import count
from pathlib import Path

import pytest
from rich.console import Console

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.paths import CRDS, configmaps, warmimages_in
from adapters.kubernetes.warmimage import warmimage_crd
from cli.demo_run.display import Display
from cli.demo_run.progress import NodeProgress, follow_line, new_warm_lines
from devcluster.apiserver import ApiServer, InProcessTransport
from devcluster.cluster import Cluster, Plan, open_cluster
from devcluster.install import NAMESPACE
from devcluster.programs import ProgramFailed
from tests.real.programs import real_time
from tests.support.crds import without_patterns
from warmhook.api import API_VERSION
from warmhook.node_lines import Line
from warmhook.node_report import LineReport, report_name, report_patch
from warmhook.warmimages import ObjectKey

LINE = Line(ObjectKey("shop", "web"), "h.example/shop/web:v1")
NOW = datetime(2026, 1, 31, tzinfo=UTC)


@contextlib.asynccontextmanager
async def cluster_of(folder: Path, *nodes: str) -> AsyncIterator[Cluster]:
    """A cluster whose API server is real and whose programs do nothing."""
    kubernetes = Kubernetes(InProcessTransport(ApiServer(lambda: NOW, random.Random(1))))
    await kubernetes.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    async with open_cluster(Plan(folder, folder / "kubeconfig"), {}, kubernetes=kubernetes) as cluster:
        start, idle = cluster.programs.start, ("/bin/sleep", "60")
        cluster.shared = [await start("web", idle, stage=0)]
        cluster.agents = {name: await start(f"agent-{name}", idle, stage=0) for name in nodes}
        cluster.runtimes = {name: await start(f"runtime-{name}", idle, stage=0) for name in nodes}
        yield cluster


async def report(cluster: Cluster, node: str, line: LineReport) -> None:
    body = report_patch(node, "uid", NOW, {}, {LINE.key: line})
    body["metadata"]["name"] = report_name(node)
    await cluster.kubernetes.create(configmaps(NAMESPACE), body)


async def last(cluster: Cluster, seconds: float = 15) -> list[NodeProgress]:
    """Where following ends; each look at the clock takes a second."""
    clock = count(1)
    nodes: list[NodeProgress] = []
    async for nodes in follow_line(  # noqa: B007 - the last one counts
        cluster,
        LINE,
        since=0,
        seconds=seconds,
        monotonic=lambda: float(next(clock)),
        sleep=lambda _seconds: asyncio.sleep(0),
    ):
        pass
    return nodes


@real_time
async def test_a_node_is_warm_when_its_report_lists_the_line(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "node-1") as cluster:
        await report(cluster, "node-1", LineReport(LINE.version, "warm"))
        assert await last(cluster) == [NodeProgress("node-1", "warm", 1.0)]


@real_time
async def test_a_node_that_reports_another_version_is_not_warm(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "node-1") as cluster:
        await report(cluster, "node-1", LineReport("0" * 8, "warm"))
        [node] = await last(cluster)
    assert (node.state, node.seconds) == ("waiting", None)
    assert re.fullmatch(r"still waiting after 16 s; its agent \(process \d+\) does not answer", node.reason)


@real_time
async def test_a_failed_node_says_why(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "node-1") as cluster:
        await report(cluster, "node-1", LineReport(LINE.version, "failed", "DiskFull", 4, "no space left"))
        assert await last(cluster) == [NodeProgress("node-1", "failed", reason="DiskFull: no space left")]


@real_time
async def test_one_node_whose_agent_ended_does_not_keep_the_others_from_ending(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "node-1", "node-2") as cluster:
        cluster.agents["node-2"].process.send_signal(signal.SIGKILL)
        await cluster.agents["node-2"].process.wait()
        await report(cluster, "node-1", LineReport(LINE.version, "warm"))
        assert await last(cluster) == [
            NodeProgress("node-1", "warm", 1.0),
            NodeProgress("node-2", "unreachable", reason="its agent was ended by SIGKILL"),
        ]


@real_time
async def test_the_end_of_a_program_that_all_depend_on_ends_everything(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "node-1") as cluster:
        await cluster.shared[0].stop()
        with pytest.raises(ProgramFailed, match=r"^web was ended by SIGTERM$"):
            await last(cluster)


@real_time
async def test_while_serving_an_image_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "node-1") as cluster:
        kubernetes = cluster.kubernetes
        await kubernetes.create(CRDS, without_patterns(warmimage_crd()))
        await kubernetes.create("/api/v1/namespaces", {"metadata": {"name": "shop"}})
        for name, image in (("a", "NOT/AN/IMAGE"), ("web", LINE.image)):
            body = {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": {"name": name}}
            await kubernetes.create(warmimages_in("shop"), body | {"spec": {"image": image}})
        await report(cluster, "node-1", LineReport(LINE.version, "warm"))
        lines = new_warm_lines(cluster, set(), lambda _seconds: asyncio.sleep(0))
        async with aclosing(lines):
            assert await anext(lines) == ("node-1", LINE.image)


def test_away_from_a_terminal_each_change_is_one_line() -> None:
    clock, written = count(), StringIO()
    display = Display(Console(file=written, force_terminal=False), lambda: float(next(clock)))
    with display:
        display.show([NodeProgress("node-1")])
        display.show([NodeProgress("node-1")])
        display.show([NodeProgress("node-1", "warm", 0.94)])

    lines = [line.strip() for line in written.getvalue().splitlines()]
    assert lines[:2] == ["1.0 s  node-1 is waiting", "2.0 s  node-1 is warm"]
    assert [line.split() for line in lines[2:]] == [["NODE", "STATE", "SECONDS"], ["node-1", "warm", "0.9"]]


def test_a_command_that_is_to_be_pasted_is_never_broken() -> None:
    written = StringIO()
    Display(Console(file=written, width=20), lambda: 0.0).text("curl " + "x" * 200)

    assert written.getvalue() == "curl " + "x" * 200 + "\n"
