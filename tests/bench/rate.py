"""Measure how many deliveries `web` takes per second of one core, and whether its memory stays flat."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import sys
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Final

from tests.bench.bare import BARE_SECRET
from tests.bench.figures import Bar, Measured
from tests.bench.memory import cpu_seconds, read_memory
from tests.bench.place import NotMeasured, Place
from tests.bench.sending import HOST, Sender, digest_of, harbor_body, open_sender, start_web
from tests.real.programs import free_port

__all__ = ["MIX", "rate"]

_CONNECTIONS: Final = 16
_BARE: Final = 4
"""The stage of `Programs`."""
_IMAGES: Final = 20
"""Whose tags are pushed again and again, so that the number of WarmImages stays as it is."""
_READY_SECONDS: Final = 30.0

MIX: Final = ("pull", "foreign", "pull", "foreign", "push", "pull", "foreign", "pull", "foreign", "pull")
"""What a registry sends that others use too: of ten deliveries one is accepted, four match no policy, five are no
pushes."""


async def rate(place: Place) -> list[Measured]:
    """`web` without watch and the bare endpoint, in turns, by what each request costs their processes."""
    await place.create_policy("one", f"{HOST}/bench/**")
    web = await start_web(place, environ={"WARMHOOK_SERVE": "webhooks"})
    port = free_port()
    bare = await place.programs.start("bare", (sys.executable, "-m", "tests.bench.bare", str(port)), stage=_BARE)
    async with open_sender(web.port, connections=_CONNECTIONS) as ours, open_sender(port) as theirs:
        await place.programs.ready(bare, lambda: _answers(theirs), seconds=_READY_SECONDS)
        numbers = itertools.count()
        await _send(ours, numbers, MIX, 1000)
        after_1000 = read_memory(web.pid)
        rates: dict[str, list[float]] = {"mixed": [], "skipped": [], "accepted": [], "bare": []}
        ratios = []
        for _ in range(place.runs(5)):
            rates["mixed"].append(await _rate(ours, web.pid, numbers, MIX, 2000))
            rates["bare"].append(await _rate(theirs, bare.process.pid, numbers, MIX, 4000, signed=True))
            ratios.append(rates["mixed"][-1] / rates["bare"][-1])
            rates["skipped"].append(await _rate(ours, web.pid, numbers, ("foreign", "pull"), 1000))
            rates["accepted"].append(await _rate(ours, web.pid, numbers, ("push",), 300))
        requests = 5_000 if place.quick else 100_000
        place.say(f"{requests} requests")
        await _send(ours, numbers, MIX, requests)
        in_the_end = read_memory(web.pid)
    shown = ", ".join(f"{name} {median(each):.0f}/s" for name, each in rates.items())
    note = f"per second of processor time of each server: {shown}; mixed is one in ten accepted"
    flat = Bar(1.1 * after_1000.rss, text=f"<= 1.1 x {after_1000.rss:.1f}")
    memory = f"PSS {in_the_end.pss:.1f} MiB; {after_1000.pss:.1f} after 1,000; {requests} requests of the same mix"
    return [
        Measured("webhook-rate-ratio", median(ratios), ratios, note),
        Measured("web-rss-after-100k-mib", in_the_end.rss, (), memory, flat),
    ]


async def _rate(
    sender: Sender, pid: int, numbers: Iterator[int], mix: tuple[str, ...], count: int, *, signed: bool = False
) -> float:
    before = cpu_seconds(pid)
    await _send(sender, numbers, mix, count, signed=signed)
    return count / (cpu_seconds(pid) - before)


async def _send(
    sender: Sender, numbers: Iterator[int], mix: tuple[str, ...], count: int, *, signed: bool = False
) -> None:
    """That many deliveries of the mix, over all connections at once."""
    pending = itertools.islice(numbers, count)
    statuses: dict[int, int] = {}

    async def work() -> None:
        for number in pending:
            body = _body(mix[number % len(mix)], number)
            status = await sender.send(body, _signature(body) if signed else None)
            statuses[status] = statuses.get(status, 0) + 1

    await asyncio.gather(*(work() for _ in range(_CONNECTIONS)))
    if statuses.get(202, 0) * 100 < 99 * count:
        raise NotMeasured(f"answers by status, of {count}: {statuses}")


def _body(kind: str, number: int) -> bytes:
    # Over all of them: by the number alone, one place of the mix would always meet the same few.
    app = f"app-{number // len(MIX) % _IMAGES}"
    digest = digest_of(str(number))
    if kind == "push":
        # The digest differs each time, so that the event is no repetition.
        return harbor_body(HOST, f"bench/{app}", "v1", f"sha256:{number:064x}")
    if kind == "foreign":
        return harbor_body(HOST, f"others/{app}", "v1", digest)
    return harbor_body(HOST, f"bench/{app}", "v1", digest, kind="PULL_ARTIFACT")


def _signature(body: bytes) -> Mapping[str, str]:
    return {"X-Signature": hmac.new(BARE_SECRET, body, hashlib.sha256).hexdigest(), "Content-Type": "application/json"}


async def _answers(sender: Sender) -> bool:
    try:
        return await sender.send(b"{}", _signature(b"{}")) == 202
    except OSError:
        return False
