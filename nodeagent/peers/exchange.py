"""Name what every transfer of an image uses, and what it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from adapters.clock import Clock
from adapters.logs import Log
from nodeagent.peers.incoming import IncomingBlobs
from warmhook.hints import Hint
from warmhook.images import Reference
from warmhook.platforms import Platform
from warmhook.ports import ContentStore, Credentials, PeerBlobs, RegistryBlobs, Runtime

_TIME_MAX: Final = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp())
"""Hints may have any number."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the transfers of one node use."""

    content: ContentStore
    peers: PeerBlobs
    open_registry: Callable[[Reference, tuple[Credentials, ...]], AbstractAsyncContextManager[RegistryBlobs]]
    """Opens the registry of an image, without a request."""
    incoming: IncomingBlobs
    runtime: Runtime
    platform: Platform
    """Of the node."""
    clock: Clock
    log: Log
    fetching: set[str] = field(default_factory=set)
    """Digests of the layers that transfers of this node fetch now."""


@dataclass(frozen=True, slots=True)
class Order:
    """An image that a node fetches."""

    line_key: str
    image: Reference
    digest: str
    """Of the index or manifest that the node is to have."""
    hint: Hint
    credentials: tuple[Credentials, ...] = field(default=(), repr=False)
    """Those of the pull."""

    @property
    def lease(self) -> str:
        """The name of the lease that keeps its blobs: a later hint has another, which ends later."""
        return f"warmhook-{self.line_key}-{self.hint.expires_at}"

    @property
    def expires_at(self) -> datetime:
        """When the lease ends by itself."""
        return datetime.fromtimestamp(min(self.hint.expires_at, _TIME_MAX), UTC)


@dataclass(slots=True)
class Fetched:
    """What came for one image, and from where; it grows with the transfer."""

    peer_bytes: int = 0
    registry_bytes: int = 0
    seconds: float = 0.0
    """Until the last byte."""
    layers_seconds: float = 0.0
    """From the first byte of a layer to the last: without the wait for nodes that have nothing yet."""
    parents: set[str] = field(default_factory=set)
    """The nodes that gave something."""
    fallbacks: int = 0
    """Blobs that parents were to give, and that came from the registry or are left to the runtime."""
    left: str = ""
    """Why the runtime has to fetch something by itself; empty if the node has every blob that it needs."""

    @property
    def complete(self) -> bool:
        """Whether a pull fetches no blob."""
        return not self.left
