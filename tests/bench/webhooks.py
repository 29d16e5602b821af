"""Measure how quickly `web` takes deliveries while it projects what they led to."""

from __future__ import annotations

import asyncio
import functools
import time
from statistics import median
from typing import Final

import aiohttp

from adapters.kubernetes.paths import warmimages_in
from tests.bench.bare import open_bare
from tests.bench.figures import Measured
from tests.bench.memory import read_memory
from tests.bench.place import Place
from tests.bench.runs import percentile
from tests.bench.sending import HOST, Sender, digest_of, harbor_body, open_sender, start_web
from tests.real.programs import eventually
from warmhook.api import API_VERSION, POLICY_LABEL, REPOSITORY_LABEL

__all__ = ["cold_start", "latency"]

_PUSHES_PER_SECOND: Final = 100
_BARE_PER_SECOND: Final = 10
_REPOSITORIES: Final = 100
"""Over which the pushes are spread: one of each per second, as Harbor tells the time in seconds. The newest tag of each
is kept, so there are as many lines on each node."""
_POLICIES: Final = ("one", "two")
_START_SECONDS: Final = 30.0
_RETRY_SECONDS: Final = 5.0
"""What the Retry-After of a 503 says."""


async def latency(place: Place) -> list[Measured]:
    """100 pushes per second of distinct tags, while their projections run; now and then the same two API calls bare.

    Each push is wanted by one of two policies. One `web` receives and another projects, as where many nodes are served.
    """
    await place.create_nodes(10)
    for policy in _POLICIES:
        await place.create_policy(policy, f"{HOST}/{policy}/**")
    web = await start_web(place, environ={"WARMHOOK_SERVE": "webhooks"})
    projecting = await start_web(place, "--watch", environ={"WARMHOOK_SERVE": "events"})
    seconds = 5 if place.quick else 30
    ours: list[float] = []
    bare: list[float] = []
    statuses: list[int] = []
    async with open_sender(web.port) as sender, open_bare(place.kubeconfig, connections=16) as session:
        for number in range(50):
            await _push(sender, f"warm-up-{number}", number, [], [])
            await _list_and_create(session, place.namespace, f"warm-up-{number}", [])
        place.say(f"{_PUSHES_PER_SECOND} pushes/s for {seconds} s")
        async with asyncio.TaskGroup() as group:
            began = time.monotonic()
            for number in range(seconds * _PUSHES_PER_SECOND):
                await asyncio.sleep(began + number / _PUSHES_PER_SECOND - time.monotonic())
                group.create_task(_push(sender, f"v{number}", number, ours, statuses), name="push")
                if number % (_PUSHES_PER_SECOND // _BARE_PER_SECOND) == 0:
                    calls = _list_and_create(session, place.namespace, f"v{number}", bare)
                    group.create_task(calls, name="bare")
    refused = sum(status != 202 for status in statuses)
    memory, other = read_memory(web.pid), read_memory(projecting.pid)
    p50, p99, bare_p99 = percentile(ours, 50), percentile(ours, 99), percentile(bare, 99)
    shown = f"p50 {1000 * p50:.1f} ms, p99 {1000 * p99:.1f} ms; bare list and create: p99 {1000 * bare_p99:.1f} ms"
    told = f"{shown} of {len(bare)}, p50 {1000 * percentile(bare, 50):.1f} ms; {refused} of {len(ours)} not accepted"
    each = [ours[at : at + _PUSHES_PER_SECOND] for at in range(0, len(ours), _PUSHES_PER_SECOND)]
    ratios = [percentile(second, 99) / bare_p99 for second in each]
    medians = [1000 * percentile(second, 50) for second in each]
    beside = f"the one that projects, with watch inside: {other.rss:.1f} MiB, PSS {other.pss:.1f}"
    pss = f"the one that receives, PSS {memory.pss:.1f} MiB; {beside}; after {len(ours)} pushes"
    return [
        Measured("webhook-p99-ratio", p99 / bare_p99, ratios, told),
        Measured("webhook-p50-ms", 1000 * p50, medians, "spread: the p50 of each second"),
        Measured("web-rss-mib", max(memory.rss, other.rss), (), pss),
    ]


async def _push(sender: Sender, tag: str, number: int, seconds: list[float], statuses: list[int]) -> None:
    repository = f"{_POLICIES[number % len(_POLICIES)]}/app-{number % _REPOSITORIES}"
    body = harbor_body(HOST, repository, tag, digest_of(tag))
    began = time.monotonic()
    status = await sender.send(body)
    statuses.append(status)
    # One that is refused is accepted when the sender repeats it, at best.
    seconds.append(time.monotonic() - began + (0 if status == 202 else _RETRY_SECONDS))


async def _list_and_create(session: aiohttp.ClientSession, namespace: str, tag: str, seconds: list[float]) -> None:
    """What accepting a push asks of the API server for one policy, for an image that no node wants."""
    path = warmimages_in(namespace)
    labels = {POLICY_LABEL: "0" * 16, REPOSITORY_LABEL: digest_of(tag)[-16:]}
    spec = {"image": f"{HOST}/bare/app:{tag}", "digest": digest_of(tag), "nodes": {"names": ["none"]}}
    metadata = {"name": f"bare-{tag}", "labels": labels}
    body = {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": metadata, "spec": spec}
    began = time.monotonic()
    query = {"labelSelector": ",".join(f"{name}={value}" for name, value in labels.items()), "limit": "500"}
    async with session.get(path, params=query) as answer:
        await answer.read()
    async with session.post(path, json=body) as answer:
        await answer.read()
    seconds.append(time.monotonic() - began)
    assert answer.status == 201, answer.status


async def cold_start(place: Place) -> list[Measured]:
    """From the start of a `web` that only receives to its first 202."""
    await place.create_policy("one", f"{HOST}/bench/**")
    seconds = []
    for run in range(place.runs(7)):
        began = time.monotonic()
        web = await start_web(place, environ={"WARMHOOK_SERVE": "webhooks"}, wait=False)
        body = harbor_body(HOST, "bench/app", f"v{run}", digest_of(str(run)))
        async with open_sender(web.port, connections=1) as sender:
            accepted = functools.partial(_is_accepted, sender, body)
            await eventually(accepted, what="web accepts a push", seconds=_START_SECONDS)
            seconds.append(time.monotonic() - began)
        await web.program.stop()
    return [Measured("web-cold-start-s", median(seconds), seconds, "process start to the first 202, bytecode cached")]


async def _is_accepted(sender: Sender, body: bytes) -> bool:
    try:
        return await sender.send(body) == 202
    except aiohttp.ClientError:
        return False
