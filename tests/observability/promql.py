"""Find the metrics and labels that a PromQL expression names.

It knows as much of the grammar as our queries use; promtool and a real Prometheus parse them in other tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_COMMENT: Final = re.compile(r"#.*")
_RANGE: Final = re.compile(r"\[[^\]]*\]")
_OFFSET: Final = re.compile(r"\boffset\s+\w+")
_GROUPING: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR: Final = re.compile(r"(?P<metric>[a-zA-Z_:][\w:]*)\s*(?P<matchers>\{[^}]*\})?(?!\s*\()(?![\w:])")
_MATCHER: Final = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")')
_WORDS: Final = frozenset({"and", "or", "unless", "bool", "inf", "nan"})


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric with its matchers."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    """Label, operator, value."""


def selectors(expression: str) -> list[Selector]:
    """All selectors of an expression, in order."""
    strings: list[str] = []

    def keep(found: re.Match[str]) -> str:
        strings.append(found.group())
        return f'"{len(strings) - 1}"'

    text = _STRING.sub(keep, expression)
    for pattern in (_COMMENT, _RANGE, _OFFSET, _GROUPING):
        text = pattern.sub(" ", text)
    return [
        Selector(
            found["metric"],
            tuple(
                (label, operator, strings[int(number[1:-1])][1:-1])
                for label, operator, number in _MATCHER.findall(found["matchers"] or "")
            ),
        )
        for found in _SELECTOR.finditer(text)
        if found["metric"] not in _WORDS
    ]


def groupings(expression: str) -> set[str]:
    """The labels of `by`, `on` and their like."""
    return {label.strip() for listed in _GROUPING.findall(expression) for label in listed.split(",") if label.strip()}
