"""One bad node, image or policy says what is wrong with it, and leaves all others alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.kubernetes.paths import warmpolicies
from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image
from devcluster.registry.serve import serve_registry
from tests.e2e.stack import NAMESPACE, Options, Stack, open_stack
from tests.real.programs import real_time
from warmhook.warmimages import ObjectKey

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

PLATFORM = f"linux/{architecture()}"
ABSENT = f"sha256:{'0' * 64}"


async def policy_ready(stack: Stack, name: str) -> tuple[str, str]:
    """The policy's condition Ready: status and message; empty where it has none yet."""
    policy = await stack.kubernetes.get(warmpolicies(ObjectKey(NAMESPACE, name)))
    conditions = (policy.get("status") or {}).get("conditions") or [{}]
    return conditions[0].get("status", ""), conditions[0].get("message", "")


@real_time
async def test_a_node_an_image_and_a_policy_that_fail_say_why_and_everything_else_gets_warm(folder: Path) -> None:
    async with (
        serve_registry(folder) as registry,
        open_stack(Options(registry.host)) as stack,
    ):
        await stack.register("node-3")
        rule = {"repository": f"{registry.host}/shop/**"}
        await stack.drop_patterns()
        await stack.apply_policy({"push": [rule | {"semver": "a banana"}]}, name="slipped")
        await stack.apply_policy({"push": [rule], "template": {"pull": {"backoffLimit": 0}}})
        assert (await stack.notify("shop/ghost", "1", ABSENT)).status_code == 202
        names = [
            await stack.push(registry, f"shop/app-{i}", "1", incompressible_image(0.1, f"{i}", platform=PLATFORM))
            for i in range(3)
        ]
        for name in names:
            # A node that registered a moment ago may still speak.
            await stack.becomes(name, "2/3")
            status = await stack.status(name)
            assert {it["type"]: it["status"] for it in status["conditions"]} == {
                "Ready": "False",
                "Degraded": "False",
            }
            assert (status["waiting"], status["failures"]) == (1, [])

        ghost = f"{registry.host}/shop/ghost:1"

        async def both_failed() -> bool:
            return (await stack.status(ghost)).get("failed") == 2

        await stack.eventually(both_failed, what="the image that is not there fails on both nodes")
        failures = (await stack.status(ghost))["failures"]
        assert [(it["node"], it["reason"]) for it in failures] == [
            ("node-1", "NotFound"),
            ("node-2", "NotFound"),
        ]
        assert all(it["message"] for it in failures)
        assert "shop/ghost:1" in failures[0]["message"]

        async def told() -> bool:
            return (await policy_ready(stack, "slipped"))[0] == "False"

        await stack.eventually(told, what="the policy that cannot be used says so")
        _, message = await policy_ready(stack, "slipped")
        assert message.startswith("spec.push[0].semver: ")
        assert "banana" in message
        # Its own WarmImages and nobody else's.
        assert {it["metadata"]["namespace"] for it in await stack.warmimages()} == {NAMESPACE}
        assert (await policy_ready(stack, "shop"))[0] == "True"
        for program in (stack.web, *stack.agents.values()):
            assert "Traceback" not in program.output()
