"""Limit connections and request heads.

uvicorn bounds neither the time nor the size of a request's head, and refuses new connections beyond a number of them.
A client that opens thousands and sends nothing would keep all others out. Here a head must arrive within a time and a
size, and if there are too many connections the one that has been silent for longest is closed. A sender whose
connection is closed sends again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of all connections of a server."""

    connections: int
    head_bytes: int = 32 * 1024
    head_seconds: float = 10.0
    unread_seconds: float = 2.0
    """How long the rest of a body is read after the answer, so that the client can read the answer."""
    unread_bytes: int = 16 * 1024 * 1024
    """How much of the rest of a body is read."""
    untaken_seconds: float = 10.0
    """How long an answer may wait for a client that does not read."""


def limited(limits: Limits) -> type[HttpToolsProtocol]:
    """The protocol class for one server."""
    return type("Connection", (_Connection,), {"limits": limits, "silent": {}})


class _Connection(HttpToolsProtocol):
    limits: ClassVar[Limits]
    silent: ClassVar[dict[_Connection, None]]
    """Connections without a complete request, which may be closed for others. Longest silent first."""

    _raw_bytes = 0
    """Received since the last part of a body: of a head, a trailer or a chunk's extension, which the parser keeps."""
    _parsed_bytes = 0
    """Of URL and header fields, with trailers after a body, which go into the same list."""
    _unread_bytes = 0
    _in_head = True
    _complete = False
    _timer: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self.silent[self] = None
        self._close_after(self.limits.head_seconds)
        if len(self.connections) > self.limits.connections:
            next(iter(self.silent)).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.silent.pop(self, None)
        self._stop_timer()
        self._stop_untaken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        # A request that waits for room in the buffers is complete, so it would never be closed for others.
        super().pause_writing()
        self._untaken = self.loop.call_later(self.limits.untaken_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_untaken()

    def data_received(self, data: bytes) -> None:
        self._raw_bytes += len(data)
        super().data_received(data)
        if self._raw_bytes > self.limits.head_bytes and not self._complete and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._complete = True, False
        self._raw_bytes = self._parsed_bytes = self._unread_bytes = 0
        if self._timer is None:
            self._close_after(self.limits.head_seconds)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(name + value)

    def _count(self, part: bytes) -> None:
        self._parsed_bytes += len(part)
        if self._parsed_bytes > self.limits.head_bytes:
            raise ValueError("the head is too large")

    def on_body(self, body: bytes) -> None:
        self._raw_bytes = 0
        super().on_body(body)
        if self.cycle.response_complete:
            self._unread_bytes += len(body)
            if self._unread_bytes > self.limits.unread_bytes:
                self.transport.abort()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._complete = True
        if self.cycle.response_complete:
            self._close_after(self.timeout_keep_alive)
        else:
            self.silent.pop(self, None)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport is not None and not self.transport.is_closing():
            self.silent[self] = None
            if not self._complete:
                self._close_after(self.limits.unread_seconds)

    def send_400_response(self, msg: str) -> None:
        if self._parsed_bytes > self.limits.head_bytes:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def _refuse_head(self) -> None:
        if self._in_head:
            self.transport.write(_TOO_LARGE)
        self.transport.close()

    def _close_after(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_untaken(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None
