"""Read the section `namespaces` of the configuration file: what WarmImages of each namespace may ask for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Final

import yaml
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from adapters.env import BadSetting
from adapters.strictyaml import decode
from handlers.configuration_model import Model
from warmhook.globs import NO_REPOSITORY_GLOB, REPOSITORY_GLOB
from warmhook.labels import NotASelector, Selector, parse_selector
from warmhook.limits import BYTES_PER_NODE, HIGHEST_PRIORITY, LINES_PER_NODE, Limits, Permission, Tenancy
from warmhook.node_lines import MAX_BYTES, MAX_LINES
from warmhook.shares import Room

GlobText = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class NamespaceSpec(Model):
    """The limits of the namespaces with these names."""

    names: list[GlobText] = Field(min_length=1)
    images: list[GlobText] = Field(default=["**"])
    nodes: dict[str, Any] | None = None
    lines_per_node: int = Field(default=LINES_PER_NODE, ge=0, le=MAX_LINES)
    bytes_per_node: int = Field(default=BYTES_PER_NODE, ge=0, le=MAX_BYTES)
    highest_priority: int = Field(default=HIGHEST_PRIORITY, ge=-1000, le=1000)
    allow: list[Permission] = Field(default=[])


_SECTION: Final = TypeAdapter(list[NamespaceSpec])


def read_tenancy(given: Iterable[NamespaceSpec]) -> Tenancy:
    """The limits of the section `namespaces`. Raises `BadSetting` with the key."""
    rules: list[tuple[str, Limits]] = []
    for index, each in enumerate(given):
        limits = Limits(
            _globs(each.images, f"namespaces[{index}].images"),
            _selector(each.nodes, f"namespaces[{index}].nodes"),
            Room(each.lines_per_node, each.bytes_per_node),
            each.highest_priority,
            frozenset(each.allow),
        )
        rules += [(name, limits) for name in each.names]
    return Tenancy(tuple(rules))


def read_tenancy_of(file: str) -> Tenancy:
    """The limits of the section `namespaces` of a whole configuration file, whose other sections are not read.

    Raises `BadSetting`.
    """
    try:
        loaded = decode(file)
        given = loaded.get("namespaces") if isinstance(loaded, dict) else None
        return read_tenancy(_SECTION.validate_python(given or []))
    except (yaml.YAMLError, ValidationError) as error:
        raise BadSetting("namespaces: cannot be read") from error


def _globs(given: list[str], where: str) -> tuple[str, ...]:
    for glob in given:
        if not re.search(REPOSITORY_GLOB, glob):
            raise BadSetting(f"{where}: {glob!r} {NO_REPOSITORY_GLOB}")
    return tuple(given)


def _selector(given: dict[str, Any] | None, where: str) -> Selector | None:
    if given is None:
        return None
    try:
        return parse_selector(given)
    except NotASelector as error:
        raise BadSetting(f"{where}: {error}") from error
