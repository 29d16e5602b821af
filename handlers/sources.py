"""Read the section `sources` of the configuration file: the senders that may deliver."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field, StringConstraints

from adapters.env import BadSetting
from adapters.registries import Adapter, BadOptions, Keys, Source, adapter_kinds, find_adapter, find_adapters
from handlers.configuration_model import Model
from warmhook.images import NotAReference, canonical_host


class SecretSpec(Model):
    """Where a secret is: never the secret itself."""

    file: Path | None = None
    env: str | None = None


class KeysSpec(Model):
    """Where the key set of a signer is."""

    file: Path | None = None
    url: str | None = None


class SourceSpec(Model):
    """One sender."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    kind: str
    secret: SecretSpec | list[SecretSpec] | None = None
    keys: KeysSpec | None = None
    insecure: bool = False
    registry_host: str = ""
    allowed_hosts: list[str] = Field(default=[])
    allowed_origins: list[str] = Field(default=[])
    options: dict[str, Any] = Field(default={})
    early_blobs: bool = False


@dataclass(frozen=True, slots=True)
class ConfiguredSource:
    """One sender: how its deliveries are read, and which images they may name."""

    adapter: Adapter
    source: Source
    """Without its secrets: `current` reads those for each delivery, so that a rotated file needs no restart."""
    allowed_hosts: frozenset[str]
    secrets: tuple[SecretSpec, ...]
    allowed_origins: frozenset[str]
    """Origins that may announce CloudEvents by `OPTIONS`, in lower case; `*`: any."""
    environ: Mapping[str, str]
    """Holds the secrets that are not in files."""

    def allows(self, host: str) -> bool:
        """Whether this sender may name images of the registry `host`."""
        return host in self.allowed_hosts

    def current(self) -> Source:
        """The source for one delivery, with the current secrets. Raises `BadSetting`."""
        return replace(
            self.source, secrets=tuple(read_secret("secret", secret, self.environ) for secret in self.secrets)
        )


Sources: TypeAlias = Mapping[str, ConfiguredSource]
"""All senders by their names, the last part of their paths."""


def read_sources(given: Iterable[SourceSpec], environ: Mapping[str, str], *, check: bool) -> Sources:
    """The senders of the section `sources`. Raises `BadSetting` with the key.

    Secrets are read now if `check`; each delivery reads them again.
    """
    sources: dict[str, ConfiguredSource] = {}
    for index, each in enumerate(given):
        try:
            configured = _configured(each, environ)
            if check:
                configured.current()
        except BadSetting as error:
            raise BadSetting(f"sources[{index}] ({each.name}): {error}") from error
        if each.name in sources:
            raise BadSetting(f"sources[{index}].name: {each.name!r} is there twice")
        sources[each.name] = configured
    return sources


def _configured(given: SourceSpec, environ: Mapping[str, str]) -> ConfiguredSource:
    if given.kind not in adapter_kinds():
        raise BadSetting(f"kind: {given.kind!r} is none of {', '.join(adapter_kinds())}")
    adapter = find_adapter(given.kind)
    secrets = tuple(given.secret if isinstance(given.secret, list) else [given.secret] if given.secret else [])
    if len(secrets) > 2:
        raise BadSetting("secret: at most two, for rotation")
    for secret in secrets:
        if (secret.file is None) == (secret.env is None):
            raise BadSetting("secret: give either file or env")
    if given.insecure and (secrets or given.keys):
        raise BadSetting("insecure: a source with a secret or keys is not insecure; remove one of the two")
    registry_host, allowed = _hosts(given)
    try:
        options = adapter.read_options(given.options)
    except BadOptions as error:
        raise BadSetting(str(error)) from error
    if given.early_blobs and not adapter.reports_blobs:
        able = ", ".join(kind for kind, each in find_adapters().items() if each.reports_blobs)
        raise BadSetting(f"earlyBlobs: a sender of kind {given.kind} reports no blobs before their image, only {able}")
    source = Source(
        given.name,
        registry_host=registry_host,
        insecure=given.insecure,
        options=options,
        early_blobs=given.early_blobs,
    )
    if not given.insecure:
        _check_proof(given, signed=adapter.takes_tokens(source))
    if given.keys:
        source = replace(source, keys=_keys(given.keys))
    _check_hosts(adapter, source, allowed)
    origins = frozenset(origin.lower() for origin in given.allowed_origins)
    return ConfiguredSource(adapter, source, allowed, secrets, origins, environ)


def _hosts(given: SourceSpec) -> tuple[str, frozenset[str]]:
    """The host of the registry, empty to keep the host of the payload, and the allowed hosts."""
    hosts = [given.registry_host] if given.registry_host and not given.allowed_hosts else given.allowed_hosts
    if not hosts:
        raise BadSetting("allowedHosts: missing; name the registry hosts this sender may speak of, or registryHost")
    try:
        registry_host = canonical_host(given.registry_host) if given.registry_host else ""
        allowed = frozenset(canonical_host(host) for host in hosts)
    except NotAReference as error:
        raise BadSetting(f"registryHost or allowedHosts: {error}") from error
    return registry_host, allowed


def _check_hosts(adapter: Adapter, source: Source, allowed: frozenset[str]) -> None:
    """Check that hosts of the configuration are allowed: otherwise every push would be skipped."""
    try:
        fixed = [canonical_host(host) for host in adapter.fixed_hosts(source)]
    except NotAReference as error:
        raise BadSetting(f"options: {error}") from error
    for host in [*([source.registry_host] if source.registry_host else []), *fixed]:
        if host not in allowed:
            raise BadSetting(f"allowedHosts: {host!r} is missing, so every push under that host would be skipped")


def _check_proof(given: SourceSpec, *, signed: bool) -> None:
    """Reject missing and unused settings: a reader of the file would rely on them."""
    if signed and given.keys is None:
        raise BadSetting("keys: missing; name the key set of whoever signs the tokens, by file or url")
    if signed and given.secret:
        raise BadSetting("secret: not used, because this sender signs tokens; remove it")
    if not signed and given.keys is not None:
        raise BadSetting(f"keys: not used by kind {given.kind} with these options; remove it")
    if not signed and not given.secret:
        raise BadSetting("secret: missing; say insecure: true to believe everybody who can reach this address")


def _keys(given: KeysSpec) -> Keys:
    # Only sources with signed tokens need the import of an HTTP client.
    from adapters.registries.common.jwks import FetchedKeys, FileKeys, fetch_text

    if (given.file is None) == (given.url is None):
        raise BadSetting("keys: give either file or url")
    if given.file is not None:
        return FileKeys(given.file)
    try:
        return FetchedKeys(given.url or "", fetch=fetch_text, monotonic=time.monotonic)
    except ValueError as error:
        raise BadSetting(f"keys.url: {error}") from error


def read_secret(key: str, secret: SecretSpec, environ: Mapping[str, str]) -> bytes:
    """The current secret below `key`, byte for byte except one newline at the end of a file. Raises `BadSetting`."""
    if secret.env is not None:
        value = os.fsencode(environ.get(secret.env, ""))
        where = f"{key}.env: {secret.env} is not set, or empty"
    else:
        where = f"{key}.file: {secret.file} is empty"
        try:
            value = Path(secret.file or "").read_bytes()
        except OSError as error:
            raise BadSetting(f"{key}.file: cannot read {secret.file}: {error.strerror}") from error
        if value.endswith(b"\n"):
            # Editors and `echo` add it; anything else may be part of the secret.
            value = value[:-1].removesuffix(b"\r")
    if not value.strip():
        raise BadSetting(where)
    return value
