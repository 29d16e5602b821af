"""After any disorder the node comes to what is wanted, and its report to what is true."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from adapters.kubernetes.paths import configmaps
from tests.support.agents import NAMESPACE, Bench, on_node
from tests.support.instant import until
from warmhook.node_lines import Line, desired_name
from warmhook.node_report import report_name
from warmhook.pull_failures import FailureReason
from warmhook.warmimages import ObjectKey, Pull

pytestmark = pytest.mark.slow

REASONS: list[FailureReason] = ["Network", "RateLimited", "Timeout", "NotRunnable"]
IMAGES = [f"registry.example.com/shop/web{i}:1" for i in range(6)]


class Storm:
    """Disorder by chance, always the same for one seed."""

    def __init__(self, b: Bench, random: Random) -> None:
        self._b, self._random, self._steps = b, random, 0
        self.wanted: dict[str, Line] = {}

    async def step(self) -> None:
        """One thing happens."""
        self._steps += 1
        others = [self.drop, self.lose, self.runtime, self.api, self.fail, self.delete, self.cut]
        await self._random.choice([self.push, self.push, self.push, *others])()

    async def push(self) -> None:
        image, name = self._random.choice(IMAGES), f"w{self._random.randrange(8)}"
        digest = self._b.runtime.push(image, f"content {self._steps}")
        shown = self._random.choice([digest, "", "sha256:" + "e" * 64])
        pull = Pull(self._random.choice(["IfNotPresent", "Always"]), 60, 1, self._random.randrange(3))
        line = Line(ObjectKey("shop", name), image, shown, "" if shown else f"2026-05-01T{self._steps:06}Z", pull)
        self.wanted[line.key] = line
        await self._b.want(line)

    async def drop(self) -> None:
        if self.wanted:
            line = self.wanted.pop(self._random.choice(sorted(self.wanted)))
            await self._b.want(without=(line,))

    async def lose(self) -> None:
        if self._b.runtime.listed:
            self._b.runtime.lose(self._random.choice(sorted(self._b.runtime.listed)))

    async def runtime(self) -> None:
        self._b.runtime.unreachable = not self._b.runtime.unreachable

    async def api(self) -> None:
        self._b.down = not self._b.down

    async def fail(self) -> None:
        self._b.runtime.fail(self._random.choice(IMAGES), self._random.choice(REASONS))

    async def delete(self) -> None:
        name = self._random.choice([desired_name, report_name])("node-1")
        await self._b.kubernetes.delete(configmaps(NAMESPACE, name))

    async def cut(self) -> None:
        self._b.server.end_watches()
        if self._random.random() < 0.5:
            self._b.server.compact()

    async def calm(self) -> None:
        """Everything works again, and handlers write what is wanted in full."""
        self._b.runtime.unreachable = self._b.down = False
        self._b.runtime.failures.clear()
        await self._b.kubernetes.delete(configmaps(NAMESPACE, desired_name("node-1")))
        await self._b.want(*self.wanted.values())


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(3, 16))])
@on_node
async def test_a_node_after_a_storm_reports_all_wanted_lines_warm_and_no_others(b: Bench, seed: int) -> None:
    random = Random(seed)
    storm = Storm(b, random)
    for _ in range(3):
        context = b.agent() if random.random() < 0.5 else b.killed_agent()
        async with context:
            for _ in range(40):
                await storm.step()
                await asyncio.sleep(random.choice([0, 0.1, 1, 7, 40]))
    async with b.agent():
        await storm.calm()
        versions = {line.version for line in storm.wanted.values()}
        await until(lambda: b.report().warm == versions and not b.report().states, seconds=4500)
        stored = b.stored_report()
        assert stored
        assert {key for key, text in (stored.get("data") or {}).items() if "moved" not in text} == set()
        for line in storm.wanted.values():
            assert line.image in b.runtime.listed
        pulls = len(b.runtime.pulls)
        b.requests.clear()
        await asyncio.sleep(3000)
        assert len(b.runtime.pulls) == pulls
        assert len(b.requests) < 3000 / 290 + 3000 / 225 + 2
