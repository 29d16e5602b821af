"""An image is pinned as long as a line wants it and the runtime honours that; nothing else loses its pin."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.agents import NAMESPACE, WEB, Bench, a_push, bench, on_node, warm, with_agent
from tests.support.containerd import MemoryContainerd
from tests.support.instant import instant, until
from warmhook.node_lines import Line, desired_name
from warmhook.pins import OURS, PIN, PINNED
from warmhook.ports import Download, StoredImage
from warmhook.warmimages import Pull

PINNED_PULL = Pull(pinned=True)
NAME = WEB.rpartition(":")[0]
GAUGE = "warmhook_pinned_images"


def pins(b: Bench) -> list[str]:
    """The names with the labels of Warmhook."""
    return sorted(name for name in b.runtime.listed if b.runtime.labels[name].items() >= PINNED.items())


def names(line: Line) -> list[str]:
    return sorted([line.image, f"{NAME}@{line.digest}"])


async def pinned(b: Bench, *, content: str = "first") -> Line:
    """A line whose image is warm and pinned."""
    b.containerd.absent = False
    line = a_push(b, content=content, pull=PINNED_PULL)
    await b.want(line)
    await warm(b, line)
    await until(lambda: pins(b) == names(line), seconds=10)
    return line


@with_agent
async def test_the_names_of_a_pinned_line_are_pinned_and_the_metric_counts_its_image(b: Bench) -> None:
    await pinned(b)
    await until(lambda: b.metrics.registry.get_sample_value(GAUGE) == 1, seconds=60)


@with_agent
async def test_a_line_that_is_not_pinned_changes_no_label(b: Bench) -> None:
    b.containerd.absent = False
    line = a_push(b)
    await b.want(line)
    await warm(b, line)
    await asyncio.sleep(300)
    assert b.containerd.changed == []


@with_agent
async def test_a_pin_that_a_pull_took_away_is_back_after_that_pull(b: Bench) -> None:
    line = await pinned(b)
    moved = a_push(b, content="second", pull=PINNED_PULL)
    await b.want(moved)
    await warm(b, moved)
    await until(lambda: pins(b) == names(moved), seconds=2)
    assert names(line)[1] in b.runtime.listed


@with_agent
async def test_a_pin_that_another_program_took_away_is_back_at_the_next_check(b: Bench) -> None:
    line = await pinned(b)
    del b.runtime.labels[line.image]
    await until(lambda: pins(b) == names(line), seconds=60)


@pytest.mark.parametrize("how", ["removed", "no longer pinned", "purged"])
def test_the_pin_goes_when_the_line_is(how: str) -> None:
    @instant
    async def run() -> None:
        async with bench() as b, b.agent():
            line = await pinned(b)
            if how == "removed":
                await b.want(without=(line,))
            elif how == "purged":
                await b.want(Line(line.warmimage, line.image, line.digest, pull=PINNED_PULL, purged=True))
            else:
                await b.want(Line(line.warmimage, line.image, line.digest))
            await until(lambda: pins(b) == [], seconds=10)
            assert all(not b.runtime.labels[name] for name in names(line))
            await until(lambda: b.metrics.registry.get_sample_value(GAUGE) == 0, seconds=60)

    run()


@with_agent
async def test_what_a_person_pinned_stays_pinned_without_the_label_of_warmhook(b: Bench) -> None:
    b.containerd.absent = False
    line = a_push(b, pull=PINNED_PULL)
    b.runtime.have(line.image)
    for name in names(line):
        b.runtime.labels[name] = {PIN: "pinned"}
    await b.want(line)
    await warm(b, line)
    await b.want(without=(line,))
    await asyncio.sleep(120)
    assert [b.runtime.labels[name] for name in names(line)] == [{PIN: "pinned"}] * 2


@on_node
async def test_pins_outlive_the_agent_and_an_agent_without_its_state_still_removes_them(b: Bench) -> None:
    async with b.agent():
        line = await pinned(b)
    assert pins(b) == names(line)
    async with b.agent():
        await asyncio.sleep(120)
        assert pins(b) == names(line)
    await b.want(without=(line,))
    (b.state_dir / "state.json").unlink()
    async with b.agent():
        await until(lambda: pins(b) == [], seconds=60)


@on_node
async def test_no_pin_is_removed_before_the_lines_are_known(b: Bench) -> None:
    async with b.agent():
        line = await pinned(b)
    (b.state_dir / "state.json").unlink()
    b.down = True
    async with b.agent():
        await asyncio.sleep(600)
        assert pins(b) == names(line)


@with_agent
async def test_no_pin_is_removed_while_a_line_cannot_be_read(b: Bench) -> None:
    line = await pinned(b)
    await b.patch_desired({"metadata": {"name": desired_name(b.node), "namespace": NAMESPACE}, "data": {line.key: "{"}})
    await until(lambda: bool(b.events("malformed-line")))
    await asyncio.sleep(120)
    assert pins(b) == names(line)


@with_agent
async def test_no_pin_is_removed_while_the_runtime_does_not_answer(b: Bench) -> None:
    line = await pinned(b)
    b.runtime.unreachable = True
    await until(lambda: b.state(line) == "waiting", seconds=120)
    b.runtime.unreachable = False
    await warm(b, line)
    assert pins(b) == names(line)
    assert b.containerd.changed == names(line)


@pytest.mark.parametrize("runtime", ["ignores the labels", "has no labels"])
def test_a_runtime_that_honours_no_pins_is_named_once_and_keeps_no_label(runtime: str) -> None:
    @instant
    async def run() -> None:
        async with bench() as b, b.agent():
            b.runtime.honours_pins, b.containerd.absent = False, runtime == "has no labels"
            line = a_push(b, pull=PINNED_PULL)
            await b.want(line)
            await warm(b, line)
            await asyncio.sleep(2 * 3600)
            assert len(b.events("pins-not-honoured")) == 1
            assert pins(b) == []
            assert b.state(line) == "warm"
            assert b.metrics.registry.get_sample_value(GAUGE) == 0
            # Once an hour.
            assert len(b.containerd.changed) <= 2 * 3

    run()


@with_agent
async def test_a_runtime_that_is_upgraded_pins_the_images_within_the_hour(b: Bench) -> None:
    b.runtime.honours_pins, b.containerd.absent = False, False
    line = a_push(b, pull=PINNED_PULL)
    await b.want(line)
    await warm(b, line)
    await until(lambda: bool(b.events("pins-not-honoured")))
    b.runtime.honours_pins = True
    await until(lambda: pins(b) == names(line), seconds=3700, step=15)


@with_agent
async def test_labels_that_cannot_be_written_are_logged_and_hold_up_nothing(b: Bench) -> None:
    b.containerd.absent = False
    b.containerd.refuses.add(WEB)
    line, other = a_push(b, pull=PINNED_PULL), a_push(b, "registry.example.com/shop/z:1", "other", pull=PINNED_PULL)
    await b.want(line, other)
    await warm(b, line, other)
    await until(lambda: bool(b.events("pins-not-written")) and other.image in pins(b), seconds=60)
    assert WEB not in pins(b)
    await b.want(without=(other,))
    b.containerd.refuses.clear()
    await until(lambda: pins(b) == names(line), seconds=120)
    assert OURS in b.runtime.labels[WEB]


class _Crashes(MemoryContainerd):
    """containerd's own services, with an answer that the agent cannot read."""

    async def images(self) -> list[StoredImage]:
        raise ZeroDivisionError("a bug")

    async def downloads(self, reference: str) -> list[Download]:
        raise ZeroDivisionError("a bug")


@on_node
async def test_a_bug_in_what_containerd_shows_stops_neither_the_agent_nor_its_reports(b: Bench) -> None:
    line = a_push(b, pull=PINNED_PULL)
    b.runtime.have(WEB)
    other = a_push(b, "registry.example.com/shop/z:1", "other")
    await b.want(line, other)
    async with b.agent(containerd=_Crashes(b.runtime)):
        await warm(b, line)
        await until(lambda: b.state(other) == "failed", seconds=200)
        assert b.reason(other) == "RuntimeError"
        assert b.events("pins-crashed")
