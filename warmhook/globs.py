"""Match names against globs: repositories and tags against the patterns of a policy.

`*` is any sequence of characters without `/`, `?` one character but `/`, `**` any sequence of characters including
`/`; `[...]` is a set as in `fnmatch` (ranges, `[!...]`, a `]` in first place). The whole text must match, upper and
lower case differ, and there is no escape: `[*]` is a star.

A `**/` that starts a pattern or follows a `/` may also be empty, as in .gitignore: `shop/**/x` matches
`shop/x`, `shop/a/x` and `shop/a/b/x`. `shop/**` matches what is below `shop/`, not `shop` itself.

Patterns come from policy authors, and regular expressions with many stars can take exponential time, so patterns
run as a set of states instead, one bit per token: len(text) steps, whatever the patterns and however many.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

REPOSITORY_GLOB: Final = r"^([^/]*[.:*?\[][^/]*|localhost)(/[^/].*)?$"
"""Globs for host and repository that an image can match: without a dot, a port or a wildcard `shop` in `shop/**` is the
host of none."""
NO_REPOSITORY_GLOB: Final = (
    "must begin with the host of the registry, such as harbor.example.com/shop/** or docker.io/library/*, "
    "without https://"
)


@dataclass(frozen=True, slots=True)
class _Set:
    """The content between `[` and `]`."""

    negated: bool
    ranges: tuple[tuple[str, str], ...]
    """First and last character, both included."""

    def has(self, character: str) -> bool:
        return any(first <= character <= last for first, last in self.ranges) is not self.negated


class Globs:
    """Patterns as one automaton, which reads a text once for all of them.

    The patterns follow each other; state n of a pattern means that its first n tokens have matched.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Every string is a valid pattern, so this raises nothing."""
        self._literals: dict[str, int] = {}
        """By character: the tokens that equal it."""
        self._sets: list[tuple[int, _Set]] = []
        self._question_marks = self._stars = self._double_stars = self._skippable = 0
        """`_stars` are `*` and `**`; `_skippable` is each `**` that may vanish together with the `/` after it."""
        self._starts = 0
        self._ends: dict[int, int] = {}
        """The position of the last state of a pattern, and the number of the pattern."""
        self._moving: dict[str, int] = {}
        """By ASCII character: all tokens that accept it, computed on first use."""
        place = 0
        for number, pattern in enumerate(patterns):
            tokens = _tokens(pattern)
            self._starts |= 1 << place
            for at, token in enumerate(tokens):
                self._add(1 << place + at, token, tokens, at)
            place += len(tokens)
            self._ends[place] = number
            place += 1

    def _add(self, bit: int, token: str | _Set, tokens: list[str | _Set], at: int) -> None:
        match token:
            case _Set():
                self._sets.append((bit, token))
            case "?":
                self._question_marks |= bit
            case "*":
                self._stars |= bit
            case "**":
                self._stars |= bit
                self._double_stars |= bit
                if tokens[at + 1 : at + 2] == ["=/"] and (at == 0 or tokens[at - 1] == "=/"):
                    self._skippable |= bit
            case _:
                self._literals[token[1]] = self._literals.get(token[1], 0) | bit

    def matching(self, text: str) -> list[int]:
        """Numbers of the patterns that match the whole of `text`, in their order."""
        states = self._without_input(self._starts)
        for character in text:
            staying = self._double_stars if character == "/" else self._stars
            # A `**` that has taken characters may end, but no longer vanish together with the `/` after it.
            stayed = states & staying
            states = self._without_input((states & self._taking(character)) << 1) | stayed | stayed << 1
            if not states:
                return []
        return [number for place, number in self._ends.items() if states >> place & 1]

    def _taking(self, character: str) -> int:
        known = self._moving.get(character)
        if known is not None:
            return known
        moving = self._literals.get(character, 0)
        if character != "/":
            moving |= self._question_marks
        for bit, characters in self._sets:
            if characters.has(character):
                moving |= bit
        if character.isascii():
            self._moving[character] = moving
        return moving

    def _without_input(self, states: int) -> int:
        """Add the states that are reached because stars may match nothing."""
        while True:
            reached = states | (states & self._stars) << 1 | (states & self._skippable) << 2
            if reached == states:
                return states
            states = reached


def _tokens(pattern: str) -> list[str | _Set]:
    """`*`, `**`, `?`, sets, and other characters with a `=` before them so that no set or star is mistaken for one.

    Adjacent stars become one, `**` if there are two or more.
    """
    tokens: list[str | _Set] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        end = _set_end(pattern, at) if character == "[" else 0
        if end:
            tokens.append(_read_set(pattern[at + 1 : end]))
            at = end
        elif character == "*" and tokens and tokens[-1] in {"*", "**"}:
            tokens[-1] = "**"
        else:
            tokens.append(character if character in "*?" else f"={character}")
        at += 1
    return tokens


def _set_end(pattern: str, start: int) -> int:
    """The position of the `]` that ends the set opened at `start`; 0 if none does, and the `[` is literal."""
    first = start + 1
    if pattern[first : first + 1] == "!":
        first += 1
    return max(0, pattern.find("]", first + 1))


def _read_set(content: str) -> _Set:
    negated = content.startswith("!")
    if negated:
        content = content[1:]
    ranges: list[tuple[str, str]] = []
    at = 0
    while at < len(content):
        last = at + 2 if content[at + 1 : at + 2] == "-" and at + 2 < len(content) else at
        ranges.append((content[at], content[last]))
        at = last + 1
    return _Set(negated, tuple(ranges))
