"""Run `watch`: follow four kinds of objects, tell what changed, and ask for a sync at the start and now and then."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import httpx

from adapters.kubernetes.client import Kubernetes
from handlers.publishing import write_singly
from handlers.reach import until_reached
from handlers.settings import Settings
from handlers.watch.cache import Cache
from handlers.watch.certificates import Certificates
from handlers.watch.following import follow, followed_kinds
from handlers.watch.interruptions import Interruptions
from handlers.watch.lease import Leadership, new_identity
from handlers.watch.pending import Pending
from handlers.watch.telling import Post, Refused, Teller, TryLater, Write, in_one_batch
from warmhook.ports import Sleep, Utcnow

__all__ = ["judge", "open_post", "watch", "write_for"]

# A projection runs for 20 seconds at most; then the handler says 503.
_POST_SECONDS = 30.0


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
    write: Write = in_one_batch,
    interruptions: Interruptions | None = None,
) -> None:
    """Until it is cancelled. Of several one tells; the others know what it knows, and wait for its Lease to end.

    `interruptions` are those of the process, where more than this follows objects in it.
    """
    interruptions = interruptions or Interruptions(monotonic)
    await until_reached(kubernetes, sleep=sleep, rng=rng)
    pending = Pending()
    cache = Cache(pending)
    complete = asyncio.Event()
    leadership = Leadership(
        kubernetes, namespace, new_identity(host or socket.gethostname(), rng), now, monotonic, sleep, rng
    )

    def listed() -> None:
        if cache.complete:
            complete.set()

    async def post_as_leader(content_type: str, body: bytes) -> None:
        if not leadership.leads():
            raise TryLater("another process holds the Lease")
        await post(content_type, body)

    async def tell() -> None:
        pending.open()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_sync_now_and_then(pending, complete, sync_seconds, sleep), name="sync")
                certificates = Certificates(kubernetes, namespace, now, sleep, leadership.leads)
                group.create_task(certificates.run(), name="certificates")
                group.create_task(Teller(pending, post_as_leader, now, sleep, rng, write).run(), name="tell")
        finally:
            pending.close()

    async with asyncio.TaskGroup() as group:
        for followed in followed_kinds(namespace):
            work = follow(kubernetes, followed, cache, sleep=sleep, rng=rng, listed=listed, interruptions=interruptions)
            group.create_task(work, name=f"follow {followed.kind}")
        group.create_task(leadership.run(tell), name="lead")


async def _sync_now_and_then(pending: Pending, complete: asyncio.Event, seconds: int, sleep: Sleep) -> None:
    """Ask for a sync once everything was listed: what is told afterwards is what changed after that."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await complete.wait()
    while True:
        pending.sync()
        await sleep(seconds)


def write_for(settings: Settings) -> Write:
    """What `watch` writes: batches, or for a sink single events with what Knative wants on top."""
    return in_one_batch if settings.sink is None else partial(write_singly, extensions=settings.sink_extensions)


@asynccontextmanager
async def open_post(settings: Settings) -> AsyncIterator[Post]:
    """A connection to the handlers' `/events`, or to the sink that passes events on to them."""
    url = settings.sink or settings.events_url
    # Without user name and password, which may be in it.
    shown = str(httpx.URL(url).copy_with(username=None, password=None))
    async with httpx.AsyncClient(timeout=_POST_SECONDS) as client:

        async def post(content_type: str, body: bytes) -> None:
            headers = {"content-type": content_type}
            try:
                # The token is for our handlers, never for a Broker.
                if settings.events_token_file is not None and settings.sink is None:
                    token = settings.events_token_file.read_text(encoding="ascii").strip()
                    headers["authorization"] = f"Bearer {token}"
                answer = await client.post(url, content=body, headers=headers)
            except (OSError, UnicodeDecodeError) as error:
                raise TryLater(f"WARMHOOK_EVENTS_TOKEN_FILE: {error}") from error
            except httpx.HTTPError as error:
                raise TryLater(f"{shown}: {error or type(error).__name__}") from error
            judge(answer, shown)

        yield post


def judge(answer: httpx.Response, url: str) -> None:
    """Nothing where the events were taken, else `Refused` or `TryLater`; `url` is for the message."""
    if answer.status_code < 300:
        return
    problem = f"{url}: {answer.status_code} {answer.text[:200].strip()}"
    if answer.status_code in {400, 413, 415}:
        raise Refused(problem)
    wait = answer.headers.get("retry-after", "")
    raise TryLater(problem, float(wait) if wait.isdigit() else None)
