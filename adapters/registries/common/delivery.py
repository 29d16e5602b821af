"""Define what a registry adapter gets and returns: a delivery, its source, and one outcome for each event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from warmhook.events import BlobPushed, Pushed, Skip, SkipReason
from warmhook.ports import Json

OptionsT = TypeVar("OptionsT", bound="SourceOptions")


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request of a sender; nothing in it is trusted yet."""

    body: bytes
    received: datetime
    """Time of receipt, aware."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case, values as HTTP carries them (Latin-1)."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Percent-decoded; a byte that is no UTF-8 is a lone surrogate, as Python's `surrogateescape` writes it."""
    query_string: bytes = b""
    """The query before decoding."""

    def media_type(self) -> str:
        """The content type without its parameters, in lower case; empty if there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class SourceOptions(BaseModel):
    """Base of an adapter's `Options`: camelCase names, no unknown keys, a default for every field."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Keys(Protocol):
    """The public keys that verify a sender's tokens; the configuration names them, never a token."""

    async def read(self, key_id: str) -> str:
        """A JWK set (RFC 7517) as JSON that should hold `key_id`. Raises `OSError` if it cannot be read now."""


@dataclass(frozen=True, slots=True)
class Source:
    """The part of a sender's configuration that adapters need."""

    name: str
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """One, or two during a rotation. An empty secret authenticates nobody."""
    registry_host: str = ""
    """Replaces the host of the payload; empty keeps that one."""
    insecure: bool = False
    """Deliveries are accepted without a secret."""
    options: SourceOptions | None = None
    """From `Adapter.read_options`; `None` is the same as an empty mapping."""
    keys: Keys | None = field(default=None, repr=False)
    """Set if the sender signs tokens."""
    early_blobs: bool = False
    """Whether blobs count that were pushed before their manifest."""

    def options_as(self, model: type[OptionsT]) -> OptionsT:
        """The options as the adapter's own model, with its defaults if none were read."""
        return self.options if isinstance(self.options, model) else model()


@dataclass(frozen=True, slots=True)
class IdToken:
    """The OpenID Connect token that a sender must present."""

    issuers: frozenset[str]
    audience: str
    claims: Mapping[str, Json]
    """Further claims and their values; an empty value matches no token."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A handshake: answer 200 with this body. Counted and logged as a skip for `handshake`."""

    body: bytes
    media_type: str = "application/json"


Outcome: TypeAlias = Pushed | BlobPushed | Skip | Reply
"""The result for one event of a delivery."""


class Unreadable(ValueError):
    """The body, or one event of it, is not what its sender documents. The message never quotes more than a name."""

    reason: SkipReason = "malformed"


class UnknownEvent(Unreadable):
    """The body is well-formed, but not one of this sender's events."""

    reason: SkipReason = "unknown-event"
