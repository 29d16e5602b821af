"""Read the file that `WARMHOOK_CONFIG` names."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml
from pydantic import Field, ValidationError

from adapters.env import BadSetting
from adapters.strictyaml import decode
from adapters.validation_errors import plain_message
from handlers.configuration_model import Model
from handlers.namespaces import NamespaceSpec, read_tenancy
from handlers.registries import RegistryHosts, RegistrySpec, read_registries
from handlers.sources import KeysSpec, SecretSpec, Sources, SourceSpec, read_sources
from warmhook.limits import NO_RULES, Tenancy

_NAME_PROBLEM: Final = "must be lower-case letters, digits and '-', at most 63 of them"


class _File(Model):
    sources: list[SourceSpec] = Field(default=[])
    namespaces: list[NamespaceSpec] = Field(default=[])
    registries: list[RegistrySpec] = Field(default=[])


# Of all keys that a misspelt one may mean.
_MODELS: Final[tuple[type[Model], ...]] = (_File, SourceSpec, SecretSpec, KeysSpec, NamespaceSpec, RegistrySpec)


@dataclass(frozen=True, slots=True)
class Configuration:
    """The content of the file."""

    sources: Sources = field(default_factory=dict)
    tenancy: Tenancy = NO_RULES
    registries: RegistryHosts = field(default_factory=dict)


def read_configuration(
    path: str | None, environ: Mapping[str, str], *, serve: Collection[str] = frozenset({"webhooks", "events"})
) -> Configuration:
    """The configuration of the file; without a file it is empty. Raises `BadSetting` with the key.

    A process needs the secrets of senders only if it serves webhooks, and those of registries only for events.
    """
    if path is None:
        return Configuration()
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
    try:
        sources = read_sources(file.sources, environ, check="webhooks" in serve)
        registries = read_registries(file.registries, sources, environ, check="events" in serve)
        return Configuration(sources, read_tenancy(file.namespaces), registries)
    except BadSetting as error:
        raise BadSetting(f"{path}: {error}") from error


def _key(location: tuple[int | str, ...]) -> str:
    # For a union pydantic also names the member: `SecretSpec`, `list[SecretSpec]`.
    parts = [part for part in location if isinstance(part, int) or "Spec" not in part]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".") or "the file"


def _problem(kind: str, location: tuple[int | str, ...], message: str) -> str:
    """The problem at that place, in the terms of the file, not of the library."""
    last = str(location[-1]) if location else ""
    if kind == "extra_forbidden":
        known = [str(field.alias) for model in _MODELS for field in model.model_fields.values()]
        like = difflib.get_close_matches(last, known, n=1, cutoff=0.8)
        return f"no such key; did you mean {like[0]}?" if like else "no such key"
    if kind == "model_type" and last in ("SecretSpec", "password"):
        return "must be {file: PATH} or {env: NAME}, never the secret itself"
    return _NAME_PROBLEM if kind == "string_pattern_mismatch" else plain_message(kind, message)


def _no_yaml(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """The place and the problem, without the text: it may be a secret in the wrong place."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return "not UTF-8, or control characters"
