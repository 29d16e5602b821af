"""Everything gets warm again after an image, an agent, a runtime or the API server was gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from devcluster.nodes import architecture
from devcluster.registry.folder import Answer, Folder, digest_of
from devcluster.registry.images import incompressible_image
from devcluster.registry.serve import serve_registry
from tests.e2e.stack import Options, events_of, open_stack
from tests.real.programs import real_time

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

PLATFORM = f"linux/{architecture()}"
FIRST, SECOND = (incompressible_image(0.1, f"{i}", platform=PLATFORM) for i in range(2))
LARGE = incompressible_image(4, "large", platform=PLATFORM)
# Only this clock matters to the programs: every wait of the tests is for what they do.
QUICK = {"WARMHOOK_CHECK_SECONDS": "1"}


@real_time
async def test_an_image_removed_through_cri_comes_back(folder: Path) -> None:
    async with (
        serve_registry(folder) as registry,
        open_stack(Options(registry.host, agent=QUICK), nodes=("node-1",)) as stack,
    ):
        await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
        name = await stack.push(registry, "shop/app", "1", FIRST)
        await stack.becomes(name, "1/1")
        await stack.remove_image("node-1", name)
        agent = stack.agents["node-1"]
        await stack.eventually(lambda: len(events_of(agent, "pull")) == 2, what="it is pulled again")
        (listed,) = await stack.images("node-1")
        assert listed.tags == (name,)
        (removed,) = events_of(agent, "image-removed")
        assert (removed["image"], removed["level"]) == (name, "warning")
        await stack.becomes(name, "1/1")


@real_time
async def test_an_agent_killed_in_the_middle_of_a_pull_finishes_it_after_its_restart(folder: Path) -> None:
    async with (
        serve_registry(folder) as registry,
        open_stack(Options(registry.host, agent=QUICK), nodes=("node-1",)) as stack,
    ):
        content = Folder(folder)
        content.write_answer("shop/large", Answer(stall=True))
        await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
        name = await stack.push(registry, "shop/large", "1", LARGE)
        layer = f"/v2/shop/large/blobs/{digest_of(LARGE.blobs[1])}"
        await stack.eventually(lambda: registry.answering[layer] > 0, what="half of the layer is on its way")
        await stack.agents["node-1"].kill()
        content.write_answer("shop/large", Answer())
        assert await stack.images("node-1") == []
        assert await stack.counts(name) != "1/1"
        await stack.cluster.start_agent("node-1")
        await stack.becomes(name, "1/1")
        assert [it.tags for it in await stack.images("node-1")] == [(name,)]
        # It knew the line from its disk, before it had asked anybody.
        lines = stack.agents["node-1"].printed().splitlines()
        assert '"lines": 1' in next(line for line in lines if "agent-started" in line)


@real_time
async def test_an_agent_says_that_its_runtime_is_gone_and_that_it_is_back(folder: Path) -> None:
    async with (
        serve_registry(folder) as registry,
        open_stack(Options(registry.host, agent=QUICK)) as stack,
    ):
        await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
        first = await stack.push(registry, "shop/app", "1", FIRST)
        await stack.becomes(first, "2/2")
        await stack.runtimes["node-1"].kill()
        agent = stack.agents["node-1"]
        await stack.eventually(
            lambda: len(events_of(agent, "runtime-unreachable")) == 1, what="the agent says that nobody answers"
        )
        # The other node goes on, and the status tells the one from the other.
        second = await stack.push(registry, "shop/second", "1", SECOND)
        await stack.becomes(second, "1/2")
        await stack.becomes(first, "1/2")
        await stack.cluster.start_runtime("node-1")
        for name in (first, second):
            await stack.becomes(name, "2/2")
        assert len(events_of(agent, "runtime-unreachable-over")) == 1
        (told,) = events_of(agent, "runtime-unreachable")
        assert "CONTAINER_RUNTIME_ENDPOINT" in told["hint"]
        assert "Traceback" not in agent.output()
        # What the runtime still has is not pulled again.
        assert [it["image"] for it in events_of(agent, "pull") if it["result"] == "pulled"] == [first, second]


@real_time
async def test_everybody_goes_on_when_the_api_server_is_back(folder: Path) -> None:
    async with serve_registry(folder) as registry, open_stack(Options(registry.host, agent=QUICK)) as stack:
        await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
        first = await stack.push(registry, "shop/app", "1", FIRST)
        await stack.becomes(first, "2/2")
        await stack.api.kill()
        answer = await stack.notify("shop/second", "1", SECOND.digest)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        # What agents know they go on with.
        await stack.remove_image("node-1", first)
        agent = stack.agents["node-1"]
        await stack.eventually(lambda: len(events_of(agent, "pull")) == 2, what="it is pulled again meanwhile")
        await stack.start_api()
        second = await stack.push(registry, "shop/second", "1", SECOND)
        for name in (first, second):
            await stack.becomes(name, "2/2")
        for program in (*stack.agents.values(), stack.web):
            assert "Traceback" not in program.output()
        for program in stack.agents.values():
            assert len(events_of(program, "api-server-trouble")) == 1
            assert len(events_of(program, "api-server-trouble-over")) == 1
