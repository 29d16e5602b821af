"""Say what was fetched before pulls: in the metrics, the log and the report of the node."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from nodeagent.context import Context
from nodeagent.peers.annotations import PeerAnnotations
from nodeagent.peers.exchange import Fetched
from nodeagent.peers.hints import LineHint
from warmhook.images import parse_reference
from warmhook.peers import Transfer
from warmhook.pull_queue import ImagePull

_LOG_SECONDS: Final = 30.0
_RATE_BYTES: Final = 4 * 1024 * 1024
"""Less than this shows nothing about rates."""


class Results:
    """The results of one node."""

    def __init__(self, context: Context, annotations: PeerAnnotations, changed: Callable[[], None]) -> None:
        """`changed` is called when the report may have to be written."""
        self._context, self._annotations, self._changed = context, annotations, changed
        self._metrics, self._log = context.metrics, context.log

    def account(self, pull: ImagePull, versions: Collection[str]) -> Account:
        """Of a fetch for the lines in these versions."""
        return Account(self._context, self._annotations, self._changed, pull, versions)

    def fetched(self, found: LineHint, fetched: Fetched) -> str:
        """A fetch has ended, and the pull begins. Returns what people should know; empty if all is well."""
        hint = found.hint
        self._metrics.transferred(fetched.seconds)
        self._measure(found, fetched)
        if not hint.parents or (fetched.complete and not fetched.fallbacks):
            return ""
        port = self._context.settings.peers.port
        reason, message = "ParentsUnreachable", f"peers not reachable: is port {port} open between nodes?"
        if fetched.peer_bytes:
            reason, message = "ParentsFellShort", "the registry gives what other nodes did not"
        elif not fetched.fallbacks:
            # No parent is known to have failed.
            reason, message = "TransferFailed", f"not from other nodes: {fetched.left}"
        self._metrics.fell_back(reason)
        self._log.warning(
            "peers-fell-short",
            image=found.line.image,
            reason=reason,
            parents=[peer.node for peer in hint.parents],
            left=fetched.left,
            hint=message,
        )
        return message

    def _measure(self, found: LineHint, fetched: Fetched) -> None:
        """Note how fast the bytes came, if all are from one side."""
        seconds = fetched.layers_seconds
        if not fetched.complete or seconds <= 0:
            return
        if fetched.peer_bytes >= _RATE_BYTES and not fetched.registry_bytes:
            self._annotations.received(fetched.peer_bytes / seconds)
        if fetched.registry_bytes >= _RATE_BYTES and not found.hint.parents:
            host = parse_reference(found.line.image).canonical.host
            self._annotations.read_registry(host, max(1, found.hint.seeds) * fetched.registry_bytes / seconds)

    def pulled(self, versions: Collection[str], fetched: Fetched, unpack_seconds: float) -> None:
        """The pull after a fetch has succeeded."""
        self._metrics.unpacked(unpack_seconds)
        for version in versions:
            self._annotations.transferred(_transfer(version, fetched, unpack_seconds), ended=True)


class Account:
    """What one fetch has brought so far."""

    def __init__(
        self,
        context: Context,
        annotations: PeerAnnotations,
        changed: Callable[[], None],
        pull: ImagePull,
        versions: Collection[str],
    ) -> None:
        self._context, self._annotations, self._changed = context, annotations, changed
        self._pull, self._versions = pull, versions
        self._peer_bytes = self._registry_bytes = 0
        self._began = self._logged_at = context.clock.monotonic()

    def update(self, fetched: Fetched, *, ended: bool = False) -> None:
        """Count what has come since the last update."""
        self._context.metrics.fetched("peers", fetched.peer_bytes - self._peer_bytes)
        self._context.metrics.fetched("registry", fetched.registry_bytes - self._registry_bytes)
        self._peer_bytes, self._registry_bytes = fetched.peer_bytes, fetched.registry_bytes
        for version in self._versions:
            self._annotations.transferred(_transfer(version, fetched), ended=ended)
        self._changed()
        now = self._context.clock.monotonic()
        if now >= self._logged_at + _LOG_SECONDS and not ended:
            self._logged_at = now
            self._context.log.info(
                "fetching",
                image=self._pull.image,
                seconds=round(now - self._began),
                bytes_from_peers=fetched.peer_bytes,
                bytes_from_registry=fetched.registry_bytes,
                total_bytes=self._pull.size_bytes or None,
            )


def _transfer(version: str, fetched: Fetched, unpack_seconds: float = 0.0) -> Transfer:
    return Transfer(
        version,
        fetched.peer_bytes // 1024,
        fetched.registry_bytes // 1024,
        round(fetched.seconds * 1000),
        round(unpack_seconds * 1000),
        fetched.fallbacks,
    )
