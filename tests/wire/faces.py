"""Start the programs in the test's process: the only file of these tests that imports them.

Each function does what a program's `__main__` does, with a transport and a clock of the caller's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from random import Random
from typing import Any

import structlog
from starlette.types import ASGIApp

from adapters.clock import Clock
from adapters.containerd import open_containerd
from adapters.cri import open_runtime
from adapters.kubernetes.client import Kubernetes
from adapters.outages import WatchOutages
from cli.main import main as cli_main
from devcluster.apiserver import ApiServer, InProcessTransport
from handlers.__main__ import main as web_main
from handlers.app import Resources, Web, create_app
from handlers.configuration import read_configuration
from handlers.event_sink import open_event_sink
from handlers.metrics import Metrics
from handlers.serving.credentials import Credentials
from handlers.settings import read_settings
from handlers.watch.__main__ import main as watch_main
from handlers.watch.run import Process, watch
from nodeagent.__main__ import main as agent_main
from nodeagent.agent import Agent
from nodeagent.context import Context
from nodeagent.metrics import Metrics as AgentMetrics
from nodeagent.probes import serve_probes
from nodeagent.settings import read_settings as read_agent_settings
from tests.support.instant import instantly
from warmhook.disk_space import Space
from warmhook.platforms import Platform
from warmhook.ports import Response, Transport, Unreachable

__all__ = [
    "ApiServer",
    "InProcessTransport",
    "Response",
    "Time",
    "Transport",
    "Unreachable",
    "instantly",
    "open_web",
    "run_agent",
    "run_program",
    "run_watch",
]


@dataclass(frozen=True, slots=True)
class Time:
    """The clock of a program."""

    now: Callable[[], datetime]
    speed: int = 1
    """Seconds of the program per second of the event loop."""

    def monotonic(self) -> float:
        """Seconds of the program."""
        return asyncio.get_running_loop().time() * self.speed

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds of the program."""
        await asyncio.sleep(seconds / self.speed)

    @property
    def clock(self) -> Clock:
        """The same, as programs take it."""
        return Clock(self.now, self.monotonic, self.sleep, Random(1).random)


@contextlib.asynccontextmanager
async def open_web(environ: Mapping[str, str], transport: Transport, time: Time) -> AsyncIterator[ASGIApp]:
    """The application of `web`, with what runs while it is served."""
    settings, metrics = read_settings(environ), Metrics()
    credentials = Credentials(Kubernetes(transport, count=metrics.count_api_request), settings.namespace)
    async with open_event_sink(settings) as post:
        resources = Resources(transport, credentials, time.clock, Random(1), metrics, post)
        app = create_app(Web(settings, read_configuration(settings.config, environ), resources))
        async with app.router.lifespan_context(app):
            yield app


@contextlib.asynccontextmanager
async def run_watch(environ: Mapping[str, str], transport: Transport, time: Time) -> AsyncIterator[None]:
    """A running `watch` that posts to where `environ` says."""
    settings = replace(read_settings(environ, "watch"), host="host")
    async with open_event_sink(settings) as post:
        assert post is not None
        process = Process(time.clock, Random(1), WatchOutages(time.monotonic))
        async with _running(watch(Kubernetes(transport), post, settings, process)):
            yield


@contextlib.asynccontextmanager
async def run_agent(environ: Mapping[str, str], transport: Transport, time: Time) -> AsyncIterator[None]:
    """A running agent, with its probes and metrics; told to stop on leaving, as SIGTERM does."""
    settings, metrics, stop = read_agent_settings(environ), AgentMetrics(), asyncio.Event()
    clock = time.clock
    log = structlog.get_logger()
    endpoint = settings.runtime_endpoint
    async with open_runtime(endpoint) as runtime, open_containerd(endpoint) as containerd:
        context = Context(
            settings,
            Kubernetes(transport, count=metrics.count_api_request),
            runtime,
            clock,
            log,
            metrics,
            Platform("linux", "amd64"),
            containerd,
            measure=lambda _folders, _instead: Space(100, 50),
        )
        agent = Agent(context)
        async with serve_probes(settings.metrics_port, agent.health, metrics.exposition, clock, log):
            running = asyncio.create_task(agent.run(stop), name="agent")
            try:
                yield
            finally:
                stop.set()
                await running


@contextlib.asynccontextmanager
async def _running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work, name="program")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def run_program(name: str, arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """The exit code of a program that ends by itself; `web` and `watch` read the process's own environment."""
    match name:
        case "web":
            return web_main(arguments)
        case "watch":
            return watch_main()
        case "agent":
            return agent_main(environ)
        case _:
            return cli_main(arguments)
