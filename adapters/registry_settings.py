"""Define how registries are reached; without the HTTP client, which only a process that asks them imports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Login: TypeAlias = tuple[str, str]
"""User name and password."""


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How one registry is reached."""

    host: str
    """As references have it, with a port if it has one: `docker.io`."""
    plain_http: bool = False
    ca_file: Path | None = None
    """Certificates that are trusted besides those of the system; a changed file is read again."""
    login: Callable[[], Login | None] = lambda: None
    """The current credentials. Raises `OSError` or `ValueError`, as `BadSetting` is one."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where images of a registry are looked for before the registry itself."""

    host: str
    prefix: str = ""
    """The path before the repository, as proxies of several registries have it; ends with `/` if there is one."""


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """One registry."""

    endpoint: EndpointSettings
    mirrors: tuple[Mirror, ...] = ()
    """The settings of their hosts are those of the registries of that name, or the defaults."""
