"""Every program ends with 0 on SIGTERM, with nothing half-written and nothing undone."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import httpx
import pytest

from devcluster.nodes import architecture
from devcluster.registry.folder import Answer, Folder, digest_of
from devcluster.registry.images import incompressible_image, write_image
from devcluster.registry.serve import serve_registry
from tests.e2e.stack import Options, events_of, open_stack
from tests.real.programs import real_time, running, stop

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

PLATFORM = f"linux/{architecture()}"
FIRST, SECOND = (incompressible_image(0.1, f"{i}", platform=PLATFORM) for i in range(2))
LARGE = incompressible_image(4, "large", platform=PLATFORM)


@real_time
async def test_an_agent_told_to_stop_in_the_middle_of_a_pull_leaves_a_whole_state_and_pulls_when_it_is_back(
    folder: Path,
) -> None:
    async with serve_registry(folder) as registry, open_stack(Options(registry.host), nodes=("node-1",)) as stack:
        await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
        small = await stack.push(registry, "shop/small", "1", FIRST)
        await stack.becomes(small, "1/1")
        content = Folder(folder)
        content.write_answer("shop/large", Answer(stall=True))
        large = await stack.push(registry, "shop/large", "1", LARGE)
        layer = f"/v2/shop/large/blobs/{digest_of(LARGE.blobs[1])}"
        await stack.eventually(lambda: registry.answering[layer] > 0, what="half of the layer is on its way")
        agent = stack.agents["node-1"]
        assert await stack.stop(agent) == 0
        assert [it["result"] for it in events_of(agent, "pull")] == ["pulled", "cancelled"]
        # The runtime was told as well: nothing goes on behind the agent's back.
        await stack.eventually(lambda: registry.answering[layer] == 0, what="the runtime hangs up")

        files = {file.name: json.loads(file.read_text()) for file in (stack.folder / "node-1.state").iterdir()}
        known = files["state.json"]
        assert files.keys() <= {"state.json", "removals.json"}
        assert (known["node"], len(known["lines"])) == ("node-1", 2)
        assert "Traceback" not in agent.output()

        content.write_answer("shop/large", Answer())
        await stack.cluster.start_agent("node-1")
        for image in (small, large):
            await stack.becomes(image, "1/1")


@real_time
async def test_what_web_accepted_before_it_was_told_to_stop_gets_warm(folder: Path) -> None:
    async with serve_registry(folder) as registry, open_stack(Options(registry.host), nodes=("node-1",)) as stack:
        await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
        accepted: list[str] = []

        async def push_until_nobody_answers() -> None:
            for number in range(1000):
                name = f"shop/app-{number}"
                write_image(folder, name, "1", FIRST)
                try:
                    answer = await stack.notify(name, "1", FIRST.digest)
                except httpx.TransportError:
                    return
                if answer.status_code == 202:
                    accepted.append(f"{registry.host}/{name}:1")

        pushing = asyncio.create_task(push_until_nobody_answers(), name="push")
        await stack.eventually(lambda: len(accepted) >= 5, what="web accepts pushes")
        assert await stack.stop(stack.web) == 0
        await pushing
        assert "Traceback" not in stack.web.output()
        await stack.start_web()
        for image in accepted:
            await stack.becomes(image, "1/1")


@real_time
async def test_a_watch_that_stands_by_takes_over_at_once_from_one_that_is_told_to_stop(folder: Path) -> None:
    (folder / "token").write_text("of-the-events")
    token = {"WARMHOOK_EVENTS_TOKEN_FILE": str(folder / "token")}
    async with (
        serve_registry(folder) as registry,
        open_stack(Options(registry.host, web=token), nodes=("node-1",)) as stack,
    ):
        log = stack.folder / "logs" / "watch.log"
        environ = token | {
            "KUBECONFIG": str(stack.cluster.plan.kubeconfig),
            "WARMHOOK_EVENTS_URL": f"http://127.0.0.1:{stack.options.web_port}/events",
        }
        await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
        async with running(sys.executable, "-m", "handlers.watch", log=log, env=environ) as watch:
            assert await stack.stop(stack.web) == 0
            await stack.eventually(lambda: '"leading"' in log.read_text(), what="the other one leads")
            await stack.start_web()
            await stack.becomes(await stack.push(registry, "shop/first", "1", FIRST), "1/1")
            assert '"leading"' not in stack.web.printed()

            await stop(watch)
            assert watch.returncode == 0
            assert '"watch-stopped"' in log.read_text().splitlines()[-1]
            await stack.cluster.programs.prints(stack.web, '"leading"')
            await stack.becomes(await stack.push(registry, "shop/second", "1", SECOND), "1/1")
        for said in (log.read_text(), stack.web.output()):
            assert "Traceback" not in said
