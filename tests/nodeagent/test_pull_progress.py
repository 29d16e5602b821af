"""A pull has as long as it makes progress, where the runtime shows that; one that hangs ends at its limit."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from adapters.tasks import in_background
from tests.support.agents import WEB, Bench, a_push, push, warm, with_agent
from tests.support.instant import until
from warmhook.ports import Download
from warmhook.warmimages import LONGEST_TIMEOUT_SECONDS, Pull

LIMIT = 60
ONCE = Pull(timeout_seconds=LIMIT, backoff_limit=0)
MIB = 1024 * 1024
SIZE = 100 * MIB


@contextlib.asynccontextmanager
async def growing(b: Bench, reference: str = WEB, *, seconds: float = 10, layers: int = 1) -> AsyncIterator[None]:
    """containerd shows 1 MiB more of the reference after each interval; the layers follow one another."""

    async def grow() -> None:
        for layer in range(layers):
            for offset in range(1, 100_000 if layer == layers - 1 else 5):
                b.containerd.downloading[reference] = [Download(f"sha256:{layer}", offset * MIB, SIZE)]
                await asyncio.sleep(seconds)

    b.containerd.absent = False
    async with in_background(grow(), "downloads"):
        yield


@pytest.mark.parametrize("layers", [1, 4])
@with_agent
async def test_a_pull_that_goes_on_is_not_stopped_at_its_limit(b: Bench, layers: int) -> None:
    b.runtime.pull_seconds = 5 * LIMIT
    async with growing(b, layers=layers):
        line = await push(b, pull=ONCE)
        assert await warm(b, line, seconds=6 * LIMIT) >= 5 * LIMIT
    assert b.runtime.pulls == [WEB]


@with_agent
async def test_a_pull_that_stops_ends_when_its_limit_has_passed_since_the_last_progress(b: Bench) -> None:
    b.runtime.hanging.add(WEB)
    async with growing(b):
        line = await push(b, pull=ONCE)
        await asyncio.sleep(300)
        assert b.state(line) == "pulling"
    await until(lambda: b.state(line) == "failed", seconds=LIMIT + 10)
    detail = json.loads(b.detail(line))
    assert detail["reason"] == "Timeout"
    assert detail["message"].startswith(f"no progress for {LIMIT} s, after 3")
    assert detail["message"].endswith("MiB were downloaded")


@with_agent
async def test_a_pull_without_any_progress_ends_at_its_limit(b: Bench) -> None:
    b.containerd.absent = False
    b.runtime.hanging.add(WEB)
    line = await push(b, pull=ONCE)
    seconds = await until(lambda: b.state(line) == "failed", seconds=2 * LIMIT)
    assert LIMIT <= seconds <= LIMIT + 10


@with_agent
async def test_a_part_that_begins_again_and_again_is_no_progress(b: Bench) -> None:
    b.runtime.hanging.add(WEB)
    b.containerd.absent = False

    async def again() -> None:
        while True:
            for offset in (MIB, 2 * MIB):
                b.containerd.downloading[WEB] = [Download("sha256:0", offset, SIZE)]
                await asyncio.sleep(7)

    async with in_background(again(), "downloads"):
        line = await push(b, pull=ONCE)
        await until(lambda: b.state(line) == "failed", seconds=2 * LIMIT)


@pytest.mark.slow
@with_agent
async def test_a_pull_that_goes_on_for_ever_ends_at_the_longest_limit(b: Bench) -> None:
    b.runtime.hanging.add(WEB)
    async with growing(b):
        line = await push(b, pull=ONCE)
        seconds = await until(lambda: b.state(line) == "failed", seconds=2 * LONGEST_TIMEOUT_SECONDS, step=1)
    assert LONGEST_TIMEOUT_SECONDS <= seconds <= LONGEST_TIMEOUT_SECONDS + 10
    assert f"longer than {LONGEST_TIMEOUT_SECONDS} s" in b.detail(line)


@with_agent
async def test_downloads_of_another_repository_are_no_progress(b: Bench) -> None:
    b.runtime.hanging.add(WEB)
    async with growing(b, "registry.example.com/shop/other:1"):
        line = await push(b, pull=ONCE)
        await until(lambda: b.state(line) == "failed", seconds=2 * LIMIT)


@with_agent
async def test_the_limit_counts_from_the_start_if_the_runtime_shows_no_progress(b: Bench) -> None:
    b.runtime.hanging.add(WEB)
    line = await push(b, pull=ONCE)
    seconds = await until(lambda: b.state(line) == "failed", seconds=2 * LIMIT)
    assert LIMIT <= seconds <= LIMIT + 10
    assert f"took longer than {LIMIT} s" in b.detail(line)


@with_agent
async def test_the_log_has_the_bytes_that_came_and_those_of_the_image_if_they_are_known(b: Bench) -> None:
    b.runtime.pull_seconds = 100
    async with growing(b):
        await b.want(replace(a_push(b), size_bytes=SIZE))
        await until(lambda: len(b.events("pulling")) == 2)
    first, second = b.events("pulling")
    assert (first["total_bytes"], second["total_bytes"]) == (SIZE, SIZE)
    assert 0 < first["bytes"] < second["bytes"]
