"""Put together what one node needs to get images from other nodes and to give them its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from adapters.clock import Backoff
from nodeagent.context import Context
from nodeagent.node_state import NodeState
from nodeagent.peers.access import Refusal, Served
from nodeagent.peers.annotations import PeerAnnotations
from nodeagent.peers.early import EarlyFetches, FindCredentials
from nodeagent.peers.early_blob import EarlyOrder, fetch_blob
from nodeagent.peers.exchange import Exchange, Fetched, Order
from nodeagent.peers.hints import LineHint
from nodeagent.peers.incoming import IncomingBlobs
from nodeagent.peers.leases import Leases
from nodeagent.peers.parent import Parent
from nodeagent.peers.pulled_blobs import keep_pulled_blobs
from nodeagent.peers.registry_pauses import RegistryPauses
from nodeagent.peers.sources import NoSource
from nodeagent.peers.transfer import fetch_image
from warmhook.images import parse_reference
from warmhook.node_report import clean_message
from warmhook.ports import ContentStore, Credentials, NotContainerd, PullFailed, RuntimeUnreachable

_READY_SECONDS: Final = 10.0
"""A fetch waits so long for the key of this node, which is made at its start."""
_AGAIN_SECONDS: Final = 60.0


class NodeExchange:
    """Serves blobs to other nodes and fetches them from there, while it runs."""

    def __init__(
        self,
        context: Context,
        content: ContentStore,
        state: NodeState,
        credentials: FindCredentials,
        annotations: PeerAnnotations,
        changed: Callable[[], None],
    ) -> None:
        """`changed`: the report may have to be written."""
        self._context, self._content, self._hints, self._lacks = context, content, state.hints, state.lacks
        self._annotations, self._changed = annotations, changed
        self._incoming = IncomingBlobs(context.settings.state_dir / "incoming", context.offload)
        self._parent = Parent(context, content, self._incoming, self._served, self, self._parent_changed)
        self.leases = Leases(content, state.hints, state.lacks, context.clock, context.log)
        self.early = EarlyFetches(context, state, credentials, self._fetch_early, content)
        self._exchange: Exchange | None = None
        self._key_made, self._ready = asyncio.Event(), asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Exchange images until cancelled; an error ends it for a minute only. Returns if the runtime has no blobs."""
        context = self._context
        while await self._is_containerd():
            # A new key is made each time.
            self._parent.key = None
            self._key_made.clear()
            try:
                await self._remove_files()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._parent.run(), name="parent")
                    group.create_task(self.leases.run(), name="leases")
                    group.create_task(self._open(), name="peers")
                    group.create_task(self.early.run(), name="early blobs")
            except Exception:
                context.log.exception("peers-crashed")
            await context.clock.sleep(_AGAIN_SECONDS)

    async def fetch(
        self, found: LineHint, credentials: tuple[Credentials, ...], progressed: Callable[[Fetched], None]
    ) -> Fetched:
        """As `Peers.fetch`."""
        exchange = await self._opened()
        if exchange is None:
            return Fetched(left="this node exchanges no images")
        return await fetch_image(exchange, _order(found, credentials), progressed)

    async def _fetch_early(self, order: EarlyOrder, digest: str, size_bytes: int, fetched: Fetched) -> None:
        """As `FetchBlob`."""
        exchange = await self._opened()
        if exchange is None:
            raise NoSource(digest)
        await fetch_blob(exchange, order, digest, size_bytes, fetched)

    async def _opened(self) -> Exchange | None:
        """What fetches use; `None` if it cannot be opened."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_SECONDS):
                await self._ready.wait()
        return self._exchange

    async def keep(self, found: LineHint) -> None:
        """As `Peers.keep`."""
        if self._exchange is None or not found.hint.children:
            return
        try:
            await keep_pulled_blobs(self._exchange, _order(found))
        except (NotContainerd, RuntimeUnreachable, PullFailed) as error:
            self._context.log.info("image-not-kept", image=found.line.image, why=clean_message(str(error)))

    def pulled(self, found: LineHint) -> None:
        """As `Peers.pulled`."""
        self.leases.wake.set()
        if self._exchange is None:
            return
        for each in self._hints.all_of_image(found.line.image):
            for peer in each.hint.parents:
                task = asyncio.create_task(self._exchange.peers.done(peer, each.key), name=f"done {peer.node}")
                self._telling.add(task)
                task.add_done_callback(self._telling.discard)

    def sent(self, node: str, size_bytes: int) -> None:  # noqa: ARG002 - of an Observer
        """As `Observer.sent`."""
        self._context.metrics.served(size_bytes)

    def refused(self, reason: Refusal) -> None:
        """As `Observer.refused`."""
        self._context.metrics.peer_request("refused", reason)

    def done(self, line_key: str, node: str) -> None:
        """As `Observer.done`."""
        self._context.metrics.peer_request("done")
        self.leases.done(line_key, node)

    async def _remove_files(self) -> None:
        """Free what an agent before left on the disk; the exchange does not depend on it."""
        folder = self._context.settings.state_dir / "incoming"
        try:
            await self._context.offload(self._incoming.remove_files)
        except OSError as error:
            hint = "make the folder writable, or remove it; its files take space until then"
            self._context.log.warning("incoming-not-removed", folder=str(folder), error=str(error), hint=hint)

    async def _is_containerd(self) -> bool:
        """False if the runtime is another one; waits for it."""
        backoff = Backoff(self._context.clock, first_seconds=1.0, longest_seconds=_AGAIN_SECONDS)
        while True:
            try:
                await self._content.leases()
            except NotContainerd as error:
                self._context.log.info("peers-off", why=str(error)[:200])
                return False
            except RuntimeUnreachable:
                # The checks of the runtime log it.
                await self._context.clock.sleep(backoff.seconds())
            else:
                return True

    def _served(self, line_key: str) -> Served | None:
        """What the children of this node may have by the hint of a line, and before a push to its repository ends."""
        found, early = self._hints.of_line(line_key), self.early.of_line(line_key)
        children = (*(early.children if early else ()), *(found.hint.children if found else ()))
        if not children:
            return None
        return Served(
            {child.node: child.key for child in children},
            found.digest if found is not None else "",
            frozenset(early.blobs if early is not None else ()),
            expected=early is not None or (found is not None and self._lacks(found.line.image)),
        )

    def _parent_changed(self) -> None:
        key = self._parent.key
        if key is not None:
            self._key_made.set()
        if key is not None and self._parent.serving:
            self._annotations.serving(self._context.settings.peers.endpoint, key.name)
        else:
            self._annotations.not_serving()
        self._changed()

    async def _open(self) -> None:
        """Open what fetches use, as soon as this node has a key."""
        # Imported here: an agent that is at rest needs them no sooner.
        from adapters.peer_client import open_peers
        from adapters.registry_blobs import RegistryAccess

        context, settings = self._context, self._context.settings
        await self._key_made.wait()
        if self._parent.key is None:
            return
        access = RegistryAccess(
            context.clock,
            settings.peers.plain_http_registries,
            settings.peers.registry_ca_file,
            settings.allow_local_registries,
        )
        local = settings.allow_local_registries
        async with open_peers(self._parent.key, settings.peers.token_file, allow_local=local) as peers:
            self._exchange = Exchange(
                self._content,
                peers,
                RegistryPauses(access.open, context.clock).open,
                self._incoming,
                context.runtime,
                context.platform,
                context.clock,
                context.log,
            )
            self._ready.set()
            try:
                await asyncio.Event().wait()
            finally:
                self._exchange = None
                self._ready.clear()


def _order(found: LineHint, credentials: tuple[Credentials, ...] = ()) -> Order:
    return Order(found.key, parse_reference(found.line.image), found.digest, found.hint, credentials)
