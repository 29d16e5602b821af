"""A push to a real registry becomes a warm image on real nodes, and only nodes ask the registry."""

from __future__ import annotations

import re

import pytest

from devcluster.nodes import architecture
from devcluster.registry.images import build_index, incompressible_image
from tests.e2e.stack import SECRET, Options, events_of, open_stack
from tests.real.programs import eventually, free_port, real_time
from tests.real.registry import DockerRegistry, push_image, start_docker_registry

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

# Apache's combined log format: request, status, size, referer, user agent.
ACCESS = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[\d.]+" (?P<status>\d+) \d+ "[^"]*" "(?P<agent>[^"]*)"')


async def accesses_after(registry: DockerRegistry, path: str) -> list[str]:
    """The user agents of all requests after the last PUT of `path`, the end of a push."""
    await eventually(lambda: _put(registry, path) >= 0, what=f"the registry logs PUT {path}")
    return [found["agent"] for found in ACCESS.finditer(registry.log(), _put(registry, path))]


def _put(registry: DockerRegistry, path: str) -> int:
    """Where in the log that request ends; -1 where it is not yet there."""
    puts = (found for found in ACCESS.finditer(registry.log()) if found["method"] == "PUT" and found["path"] == path)
    return max((found.end() for found in puts), default=-1)


@real_time
async def test_a_push_makes_the_image_warm_on_every_node_and_only_nodes_ask_the_registry() -> None:
    port = free_port()
    image = incompressible_image(1, "push", platform=f"linux/{architecture()}")
    async with start_docker_registry(
        notify_url=f"http://127.0.0.1:{port}/webhooks/registry", headers={"Authorization": SECRET}
    ) as registry:
        async with open_stack(Options(registry.host, web_port=port)) as stack:
            await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
            name = await push_image(registry.host, "shop/app", "1.0", image)
            await stack.becomes(name, "2/2")

            status = await stack.status(name)
            assert status["conditions"][0] | {"lastTransitionTime": ""} == {
                "type": "Ready",
                "status": "True",
                "observedGeneration": 1,
                "reason": "AllWarm",
                "message": "2 of 2 nodes warm",
                "lastTransitionTime": "",
            }
            assert (status["digest"], status["failures"]) == (image.digest, [])
            for node in stack.agents:
                (listed,) = await stack.images(node)
                assert listed.tags == (name,)
                assert listed.digests == (f"{registry.host}/shop/app@{image.digest}",)
                (pull,) = events_of(stack.agents[node], "pull")
                assert (pull["result"], pull["digest"], pull["attempts"]) == ("pulled", image.digest, 1)
            results = [(it["result"], it["images"]) for it in events_of(stack.web, "delivery")]
            assert results.count(("accepted", [f"{name}@{image.digest}"])) == 1
        # All of Warmhook has ended: this is everything that was ever asked.
        asked = await accesses_after(registry, "/v2/shop/app/manifests/1.0")
        assert {agent.partition("/")[0] for agent in asked} == {"containerd"}


@real_time
async def test_an_index_with_attestations_becomes_one_warmimage_and_none_for_its_children() -> None:
    port = free_port()
    other = "arm64" if architecture() == "amd64" else "amd64"
    mine = incompressible_image(0.5, "index", platform=f"linux/{architecture()}")
    index = build_index([mine, incompressible_image(0.5, "other", platform=f"linux/{other}")], attestation=True)
    async with (
        start_docker_registry(
            notify_url=f"http://127.0.0.1:{port}/webhooks/registry", headers={"Authorization": SECRET}
        ) as registry,
        open_stack(Options(registry.host, web_port=port), nodes=("node-1",)) as stack,
    ):
        await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
        name = await push_image(registry.host, "shop/multi", "2.0", index)
        await stack.becomes(name, "1/1")
        # The tag is pushed last, so what its children led to is decided.
        assert [it["spec"]["image"] for it in await stack.warmimages()] == [name]
        assert (await stack.status(name))["digest"] == index.digest
        (listed,) = await stack.images("node-1")
        assert listed.id == mine.config_digest
        assert listed.digests == (f"{registry.host}/shop/multi@{index.digest}",)
        deliveries = events_of(stack.web, "delivery")
        children = {f"{registry.host}/shop/multi@{child.digest}" for child in index.children}
        told = {image: it for it in deliveries for image in it["images"]}
        assert children <= told.keys()
        assert {(told[child]["result"], told[child]["reason"]) for child in children} == {("skipped", "no-policy")}
