"""A push reaches real nodes through each other: the registry gives each blob once, and a Pod sees no difference."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from adapters.containerd_content import open_content_store
from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image
from tests.e2e.stack import SECRET, Options, Stack, events_of, open_stack
from tests.real.programs import free_port, real_time
from tests.real.registry import DockerRegistry, push_image, start_docker_registry
from warmhook.node_report import read_report

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

NODES = ("node-1", "node-2", "node-3")
LAYERS = 3
# Layers have millions of bytes; the handlers read the configuration as well.
LAYER = re.compile(r'"GET /v2/shop/app/blobs/(sha256:[0-9a-f]{64}) HTTP/[\d.]+" 20\d \d{7}')


def layers_read(registry: DockerRegistry) -> Counter[str]:
    """How often each layer left the registry."""
    return Counter(LAYER.findall(registry.log()))


async def serving(stack: Stack) -> bool:
    """Whether every node says in its report where it serves images."""
    reports = [await stack.report(node) for node in NODES]
    return all(report is not None and read_report(report["metadata"]).peer is not None for report in reports)


async def leases(stack: Stack) -> list[str]:
    """Of all nodes."""
    found = []
    for node in NODES:
        async with open_content_store(f"unix://{stack.cluster.socket_of(node)}") as content:
            found += await content.leases()
    return found


@real_time
async def test_one_node_reads_the_registry_and_the_others_get_what_a_plain_pull_brings() -> None:
    port = free_port()
    image = incompressible_image(12, "peers", layers=LAYERS, platform=f"linux/{architecture()}")
    async with start_docker_registry(
        notify_url=f"http://127.0.0.1:{port}/webhooks/registry", headers={"Authorization": SECRET}
    ) as registry:
        agent = {"WARMHOOK_PLAIN_HTTP_REGISTRIES": registry.host}
        known = ({"host": registry.host, "plainHttp": True},)
        options = Options(registry.host, agent=agent, registries=known, peers=True, web_port=port)
        async with open_stack(options, nodes=NODES) as stack:
            await stack.eventually(lambda: serving(stack), what="every node serves images")
            rule = [{"repository": f"{registry.host}/shop/**"}]
            await stack.apply_policy({"push": rule, "template": {"source": {"mode": "peers", "seeds": 1}}})
            # The handlers read where nodes serve every few minutes, and with each status.
            first = await push_image(registry.host, "shop/first", "1.0", incompressible_image(0.1, "first"))
            await stack.becomes(first, "3/3")
            name = await push_image(registry.host, "shop/app", "1.0", image)
            await stack.becomes(name, "3/3")

            assert sorted(layers_read(registry).values()) == [1] * LAYERS
            pulls = [pull for node in NODES for pull in events_of(stack.agents[node], "pull") if pull["image"] == name]
            assert [pull["result"] for pull in pulls] == ["pulled"] * 3
            assert sorted(bool(pull["bytes_from_registry"]) for pull in pulls) == [False, False, True]
            assert sorted(bool(pull["bytes_from_peers"]) for pull in pulls) == [False, True, True]
            for node in NODES:
                listed = {found.id: found for found in await stack.images(node)}[image.config_digest]
                assert listed.tags == (name,)
                assert listed.digests == (f"{registry.host}/shop/app@{image.digest}",)

            async def released() -> bool:
                return await leases(stack) == []

            await stack.eventually(released, what="no lease is left")

            async def counted() -> bool:
                distribution = (await stack.status(name)).get("distribution", {})
                given, read = (distribution.get(field, 0) for field in ("bytesFromPeers", "bytesFromRegistry"))
                return bool(given > 1.9 * read > 0)

            await stack.eventually(counted, what="the status says from where the image came")
