"""Every registry that can tell Warmhook of a push: what an adapter is, and which ones there are.

An adapter is one module of this package, named after its sender. It has two functions,

    verify(delivery: Delivery, source: Source) -> bool            (or an awaitable of one)
    parse(delivery: Delivery, source: Source) -> list[Outcome]

and may have `Options`, a pydantic model of what `options` of its sources may hold; `LISTS = True` where one delivery of
the sender may be a JSON list; `takes_tokens(options) -> bool` where its sender may sign tokens; `fixed_hosts(source)`
where images are under a host that no payload names; and `PATIENCE_SECONDS` where it does not repeat what was refused.
A new sender is a new module (and a file of cases for its test); nothing else is edited, because modules are discovered.
`common` holds what several senders share.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Protocol, TypeAlias

from pydantic import BaseModel, ValidationError

from adapters.mistakes import in_plain_words
from warmhook.events import Pushed, Skip

__all__ = [
    "Adapter",
    "BadOptions",
    "Delivery",
    "Keys",
    "Outcome",
    "Reply",
    "Source",
    "adapter_kinds",
    "find_adapter",
    "find_adapters",
]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One request of a sender, before anything in it is believed."""

    body: bytes
    received: datetime
    """When it came, aware."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case, values as HTTP carries them (Latin-1)."""
    query: Mapping[str, str] = field(default_factory=dict)
    """Percent-decoded; a byte that is no UTF-8 is a lone surrogate, as Python's `surrogateescape` writes it."""
    query_string: bytes = b""
    """The query as it came."""

    def media_type(self) -> str:
        """The content type without its parameters, lower-case; empty where there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class Keys(Protocol):
    """The public keys of whoever signs a sender's tokens; named in the configuration, never by a token."""

    async def read(self, key_id: str) -> str:
        """A JWK set (RFC 7517) as JSON that should hold `key_id`. Raises `OSError` where it cannot be read now."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """What the configuration says about one sender, as far as adapters need it."""

    name: str
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    """One, or two while a secret is being replaced. An empty secret proves nothing."""
    registry_host: str = ""
    """Replaces the host of the payload; empty keeps that one."""
    insecure: bool = False
    """Deliveries are believed without a secret."""
    options: BaseModel | None = None
    """The adapter's own `Options`, from `Adapter.read_options`."""
    keys: Keys | None = field(default=None, repr=False)
    """Where the sender signs tokens."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A handshake: answer 200 with this body. Counted and logged as a skip for `handshake`."""

    body: bytes
    media_type: str = "application/json"


Outcome: TypeAlias = Pushed | Skip | Reply
"""What one event of a delivery asks for."""


class BadOptions(ValueError):
    """`options` of a source cannot be used; the message names the key, never a value."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """How to read one kind of sender."""

    kind: str
    parse: Callable[[Delivery, Source], list[Outcome]]
    """Every event of the delivery in its order, never empty, never an exception: what cannot be read is `malformed`."""
    check: Callable[[Delivery, Source], bool | Awaitable[bool]]
    """The module's `verify`; call `verify` instead."""
    options: type[BaseModel] | None = None
    lists: bool = False
    """Whether a body that is a JSON list is one delivery."""
    patience_seconds: float = 0.0
    """For how long the sender waits for an answer, if a refusal costs it the push or more; 0: it asks again."""
    takes_tokens: Callable[[BaseModel | None], bool] = lambda _options: False
    """Whether a source with these options is authenticated by tokens, and needs keys, not a secret."""
    fixed_hosts: Callable[[Source], Iterable[str]] = lambda _source: ()
    """The registry hosts that the sender or its options give to images, whatever a payload says."""

    async def verify(self, delivery: Delivery, source: Source) -> bool:
        """Whether the sender is who the configuration means. Raises `OSError` when keys cannot be fetched now."""
        if source.insecure:
            return True
        answer = self.check(delivery, source)
        return await answer if inspect.isawaitable(answer) else answer

    def read_options(self, given: Mapping[str, object]) -> BaseModel | None:
        """Check the configuration's `options` for this kind. Raises `BadOptions`."""
        if self.options is None:
            if given:
                raise BadOptions(f"options.{min(given)}: sources of kind {self.kind} take no options")
            return None
        try:
            return self.options.model_validate(dict(given))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key = ".".join(["options", *(str(part) for part in first["loc"])])
            raise BadOptions(f"{key}: {in_plain_words(first['type'], first['msg'])}") from None


def adapter_kinds() -> list[str]:
    """The kinds of the modules of this package, sorted; none is imported for that."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.ispkg)


def find_adapter(kind: str) -> Adapter:
    """The adapter of one of `adapter_kinds`: a program pays only for the senders it has."""
    return _adapter(importlib.import_module(f"{__name__}.{kind}"))


def find_adapters(*folders: Path) -> dict[str, Adapter]:
    """Every adapter by its kind: the modules of this package, then those in `folders`."""
    adapters = [find_adapter(kind) for kind in adapter_kinds()]
    adapters += [_adapter(_load(path)) for folder in folders for path in sorted(folder.glob("[!_]*.py"))]
    return {adapter.kind: adapter for adapter in adapters}


def _adapter(module: ModuleType) -> Adapter:
    return Adapter(
        kind=module.__name__.rpartition(".")[2],
        parse=module.parse,
        check=module.verify,
        options=getattr(module, "Options", None),
        lists=getattr(module, "LISTS", False),
        patience_seconds=getattr(module, "PATIENCE_SECONDS", 0.0),
        takes_tokens=getattr(module, "takes_tokens", lambda _options: False),
        fixed_hosts=getattr(module, "fixed_hosts", lambda _source: ()),
    )


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: not a Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
