"""Decode YAML that a person wrote: plain values only, and no key twice."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

__all__ = ["decode"]


def decode(text: str) -> Any:
    """One YAML document. Raises `yaml.YAMLError`, also for a mapping that gives a key twice."""
    return yaml.load(text, Loader=_OnceLoader)  # noqa: S506 - a safe loader


class _OnceLoader(yaml.SafeLoader):
    """YAML's own loader takes the last of two equal keys; the sources of the first are gone without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        given: set[Hashable] = set()
        for key_node, _ in node.value:
            # A merged mapping (`<<`) is there to be overruled.
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in given:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key_node.value!r} is given twice", problem_mark=key_node.start_mark
                )
            given.add(key)
        return super().construct_mapping(node, deep)
