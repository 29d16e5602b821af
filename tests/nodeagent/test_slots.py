"""Images that hang delay no other image for long, whoever wants them."""

from __future__ import annotations

import asyncio
import itertools
import statistics

import pytest

from tests.support.agents import Bench, a_push, on_node, push, warm, with_agent
from tests.support.instant import until
from warmhook.node_lines import Line
from warmhook.ports import PullFailed
from warmhook.pull_queue import GIVE_WAY_SECONDS, SLOW_SECONDS
from warmhook.warmimages import ObjectKey, Pull

pytestmark = pytest.mark.slow

HOUR = 3600


def hanging(
    b: Bench,
    many: int,
    namespace: str = "other",
    *,
    priority: int = 0,
    timeout: int = 600,
    host: str = "registry.example.com",
) -> list[Line]:
    lines = []
    for i in range(many):
        image = f"{host}/{namespace}/image{i}:1"
        b.runtime.hanging.add(image)
        lines.append(Line(ObjectKey(namespace, f"n{i}"), image, pull=Pull(priority=priority, timeout_seconds=timeout)))
    return lines


async def waits(b: Bench, pushes: int, every_seconds: float, namespace: str = "shop") -> list[float]:
    """How long each of several pushes takes to be pulled."""
    seconds = []
    for i in range(pushes):
        image = f"registry.example.com/{namespace}/web{i}:1"
        line = Line(ObjectKey(namespace, f"web{i}"), image, b.runtime.push(image, str(i)))
        await b.want(line)
        began = asyncio.get_running_loop().time()
        await until(lambda line=line: line.image in b.runtime.listed, seconds=24 * HOUR, step=0.5)  # type: ignore[misc]  # mypy cannot infer defaults of lambdas
        seconds.append(asyncio.get_running_loop().time() - began)
        await asyncio.sleep(every_seconds)
    return seconds


@pytest.mark.parametrize(
    ("many", "priority", "timeout"), [(2, 0, 600), (4, 1, 600), (4, -1000, 86400), (12, 1000, 7200)]
)
@with_agent
async def test_another_namespaces_images_that_hang_delay_a_push_for_a_minute_at_most(
    b: Bench, many: int, priority: int, timeout: int
) -> None:
    await b.want(*hanging(b, many, priority=priority, timeout=timeout))
    await asyncio.sleep(5)
    seconds = await waits(b, 12, 400)
    assert max(seconds) <= SLOW_SECONDS + 5
    assert statistics.median(seconds) < 5
    assert b.runtime.most_running <= 2 * b.parallel_pulls


@pytest.mark.parametrize("timeout", [600, 7200])
@with_agent
async def test_images_that_hang_delay_a_push_of_their_own_namespace_for_the_default_timeout_at_most(
    b: Bench,
    timeout: int,
) -> None:
    await b.want(*hanging(b, 6, "shop", priority=1, timeout=timeout))
    await asyncio.sleep(5)
    seconds = await waits(b, 20, 300)
    assert max(seconds) <= 2 * GIVE_WAY_SECONDS
    assert statistics.median(seconds) < 5


@on_node
async def test_a_push_to_a_node_of_one_slot_waits_for_a_minute_at_most(b: Bench) -> None:
    b.parallel_pulls = 1
    async with b.agent():
        await b.want(*hanging(b, 10, priority=1000, timeout=7200))
        await asyncio.sleep(5)
        assert max(await waits(b, 10, 400)) <= SLOW_SECONDS + 5
        assert b.runtime.most_running == 2


@with_agent
async def test_many_namespaces_with_images_that_hang_delay_a_push_only_until_each_was_tried(b: Bench) -> None:
    for i in range(8):
        await b.want(*hanging(b, 2, f"other{i}", priority=1000, timeout=7200))
    await asyncio.sleep(300)
    seconds = await waits(b, 10, 400)
    assert max(seconds) <= HOUR
    assert max(seconds[2:]) <= SLOW_SECONDS, seconds


@on_node
async def test_a_pull_that_gives_way_has_timed_out_and_is_tried_again(b: Bench) -> None:
    b.parallel_pulls = 1
    long = hanging(b, 2, "shop", timeout=7200)
    async with b.agent():
        await b.want(*long)
        await until(lambda: b.runtime.running == 2, seconds=120)
        line = await push(b)
        assert await warm(b, line, seconds=GIVE_WAY_SECONDS + 60) > 300
        [stopped] = [line for line in long if line.image in b.runtime.cancelled]
        assert b.events("pull")[0]["reason"] == "Timeout"
        b.runtime.hanging.clear()
        b.runtime.push(stopped.image, "it works")
        await until(lambda: b.state(stopped) == "warm", seconds=2 * HOUR, step=30)


@with_agent
async def test_pulls_that_are_long_but_alone_are_never_stopped(b: Bench) -> None:
    b.runtime.pull_seconds = 500
    lines = [a_push(b, f"registry.example.com/shop/web{i}:1", str(i)) for i in range(12)]
    await b.want(*lines)
    await until(lambda: len(b.report().warm) == len(lines), seconds=3 * HOUR, step=30)
    assert b.runtime.cancelled == []
    assert len(b.runtime.pulls) == 12
    assert b.runtime.most_running <= 2 * b.parallel_pulls


@with_agent
async def test_swift_pulls_never_take_more_slots_than_are_set(b: Bench) -> None:
    b.runtime.pull_seconds = 50
    lines = [a_push(b, f"registry.example.com/shop/web{i}:1", str(i)) for i in range(12)]
    await b.want(*lines)
    await until(lambda: len(b.report().warm) == len(lines), seconds=HOUR, step=30)
    assert b.runtime.most_running == 2


@pytest.mark.parametrize("parallel", [1, 2])
@on_node
async def test_images_of_high_priority_that_fail_just_before_they_are_slow_do_not_starve_another_namespace(
    b: Bench,
    parallel: int,
) -> None:
    b.parallel_pulls = parallel
    b.runtime.pull_seconds = SLOW_SECONDS - 1
    lines = []
    for i in range(100):
        image = f"registry.example.com/other/image{i}:1"
        b.runtime.failures[image].extend([PullFailed("Network", "unexpected EOF")] * 1000)
        lines.append(Line(ObjectKey("other", f"n{i}"), image, pull=Pull(priority=1000, backoff_limit=0)))
    await b.want(*lines)
    async with b.agent():
        await asyncio.sleep(5)
        # It waits for its turn and for a slot, then it is pulled.
        assert max(await waits(b, 8, 400)) <= 4 * SLOW_SECONDS


@with_agent
async def test_images_of_high_priority_that_are_replaced_all_the_time_do_not_starve_another_namespace(b: Bench) -> None:

    async def churn() -> None:
        old: list[Line] = []
        for i in itertools.count():
            new = hanging(b, 4, f"other{i}", priority=1000)
            new = [Line(ObjectKey("other", line.image), line.image, pull=line.pull) for line in new]
            await b.want(*new, without=tuple(old))
            old = new
            await asyncio.sleep(50)

    churning = asyncio.create_task(churn())
    await asyncio.sleep(5)
    assert max(await waits(b, 8, 400)) <= 4 * SLOW_SECONDS
    churning.cancel()


@with_agent
async def test_an_image_that_was_slow_once_is_tried_again_although_those_of_another_namespace_go_on_hanging(
    b: Bench,
) -> None:
    line = a_push(b)
    b.runtime.hanging.add(line.image)
    await b.want(line)
    await until(lambda: b.state(line) == "failed", seconds=HOUR)
    await b.want(*hanging(b, 12, priority=1000, timeout=7200))
    await asyncio.sleep(24 * HOUR)
    b.runtime.hanging.remove(line.image)
    await until(lambda: b.state(line) == "warm", seconds=12 * HOUR, step=30)


@with_agent
async def test_a_registry_that_hangs_with_all_its_images_delays_no_image_of_another(b: Bench) -> None:
    await b.want(*hanging(b, 20, "shop", host="stalls.example.com"))
    for i in range(10):
        # The slowest is the report: a state shorter than five seconds is not written.
        line = await push(b, f"registry.example.com/shop/web{i}:1")
        assert await warm(b, line) < 10
        await asyncio.sleep(100)
