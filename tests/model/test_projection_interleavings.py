"""Two projections of one WarmImage end at its newest generation, whichever of their patches comes first.

Every order of the requests of two handlers is run, and every one again in which one of them dies at some point.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from adapters.clock import Clock, utcnow
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes
from adapters.kubernetes.rate_limit import ByteRateLimiter
from adapters.kubernetes.warmimage import warmimage_crd
from devcluster.apiserver import ApiServer, InProcessTransport
from handlers.reconcile.context import Context
from handlers.reconcile.node_configmaps import NodeWrites
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.projection import Projection
from handlers.reconcile.reader import Reader
from handlers.reconcile.recorder import Recorder
from handlers.reconcile.resolver import Resolver
from handlers.reconcile.writer import Writer
from tests.model.history import EPOCH
from tests.support.instant import instantly
from tests.support.runtime import digest_of
from warmhook.api import API_VERSION, LINE_LABEL
from warmhook.node_lines import desired_name, line_key, read_line, version_of
from warmhook.ports import Object, Response
from warmhook.warmimages import ObjectKey

KEY = ObjectKey("default", "web")
SYSTEM = "warmhook-system"
CRD = warmimage_crd()
DIGESTS = [digest_of(f"push {number}") for number in range(3)]


@dataclass(slots=True)
class Stage:
    """Two handlers whose every request waits for its turn."""

    server: ApiServer
    dies: tuple[int, int] = (-1, 0)
    """A handler, and the request at which it dies."""
    sent: list[int] = field(default_factory=lambda: [0, 0])
    waiting: tuple[deque[asyncio.Event], deque[asyncio.Event]] = field(default_factory=lambda: (deque(), deque()))

    def handler(self, number: int) -> Projection:
        """One of them."""

        async def before(_method: str, _path: str) -> Response | None:
            turn = asyncio.Event()
            self.waiting[number].append(turn)
            await turn.wait()
            self.sent[number] += 1
            if self.dies[0] == number and self.sent[number] >= self.dies[1]:
                raise asyncio.CancelledError
            return None

        return _projection(InProcessTransport(self.server, before=before))

    async def run(self, number: int) -> asyncio.Task[None]:
        """Let a handler begin to project; its first read is done when this returns."""
        task = asyncio.create_task(self.handler(number).project({KEY}, Outcomes()), name=f"handler {number}")
        await self._settle()
        self.waiting[number].popleft().set()
        await self._settle()
        return task

    async def direct(self, tasks: tuple[asyncio.Task[None], asyncio.Task[None]], turns: Sequence[int]) -> None:
        """One request at a time, in the order of `turns`; what is left when those are used up as it comes."""
        order = iter(turns)
        while not all(task.done() for task in tasks):
            ready = [number for number in (0, 1) if self.waiting[number]]
            if ready:
                chosen = next(order, ready[0])
                self.waiting[chosen if chosen in ready else ready[0]].popleft().set()
            await self._settle() if ready else await asyncio.sleep(0.01)

    async def _settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)


def _projection(transport: InProcessTransport) -> Projection:
    loop, kubernetes = asyncio.get_running_loop(), Kubernetes(transport)
    budget = ByteRateLimiter(0, monotonic=loop.time, sleep=asyncio.sleep)
    clock = Clock(utcnow, loop.time, asyncio.sleep, random.Random(1).random)
    writer = Writer(kubernetes, SYSTEM, clock)
    context = Context(Reader(kubernetes, SYSTEM, clock), writer, clock, Recorder(writer, clock))
    return Projection(context, NodeWrites(context, budget), Resolver(context, lambda _key: asyncio.sleep(0)))


@dataclass(frozen=True, slots=True)
class Case:
    """What changes between the first handler's read and the second handler's."""

    nodes: int
    fresh: bool = False
    """The nodes have no ConfigMaps yet."""
    deleted: bool = False
    """The newest generation is none at all."""


async def play(case: Case, turns: Sequence[int], dies: tuple[int, int] = (-1, 0)) -> Stage:
    """One interleaving. Whoever died is repeated, as `watch` does; then every node is as it should be."""
    server = ApiServer(lambda: EPOCH, random.Random(1))
    kubernetes = Kubernetes(InProcessTransport(server))
    await kubernetes.create(paths.CRDS, CRD)
    await kubernetes.create("/api/v1/namespaces", {"metadata": {"name": SYSTEM}})
    for number in range(case.nodes):
        labels = {"kubernetes.io/os": "linux"}
        await kubernetes.create(paths.NODES, {"metadata": {"name": f"node-{number}", "labels": labels}})
    body = {"apiVersion": API_VERSION, "kind": "WarmImage", "metadata": {"name": KEY.name}}
    spec = {"image": "registry.example.com/shop/web:1", "digest": DIGESTS[0]}
    await kubernetes.create(paths.warmimages_in(KEY.namespace), body | {"spec": spec})
    if not case.fresh:
        await _projection(InProcessTransport(server)).project({KEY}, Outcomes())
    await kubernetes.patch(paths.warmimages(KEY), {"spec": {"digest": DIGESTS[1]}})
    stage = Stage(server, dies)
    first = await stage.run(0)
    if case.deleted:
        await kubernetes.delete(paths.warmimages(KEY))
    else:
        await kubernetes.patch(paths.warmimages(KEY), {"spec": {"digest": DIGESTS[2]}})
    second = await stage.run(1)
    await stage.direct((first, second), turns)
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    if any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes):
        await _projection(InProcessTransport(server)).project({KEY}, Outcomes())
    else:
        assert not any(outcomes), outcomes
    found = (await kubernetes.list(paths.configmaps(SYSTEM))).items
    assert {obj["metadata"]["name"]: _held(obj) for obj in found if _held(obj)} == (
        {} if case.deleted else {desired_name(f"node-{number}"): DIGESTS[2] for number in range(case.nodes)}
    )
    return stage


def _held(obj: Object) -> str:
    """The digest that the ConfigMap's line asks for; empty where it has none. Label and data agree."""
    text = (obj.get("data") or {}).get(line_key(KEY), "")
    assert obj["metadata"]["labels"].get(LINE_LABEL + line_key(KEY), "") == (version_of(text) if text else "")
    return read_line(line_key(KEY), text).digest if text else ""


def interleavings(first: int, second: int) -> Iterator[tuple[int, ...]]:
    """Every order of so many turns of the first and the second handler."""
    for places in itertools.combinations(range(first + second), first):
        yield tuple(0 if place in places else 1 for place in range(first + second))


def orders(case: Case) -> list[tuple[int, ...]]:
    """Every interleaving of the requests that follow the first read: two lists, the patches, one more read."""
    requests = 2 + case.nodes + 1
    return list(interleavings(requests, requests))


def play_all(case: Case, deaths: Sequence[tuple[int, int]] = ((-1, 0),)) -> None:
    async def main() -> None:
        for turns in orders(case):
            for dies in deaths:
                try:
                    await play(case, turns, dies)
                except BaseException as error:
                    error.add_note(f"{case}, turns {turns}, dies {dies}")
                    raise

    instantly(main())


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True], ids=["present", "fresh"])
def test_two_projections_end_at_the_newest_generation(*, fresh: bool) -> None:
    play_all(Case(nodes=1, fresh=fresh))


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True], ids=["present", "fresh"])
@pytest.mark.parametrize("deleted", [False, True], ids=["changed", "deleted"])
@pytest.mark.parametrize("nodes", [2, pytest.param(3, marks=pytest.mark.nightly)])
def test_two_projections_end_at_the_newest_generation_or_with_nothing(
    nodes: int, *, deleted: bool, fresh: bool
) -> None:
    play_all(Case(nodes, fresh=fresh, deleted=deleted))


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("deleted", [False, True], ids=["changed", "deleted"])
@pytest.mark.parametrize("dead", [0, 1])
def test_a_projection_that_dies_anywhere_is_made_good_by_its_repeat(dead: int, nodes: int, *, deleted: bool) -> None:
    play_all(Case(nodes, deleted=deleted), [(dead, request) for request in range(2, nodes + 5)])
