"""`python -m handlers.watch`: the program `watch` by itself, for deployments where `web` scales to zero."""

from __future__ import annotations

from adapters.early_exit import exit_when_asked

if __name__ == "__main__":
    # Before the imports, which take most of the time of a start.
    exit_when_asked()

import asyncio
import os
import random
import sys

import structlog
import uvloop

from adapters.clock import utcnow
from adapters.env import BadSetting
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.transport import BadKubeconfig, open_transport
from adapters.logs import set_up_logs
from handlers.events_token import EventsToken
from handlers.posting import open_post
from handlers.settings import Settings, read_settings
from handlers.signals import until_stopped
from handlers.watch.run import watch

_log = structlog.get_logger()

_HINT = "web answers 401 unless both have WARMHOOK_EVENTS_TOKEN_FILE, or web has WARMHOOK_EVENTS_OPEN"


async def run(settings: Settings) -> None:
    """Watch until the process is asked to stop."""
    async with (
        open_transport(settings.kubeconfig, user_agent="warmhook-watch") as transport,
        open_post(settings, EventsToken(settings.events_token_file)) as post,
    ):
        if settings.events_token_file is None and settings.sink is None:
            _log.warning("no-events-token", hint=_HINT)
        _log.info("watch-started", namespace=settings.namespace, sync_seconds=settings.sync_seconds)
        await until_stopped(
            watch(
                Kubernetes(transport),
                post,
                settings.namespace,
                sync_seconds=settings.sync_seconds,
                now=utcnow,
                sleep=asyncio.sleep,
                rng=random.SystemRandom(),
            )
        )
    _log.info("watch-stopped")


def main() -> int:
    """The program; 2 for settings it cannot use."""
    try:
        settings = read_settings(os.environ)
        set_up_logs(settings.log, sys.stderr)
        uvloop.run(run(settings))
    except (BadSetting, BadKubeconfig) as error:
        sys.stderr.write(f"warmhook watch: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
