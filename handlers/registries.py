"""Read the section `registries` of the configuration file: the registries that handlers may ask, and how.

A tenant may write any host into a WarmImage, so only these hosts are asked, and those that a source may name.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pydantic import Field

from adapters.clock import Clock
from adapters.env import BadSetting
from adapters.registry_settings import EndpointSettings, Login, Mirror, RegistrySettings
from handlers.configuration_model import Model
from handlers.sources import SecretSpec, Sources, read_secret
from warmhook.images import NotAReference, Reference, canonical_host, parse_reference
from warmhook.localhosts import is_local_host
from warmhook.manifests import Resolved
from warmhook.ports import Registries
from warmhook.resolutions import Unresolved

if TYPE_CHECKING:
    from adapters.oci_registry import OciRegistries

RegistryHosts: TypeAlias = Mapping[str, RegistrySettings]
"""By canonical host."""


class RegistrySpec(Model):
    """One registry."""

    host: str
    mirrors: list[str] = Field(default=[], max_length=4)
    username: str = ""
    password: SecretSpec | None = None
    plain_http: bool = False
    ca_file: Path | None = None


def read_registries(
    given: Iterable[RegistrySpec], sources: Sources, environ: Mapping[str, str], *, check: bool
) -> RegistryHosts:
    """The registries of the section, and those that a source may name. Raises `BadSetting` with the key.

    Passwords and CA files are read now if `check`; each use reads them again. A host near this machine must be in the
    section.
    """
    named = {host for source in sources.values() for host in (*source.allowed_hosts, source.source.registry_host)}
    registries = {host: RegistrySettings(EndpointSettings(host)) for host in named if host and not is_local_host(host)}
    configured: dict[str, RegistrySettings] = {}
    for index, each in enumerate(given):
        try:
            settings = _settings(each, environ, check=check)
        except BadSetting as error:
            raise BadSetting(f"registries[{index}] ({each.host[:100]}): {error}") from error
        if settings.endpoint.host in configured:
            raise BadSetting(f"registries[{index}].host: {each.host!r} is there twice")
        configured[settings.endpoint.host] = settings
    return registries | configured


@contextlib.asynccontextmanager
async def open_registries(
    hosts: RegistryHosts, clock: Clock, count: Callable[[str], None]
) -> AsyncIterator[Registries | None]:
    """Connections to these registries; `None` if there are none. `count` is called with each result."""
    if not hosts:
        yield None
        return
    registries = _WhenAsked(hosts, clock, count)
    try:
        yield registries
    finally:
        await registries.close()


@dataclass(eq=False, slots=True)
class _WhenAsked:
    """Registries whose HTTP client is loaded for the first question: a program starts a tenth of a second sooner."""

    hosts: RegistryHosts
    clock: Clock
    count: Callable[[str], None]
    _opened: OciRegistries | None = None

    def serves(self, host: str) -> bool:
        return host in self.hosts

    async def resolve(self, image: Reference, known: Resolved | None = None) -> Resolved | Unresolved:
        if self._opened is None:
            module = await asyncio.to_thread(importlib.import_module, "adapters.oci_registry")
            # Another question may have come meanwhile.
            self._opened = self._opened or module.OciRegistries(self.hosts, self.clock, self.count)
        return await self._opened.resolve(image, known)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()


def _settings(given: RegistrySpec, environ: Mapping[str, str], *, check: bool) -> RegistrySettings:
    try:
        host = canonical_host(given.host)
    except NotAReference as error:
        raise BadSetting(f"host: {error}") from error
    secret = given.password
    if secret is not None and (secret.file is None) == (secret.env is None):
        raise BadSetting("password: give either file or env")
    if bool(given.username) != (secret is not None):
        raise BadSetting("password: a username and a password belong together; give both or none")
    if given.plain_http and given.ca_file is not None:
        raise BadSetting("caFile: not used with plainHttp; remove one of the two")
    login = functools.partial(_login, given.username, secret, environ)
    if check:
        _check(login, given.ca_file)
    endpoint = EndpointSettings(host, given.plain_http, given.ca_file, login)
    return RegistrySettings(endpoint, tuple(map(_mirror, given.mirrors)))


def _login(username: str, secret: SecretSpec | None, environ: Mapping[str, str]) -> Login | None:
    if secret is None:
        return None
    return username, read_secret("password", secret, environ).decode()


def _check(login: functools.partial[Login | None], ca_file: Path | None) -> None:
    try:
        login()
    except UnicodeDecodeError as error:
        raise BadSetting("password: is not UTF-8") from error
    if ca_file is None:
        return
    try:
        certificates = ca_file.read_bytes()
    except OSError as error:
        raise BadSetting(f"caFile: cannot read {ca_file}: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in certificates:
        raise BadSetting(f"caFile: {ca_file} has no certificate in PEM form")


def _mirror(text: str) -> Mirror:
    """`mirror.example.com`, or `mirror.example.com/proxy` for a proxy with a path before the repository."""
    host, slash, prefix = text.partition("/")
    try:
        host = canonical_host(host)
        parsed = parse_reference(f"{host}/{prefix or 'x'}")
    except NotAReference as error:
        raise BadSetting(f"mirrors: {error}") from error
    if parsed.tag or parsed.digest:
        raise BadSetting(f"mirrors: {text!r}: must be a host, or a host and a path")
    return Mirror(host, f"{prefix}/" if slash else "")
