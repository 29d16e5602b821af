"""Put the parts of the page together, and run what it needs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from adapters.clock import Clock
from adapters.kubernetes.client import Kubernetes
from handlers.reconcile.reader import Reader
from handlers.settings import Settings
from handlers.ui.access import Access
from handlers.ui.cache import ClusterCache
from handlers.ui.changes import ChangeStreams
from handlers.ui.content import Content
from handlers.ui.details import ReportDetails
from handlers.ui.render_queue import RenderQueue
from handlers.ui.routes import Parts, ui_routes
from handlers.ui.sessions import LoopbackSessions, Sessions, TokenSessions


class Page:
    """The page of one process."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        settings: Settings,
        clock: Clock,
        offload: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self._kubernetes = kubernetes
        self.cache = cache = ClusterCache(settings.namespace, clock, settings.ui.pool_label)
        sessions: Sessions
        if settings.ui.access == "loopback":
            sessions = LoopbackSessions()
        else:
            sessions = TokenSessions(Access(kubernetes, settings.namespace, clock))
        details = ReportDetails(Reader(kubernetes, settings.namespace, clock), clock)
        self._streams = ChangeStreams(cache, sessions, clock, settings.ui.streams)
        content = Content(cache, details, clock)
        self._parts = Parts(cache, content, sessions, self._streams, RenderQueue(offload), clock)

    def routes(self) -> list[Route]:
        """What the page serves."""
        return ui_routes(self._parts)

    def application(self) -> Starlette:
        """An application of nothing else, for a port of its own."""
        app = Starlette(routes=self.routes())
        app.router.redirect_slashes = False
        return app

    async def run(self) -> None:
        """Follow the cluster until this is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.cache.run(self._kubernetes), name="follow the cluster")
            group.create_task(self.cache.look(), name="look for silent nodes")

    def close(self) -> None:
        """End open streams soon, so that the process can."""
        self._streams.close()
