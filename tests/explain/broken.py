"""The rows of the table: how something is broken, and the culprit that `explain` should name.

Handlers, agent and API server are real ones; a docstring says what is written in the place of others.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from tests.explain.scene import Scene

Break: TypeAlias = Callable[[Scene], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Broken:
    """One row."""

    break_it: Break
    subject: str
    reason: str
    word: str
    """Of the command that mends it."""
    given: dict[str, Any] = field(default_factory=dict)
    """For `in_scene`."""


TABLE: Final[dict[str, Broken]] = {}
"""By what is broken."""


def culprit(subject: str, reason: str, word: str, **given: Any) -> Callable[[Break], Break]:
    """Add a row, which is named like its function."""

    def add(break_it: Break) -> Break:
        TABLE[break_it.__name__] = Broken(break_it, subject, reason, word, given)
        return break_it

    return add
