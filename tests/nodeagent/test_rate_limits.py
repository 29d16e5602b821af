"""A registry that limits requests is left alone by the node, and images of other registries are pulled meanwhile."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from tests.support.agents import Bench, line_of, warm, with_agent
from tests.support.instant import until
from warmhook.node_lines import Line
from warmhook.ports import PullFailed
from warmhook.warmimages import Pull

LIMITED, OTHER = "limited.example.com", "other.example.com"


def _line(b: Bench, host: str, name: str, *, retries: int = 3) -> Line:
    image = f"{host}/shop/{name}:1"
    return line_of(
        image, name=f"{host[0]}-{name}", digest=b.runtime.push(image, name), pull=Pull(backoff_limit=retries)
    )


def _message(b: Bench, line: Line) -> str:
    message: str = json.loads(b.detail(line) or "{}").get("message", "")
    return message


def _refuse(b: Bench, line: Line, times: int = 1, after_seconds: float | None = None) -> None:
    """The registry refuses the next pulls of the image, and asks to be left alone."""
    b.runtime.failures[line.image] += [PullFailed("RateLimited", "429 Too Many Requests", after_seconds)] * times


@with_agent
async def test_a_limit_holds_back_all_images_of_its_registry_and_no_other(b: Bench) -> None:
    first, others = _line(b, LIMITED, "first"), [_line(b, OTHER, f"web{i}") for i in range(3)]
    _refuse(b, first)
    await b.want(first)
    await until(lambda: b.reason(first) == "RateLimited", seconds=10)
    second = _line(b, LIMITED, "second")
    await b.want(second, *others)
    assert await warm(b, *others, seconds=30) < 15
    await until(lambda: b.reason(second) == "RateLimited", seconds=10)
    assert b.runtime.pulls.count(second.image) == 0
    await warm(b, first, second, seconds=90)


@with_agent
async def test_the_report_says_until_when(b: Bench) -> None:
    line = _line(b, LIMITED, "web")
    _refuse(b, line, after_seconds=600)
    await b.want(line)
    await until(lambda: b.reason(line) == "RateLimited", seconds=10)
    assert _message(b, line).startswith(f"{LIMITED} limits requests; this node asks again at 2026-05-01T00:1")
    assert "429 Too Many Requests" in _message(b, line)


@with_agent
async def test_the_wait_that_the_registry_asks_for_is_kept(b: Bench) -> None:
    line = _line(b, LIMITED, "web")
    _refuse(b, line, after_seconds=600)
    await b.want(line)
    await until(lambda: b.reason(line) == "RateLimited", seconds=10)
    assert 590 <= await warm(b, line, seconds=700) <= 680


@with_agent
async def test_a_registry_that_goes_on_refusing_is_asked_by_one_pull_after_ever_longer_waits(b: Bench) -> None:
    lines = [_line(b, LIMITED, f"web{i}") for i in range(6)]
    for line in lines:
        _refuse(b, line, times=20)
    await b.want(*lines)
    await asyncio.sleep(3600)
    # Two at once before the limit is known, then after 1, 2, 4, 8, 16 and 32 minutes, which ends beyond the hour.
    assert len(b.runtime.pulls) <= 2 + 5
    b.runtime.failures.clear()
    await warm(b, *lines, seconds=3600)


@with_agent
async def test_a_line_that_a_limit_has_made_fail_stays_failed_while_its_registry_is_left_alone(b: Bench) -> None:
    line = _line(b, LIMITED, "web", retries=0)
    _refuse(b, line, times=2)
    await b.want(line)
    await until(lambda: b.state(line) == "failed", seconds=10)
    await asyncio.sleep(50)
    assert (b.state(line), b.reason(line)) == ("failed", "RateLimited")
    await warm(b, line, seconds=400)


@with_agent
async def test_a_registry_that_answers_again_is_asked_for_all_its_images(b: Bench) -> None:
    lines = [_line(b, LIMITED, f"web{i}") for i in range(8)]
    _refuse(b, lines[0])
    await b.want(*lines)
    await warm(b, *lines, seconds=120)
    assert b.runtime.most_running == 2


@with_agent
async def test_a_namespace_whose_account_has_no_requests_left_does_not_keep_another_from_its_registry(b: Bench) -> None:
    spent = [_line(b, LIMITED, f"spent{i}") for i in range(20)]
    spent = [
        replace(line, warmimage=replace(line.warmimage, namespace="spent"), pull=Pull(priority=100)) for line in spent
    ]
    for line in spent:
        _refuse(b, line, times=1000)
    await b.want(*spent)
    await until(lambda: b.reason(spent[0]) == "RateLimited", seconds=10)
    others = [_line(b, LIMITED, f"web{i}") for i in range(4)]
    await b.want(*others)
    await warm(b, *others, seconds=3600)
