"""Put the parts of `web` together: which object is given which."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, TypeAlias

from starlette.applications import Starlette

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.rate_limit import ByteRateLimiter, Lanes
from adapters.outages import WatchOutages
from handlers.admission.endpoint import Admission
from handlers.admission.queue import HAND_ON_AT_ONCE, POSTS_MAX, AdmissionQueue, Handle
from handlers.admission.warm_nodes import WarmNodes
from handlers.app import Web, create_app
from handlers.event_sink import Publisher
from handlers.events_token import EventsToken, events_token
from handlers.intake.receiver import Receiver
from handlers.metrics import Metrics
from handlers.reconcile.dispatch import Dispatch
from handlers.reconcile.node_configmaps import NodeWrites
from handlers.reconcile.pods import PodAdmissions
from handlers.reconcile.policies import Policies
from handlers.reconcile.policy_statuses import PolicyStatuses
from handlers.reconcile.projection import Projection
from handlers.reconcile.pushes import Pushes
from handlers.reconcile.reader import Reader
from handlers.reconcile.recorder import Recorder
from handlers.reconcile.resync import Resync
from handlers.reconcile.statuses import Statuses
from handlers.serving.credentials import Credentials
from handlers.settings import Settings
from handlers.sources import Configuration
from warmhook.ports import Sleep, Transport, Utcnow

__all__ = ["Beside", "build_web"]

Beside: TypeAlias = Callable[[], Awaitable[None]]
"""Runs beside the application, until it is cancelled or there is nothing to do."""


def build_web(
    settings: Settings,
    configuration: Configuration,
    transport: Transport,
    environ: Mapping[str, str],
    metrics: Metrics,
    *,
    now: Utcnow,
    monotonic: Callable[[], float],
    sleep: Sleep = asyncio.sleep,
    rng: random.Random,
    publisher: Publisher | None = None,
    hand_on: Handle | None = None,
    outages: WatchOutages | None = None,
    credentials: Credentials | None = None,
    token: EventsToken | None = None,
) -> Starlette:
    """The application over an open transport.

    It keeps nothing of its own between requests but what admission needs; `app.state.beside`, a `Beside`, runs that.
    `hand_on` takes what admission saw where this process does not handle events itself; `outages` are those of
    the process, where more than this follows objects in it; `credentials` are shared with the TLS port, `token` with a
    `watch` inside the process.
    """
    lanes = Lanes()
    kubernetes = Kubernetes(transport, count=metrics.count_api_request, lanes=lanes)
    # A sender waits for its push to be accepted, nobody for what follows.
    accepting = Kubernetes(transport, count=metrics.count_api_request, lanes=lanes, urgent=True)
    namespace = settings.namespace
    cluster = Reader(kubernetes, namespace, now=now)
    budget = ByteRateLimiter(settings.write_bytes, monotonic=monotonic, sleep=sleep)
    writes = NodeWrites(kubernetes, namespace, budget, monotonic=monotonic, sleep=sleep, rng=rng)
    recorder = Recorder(kubernetes, now=now, monotonic=monotonic)
    policy_statuses = PolicyStatuses(kubernetes, recorder, now=now)
    # The part that is reached from outside creates no Events: the condition says what was refused.
    noting = PolicyStatuses(accepting, None, now=now)
    pushes = Pushes(accepting, Reader(accepting, namespace, now=now), noting, now=now, monotonic=monotonic)
    admissions = PodAdmissions(kubernetes, cluster, now=now)
    grace = timedelta(seconds=settings.sync_seconds)
    policies = Policies(kubernetes, cluster, policy_statuses, now=now, grace=grace)
    projection = Projection(cluster, writes, monotonic=monotonic)
    statuses = Statuses(
        kubernetes,
        cluster,
        recorder,
        namespace,
        now=now,
        monotonic=monotonic,
        sleep=sleep,
        observe_push_to_warm=metrics.push_to_warm_seconds.observe,
    )
    sync = Resync(
        kubernetes, cluster, policies, policy_statuses, projection, statuses, namespace, now=now, monotonic=monotonic
    )
    events = Dispatch(
        kubernetes,
        cluster,
        configuration,
        pushes,
        admissions,
        policies,
        projection,
        statuses,
        sync,
        namespace,
        now=now,
        sleep=sleep,
    )
    receiver = Receiver(configuration, pushes, metrics, environ, monotonic=monotonic, sleep=sleep, publisher=publisher)
    hints = (
        AdmissionQueue(hand_on, monotonic=monotonic, sleep=sleep, count=metrics.count_hint, most=1, at_once=POSTS_MAX)
        if hand_on
        else AdmissionQueue(
            events.handle, monotonic=monotonic, sleep=sleep, count=metrics.count_hint, at_once=HAND_ON_AT_ONCE
        )
    )
    warm_nodes = WarmNodes(now)
    credentials = credentials or Credentials(kubernetes, namespace)
    admission = Admission(
        hints, warm_nodes, metrics, namespace, accept=credentials.accept, now=now, monotonic=monotonic
    )
    token = token or events_token(settings, rng)
    app = create_app(Web(settings, receiver, events, admission, token, metrics, now))

    async def follow() -> None:
        told = outages or WatchOutages(monotonic)
        await warm_nodes.run(kubernetes, namespace, sleep=sleep, rng=rng, outages=told)

    app.state.beside = _beside(settings, hints.run, follow, lambda: credentials.run(sleep, monotonic))
    return app


_Run: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


def _beside(settings: Settings, hand_on: _Run, follow: _Run, read_credentials: _Run) -> Beside:
    async def beside() -> None:
        async with asyncio.TaskGroup() as group:
            if "admission" in settings.serve:
                group.create_task(hand_on(), name="hints")
                group.create_task(follow(), name="warm nodes")
            if "admission" in settings.serve or settings.tls_port:
                group.create_task(read_credentials(), name="credentials")

    return beside
