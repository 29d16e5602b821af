"""Read the senders that may deliver from the file that `WARMHOOK_CONFIG` names."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from adapters.env import BadSetting
from adapters.registries import Adapter, BadOptions, Keys, Source, adapter_kinds, find_adapter
from adapters.strictyaml import decode
from adapters.validation_errors import plain_message
from warmhook.images import NotAReference, canonical_host

_NAME_PROBLEM: Final = "must be lower-case letters, digits and '-', at most 63 of them"


class _Model(BaseModel):
    # Built when first used, as the models of policies are.
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, defer_build=True)


class _Secret(_Model):
    file: Path | None = None
    env: str | None = None


class _Keys(_Model):
    file: Path | None = None
    url: str | None = None


class _Source(_Model):
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    kind: str
    secret: _Secret | list[_Secret] | None = None
    keys: _Keys | None = None
    insecure: bool = False
    registry_host: str = ""
    allowed_hosts: list[str] = Field(default=[])
    allowed_origins: list[str] = Field(default=[])
    options: dict[str, Any] = Field(default={})


class _File(_Model):
    sources: list[_Source] = Field(default=[])


@dataclass(frozen=True, slots=True)
class ConfiguredSource:
    """One sender: how its deliveries are read, and which images they may name."""

    adapter: Adapter
    source: Source
    """Without its secrets: `current` reads those for each delivery, so that a rotated file needs no restart."""
    allowed_hosts: frozenset[str]
    secrets: tuple[_Secret, ...]
    allowed_origins: frozenset[str]
    """Origins that may announce CloudEvents by `OPTIONS`, in lower case; `*`: any."""
    environ: Mapping[str, str]
    """Holds the secrets that are not in files."""

    def allows(self, host: str) -> bool:
        """Whether this sender may name images of the registry `host`."""
        return host in self.allowed_hosts

    def current(self) -> Source:
        """The source for one delivery, with the current secrets. Raises `BadSetting`."""
        return replace(self.source, secrets=tuple(_read(secret, self.environ) for secret in self.secrets))


Configuration: TypeAlias = Mapping[str, ConfiguredSource]
"""All senders by their names, the last part of their paths."""


def read_configuration(path: str | None, environ: Mapping[str, str]) -> Configuration:
    """The configuration of the file; without a file there is no sender. Raises `BadSetting` with the key."""
    if path is None:
        return {}
    try:
        loaded = decode(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSetting(f"WARMHOOK_CONFIG: cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadSetting(f"WARMHOOK_CONFIG: {path} is no YAML: {_no_yaml(error)}") from error
    try:
        file = _File.model_validate({} if loaded is None else loaded)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BadSetting(
            f"{path}: {_key(first['loc'])}: {_problem(first['type'], first['loc'], first['msg'])}"
        ) from None
    sources: dict[str, ConfiguredSource] = {}
    for index, given in enumerate(file.sources):
        try:
            configured = _configured(given, environ)
        except BadSetting as error:
            raise BadSetting(f"{path}: sources[{index}] ({given.name}): {error}") from error
        if given.name in sources:
            raise BadSetting(f"{path}: sources[{index}].name: {given.name!r} is there twice")
        sources[given.name] = configured
    return sources


def _configured(given: _Source, environ: Mapping[str, str]) -> ConfiguredSource:
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
    source = Source(given.name, registry_host=registry_host, insecure=given.insecure, options=options)
    if not given.insecure:
        _check_proof(given, signed=adapter.takes_tokens(source))
    if given.keys:
        source = replace(source, keys=_keys(given.keys))
    _check_hosts(adapter, source, allowed)
    origins = frozenset(origin.lower() for origin in given.allowed_origins)
    configured = ConfiguredSource(adapter, source, allowed, secrets, origins, environ)
    configured.current()
    return configured


def _hosts(given: _Source) -> tuple[str, frozenset[str]]:
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


def _check_proof(given: _Source, *, signed: bool) -> None:
    """Reject missing and unused settings: a reader of the file would rely on them."""
    if signed and given.keys is None:
        raise BadSetting("keys: missing; name the key set of whoever signs the tokens, by file or url")
    if signed and given.secret:
        raise BadSetting("secret: not used, because this sender signs tokens; remove it")
    if not signed and given.keys is not None:
        raise BadSetting(f"keys: not used by kind {given.kind} with these options; remove it")
    if not signed and not given.secret:
        raise BadSetting("secret: missing; say insecure: true to believe everybody who can reach this address")


def _keys(given: _Keys) -> Keys:
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


def _read(secret: _Secret, environ: Mapping[str, str]) -> bytes:
    """The current secret, byte for byte except one newline at the end of a file. Raises `BadSetting`."""
    if secret.env is not None:
        value = os.fsencode(environ.get(secret.env, ""))
        where = f"secret.env: {secret.env} is not set, or empty"
    else:
        where = f"secret.file: {secret.file} is empty"
        try:
            value = Path(secret.file or "").read_bytes()
        except OSError as error:
            raise BadSetting(f"secret.file: cannot read {secret.file}: {error.strerror}") from error
        if value.endswith(b"\n"):
            # Editors and `echo` add it; anything else may be part of the secret.
            value = value[:-1].removesuffix(b"\r")
    if not value.strip():
        raise BadSetting(where)
    return value


def _key(location: tuple[int | str, ...]) -> str:
    # For a union pydantic also names the member: `_Secret`, `list[_Secret]`.
    parts = [part for part in location if isinstance(part, int) or "_" not in part]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".") or "the file"


def _problem(kind: str, location: tuple[int | str, ...], message: str) -> str:
    """The problem at that place, in the terms of the file, not of the library."""
    last = str(location[-1]) if location else ""
    if kind == "extra_forbidden":
        models: tuple[type[_Model], ...] = (_File, _Source, _Secret, _Keys)
        known = [to_camel(field) for model in models for field in model.model_fields]
        like = difflib.get_close_matches(last, known, n=1, cutoff=0.8)
        return f"no such key; did you mean {like[0]}?" if like else "no such key"
    if kind == "model_type" and last == "_Secret":
        return "must be {file: PATH} or {env: NAME}, never the secret itself"
    return _NAME_PROBLEM if kind == "string_pattern_mismatch" else plain_message(kind, message)


def _no_yaml(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """The place and the problem, without the text: it may be a secret in the wrong place."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return "not UTF-8, or control characters"
