"""A changed Deployment has its new image on the nodes of its Pods, and existing Pods have theirs on all nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.kubernetes import paths
from devcluster.nodes import architecture
from devcluster.registry.images import incompressible_image, write_image
from devcluster.registry.serve import serve_registry
from tests.e2e.stack import NAMESPACE, Options, Stack, open_stack
from tests.real.programs import real_time

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]

PLATFORM = f"linux/{architecture()}"
LABELS = {"app": "web"}
# Only the watch is this quick.
SELDOM = {"WARMHOOK_SYNC_SECONDS": "86400"}


async def run_pod(stack: Stack, name: str, node: str, image: str) -> None:
    path = paths.pods(NAMESPACE)
    spec = {"nodeName": node, "containers": [{"name": "app", "image": image}]}
    await stack.kubernetes.create(path, {"metadata": {"name": name, "labels": LABELS}, "spec": spec})
    await stack.kubernetes.patch(f"{path}/{name}/status", {"status": {"phase": "Running"}})


async def tags(stack: Stack, node: str) -> set[str]:
    return {tag for image in await stack.images(node) for tag in image.tags}


@real_time
async def test_a_rollout_is_ahead_of_its_pods_and_existing_pods_have_their_images_everywhere(folder: Path) -> None:
    async with serve_registry(folder) as registry, open_stack(Options(registry.host, web=SELDOM)) as stack:
        images = [f"{registry.host}/shop/web:{version}" for version in (1, 2)]
        for version in (1, 2):
            write_image(folder, "shop/web", f"{version}", incompressible_image(0.1, f"{version}", platform=PLATFORM))
        await run_pod(stack, "web-1", "node-1", images[0])
        template = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "app", "image": images[0]}]}}
        deployments = paths.workloads("Deployment", NAMESPACE)
        spec = {"selector": {"matchLabels": LABELS}, "template": template}
        await stack.kubernetes.create(deployments, {"metadata": {"name": "web"}, "spec": spec})
        await stack.apply_policy({"rollouts": {"selector": {}}})
        await stack.becomes(images[0], "1/1")

        template["spec"] = {"containers": [{"name": "app", "image": images[1]}]}
        await stack.kubernetes.patch(f"{deployments}/web", {"spec": {"template": template}})
        await stack.becomes(images[1], "1/1")
        assert await tags(stack, "node-1") == set(images)
        assert await tags(stack, "node-2") == set()

        await stack.apply_policy({"rollouts": None, "pods": {"selector": {}, "existing": True}})
        await stack.becomes(images[0], "2/2")
        assert await tags(stack, "node-2") == {images[0]}
        await stack.eventually(lambda: gone(stack, images[1]), what="nothing wants the rollout's image")


async def gone(stack: Stack, image: str) -> bool:
    return image not in {each["spec"]["image"] for each in await stack.warmimages()}
