"""Wait until the API server answers, and log one clear line if it does not."""

from __future__ import annotations

import random
from typing import Final

import structlog

from adapters.kubernetes.client import Kubernetes, KubernetesError, Unavailable
from warmhook.ports import Sleep

__all__ = ["wait_for_api_server"]

_log = structlog.get_logger()

_LONGEST_WAIT_SECONDS: Final = 5.0


async def wait_for_api_server(kubernetes: Kubernetes, *, sleep: Sleep, rng: random.Random) -> None:
    """Request its version until there is any answer; a rejection is an answer as well."""
    wait, told = 0.2, False
    while True:
        try:
            await kubernetes.get("/version")
        except Unavailable as error:
            if not told:
                hint = "start the cluster, or set KUBECONFIG to another file; the program tries again until it answers"
                _log.warning("api-server-unreachable", problem=str(error), hint=hint)
                told = True
        except KubernetesError:
            return
        else:
            if told:
                _log.info("api-server-reached")
            return
        await sleep(wait * rng.uniform(0.5, 1.0))
        wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
