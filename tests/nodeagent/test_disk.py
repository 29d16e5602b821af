"""A node that is short of disk is left alone: few pulls, whatever removes images, and a clear reason."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nodeagent.disk import disk_space
from tests.support.agents import Bench, a_push, bench, on_node, warm, with_agent
from tests.support.instant import instantly, until

pytestmark = pytest.mark.slow

HOUR = 3600
ROOM = 40
"""Images that fill the disk."""


def images(b: Bench) -> int:
    return len({image for name, image in b.runtime.listed.items() if "@" not in name})


def free(b: Bench) -> float:
    return 100 * (1 - images(b) / ROOM)


@contextlib.asynccontextmanager
async def kubelet(b: Bench) -> AsyncIterator[None]:
    """Image garbage collection as a kubelet does it: every 5 minutes, from 85 % down to 80 %, oldest first."""

    async def collect() -> None:
        while True:
            await asyncio.sleep(300)
            if free(b) <= 15:
                while free(b) < 20:
                    b.runtime.lose(next(name for name in b.runtime.listed if "@" not in name))

    async with asyncio.TaskGroup() as group:
        task = group.create_task(collect(), name="kubelet")
        try:
            yield
        finally:
            task.cancel()


async def pulls_and_writes(lines: int, hours: int, *, visible: bool) -> tuple[int, int]:
    """Pulls and writes of the report after the first hour, while more is wanted than fits."""
    async with bench() as b, kubelet(b):
        if visible:
            b.free_percent = lambda: free(b)
        async with b.agent():
            await b.want(*(a_push(b, f"registry.example.com/shop/web{i}:1", str(i)) for i in range(lines)))
            await asyncio.sleep(HOUR)
            pulls, writes = len(b.runtime.pulls), len(b.writes())
            await asyncio.sleep(hours * HOUR)
            return len(b.runtime.pulls) - pulls, len(b.writes()) - writes


A_DAY = pytest.param(100, 23, marks=pytest.mark.nightly)


@pytest.mark.parametrize(("lines", "hours"), [(ROOM, 4), A_DAY])
def test_a_node_that_sees_its_disk_pulls_nothing_that_would_be_removed(lines: int, hours: int) -> None:
    pulls, writes = instantly(pulls_and_writes(lines, hours, visible=True))
    assert pulls <= 5
    assert writes <= hours * 17


@pytest.mark.parametrize(("lines", "hours"), [(ROOM, 4), A_DAY])
def test_a_node_that_does_not_see_its_disk_is_held_back_by_removals(lines: int, hours: int) -> None:
    pulls, writes = instantly(pulls_and_writes(lines, hours, visible=False))
    assert pulls <= 15 + hours
    assert writes <= hours * 40


@on_node
async def test_a_disk_below_the_free_share_gets_no_pull_and_the_report_names_the_reason(b: Bench) -> None:
    left = 19.0
    b.free_percent = lambda: left
    line, present = a_push(b), a_push(b, "registry.example.com/shop/there:1", "there")
    b.runtime.have(present.image)
    await b.want(line, present)
    async with b.agent():
        await until(lambda: b.state(line) == "failed")
        detail = json.loads(b.detail(line))
        assert (detail["reason"], "20 %" in detail["message"]) == ("DiskFull", True)
        assert b.state(present) == "warm"
        assert len(b.events("disk-low")) == 1
        assert b.metrics.registry.get_sample_value("warmhook_disk_free_percent") == 19
        await asyncio.sleep(HOUR)
        assert b.runtime.pulls == []
        left = 30.0
        await warm(b, line)


@with_agent
async def test_a_full_disk_is_tried_again_after_an_hour_only(b: Bench) -> None:
    line, other = a_push(b), a_push(b, "registry.example.com/shop/other:1", "other")
    b.runtime.fail(line.image, "DiskFull", "DiskFull", "DiskFull", "DiskFull", "DiskFull")
    await b.want(line)
    await until(lambda: b.state(line) == "failed", seconds=10)
    await b.want(other)
    await warm(b, other, seconds=5)
    await asyncio.sleep(4 * HOUR)
    assert 3 <= b.runtime.pulls.count(line.image) <= 5


@with_agent
async def test_images_that_another_program_removes_together_are_back_at_once(b: Bench) -> None:
    lines = [a_push(b, f"registry.example.com/shop/web{i}:1", str(i)) for i in range(20)]
    await b.want(*lines)
    await warm(b, *lines)
    b.runtime.listed.clear()
    await until(lambda: images(b) == 20, seconds=90)
    assert b.metrics.registry.get_sample_value("warmhook_evictions_total") == 20


def test_the_space_is_that_of_the_fullest_folder_that_can_be_seen(tmp_path: Path) -> None:
    here = disk_space([str(tmp_path)], "/nowhere")
    assert here is not None
    assert 0 <= here.free_percent <= 100
    assert disk_space(["/nowhere"], str(tmp_path)) is not None
    assert disk_space(["/nowhere"], "/nowhere/else") is None
