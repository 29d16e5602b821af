"""Run `watch`: follow four kinds of objects, post what changed, and ask for a sync at the start and now and then."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable

from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.readiness import wait_for_api_server
from adapters.outages import WatchOutages
from handlers.posting import Post, RetryLater
from handlers.watch.change_filter import ChangeFilter
from handlers.watch.dispatcher import Dispatcher
from handlers.watch.leader_election import LeaderElector, new_identity
from handlers.watch.reflector import follow, followed_kinds
from handlers.watch.webhook_certificate import CertRotator
from handlers.watch.work_queue import WorkQueue
from warmhook.events import Event
from warmhook.ports import Sleep, Utcnow

__all__ = ["watch"]


async def watch(
    kubernetes: Kubernetes,
    post: Post,
    namespace: str,
    *,
    sync_seconds: int,
    now: Utcnow,
    sleep: Sleep,
    rng: random.Random,
    monotonic: Callable[[], float] = time.monotonic,
    host: str = "",
    outages: WatchOutages | None = None,
) -> None:
    """Until it is cancelled. Of several one tells; the others know what it knows, and wait for its Lease to end.

    `outages` are those of the process, where more than this follows objects in it.
    """
    outages = outages or WatchOutages(monotonic)
    await wait_for_api_server(kubernetes, sleep=sleep, rng=rng)
    pending = WorkQueue()
    cache = ChangeFilter(pending)
    complete = asyncio.Event()
    leadership = LeaderElector(
        kubernetes, namespace, new_identity(host or socket.gethostname(), rng), now, monotonic, sleep, rng
    )

    def listed() -> None:
        if cache.complete:
            complete.set()

    async def post_as_leader(event: Event) -> None:
        if not leadership.leads():
            raise RetryLater("another process holds the Lease")
        await post(event)

    async def tell() -> None:
        pending.open()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_sync_now_and_then(pending, complete, sync_seconds, sleep), name="sync")
                certificates = CertRotator(kubernetes, namespace, now, monotonic, sleep, rng, leadership.leads)
                group.create_task(certificates.run(), name="certificates")
                dispatcher = Dispatcher(pending, post_as_leader, now, monotonic, sleep, rng)
                group.create_task(dispatcher.run(), name="dispatch")
        finally:
            pending.close()

    async with asyncio.TaskGroup() as group:
        for followed in followed_kinds(namespace):
            work = follow(kubernetes, followed, cache, sleep=sleep, rng=rng, listed=listed, outages=outages)
            group.create_task(work, name=f"follow {followed.kind}")
        group.create_task(leadership.run(tell), name="lead")


async def _sync_now_and_then(pending: WorkQueue, complete: asyncio.Event, seconds: int, sleep: Sleep) -> None:
    """Ask for a sync once everything was listed: what is told afterwards is what changed after that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await complete.wait()
    while True:
        pending.sync()
        if complete.is_set():
            await sleep(seconds)
            continue
        # What is not installed yet is told of as soon as it is.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await complete.wait()
