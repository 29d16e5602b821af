"""Wait until the API server answers, and log one clear line if it does not."""

from __future__ import annotations

from typing import Final

from adapters.clock import Backoff, Clock
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.errors import KubernetesError, Unavailable
from adapters.logs import get_logger

_log = get_logger()

_LONGEST_WAIT_SECONDS: Final = 5.0


async def wait_for_api_server(kubernetes: Kubernetes, clock: Clock) -> None:
    """Request its version until there is any answer; a rejection is an answer as well."""
    backoff, logged = Backoff(clock, first_seconds=0.2, longest_seconds=_LONGEST_WAIT_SECONDS), False
    while True:
        try:
            await kubernetes.get("/version")
        except Unavailable as error:
            if not logged:
                hint = "start the cluster, or set KUBECONFIG to another file; the program tries again until it answers"
                _log.warning("api-server-unreachable", problem=str(error), hint=hint)
                logged = True
        except KubernetesError:
            return
        else:
            if logged:
                _log.info("api-server-reached")
            return
        await clock.sleep(backoff.seconds())
