"""Run the agent of a node: `python -m nodeagent` reads its settings, opens its adapters and works until SIGTERM."""

from __future__ import annotations

from adapters.early_exit import exit_on_signal

if __name__ == "__main__":
    # Before the imports, which take most of the time of a start.
    exit_on_signal()

import asyncio
import os
import platform
import sys
from collections.abc import Mapping

from adapters.clock import real_clock
from adapters.containerd import open_containerd
from adapters.containerd_content import open_content_store
from adapters.credential_providers import CredentialProviders
from adapters.cri import open_runtime
from adapters.env import BadSetting
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.transport import BadKubeconfig, open_transport
from adapters.logs import get_logger, set_up_logs
from adapters.signals import on_signals
from nodeagent.agent import Agent
from nodeagent.context import Context
from nodeagent.metrics import Metrics
from nodeagent.probes import serve_probes
from nodeagent.settings import Settings, read_settings
from warmhook import __version__
from warmhook.platforms import platform_of


def main(environ: Mapping[str, str] = os.environ) -> int:
    """The exit code: 0 after SIGTERM or SIGINT, 2 if a setting cannot be used."""
    try:
        settings = read_settings(environ)
        set_up_logs(settings.log, sys.stdout)
        asyncio.run(_run(settings))
    except (BadSetting, BadKubeconfig) as error:
        print(f"warmhook agent: {error}", file=sys.stderr)  # noqa: T201 - one line for who set it, not for the logs
        return 2
    return 0


async def _run(settings: Settings) -> None:
    stop, clock, log, metrics = asyncio.Event(), real_clock(), get_logger(), Metrics()
    node = platform_of(platform.system(), platform.machine())
    with on_signals(stop.set):
        async with (
            open_transport(settings.kubeconfig, user_agent=f"warmhook-agent/{__version__}") as transport,
            open_runtime(settings.runtime_endpoint) as runtime,
            open_containerd(settings.runtime_endpoint) as containerd,
            open_content_store(settings.runtime_endpoint) as content,
        ):
            kubernetes = Kubernetes(transport, count=metrics.count_api_request)
            providers = None
            if settings.providers:
                providers = CredentialProviders(settings.providers, settings.providers_dir, os.environ, clock, log)
            context = Context(
                settings, kubernetes, runtime, clock, log, metrics, node, containerd, content, providers=providers
            )
            agent = Agent(context)
            async with serve_probes(settings.metrics_port, agent.health, metrics.exposition, clock, log):
                await agent.run(stop)


if __name__ == "__main__":
    sys.exit(main())
