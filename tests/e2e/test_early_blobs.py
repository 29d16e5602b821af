"""Layers are on the nodes before the push ends: a real registry reports them, and real containerds keep them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import httpx
import pytest

from adapters.containerd_content import open_content_store
from devcluster.nodes import architecture
from devcluster.registry.folder import digest_of
from devcluster.registry.images import Image, incompressible_image
from tests.e2e.stack import SECRET, Options, Stack, events_of, open_stack
from tests.real.programs import eventually, free_port, real_time
from tests.real.registry import DockerRegistry, push_image, start_docker_registry

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

NODES = ("node-1", "node-2", "node-3")
READS = re.compile(r'"GET /v2/\S+/blobs/(sha256:[0-9a-f]{64}) HTTP/[\d.]+" 20[06]')


def image_of(tag: str) -> Image:
    return incompressible_image(6, tag, layers=2, platform=f"linux/{architecture()}")


@dataclass
class Push:
    """A push that a test does step by step."""

    registry: DockerRegistry
    image: Image
    repository: str = "shop/app"

    async def blob(self, data: bytes) -> str:
        """Push one blob in two chunks; its digest."""
        async with httpx.AsyncClient(base_url=f"http://{self.registry.host}") as client:
            started = await client.post(f"/v2/{self.repository}/blobs/uploads/")
            location, half = started.headers["location"], len(data) // 2
            for start, part in ((0, data[:half]), (half, data[half:])):
                headers = {"content-range": f"{start}-{start + len(part) - 1}"}
                location = (await client.patch(location, content=part, headers=headers)).headers["location"]
            ended = await client.put(httpx.URL(location).copy_merge_params({"digest": digest_of(data)}))
            assert ended.status_code == 201
        return digest_of(data)

    async def manifest(self, tag: str) -> None:
        """End the push."""
        async with httpx.AsyncClient(base_url=f"http://{self.registry.host}") as client:
            path, headers = f"/v2/{self.repository}/manifests/{tag}", {"content-type": self.image.media_type}
            assert (await client.put(path, content=self.image.manifest, headers=headers)).status_code == 201


async def holding(stack: Stack, digest: str) -> int:
    """How many nodes have this blob."""
    found = 0
    for node in NODES:
        async with open_content_store(f"unix://{stack.cluster.socket_of(node)}") as content:
            found += await content.info(digest) is not None
    return found


@real_time
async def test_layers_are_on_all_nodes_before_the_manifest_is_pushed_and_left_the_registry_once() -> None:
    port = free_port()
    async with start_docker_registry(
        notify_url=f"http://127.0.0.1:{port}/webhooks/early", headers={"Authorization": SECRET}
    ) as registry:
        early = {"name": "early", "kind": "distribution", "registryHost": registry.host, "earlyBlobs": True}
        source = early | {"secret": {"env": "WARMHOOK_SECRET"}}
        options = Options(registry.host, sources=(source,), peers=True, web_port=port)
        async with open_stack(options, nodes=NODES) as stack:
            template = {"source": {"mode": "peers"}}
            await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}], "template": template})
            first = await push_image(registry.host, "shop/app", "1", image_of("first"))
            await stack.becomes(first, "3/3")

            push = Push(registry, image_of("second"))
            config, *layers = push.image.blobs
            for layer in layers:
                digest = await push.blob(layer)
                await eventually(lambda digest=digest: _all_have(stack, digest), what=f"all nodes have {digest}")
            await push.blob(config)
            await push.manifest("2")
            second = first.replace(":1", ":2")
            await stack.becomes(second, "3/3")

            reads = Counter(READS.findall(registry.log()))
            assert [reads[digest_of(layer)] for layer in layers] == [1, 1]
            for node in NODES:
                fetched = [event for event in events_of(stack.agents[node], "early-blob") if "problem" not in event]
                assert {event["digest"] for event in fetched} == set(map(digest_of, layers))
                assert (second,) in [listed.tags for listed in await stack.images(node)]


async def _all_have(stack: Stack, digest: str) -> bool:
    return await holding(stack, digest) == len(NODES)
