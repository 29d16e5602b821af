"""Does this name match that glob? Repositories and tags against the patterns of a policy.

`*` is any run of characters without `/`, `?` one character but `/`, `**` any run of characters, `/` included;
`[...]` is a set as in `fnmatch` (ranges, `[!...]`, a `]` that stands first). The whole text must match, upper and
lower case differ, and there is no escape: `[*]` is a star.

A `**/` that starts a pattern or follows a `/` may also stand for nothing, as in .gitignore: `shop/**/x` matches
`shop/x`, `shop/a/x` and `shop/a/b/x`. `shop/**` matches what is below `shop/`, not `shop` itself.

Patterns come from policy authors, and regular expressions with many stars can take exponential time, so patterns
run as a set of states instead, one bit per token: len(text) steps, whatever the pattern.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = ["matches"]

# Patterns kept compiled; all the policies of a large cluster use some hundreds of them.
_COMPILED_MAX: Final = 2048


def matches(pattern: str, text: str) -> bool:
    """Whether the whole of `text` matches `pattern`. Every string is a pattern, so nothing is raised."""
    return _compiled(pattern).matches(text)


@dataclass(frozen=True, slots=True)
class _Set:
    """What stands between `[` and `]`."""

    negated: bool
    ranges: tuple[tuple[str, str], ...]
    """First and last character, both included."""

    def has(self, character: str) -> bool:
        return any(first <= character <= last for first, last in self.ranges) is not self.negated


@dataclass(frozen=True, slots=True)
class _Glob:
    """A pattern as an automaton: bit n of a state set means that the first n tokens have matched."""

    size: int
    literals: dict[str, int]
    """For a character the tokens that are it."""
    question_marks: int
    sets: tuple[tuple[int, _Set], ...]
    stars: int
    """`*` and `**`."""
    double_stars: int
    skippable: int
    """Each `**` that may vanish together with the `/` after it."""

    def matches(self, text: str) -> bool:
        states = self._without_input(1)
        for character in text:
            moving = self.literals.get(character, 0)
            staying = self.double_stars
            if character != "/":
                moving |= self.question_marks
                staying = self.stars
            for bit, characters in self.sets:
                if states & bit and characters.has(character):
                    moving |= bit
            states = self._without_input((states & moving) << 1 | states & staying)
            if not states:
                return False
        return bool(states >> self.size & 1)

    def _without_input(self, states: int) -> int:
        """Add the states that are reached because stars may match nothing."""
        while True:
            reached = states | (states & self.stars) << 1 | (states & self.skippable) << 2
            if reached == states:
                return states
            states = reached


@lru_cache(maxsize=_COMPILED_MAX)
def _compiled(pattern: str) -> _Glob:
    tokens = _tokens(pattern)
    literals: dict[str, int] = {}
    sets: list[tuple[int, _Set]] = []
    question_marks = stars = double_stars = skippable = 0
    for place, token in enumerate(tokens):
        bit = 1 << place
        match token:
            case _Set():
                sets.append((bit, token))
            case "?":
                question_marks |= bit
            case "*":
                stars |= bit
            case "**":
                stars |= bit
                double_stars |= bit
                if tokens[place + 1 : place + 2] == ["=/"] and (place == 0 or tokens[place - 1] == "=/"):
                    skippable |= bit
            case _:
                literals[token[1]] = literals.get(token[1], 0) | bit
    return _Glob(len(tokens), literals, question_marks, tuple(sets), stars, double_stars, skippable)


def _tokens(pattern: str) -> list[str | _Set]:
    """`*`, `**`, `?`, sets, and other characters with a `=` before them so that no set or star is mistaken for one.

    Stars side by side become one, `**` where there are two or more.
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
    """Where the `]` is that ends the set opened at `start`; 0 where none does, and the `[` stands for itself."""
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
