"""Bring up the cluster of `warmhook demo` and `warmhook devcluster`: a registry, nodes, and `web` with two senders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Final

from devcluster.admission import CONFIGURATIONS, configuration
from devcluster.cluster import Cluster, Environ, Plan, free_port, naming_its_end, open_cluster
from devcluster.install import install, register

PEERS_REGISTRY_RATE: Final = 10_000_000
"""Bytes per second that the registry sends where nodes get images from each other: a slow uplink."""


@contextlib.asynccontextmanager
async def open_demo_cluster(
    plan: Plan, environ: Environ, *, nodes: int, api_port: int = 0, say: Callable[[str], None]
) -> AsyncIterator[Cluster]:
    """A cluster with the CRDs and so many nodes with an agent each; all of it ends with the context.

    Programs inherit `environ`. `api_port` 0 takes a free one. `say` gets a line for each part that is up. Raises
    `ProgramFailed`, also in place of a `KubernetesError` if the API server ended.
    """
    names = [f"node-{number}" for number in range(1, nodes + 1)]
    async with open_cluster(plan, environ) as cluster:

        async def start_api() -> None:
            say(f"API server   {await cluster.start_api('--port', str(api_port))}")

        registry = cluster.start_registry(bytes_per_second=PEERS_REGISTRY_RATE if plan.peers else 0)
        await asyncio.gather(start_api(), registry, *map(cluster.start_runtime, names))
        say(f"registry     http://{cluster.registry}/v2/")
        async with naming_its_end(cluster.api):
            await install(cluster.kubernetes)
            for name in names:
                await register(cluster.kubernetes, name, runtime=f"{plan.runtime}://")
            await asyncio.gather(*map(cluster.start_agent, names), *([] if plan.peers else [_start_web(cluster)]))
            if plan.peers:
                # What a `web` reads at its start serves it for minutes.
                await cluster.peers_ready()
                await _start_web(cluster)
            say(f"web          {cluster.web_url}/webhooks/harbor")
            kind = "an embedded runtime" if plan.runtime == "embedded" else "containerd"
            say(f"{nodes} nodes      {' to '.join(dict.fromkeys((names[0], names[-1])))}, with {kind} and an agent")
            yield cluster


async def _start_web(cluster: Cluster) -> None:
    tls_port = free_port()
    await cluster.kubernetes.create(CONFIGURATIONS, configuration(tls_port))
    file = cluster.plan.folder / "secret"
    file.write_text(cluster.secret)
    secret = {"secret": {"file": str(file)}}
    sources = [
        {"name": "harbor", "kind": "harbor", "registryHost": cluster.registry, **secret},
        {"name": "ci", "kind": "webhook", "allowedHosts": [cluster.registry], **secret},
    ]
    registries = [{"host": cluster.registry, "plainHttp": True}]
    await cluster.start_web(sources, registries=registries, environ={"WARMHOOK_TLS_PORT": str(tls_port)})
