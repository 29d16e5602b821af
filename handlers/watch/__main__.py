"""`python -m handlers.watch`: the program `watch` alone, for deployments in which `web` scales to zero."""

from __future__ import annotations

from adapters.early_exit import exit_on_signal

if __name__ == "__main__":
    # Before the imports, which take most of the time of a start.
    exit_on_signal()

import os
import random
import sys

import uvloop

from adapters.clock import real_clock
from adapters.env import BadSetting
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.transport import BadKubeconfig, open_transport
from adapters.logs import get_logger, set_up_logs
from adapters.outages import WatchOutages
from adapters.signals import until_signal
from handlers.event_sink import log_missing_token, open_event_sink
from handlers.settings import Settings, read_settings
from handlers.watch.run import Process, watch

_log = get_logger()


async def run(settings: Settings) -> None:
    """Watch until a signal to stop."""
    clock = real_clock()
    async with (
        open_transport(settings.kubeconfig, user_agent="warmhook-watch") as transport,
        open_event_sink(settings) as post,
    ):
        assert post is not None  # noqa: S101 - this process handles no events itself
        log_missing_token(settings)
        _log.info("watch-started", namespace=settings.namespace, sync_seconds=settings.sync_seconds)
        process = Process(clock, random.SystemRandom(), WatchOutages(clock.monotonic))
        await until_signal(watch(Kubernetes(transport), post, settings, process))
    _log.info("watch-stopped")


def main() -> int:
    """The program. Returns 2 for an invalid setting."""
    try:
        settings = read_settings(os.environ, "watch")
        set_up_logs(settings.log, sys.stderr)
        uvloop.run(run(settings))
    except (BadSetting, BadKubeconfig) as error:
        sys.stderr.write(f"warmhook watch: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
