"""A registry of the configuration decides digests, platforms and what runs, before any node asks it."""

from __future__ import annotations

import pytest

from devcluster.nodes import architecture
from devcluster.registry.images import build_artifact, build_index, incompressible_image
from tests.e2e.stack import SECRET, Options, events_of, open_stack
from tests.real.programs import eventually, free_port, real_time
from tests.real.registry import push_image, start_docker_registry

pytestmark = [pytest.mark.e2e, pytest.mark.containerd]


@real_time
async def test_a_push_is_resolved_and_a_chart_reaches_no_node() -> None:
    port, platform = free_port(), f"linux/{architecture()}"
    image = build_index([incompressible_image(0.1, "resolved", platform=platform)], attestation=True)
    async with start_docker_registry(
        notify_url=f"http://127.0.0.1:{port}/webhooks/registry", headers={"Authorization": SECRET}
    ) as registry:
        configured = {"host": registry.host, "plainHttp": True}
        async with open_stack(Options(registry.host, web_port=port, registries=(configured,))) as stack:
            await stack.apply_policy({"push": [{"repository": f"{registry.host}/shop/**"}]})
            name = await push_image(registry.host, "shop/app", "1.0", image)
            await stack.becomes(name, "2/2")
            resolved = (await stack.status(name))["resolved"]
            size = len(image.children[0].blobs[1])
            assert (resolved["digest"], resolved["platforms"]) == (image.digest, [platform])
            assert (resolved["sizeBytes"], resolved["runnable"]) == (size, True)

            chart = await push_image(registry.host, "shop/chart", "1.0", build_artifact("helm"))

            async def judged() -> bool:
                conditions = (await stack.status(chart)).get("conditions") or []
                return "NotRunnable" in {condition["reason"] for condition in conditions}

            await eventually(judged, what="the chart is not runnable")
            for node in stack.agents:
                assert [pull["image"] for pull in events_of(stack.agents[node], "pull")] == [name]
