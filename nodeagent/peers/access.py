"""Decide who may ask this node for an image: the nodes that its own ConfigMap names, who prove that they are these."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from adapters.clock import Clock
from adapters.peer_key import PeerKey, read_proof
from adapters.service_account_tokens import TokenVerifier
from warmhook.peer_requests import PeerRequest

_SENDERS_MAX: Final = 512
"""Verified senders that are remembered; a child needs one entry for each token, which lives an hour."""

Refusal = Literal["request", "child", "token", "proof", "digest", "absent", "expected", "busy"]
"""Why a request was not served; a caller learns of `expected` and `busy` only, and only a child."""


class RequestRefused(Exception):
    """A request is not answered with what it asks for."""

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason: Refusal = reason


@dataclass(frozen=True, slots=True)
class Served:
    """What this node serves by one unexpired hint."""

    children: Mapping[str, str]
    """Node to the name of the key of its agent."""
    root: str = ""
    """The digest of the image; empty if it is not known."""
    blobs: frozenset[str] = field(default_factory=frozenset)
    """Digests that are served besides what belongs to the image."""
    expected: bool = False
    """Whether this node still waits for some of it."""


@dataclass(frozen=True, slots=True)
class _Sender:
    node: str
    key: str
    expires_at: float


class Access:
    """Knows the senders of requests. A sender is verified once for each token, without a request to anybody."""

    def __init__(
        self, key: PeerKey, tokens: TokenVerifier, served: Callable[[str], Served | None], clock: Clock
    ) -> None:
        """`served` finds what is served by the hint of a line, by its key."""
        self._key, self._tokens, self._served, self._clock = key, tokens, served, clock
        self._senders: dict[bytes, _Sender] = {}
        self._generation = tokens.generation

    def check(self, request: PeerRequest) -> tuple[str, Served]:
        """The node that asks, and what it may ask for. Raises `RequestRefused`."""
        served = self._served(request.line_key)
        if served is None or not served.children:
            raise RequestRefused("child")
        sender = self._sender(request)
        if served.children.get(sender.node) != sender.key:
            raise RequestRefused("child")
        return sender.node, served

    def _sender(self, request: PeerRequest) -> _Sender:
        if self._tokens.generation != self._generation:
            self._generation = self._tokens.generation
            self._senders.clear()
        shown = f"{request.token}\n{request.public}\n{request.proof}"
        name = hashlib.sha256(shown.encode("utf-8", errors="surrogateescape")).digest()
        known = self._senders.get(name)
        if known is not None and self._clock.utcnow().timestamp() < known.expires_at:
            return known
        verified = self._tokens.verify(request.token)
        if verified is None:
            raise RequestRefused("token")
        key = read_proof(request.public, request.proof, self._key.name, request.token)
        if not key:
            raise RequestRefused("proof")
        if len(self._senders) >= _SENDERS_MAX:
            del self._senders[next(iter(self._senders))]
        sender = self._senders[name] = _Sender(verified.node, key, verified.expires_at)
        return sender
