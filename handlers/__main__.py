"""`python -m handlers [--watch]`: the program `web`; with `--watch` it runs `watch` as well."""

from __future__ import annotations

from adapters.early_exit import exit_on_signal

if __name__ == "__main__":
    # Before the imports, which take most of the time of a start.
    exit_on_signal()

import os
import random
import sys
from collections.abc import Sequence

import uvloop

from adapters.clock import real_clock
from adapters.env import BadSetting
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.transport import BadKubeconfig, open_transport
from adapters.logs import get_logger, set_up_logs
from handlers.app import Resources, Web, create_app
from handlers.configuration import Configuration, read_configuration
from handlers.event_sink import log_missing_token, open_event_sink
from handlers.metrics import Metrics
from handlers.registries import open_registries
from handlers.serving.credentials import Credentials
from handlers.serving.server import listen, serve
from handlers.settings import Settings, read_settings


async def run(settings: Settings, configuration: Configuration) -> None:
    """Serve until a signal to stop. Raises `BadSetting` if a port is in use."""
    log, metrics = get_logger(), Metrics()
    api_server = open_transport(settings.kubeconfig, user_agent="warmhook-web")
    hosts, clock = configuration.registries if "events" in settings.serve else {}, real_clock()
    asking = open_registries(hosts, clock, metrics.count_resolution)
    async with api_server as transport, open_event_sink(settings) as post, asking as registries:
        with listen(settings) as ports:
            credentials = Credentials(Kubernetes(transport, count=metrics.count_api_request), settings.namespace)
            resources = Resources(transport, credentials, clock, random.SystemRandom(), metrics, post, registries)
            log_missing_token(settings)
            log.info("web-started", port=settings.port, sources=sorted(configuration.sources), watch=settings.watch)
            web = Web(settings, configuration, resources)
            page = web.page.application() if web.page is not None else None
            await serve(create_app(web), ports, credentials, web.stop_watching, page)
    log.info("web-stopped")


def main(arguments: Sequence[str]) -> int:
    """The program; 2 for settings it cannot use, 1 if it cannot serve."""
    try:
        settings = read_settings(os.environ, " ".join(["web", *arguments]))
        set_up_logs(settings.log, sys.stderr)
        uvloop.run(run(settings, read_configuration(settings.config, os.environ, serve=settings.serve)))
    except (BadSetting, BadKubeconfig) as error:
        sys.stderr.write(f"warmhook web: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
