"""No pull takes the node below its free share: what does not fit is refused with figures, and smaller images go on."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from tests.support.agents import Bench, a_push, bench, on_node, warm
from tests.support.instant import instant, until
from warmhook.node_lines import Line
from warmhook.ports import Download
from warmhook.warmimages import Pull

GIB = 2**30
# Of 100 GiB 30 are free and 20 stay free: an image of 2.85 GiB fits, with the default factor of 3.5.
FREE = 30.0


def sized(b: Bench, name: str, gib: float) -> Line:
    """A line for a pushed image of this compressed size."""
    return replace(a_push(b, f"registry.example.com/shop/{name}:1", name), size_bytes=int(gib * GIB))


def message(b: Bench, line: Line) -> str:
    text: str = json.loads(b.detail(line) or "{}").get("message", "")
    return text


@on_node
async def test_an_image_that_does_not_fit_is_refused_while_a_smaller_one_is_pulled(b: Bench) -> None:
    b.free_percent = lambda: FREE
    large, small = sized(b, "large", 3), sized(b, "small", 1)
    await b.want(large, small)
    async with b.agent():
        await warm(b, small)
        await until(lambda: b.state(large) == "failed")
        assert b.reason(large) == "DiskFull"
        assert message(b, large) == "needs about 10.5 GiB of the node's disk for images, 10.0 GiB may be used"
        await asyncio.sleep(7200)
        assert b.runtime.pulls == [small.image]


@on_node
async def test_an_image_is_pulled_at_the_next_check_when_space_has_returned(b: Bench) -> None:
    free = FREE
    b.free_percent = lambda: free
    large = sized(b, "large", 3)
    await b.want(large)
    async with b.agent():
        await until(lambda: b.state(large) == "failed")
        free = 31.0
        assert await warm(b, large, seconds=60) < 60


@on_node
async def test_two_images_that_fit_only_one_by_one_are_pulled_one_by_one(b: Bench) -> None:
    b.free_percent = lambda: FREE
    b.runtime.pull_seconds = 300
    one, two = sized(b, "one", 2), sized(b, "two", 2)
    await b.want(one, two)
    async with b.agent():
        await until(lambda: bool(b.runtime.pulls))
        await until(lambda: "failed" in (b.state(one), b.state(two)))
        waits = one if b.state(one) == "failed" else two
        assert message(b, waits).endswith("3.0 GiB may be used")
        await warm(b, one, two, seconds=1000)
    assert b.runtime.most_running == 1


@on_node
async def test_a_running_pull_counts_with_what_it_had_not_downloaded_when_the_disk_was_measured(b: Bench) -> None:
    b.free_percent = lambda: FREE - 1
    b.containerd.absent = False
    running, other = sized(b, "running", 2), sized(b, "other", 2)
    b.runtime.hanging.add(running.image)
    b.containerd.downloading[running.image] = [Download("sha256:0", GIB, 2 * GIB)]
    await b.want(running)
    async with b.agent():
        await asyncio.sleep(120)
        await b.want(other)
        # 29 - 20 free, and 2 * 3.5 - 1 still needed.
        await until(lambda: message(b, other).endswith("3.0 GiB may be used"))


@on_node
async def test_an_image_of_unknown_size_is_pulled_as_long_as_the_free_share_allows_it(b: Bench) -> None:
    b.free_percent = lambda: 20.5
    line = sized(b, "unknown", 0)
    await b.want(line)
    async with b.agent():
        await warm(b, line)


@on_node
async def test_an_image_whose_digest_is_there_needs_no_space(b: Bench) -> None:
    b.free_percent = lambda: FREE
    here, tag = "registry.example.com/shop/large:1", "registry.example.com/shop/large:2"
    for name in (here, tag):
        b.runtime.push(name, "large")
    b.runtime.have(here)
    line = replace(a_push(b, tag, "large"), size_bytes=5 * GIB)
    await b.want(line)
    async with b.agent():
        await warm(b, line, seconds=10)


def test_a_node_learns_from_its_images_how_much_space_a_pull_takes() -> None:
    @instant
    async def run() -> None:
        async with bench() as b:
            b.free_percent = lambda: FREE
            b.runtime.image_bytes, b.runtime.used_bytes = GIB, GIB
            known, large = sized(b, "known", 1), sized(b, "large", 4)
            await b.want(known)
            async with b.agent():
                await warm(b, known)
                # Unpacked it takes 1 GiB as well: with a factor of 2 an image of 4 GiB fits.
                await b.want(large)
                await warm(b, large)

    run()


@on_node
async def test_a_size_that_no_image_has_holds_up_no_other_image(b: Bench) -> None:
    b.free_percent = lambda: FREE
    absurd, negative, other = sized(b, "absurd", 1), sized(b, "negative", 1), sized(b, "other", 1)
    lines = [replace(absurd, size_bytes=10**400), replace(negative, size_bytes=-(10**400)), other]
    await b.want(*lines)
    async with b.agent():
        await warm(b, *lines[1:])
        assert b.reason(lines[0]) == "DiskFull"


@on_node
async def test_a_namespace_whose_images_claim_the_whole_disk_and_never_come_delays_another_for_20_minutes_at_most(
    b: Bench,
) -> None:
    b.free_percent = lambda: FREE
    claims = [sized(b, f"claim{number}", 2.8) for number in range(8)]
    claims = [
        replace(line, warmimage=replace(line.warmimage, namespace="greedy"), pull=Pull(timeout_seconds=7200))
        for line in claims
    ]
    b.runtime.hanging |= {line.image for line in claims}
    await b.want(*claims)
    async with b.agent():
        await until(lambda: b.runtime.running == 1)
        others = [sized(b, f"other{number}", 1) for number in range(2)]
        await b.want(*others)
        await warm(b, *others, seconds=1300)


@on_node
async def test_a_large_image_that_takes_long_is_not_stopped_for_one_of_its_own_namespace(b: Bench) -> None:
    b.free_percent = lambda: FREE
    b.runtime.pull_seconds = 3000
    large, other = sized(b, "large", 2.8), sized(b, "other", 1)
    lines = [replace(line, pull=Pull(timeout_seconds=7200)) for line in (large, other)]
    await b.want(lines[0])
    async with b.agent():
        await until(lambda: b.runtime.running == 1)
        await b.want(lines[1])
        await warm(b, *lines, seconds=7000)
        assert b.runtime.pulls == [large.image, other.image]


@on_node
async def test_figures_that_change_all_the_time_cost_few_writes(b: Bench) -> None:
    free = FREE

    def shrinking() -> float:
        nonlocal free
        free -= 0.01
        return free

    b.free_percent = shrinking
    large = sized(b, "large", 5)
    await b.want(large)
    async with b.agent():
        await until(lambda: b.state(large) == "failed")
        writes = len(b.writes())
        await asyncio.sleep(3600)
        assert len(b.writes()) - writes <= 17
