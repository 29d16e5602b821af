"""Decode YAML of a person: plain values only, and no duplicate keys."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


def decode(text: str) -> Any:
    """One YAML document. Raises `yaml.YAMLError`, also for a duplicate key."""
    return yaml.load(text, Loader=_OnceLoader)  # noqa: S506 - a safe loader


def decode_all(text: str) -> list[Any]:
    """All YAML documents. Raises `yaml.YAMLError`, also for a duplicate key."""
    return list(yaml.load_all(text, Loader=_OnceLoader))


class _OnceLoader(yaml.SafeLoader):
    """Reject duplicate keys: the loader of PyYAML would use the last one and drop the first silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        given: set[Hashable] = set()
        for key_node, _ in node.value:
            # Keys of a merged mapping (`<<`) may be overridden.
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in given:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key_node.value!r} is given twice", problem_mark=key_node.start_mark
                )
            given.add(key)
        return super().construct_mapping(node, deep)
