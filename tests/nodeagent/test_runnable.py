"""What cannot run on the node is never called warm, whatever the runtime lists and whatever happens later."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from tests.support.agents import Bench, on_node, with_agent
from tests.support.instant import until
from tests.support.runtime import MemoryRuntime, digest_of
from warmhook.node_lines import Line
from warmhook.platforms import Platform
from warmhook.ports import ImageConfig
from warmhook.pull_failures import FailureReason
from warmhook.warmimages import ObjectKey, Pull

NAME = "registry.example.com/shop/web"
WEB = f"{NAME}:1"
NOT_RUNNABLE: list[FailureReason] = ["NotRunnable"] * 9
CHART = ImageConfig()
ARM64 = ImageConfig(Platform("linux", "arm64"), layers=3)
OVERSIZED = ImageConfig(oversized=True)


def a_line(*, digest: str = "", pushed_at: str = "", name: str = "web", retries: int = 0) -> Line:
    return Line(ObjectKey("shop", name), WEB, digest, pushed_at, Pull(backoff_limit=retries))


@on_node
async def test_an_image_that_could_not_be_unpacked_is_still_failed_after_a_restart_of_the_agent(b: Bench) -> None:
    line = a_line(retries=3)
    b.runtime.fail(WEB, *NOT_RUNNABLE)
    await b.want(line)
    async with b.agent():
        await until(lambda: b.state(line) == "failed", seconds=120)
    assert WEB in b.runtime.listed
    # As where another image of the same ID is whole.
    b.runtime.listed[f"{NAME}@{digest_of('whole')}"] = b.runtime.listed[WEB]
    for _ in range(2):
        pulls = len(b.runtime.pulls)
        async with b.agent():
            await until(lambda pulls=pulls: len(b.runtime.pulls) > pulls)  # type: ignore[misc]
            await asyncio.sleep(10)
            assert (b.state(line), b.reason(line)) == ("failed", "NotRunnable")


@pytest.mark.slow
@pytest.mark.parametrize("later", ["Network", "RateLimited", "Timeout"])
@with_agent
async def test_an_image_that_could_not_be_unpacked_is_not_warm_after_another_kind_of_failure(
    b: Bench, later: FailureReason
) -> None:
    line = a_line()
    b.runtime.push(WEB, "a chart first, then an image")
    b.runtime.fail(WEB, "NotRunnable", *[later] * 5)
    await b.want(line)
    await until(lambda: b.state(line) == "failed")
    b.runtime.listed[f"{NAME}@{digest_of('whole')}"] = b.runtime.listed[WEB]
    await until(lambda: b.reason(line) == later, seconds=600)
    assert b.state(line) != "warm"
    pulls = len(b.runtime.pulls)
    await until(lambda: b.state(line) == "warm", seconds=4000)
    assert len(b.runtime.pulls) > pulls


@on_node
async def test_an_image_without_a_digest_is_pulled_although_its_tag_is_listed(b: Bench) -> None:
    line = a_line()
    b.runtime.push(WEB, "an image")
    b.runtime.listed[WEB] = "sha256:imported"
    await b.want(line)
    async with b.agent():
        await until(lambda: b.state(line) == "warm")
        assert b.runtime.pulls == [WEB]


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize(
    ("config", "expected"), [(CHART, "NotRunnable"), (ARM64, "PlatformMissing"), (OVERSIZED, "NotRunnable")]
)
@pytest.mark.parametrize("told", ["", "digest", "time"])
@on_node
async def test_an_image_that_is_pulled_without_an_error_and_cannot_run_is_failed(
    b: Bench, present: bool, config: ImageConfig, expected: str, told: str
) -> None:
    digest = b.runtime.push(WEB, "no image for this node")
    b.runtime.configs[digest] = config
    line = a_line(digest=digest if told == "digest" else "", pushed_at="2026" if told == "time" else "")
    if present:
        b.runtime.have(WEB)
    await b.want(line)
    for _ in range(2):
        async with b.agent():
            await until(lambda: b.reason(line) == expected)
            await until(lambda: b.state(line) == "failed")
            assert b.events("pull")[-1]["reason"] == expected


@pytest.mark.slow
@with_agent
async def test_a_good_image_under_the_same_tag_is_warm_when_it_was_pulled(b: Bench) -> None:
    line = a_line(retries=1)
    b.runtime.configs[b.runtime.push(WEB, "a chart")] = CHART
    await b.want(line)
    await until(lambda: b.state(line) == "failed", seconds=60)
    b.runtime.push(WEB, "an image")
    await until(lambda: b.state(line) == "warm", seconds=600)


@with_agent
async def test_a_line_that_is_warm_by_the_same_tag_is_no_longer_when_the_tag_brings_a_chart(b: Bench) -> None:
    first = a_line(name="first")
    b.runtime.push(WEB, "an image")
    await b.want(first)
    await until(lambda: b.state(first) == "warm")
    b.runtime.fail(WEB, *NOT_RUNNABLE)
    pushed = a_line(name="second", digest=b.runtime.push(WEB, "a chart"))
    await b.want(pushed)
    await until(lambda: b.state(pushed) == "failed")
    await until(lambda: b.state(first) != "warm", seconds=5)


@with_agent
async def test_a_configuration_is_read_once_for_each_image(b: Bench) -> None:
    b.runtime.push(WEB, "an image")
    await b.want(a_line(), a_line(name="another"))
    await until(lambda: len(b.report().warm) == 2)
    await asyncio.sleep(3600)
    assert b.runtime.config_reads == 1


@with_agent
async def test_a_configuration_that_the_runtime_cannot_return_is_read_again_and_delays_no_other_image(b: Bench) -> None:
    line, other = a_line(), Line(ObjectKey("shop", "other"), "registry.example.com/shop/other:1")
    b.runtime.push(other.image, "another")
    digest = b.runtime.push(WEB, "an image")
    b.runtime.configs[digest] = None
    await b.want(line, other)
    await until(lambda: b.state(other) == "warm")
    await until(lambda: b.state(line) == "failed")
    del b.runtime.configs[digest]
    await until(lambda: b.state(line) == "warm", seconds=60)


class Hanging(MemoryRuntime):
    """Hangs at the configurations of some images until gRPC gives up."""

    hangs_at: Collection[str] = ()
    """IDs."""

    async def config(self, reference: str) -> ImageConfig | None:
        if reference in self.hangs_at:
            await asyncio.sleep(10)
            return None
        return await super().config(reference)


@pytest.mark.slow
@on_node
async def test_a_runtime_that_hangs_at_the_configurations_of_many_images_holds_up_no_other_image_and_no_report(
    b: Bench,
) -> None:
    runtime = b.runtime = Hanging()
    hung = [Line(ObjectKey("other", f"n{i}"), f"registry.example.com/other/web{i}:1") for i in range(60)]
    for line in hung:
        runtime.push(line.image, line.image)
        runtime.have(line.image)
    runtime.hangs_at = {runtime.listed[line.image] for line in hung}
    await b.want(*hung)
    async with b.agent() as agent:
        await until(lambda: b.report().seen is not None, seconds=60)
        for i in range(12):
            image = f"registry.example.com/shop/web{i}:1"
            line = Line(ObjectKey("shop", f"web{i}"), image, runtime.push(image, f"web{i}"))
            await b.want(line)
            await until(lambda line=line: b.state(line) == "warm", seconds=300)  # type: ignore[misc]
            for _ in range(30):
                assert agent.health.sick() == ""
                await asyncio.sleep(10)
        assert not b.report().warm & {line.version for line in hung}
        runtime.hangs_at = ()
        await until(lambda: len(b.report().warm) == 72, seconds=4000, step=10)
