"""Warmhook works on a real API server with the rights that it ships and nothing else."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess

import pytest

from adapters.kubernetes.paths import leases
from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image
from tests.cluster.stack import Stack, open_stack
from tests.real.programs import real_time

pytestmark = pytest.mark.cluster

IMAGES = [incompressible_image(0.1, f"{i}", platform=f"linux/{architecture()}") for i in range(3)]
KUBECTL_OLDEST = 27


def kubectl_columns(stack: Stack, kind: str) -> list[list[str]]:
    """What `kubectl get` shows, word by word, its heading first; skips where there is no kubectl that is new enough."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("no kubectl on PATH")
    said = subprocess.run([program, "version", "--client", "-o", "json"], capture_output=True, check=False).stdout
    minor = re.search(r'"minor": "(\d+)', said.decode())
    if minor is None or int(minor[1]) < KUBECTL_OLDEST:
        pytest.skip(f"kubectl is older than 1.{KUBECTL_OLDEST}")
    command = [
        program,
        "--kubeconfig",
        os.environ["WARMHOOK_TEST_KUBECONFIG"],
        "-n",
        stack.place.namespace,
        "get",
        kind,
    ]
    shown = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return [line.split() for line in shown.splitlines()]


@real_time
async def test_a_push_is_warm_on_two_nodes_and_on_a_third_that_joins() -> None:
    async with open_stack() as stack:
        await stack.join("node-1", "node-2")
        await stack.start_web()
        await stack.keep()
        image = await stack.push("1", IMAGES[0])
        await stack.becomes(image, "2/2")
        await stack.join("node-3")
        await stack.becomes(image, "3/3")
        assert await stack.refusals() == []

        heading, shown = await asyncio.to_thread(kubectl_columns, stack, "warmimages")
        assert heading == ["NAME", "POLICY", "IMAGE", "WARM", "READY", "AGE"]
        assert shown[1:5] == ["shop", image, "3/3", "True"]

        async def counted() -> bool:
            heading, shown = await asyncio.to_thread(kubectl_columns, stack, "wp")
            assert heading == ["NAME", "READY", "IMAGES", "AGE"]
            assert shown[:2] == ["shop", "True"]
            return shown[2] == "1"

        await stack.eventually(counted, what="the policy counts its images")


@real_time
async def test_a_node_that_leaves_leaves_nothing_and_one_registered_again_gets_what_was_pushed_meanwhile() -> None:
    async with open_stack() as stack:
        one, two = await stack.join("node-1", "node-2")
        await stack.start_web()
        await stack.keep()
        first = await stack.push("1", IMAGES[0])
        await stack.becomes(first, "2/2")
        before = set(await stack.owners(one))

        # Registered again while pushes go on: nothing stands still between the two.
        await stack.unregister(one)
        pushing = asyncio.create_task(stack.push("2", IMAGES[1]), name="push")
        again = await stack.register(one)
        second = await pushing
        for image in (first, second):
            await stack.becomes(image, "2/2")

        async def adopted() -> bool:
            return await stack.owners(one) == [again["metadata"]["uid"]] * 2

        await stack.eventually(adopted, what="both ConfigMaps belong to the new Node")
        assert again["metadata"]["uid"] not in before

        assert await stack.stop(stack.agents[two]) == 0
        await stack.unregister(two)

        async def gone() -> bool:
            return await stack.owners(two) == []

        await stack.eventually(gone, what="the ConfigMaps of the Node that left are gone")
        await stack.becomes(second, "1/1")
        assert await stack.refusals() == []


@real_time
async def test_a_push_is_not_lost_when_agents_and_web_are_killed() -> None:
    async with open_stack() as stack:
        one, two = await stack.join("node-1", "node-2")
        port = await stack.start_web()
        await stack.keep()
        await stack.becomes(await stack.push("1", IMAGES[0]), "2/2")

        await stack.agents[one].kill()
        second = await stack.push("2", IMAGES[1])
        await stack.webs[port].kill()
        await stack.cluster.start_agent(one)
        await stack.start_web(port)
        await stack.becomes(second, "2/2")
        third = await stack.push("3", IMAGES[2])
        await stack.becomes(third, "2/2")
        assert not stack.agents[two].ended
        assert await stack.refusals() == []


@real_time
async def test_of_two_web_one_watches_and_the_other_takes_over_when_it_is_killed() -> None:
    async with open_stack() as stack:
        await stack.join("node-1")
        ports = [await stack.start_web(), await stack.start_web()]

        def leading() -> list[int]:
            return [port for port in ports if '"leading"' in stack.webs[port].output()]

        await stack.eventually(lambda: bool(leading()), what="one of them leads")
        (leader,) = leading()
        (other,) = set(ports) - {leader}
        await stack.keep()
        # Whoever is told of the push, the one that leads brings it to the nodes.
        await stack.becomes(await stack.push("1", IMAGES[0], port=other), "1/1")
        assert leading() == [leader]
        lease = await stack.kubernetes.get(leases(stack.place.namespace, "warmhook-watch"))

        await stack.webs[leader].kill()
        await stack.becomes(await stack.push("2", IMAGES[1], port=other), "1/1")
        taken = await stack.kubernetes.get(leases(stack.place.namespace, "warmhook-watch"))
        assert taken["spec"]["holderIdentity"] != lease["spec"]["holderIdentity"]
        assert taken["spec"]["leaseTransitions"] > lease["spec"]["leaseTransitions"]
        assert await stack.refusals() == []


@real_time
async def test_a_right_that_is_taken_away_is_missed_and_named() -> None:
    async with open_stack() as stack:
        role = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{stack.place.prefix}-warmhook-handlers"
        rules = (await stack.kubernetes.get(role))["rules"]
        fewer = [rule for rule in rules if "warmimages/status" not in rule["resources"]]
        await stack.kubernetes.patch(role, {"rules": fewer})
        await stack.join("node-1")
        await stack.start_web()
        await stack.keep()
        image = await stack.push("1", IMAGES[0])

        async def missed() -> bool:
            return any("warmimages/status" in line for line in await stack.refusals())

        await stack.eventually(missed, what="the log names what may not be patched")
        assert await stack.counts(image) == "None/None"

        await stack.kubernetes.patch(role, {"rules": rules})
        await stack.becomes(image, "1/1")
