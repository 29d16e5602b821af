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

_RATE_BYTES: Final = 4 * 1024 * 1024
"""Less than this shows nothing about rates."""


class Results:
    """The results of one node."""

    def __init__(self, context: Context, annotations: PeerAnnotations, changed: Callable[[], None]) -> None:
        """`changed` is called when the report may have to be written."""
        self._metrics, self._log, self._port = context.metrics, context.log, context.settings.peers.port
        self._annotations, self._changed = annotations, changed

    def account(self, versions: Collection[str]) -> Account:
        """Of a fetch for the lines in these versions."""
        return Account(self, versions)

    def came(self, versions: Collection[str], fetched: Fetched, *, ended: bool) -> None:
        """What has come so far for the lines in these versions."""
        for version in versions:
            self._annotations.transferred(_transfer(version, fetched), ended=ended)
        self._changed()

    def count(self, peer_bytes: int, registry_bytes: int) -> None:
        """So many bytes more came."""
        self._metrics.fetched("peers", peer_bytes)
        self._metrics.fetched("registry", registry_bytes)

    def fetched(self, found: LineHint, fetched: Fetched) -> str:
        """A fetch has ended, and the pull begins. Returns what people should know; empty if all is well."""
        hint = found.hint
        self._metrics.transferred(fetched.seconds)
        seconds = fetched.layers_seconds
        if fetched.peer_bytes >= _RATE_BYTES and seconds > 0:
            self._annotations.received(fetched.peer_bytes / seconds)
        elif fetched.registry_bytes >= _RATE_BYTES and seconds > 0 and not hint.parents:
            host, seeds = parse_reference(found.line.image).host, max(1, hint.seeds)
            self._annotations.read_registry(host, seeds * fetched.registry_bytes / seconds)
        if not hint.parents or (fetched.complete and not fetched.fallbacks):
            return ""
        reason, message = "ParentsUnreachable", f"peers not reachable: is port {self._port} open between nodes?"
        if fetched.peer_bytes:
            reason, message = "ParentsFellShort", "the registry gives what other nodes did not"
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

    def pulled(self, versions: Collection[str], fetched: Fetched, unpack_seconds: float) -> None:
        """The pull after a fetch has succeeded."""
        self._metrics.unpacked(unpack_seconds)
        for version in versions:
            self._annotations.transferred(_transfer(version, fetched, unpack_seconds), ended=True)


class Account:
    """What one fetch has brought so far."""

    def __init__(self, results: Results, versions: Collection[str]) -> None:
        self._results, self._versions = results, versions
        self._peer_bytes = self._registry_bytes = 0

    def update(self, fetched: Fetched, *, ended: bool = False) -> None:
        """Count what has come since the last update."""
        self._results.count(fetched.peer_bytes - self._peer_bytes, fetched.registry_bytes - self._registry_bytes)
        self._peer_bytes, self._registry_bytes = fetched.peer_bytes, fetched.registry_bytes
        self._results.came(self._versions, fetched, ended=ended)


def _transfer(version: str, fetched: Fetched, unpack_seconds: float = 0.0) -> Transfer:
    return Transfer(
        version,
        fetched.peer_bytes // 1024,
        fetched.registry_bytes // 1024,
        round(fetched.seconds * 1000),
        round(unpack_seconds * 1000),
        fetched.fallbacks,
    )
