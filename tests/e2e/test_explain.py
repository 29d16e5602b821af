"""`warmhook explain` names the culprit in a cluster of real programs, and its commands mend what is broken."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image, write_image
from devcluster.registry.serve import serve_registry
from tests.e2e.stack import Options, Stack, open_stack
from tests.real.programs import eventually, need, real_time

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

ROOT = Path(__file__).parents[2]
NODE = "node-1"


@dataclass(frozen=True, slots=True)
class Told:
    """What the command printed."""

    status: int
    output: str
    errors: str

    @property
    def found(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.output)
        return found

    @property
    def culprit(self) -> tuple[str, str]:
        problem = self.found.get("firstProblem", {})
        return problem.get("subject", ""), problem.get("reason", "")

    @property
    def mend(self) -> str:
        return str(self.found.get("firstProblem", {}).get("mend", ""))


async def run(stack: Stack, *command: str) -> Told:
    """Run a command of an operator."""
    environ = {**os.environ, "KUBECONFIG": str(stack.cluster.plan.kubeconfig), "NO_COLOR": "1"}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return Told(process.returncode or 0, out.decode(), err.decode())


async def explain(stack: Stack, image: str, *options: str) -> Told:
    return await run(stack, sys.executable, "-m", "cli.main", "explain", image, NODE, *options)


async def names(stack: Stack, image: str, subject: str, reason: str) -> Told:
    """Wait until this is the culprit."""
    told: list[Told] = []

    async def agree() -> bool:
        told.append(await explain(stack, image, "-o", "json"))
        return told[-1].culprit == (subject, reason)

    try:
        await eventually(agree, what=f"{subject} {reason}", seconds=60)
    except TimeoutError:
        raise AssertionError(f"{subject} {reason}: {told[-1]}") from None
    assert told[-1].status == 1
    return told[-1]


@real_time
async def test_an_operator_mends_one_thing_after_another_until_the_image_is_warm(folder: Path) -> None:
    need("kubectl", "kubectl")
    image = incompressible_image(1, "explain", platform=f"linux/{architecture()}")
    async with serve_registry(folder) as registry, open_stack(Options(registry.host), nodes=(NODE,)) as stack:
        name = f"{registry.host}/shop/app:v1"
        # Nothing is there.
        assert (await names(stack, name, "policy", "NoPolicy")).mend.startswith("echo ")
        rule = {"repository": f"{registry.host}/shop/**", "tags": ["release-*"]}
        await stack.apply_policy({"push": [rule]})
        refused = await names(stack, name, "rule", "TagNotMatched")
        patch = refused.mend.partition(" && ")[0]
        assert (await run(stack, "sh", "-c", patch)).status == 0
        # The registry sends another secret.
        url = f"{stack.cluster.web_url}/webhooks/registry"
        async with httpx.AsyncClient() as client:
            assert (await client.post(url, json={}, headers={"authorization": "wrong"})).status_code == 401
        await names(stack, name, "delivery", "BadSecret")
        # The image is announced, and the registry does not have it.
        assert (await stack.notify("shop/app", "v1", image.digest)).status_code == 202
        assert "push " in (await names(stack, name, "runtime", "NotFound")).mend
        # The policy selects other nodes.
        selector = {"matchLabels": {"tier": "gold"}}
        await stack.apply_policy({"template": {"nodes": {"selector": selector}}})
        mend = (await names(stack, name, "placement", "NotSelected")).mend
        assert (await run(stack, "sh", "-c", mend)).status == 0
        # The image arrives.
        mend = (await names(stack, name, "runtime", "NotFound")).mend.partition(", then: ")[2]
        write_image(registry.root, "shop/app", "v1", image)
        assert (await run(stack, "sh", "-c", mend)).status == 0
        await stack.becomes(name, "1/1")
        told = await explain(stack, name)
        assert told.status == 0
        assert f"{name} is warm on {NODE}" in told.output
        assert "wrong" not in told.output
        # By the name of its WarmImage, or without the registry.
        for asked in ("app:v1", f"warmimage/{(await stack.warmimages())[0]['metadata']['name']}"):
            assert (await explain(stack, asked)).status == 0
        # The runtime ends.
        await stack.stop(stack.runtimes[NODE])
        await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
        await stack.push(registry, "shop/app", "v2", image)
        down = await names(stack, f"{registry.host}/shop/app:v2", "runtime", "RuntimeDown")
        assert "does not reach the runtime" in down.output


@real_time
async def test_a_wrong_call_gets_one_line_and_status_2(folder: Path) -> None:
    async with serve_registry(folder) as registry, open_stack(Options(registry.host), nodes=()) as stack:
        calls = {
            ("UPPER/Case:v1", NODE): "name an image as a Pod does",
            ("shop/app", "NODE 1"): "is no name of a node",
            ("node/node-1", NODE): "name the image first",
            ("warmimage/none", NODE): "there is no WarmImage 'warmimage/none'",
        }
        for (image, node), words in calls.items():
            told = await run(stack, sys.executable, "-m", "cli.main", "explain", image, node)
            assert (told.status, told.output, told.errors.count("\n")) == (2, "", 1), told
            assert words in told.errors or words.replace("warmimage/", "") in told.errors, told
