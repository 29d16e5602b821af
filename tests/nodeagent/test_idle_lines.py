"""An agent pulls nothing for lines that are suspended or purged, and pulls a refreshed tag once while it stays warm."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.support.agents import WEB, Bench, line_of, on_node, push, push_warm, warm, with_agent
from tests.support.instant import until
from warmhook.warmimages import Pull

HOUR = 3600
FIRST, SECOND = "2026-05-01T00:00:00Z", "2026-05-02T00:00:00Z"


# --- suspended, purged -----------------------------------------------------------------------------------------------


@with_agent
async def test_a_suspended_line_is_not_pulled_until_it_is_resumed(b: Bench) -> None:
    b.runtime.push(WEB, "first")
    line = line_of(WEB)
    suspended = replace(line, suspended=True)
    await b.want(suspended)
    await asyncio.sleep(HOUR)
    assert (b.state(suspended), b.runtime.pulls) == ("waiting", [])
    await b.want(line)
    assert await warm(b, line) < 3


@with_agent
async def test_a_suspended_line_goes_on_being_reported_and_is_not_healed(b: Bench) -> None:
    line = await push_warm(b)
    suspended = replace(line, suspended=True)
    await b.want(suspended)
    await warm(b, suspended)
    b.runtime.lose(WEB)
    await until(lambda: b.state(suspended) == "waiting")
    await asyncio.sleep(HOUR)
    assert b.runtime.pulls == [WEB]


@with_agent
async def test_a_running_pull_stops_when_its_line_is_suspended_or_purged(b: Bench) -> None:
    b.runtime.pull_seconds = 300
    line = await push(b)
    for idle in (replace(line, suspended=True), replace(line, purged=True)):
        await b.want(line)
        await until(lambda: b.runtime.running == 1)
        await b.want(idle)
        await until(lambda: b.runtime.running == 0)
        await until(lambda now=idle: b.state(now) == "waiting")  # type: ignore[misc]
    assert b.runtime.cancelled == [WEB, WEB]


@with_agent
async def test_a_pull_goes_on_for_another_line_of_the_image(b: Bench) -> None:
    b.runtime.pull_seconds = 60
    line = await push(b)
    other = replace(line_of(WEB, name="other"), digest=line.digest)
    await b.want(other)
    await until(lambda: b.runtime.running == 1)
    suspended = replace(line, suspended=True)
    await b.want(suspended)
    await warm(b, other, suspended)
    assert b.runtime.cancelled == []


@with_agent
async def test_what_was_pulled_for_a_line_holds_when_it_is_suspended_and_resumed(b: Bench) -> None:
    b.runtime.push(WEB, "first")
    line = line_of(WEB, pushed_at=FIRST, pull=Pull(policy="Always"))
    await b.want(line)
    await warm(b, line)
    for changed in (replace(line, suspended=True), line, replace(line, pull=Pull(policy="Always", priority=5))):
        await b.want(changed)
        await warm(b, changed)
    assert b.runtime.pulls == [WEB]


@with_agent
async def test_a_purged_line_is_pulled_again_when_it_no_longer_is(b: Bench) -> None:
    line = await push_warm(b)
    await b.want(replace(line, purged=True))
    b.runtime.lose(WEB)
    await asyncio.sleep(HOUR)
    assert b.runtime.pulls == [WEB]
    await b.want(line)
    await warm(b, line)


@with_agent
async def test_a_full_disk_does_not_fail_a_suspended_line(b: Bench) -> None:
    b.runtime.push(WEB, "first")
    b.free_percent = lambda: 1.0
    suspended = replace(line_of(WEB), suspended=True)
    await b.want(suspended)
    await until(lambda: b.state(suspended) == "waiting")
    await asyncio.sleep(HOUR)
    assert b.state(suspended) == "waiting"


# --- refreshed -------------------------------------------------------------------------------------------------------


@with_agent
async def test_a_refresh_pulls_the_tag_once_and_finds_where_it_has_moved(b: Bench) -> None:
    line = await push_warm(b)
    moved = b.runtime.push(WEB, "second")
    refreshed = replace(line, refreshed_at=FIRST)
    await b.want(refreshed)
    await warm(b, refreshed)
    await until(lambda: "moved" in b.detail(refreshed))
    await asyncio.sleep(HOUR)
    assert b.runtime.pulls == [WEB, WEB]
    assert moved in b.detail(refreshed)
    assert f"registry.example.com/shop/web@{moved}" in b.runtime.listed
    third = b.runtime.push(WEB, "third")
    again = replace(line, refreshed_at=SECOND)
    await b.want(again)
    await until(lambda: third in b.detail(again))
    assert b.runtime.pulls == [WEB, WEB, WEB]


@with_agent
async def test_what_is_warm_stays_warm_while_a_refresh_fails_and_is_tried_again(b: Bench) -> None:
    line = await push_warm(b)
    for _ in range(6):
        b.runtime.fail(WEB, "Network")
    refreshed = replace(line, refreshed_at=FIRST)
    await b.want(refreshed)
    await warm(b, refreshed)
    while len(b.runtime.pulls) < 8:
        assert b.state(refreshed) == "warm"
        await asyncio.sleep(1)
    await asyncio.sleep(HOUR)
    assert (b.state(refreshed), len(b.runtime.pulls)) == ("warm", 8)


@on_node
async def test_a_refresh_is_done_once_though_the_agent_is_started_again(b: Bench) -> None:
    b.runtime.push(WEB, "first")
    line = line_of(WEB, pushed_at=FIRST)
    refreshed = replace(line, refreshed_at=SECOND)
    async with b.agent():
        await b.want(line)
        await warm(b, line)
    await b.want(refreshed)
    for _ in range(2):
        async with b.agent():
            await warm(b, refreshed)
            await asyncio.sleep(HOUR)
    assert b.runtime.pulls == [WEB, WEB]


@on_node
async def test_a_node_that_joins_after_a_refresh_pulls_once(b: Bench) -> None:
    b.runtime.push(WEB, "first")
    line = replace(line_of(WEB), refreshed_at=FIRST)
    await b.want(line)
    async with b.agent():
        await warm(b, line)
        await asyncio.sleep(HOUR)
    assert b.runtime.pulls == [WEB]
