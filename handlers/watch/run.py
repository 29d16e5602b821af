"""Run `watch`: watch objects, send their changes, and request a sync at the start and periodically."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from adapters.clock import Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.nodes import reduced_node
from adapters.kubernetes.readiness import wait_for_api_server
from adapters.kubernetes.reflector import ListWatch, reflect
from adapters.outages import WatchOutages
from handlers.event_sink import Post, RetryLater
from handlers.settings import Settings
from handlers.watch.change_filter import ChangeFilter, Kind
from handlers.watch.dispatcher import EventDispatcher
from handlers.watch.leader_election import LeaderElector, new_identity
from handlers.watch.rollouts import RolloutWatches, reduced_policy
from handlers.watch.webhook_certificate import CertRotator
from handlers.watch.work_queue import WorkQueue
from warmhook.api import KIND_LABEL
from warmhook.events import Event


@dataclass(frozen=True, slots=True)
class Process:
    """What `watch` shares with the rest of its process."""

    clock: Clock
    rng: random.Random
    """Makes names and tokens that nobody may guess."""
    outages: WatchOutages
    ask_leader: Callable[[Callable[[], bool]], None] = lambda _leads: None
    """Called once, with a function that returns whether this process holds the Lease."""


async def watch(kubernetes: Kubernetes, post: Post, settings: Settings, process: Process) -> None:
    """Watch until this is cancelled. One of several processes sends; the others are ready to take over its Lease."""
    clock, rng = process.clock, process.rng
    elector = LeaderElector(kubernetes, settings.namespace, new_identity(settings.host, rng), clock)
    process.ask_leader(elector.leads)
    await wait_for_api_server(kubernetes, clock)
    queue = WorkQueue()
    changes = ChangeFilter(queue, clock.monotonic)

    async def post_as_leader(event: Event) -> None:
        if not elector.leads():
            raise RetryLater("another process holds the Lease")
        await post(event)

    async def lead() -> None:
        queue.open()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_sync_regularly(queue, changes.complete, settings.sync_seconds, clock), name="sync")
                rotator = CertRotator(kubernetes, settings.namespace, clock, rng, elector.leads)
                group.create_task(rotator.run(), name="certificates")
                group.create_task(EventDispatcher(queue, post_as_leader, clock).run(), name="dispatch")
        finally:
            queue.close()

    async with asyncio.TaskGroup() as group:
        kinds = _kinds(settings.namespace)
        group.create_task(reflect(kubernetes, kinds, changes, clock, process.outages), name="follow")
        rollouts = RolloutWatches(kubernetes, changes.rollouts, queue, clock, process.outages)
        group.create_task(rollouts.run(), name="follow rollouts")
        group.create_task(elector.run(lead), name="lead")


def _kinds(namespace: str) -> list[ListWatch[Kind]]:
    """The kinds that `watch` follows; `namespace` is that of the node ConfigMaps."""
    return [
        # Whether they have rollouts is no metadata.
        ListWatch("WarmPolicy", paths.warmpolicies(), keep=reduced_policy),
        ListWatch("WarmImage", paths.warmimages()),
        # Taints are not metadata, and decide where Pods can run.
        ListWatch("Node", paths.NODES, keep=reduced_node),
        ListWatch("ConfigMap", paths.configmaps(namespace), f"{KIND_LABEL} in (desired,report)"),
    ]


async def _sync_regularly(queue: WorkQueue, complete: asyncio.Event, seconds: int, clock: Clock) -> None:
    """Ask for a sync as soon as everything was listed, because the changes that are sent begin there."""
    while True:
        if not complete.is_set():
            # A kind that is not installed yet is listed as soon as it is.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await complete.wait()
        queue.sync()
        if complete.is_set():
            await clock.sleep(seconds)
