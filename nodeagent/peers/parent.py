"""Serve the images of this node to other nodes: make its key, open its port and know the keys of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from adapters.clock import Backoff
from adapters.listener import open_listener_at
from adapters.outages import OutageLog
from adapters.peer_key import KeyNotMade, PeerKey, make_peer_key, server_tls
from adapters.service_account_tokens import TokenVerifier, token_subject
from nodeagent.context import Context
from nodeagent.peers.access import Access, Served
from nodeagent.peers.blobs import Blobs
from nodeagent.peers.connections import Connections
from nodeagent.peers.image_digests import ImageDigests
from nodeagent.peers.incoming import IncomingBlobs
from nodeagent.peers.pace import Pace
from nodeagent.peers.server import Observer, PeerServer
from warmhook.peer_requests import AUDIENCE
from warmhook.ports import ContentStore

_FIRST_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 30.0


class Parent:
    """Serves blobs while it runs, if there is an address to serve them at."""

    def __init__(
        self,
        context: Context,
        content: ContentStore,
        incoming: IncomingBlobs,
        served: Callable[[str], Served | None],
        observer: Observer,
        changed: Callable[[], None],
    ) -> None:
        """`served` finds what is served by the hint of a line, by its key. `changed`: another `key` or `serving`."""
        self._context, self._served, self._observer, self._changed = context, served, observer, changed
        self._blobs = Blobs(content, incoming, context.offload)
        self._digests = ImageDigests(content, context.clock)
        self.key: PeerKey | None = None
        """`None` until it is made, and for ever if this node exchanges no images."""
        self.serving = False
        """Whether other nodes may be sent here: the port is open, and tokens can be verified."""

    async def run(self) -> None:
        """Serve until it is cancelled. Returns at once if this node has no address or port for it."""
        settings = self._context.settings.peers
        if not settings.endpoint:
            return
        self.key = key = await self._make_key()
        self._changed()
        tokens = TokenVerifier(
            self._context.kubernetes,
            self._context.clock,
            self._context.log,
            subject=await self._subject(),
            audience=AUDIENCE,
        )
        access = Access(key, tokens, self._served, self._context.clock)
        pace = Pace(settings.bytes_per_second, self._context.clock)
        server = PeerServer(access, self._digests, self._blobs, pace, self._observer, self._context.clock)
        async with asyncio.TaskGroup() as group:
            group.create_task(tokens.run(), name="token-keys")
            await tokens.ready.wait()
            await self._listen(Connections(server_tls(key), server.handle))

    async def _listen(self, connections: Connections) -> None:
        """Accept connections; if the port is in use, it is tried again meanwhile."""
        settings = self._context.settings.peers
        outage = OutageLog(self._context.log, self._context.clock, "peer-port-not-open")
        backoff = self._backoff()
        while True:
            try:
                with open_listener_at(settings.address, settings.port) as listener:
                    listener.listen()
                    outage.recovered()
                    self._set_serving(serving=True)
                    await connections.accept(listener)
            except OSError as error:
                hint = "free the port, or set WARMHOOK_PEER_PORT; 0: images come from registries only"
                outage.failed(address=settings.endpoint, error=str(error), hint=hint)
                await self._context.clock.sleep(backoff.seconds())
            finally:
                self._set_serving(serving=False)

    def _set_serving(self, *, serving: bool) -> None:
        if self.serving != serving:
            self.serving = serving
            self._changed()

    async def _make_key(self) -> PeerKey:
        outage = OutageLog(self._context.log, self._context.clock, "peer-key-not-made")
        backoff = self._backoff()
        while True:
            try:
                return await make_peer_key()
            except KeyNotMade as error:
                outage.failed(error=str(error))
                await self._context.clock.sleep(backoff.seconds())

    async def _subject(self) -> str:
        """The ServiceAccount of all agents, as the own token names it."""
        file = self._context.settings.peers.token_file
        outage = OutageLog(self._context.log, self._context.clock, "peer-token-not-read")
        backoff = self._backoff()
        while True:
            try:
                token = (await self._context.offload(file.read_bytes)).decode("ascii", errors="replace")
                error = "" if (subject := token_subject(token)) else "it is no ServiceAccount token"
            except OSError as problem:
                subject, error = "", str(problem)
            if subject:
                outage.recovered()
                return subject
            hint = f"mount a ServiceAccount token with the audience {AUDIENCE}; until then images come from registries"
            outage.failed(file=str(file), error=error, hint=hint)
            await self._context.clock.sleep(backoff.seconds())

    def _backoff(self) -> Backoff:
        return Backoff(self._context.clock, first_seconds=_FIRST_SECONDS, longest_seconds=_LONGEST_SECONDS)
