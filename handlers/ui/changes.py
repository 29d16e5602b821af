"""Tell open pages that something has changed: server-sent events, a bounded number of streams.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from adapters.clock import Clock
from adapters.kubernetes.errors import KubernetesError
from handlers.ui.access import Busy
from handlers.ui.cache import ClusterCache
from handlers.ui.sessions import Session, Sessions

RECHECK_SECONDS: Final = 30.0
"""How often it is asked whether the reader of a stream may still see what it is told."""
_RECHECKED_SECONDS: Final = 5.0
"""How old an answer may be then."""
_HEARTBEAT_SECONDS: Final = 15.0
_LEAST_SECONDS: Final = 1.0
"""Between two events of a stream."""
_PER_STREAM_SECONDS: Final = 0.1
"""So many more for each open stream: every event makes its page load again."""
_OF_ONE_READER: Final = 16
"""Streams of one reader: tabs."""


class TooManyStreams(Exception):
    """No further stream can be opened now."""


class ChangeStreams:
    """The open streams."""

    def __init__(self, cache: ClusterCache, sessions: Sessions, clock: Clock, most: int) -> None:
        self._cache, self._sessions, self._clock, self._most = cache, sessions, clock, most
        self._open: Counter[str] = Counter()
        """By the name of the reader."""
        self._closing = False

    def close(self) -> None:
        """End all streams soon."""
        self._closing = True

    def open(self, request: Request, session: Session) -> StreamingResponse:
        """A stream for a reader. Raises `TooManyStreams`."""
        of_one = self._most if not session.name else _OF_ONE_READER
        if self._closing or self._open.total() >= self._most or self._open[session.name] >= of_one:
            raise TooManyStreams
        return _Stream(self, request, session)

    @contextmanager
    def counted(self, reader: str) -> Iterator[None]:
        """Count a stream as long as it is open."""
        self._open[reader] += 1
        try:
            yield
        finally:
            self._open[reader] -= 1
            if not self._open[reader]:
                del self._open[reader]

    async def events(self, request: Request, session: Session) -> AsyncIterator[str]:
        """What is sent: the number of the last change, at once and whenever it grows, until the reader's rights end."""
        inventory, monotonic = self._cache.inventory, self._clock.monotonic
        sent, number = -1, inventory.change_number(session.rights)
        checked = wrote = monotonic()
        while not self._closing:
            now = monotonic()
            if now - checked >= RECHECK_SECONDS:
                checked = now
                found = await self._again(request)
                if found is None or found.name != session.name:
                    return
                session = found
                number = inventory.change_number(session.rights)
            if number != sent:
                sent, wrote = number, now
                yield f"event: changed\ndata: {number}\n\n"
            elif now - wrote >= _HEARTBEAT_SECONDS:
                wrote = now
                yield ":\n\n"
            await self._clock.sleep(max(_LEAST_SECONDS, _PER_STREAM_SECONDS * self._open.total()))
            number = inventory.change_number(session.rights)

    async def _again(self, request: Request) -> Session | None:
        namespaces = self._cache.inventory.all_namespaces()
        try:
            return await self._sessions.find(request, namespaces, fresh_seconds=_RECHECKED_SECONDS)
        except (Busy, KubernetesError):
            return None


class _Stream(StreamingResponse):
    """A stream that counts as long as its connection is open."""

    def __init__(self, streams: ChangeStreams, request: Request, session: Session) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}
        super().__init__(streams.events(request, session), media_type="text/event-stream", headers=headers)
        self._streams, self._reader = streams, session.name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.counted(self._reader):
            await super().__call__(scope, receive, send)
