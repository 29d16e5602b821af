"""A Reflector spares an API server that fails slowly or refuses, and takes objects without a version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from random import Random
from typing import Any

import pytest

from adapters.clock import Backoff
from adapters.kubernetes.client import Change, Kubernetes, Listing
from adapters.kubernetes.errors import KubernetesError, NotServed, Refused, Unavailable
from adapters.kubernetes.reflector import ListWatch, Reflector
from adapters.tasks import in_background
from devcluster.apiserver import ApiServer, InProcessTransport
from tests.handlers.world import START
from tests.support.instant import instant, loop_clock
from warmhook.ports import Object

HALF_AN_HOUR = 1800
# Longer than a watch that counts as short.
SLOW_SECONDS = 6
# As in an agent.
FIRST_SECONDS, LONGEST_SECONDS = 0.5, 30.0


class Failing(Kubernetes):
    """An API server that fails, some time after it was asked."""

    def __init__(self, problem: KubernetesError, *, seconds: float, lists: bool = False) -> None:
        super().__init__(InProcessTransport(ApiServer(lambda: START, Random(1))))
        self._problem, self._seconds, self._lists = problem, seconds, lists
        self.asked = 0

    async def list(self, *_args: Any, **_options: Any) -> Listing:
        """Nothing, or the problem."""
        if not self._lists:
            await self._fail()
        return Listing([], "7")

    async def watch(self, *_args: Any, **_options: Any) -> AsyncGenerator[Change, None]:
        """The problem, before the watch opens."""
        await self._fail()
        yield Change("BOOKMARK", {})

    async def _fail(self) -> None:
        self.asked += 1
        await asyncio.sleep(self._seconds)
        raise self._problem


class Unversioned(Kubernetes):
    """An API server behind something that takes the resourceVersion from the objects of a watch."""

    def __init__(self) -> None:
        super().__init__(InProcessTransport(ApiServer(lambda: START, Random(1))))
        self.resumed: list[str] = []

    async def list(self, *_args: Any, **_options: Any) -> Listing:
        """Nothing, at version 7."""
        return Listing([], "7")

    async def watch(self, *_args: Any, **options: Any) -> AsyncGenerator[Change, None]:
        """An object, and some time later the end."""
        self.resumed.append(options["resource_version"])
        yield Change("ADDED", {"metadata": {"name": "x"}})
        await asyncio.sleep(SLOW_SECONDS)


class Ignoring:
    """A store and an outage that nobody reads."""

    def replace(self, _kind: str, _objects: list[Object]) -> None:
        """Ignore a list."""

    def update(self, _kind: str, _obj: Object) -> None:
        """Ignore an object."""

    def delete(self, _kind: str, _obj: Object) -> None:
        """Ignore a deletion."""

    def failed(self, _problem: KubernetesError, *, reached: bool) -> None:
        """Ignore a failure."""

    def recovered(self) -> None:
        """Ignore the end of an outage."""


async def reflect(kubernetes: Kubernetes, *, seconds: float, refused_seconds: float = 0.0) -> None:
    clock, ignoring = loop_clock(START), Ignoring()
    reflector = Reflector(kubernetes, ListWatch("ConfigMap", "/api/v1/configmaps"), ignoring, clock, ignoring)
    backoff = Backoff(clock, first_seconds=FIRST_SECONDS, longest_seconds=LONGEST_SECONDS)
    async with in_background(reflector.run(backoff, refused_seconds=refused_seconds), "reflector"):
        await asyncio.sleep(seconds)


@pytest.mark.parametrize("lists", [False, True], ids=["list", "watch"])
@instant
async def test_an_api_server_that_fails_slowly_is_asked_as_seldom_as_one_that_fails_at_once(lists: bool) -> None:
    failing = Failing(Unavailable("503", status=503), seconds=SLOW_SECONDS, lists=lists)
    await reflect(failing, seconds=HALF_AN_HOUR)
    # Between two requests lie at least half of the longest wait and the time of a request.
    assert failing.asked <= HALF_AN_HOUR / (LONGEST_SECONDS / 2 + SLOW_SECONDS) + 10


@pytest.mark.parametrize("problem", [Refused("403", status=403), NotServed("404", status=404)])
@instant
async def test_a_refused_request_is_not_repeated_before_the_given_time(problem: KubernetesError) -> None:
    failing = Failing(problem, seconds=0)
    await reflect(failing, seconds=LONGEST_SECONDS - 1, refused_seconds=LONGEST_SECONDS)
    assert failing.asked == 1


@instant
async def test_a_watch_whose_objects_have_no_version_resumes_where_it_began() -> None:
    unversioned = Unversioned()
    await reflect(unversioned, seconds=10 * SLOW_SECONDS)
    assert len(unversioned.resumed) > 3
    assert set(unversioned.resumed) == {"7"}
