"""Match tags against ranges of semantic versions.

Versions are those of https://semver.org/spec/v2.0.0.html, a leading `v` ignored. Ranges are written as for npm
(https://github.com/npm/node-semver#ranges) and Masterminds/semver, which Helm and Flux use:

- `= != > >= < <= ~ ^` before a version, no operator meaning `=`; comma or space for and, `||` for or.
- A partial version (`1`, `1.2`, `1.x`, `*`) stands for all versions that begin so: `<3` is below 3.0.0,
  `>1.2` starts at 1.3.0, `<=1.2` includes all of 1.2, `!=1.2` excludes all of it.
- `~` keeps the minor version, or the major version if only that is given: `~1.2.3` is `>=1.2.3 <1.3.0`, `~1` is `1.x`.
- `^` keeps the leftmost number that is not 0, because 0.x versions break with their minor version:
  `^1.2.3` is `>=1.2.3 <2.0.0`, `^0.2.3` is `>=0.2.3 <0.3.0`, `^0.0.3` is `0.0.3`; numbers left out are free:
  `^0.0` is `0.0.x`, `^0` is `0.x`.
- A pre-release matches only if one of the comparators that apply to it (those between two `||`, except `!=`) names a
  pre-release of the same x.y.z.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import total_ordering
from typing import Final, Literal, TypeAlias, cast

Operator: TypeAlias = Literal["=", "!=", ">", ">=", "<", "<=", "~", "^"]

# Longest text that is read, in characters: tags have 128 at most, and Python refuses integers of 4,300 digits.
_TEXT_MAX: Final = 512

_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRERELEASE_PART = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    rf"v?(?P<major>{_NUMBER})\.(?P<minor>{_NUMBER})\.(?P<patch>{_NUMBER})"
    rf"(?:-(?P<prerelease>{_PRERELEASE_PART}(?:\.{_PRERELEASE_PART})*))?"
    r"(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)
_WILDCARD = r"[xX*]"
_PARTIAL = re.compile(
    rf"v?(?:{_WILDCARD}(?:\.{_WILDCARD}){{0,2}}"
    rf"|(?P<major>{_NUMBER})(?:\.(?:{_WILDCARD}(?:\.{_WILDCARD})?|(?P<minor>{_NUMBER})(?:\.{_WILDCARD})?))?)"
)
_COMPARATOR = re.compile(r"(?P<operator>[<>!]=|[=<>~^])?\s*(?P<version>[^\s,|<>=!~^]+)(?P<and>\s*,\s*|\s+)?", re.ASCII)


class NotARange(ValueError):
    """The text is not a range of versions; the message quotes it and names the problem."""


_Precedence: TypeAlias = tuple[tuple[int, int, int], bool, tuple[tuple[bool, int, str], ...]]


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A semantic version, ordered by precedence; build metadata counts neither for order nor for equality."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[int | str, ...] = ()
    """`1.0.0-rc.1` has `("rc", 1)`; empty for a release."""
    build: str = field(default="", compare=False)
    _precedence: _Precedence = field(init=False, repr=False, compare=False)
    """Computed once: a push is compared with thousands of conditions."""

    def __post_init__(self) -> None:
        parts = tuple((False, part, "") if isinstance(part, int) else (True, 0, part) for part in self.prerelease)
        # Clause 11: a release after its pre-releases, numbers before words, fewer parts before more.
        object.__setattr__(self, "_precedence", (self.numbers, not self.prerelease, parts))

    def __str__(self) -> str:
        prerelease = "-" + ".".join(map(str, self.prerelease)) if self.prerelease else ""
        return ".".join(map(str, self.numbers)) + prerelease + (f"+{self.build}" if self.build else "")

    def __lt__(self, other: Version) -> bool:
        if not isinstance(other, Version):
            return NotImplemented
        return self._precedence < other._precedence

    @property
    def numbers(self) -> tuple[int, int, int]:
        """Major, minor and patch version."""
        return self.major, self.minor, self.patch


@dataclass(frozen=True, slots=True)
class Comparator:
    """One condition of a range, `>=1.2`."""

    operator: Operator
    numbers: tuple[int, ...]
    """The numbers that were given: `(1, 2)` for `1.2` and `1.2.x`, none for `*`."""
    prerelease: tuple[int | str, ...] = ()
    """Only with three numbers."""
    _lowest: Version = field(init=False, repr=False, compare=False)
    """The lowest version that the text includes."""

    def __post_init__(self) -> None:
        major, minor, patch = (*self.numbers, 0, 0, 0)[:3]
        object.__setattr__(self, "_lowest", Version(major, minor, patch, self.prerelease))

    def __str__(self) -> str:
        operator = "" if self.operator == "=" else self.operator
        if len(self.numbers) == 3:
            return f"{operator}{self._lowest}"
        return operator + (".".join(map(str, self.numbers)) or "*")

    def holds(self, version: Version) -> bool:
        """Whether `version` satisfies this condition, a pre-release in its place in the order."""
        given = len(self.numbers)
        # Neither below nor above all versions that the text includes.
        not_below = not version < self._lowest
        not_above = not self._lowest < version if given == 3 else version.numbers[:given] <= self.numbers
        match self.operator:
            case "=" | "!=":
                return (not_below and not_above) is (self.operator == "=")
            case "<=" | ">":
                return not_above is (self.operator == "<=")
            case ">=" | "<":
                return not_below is (self.operator == ">=")
            case "~":
                kept = min(given, 2)
            case "^":
                kept = next((place + 1 for place, number in enumerate(self.numbers) if number), given)
        return not_below and version.numbers[:kept] == self.numbers[:kept]

    def names_prerelease_of(self, numbers: tuple[int, int, int]) -> bool:
        """Whether this condition allows pre-releases of that version."""
        return bool(self.prerelease) and self.numbers == numbers and self.operator != "!="


@dataclass(frozen=True, slots=True)
class Range:
    """Versions that a policy wants; build it with `parse_range`."""

    alternatives: tuple[tuple[Comparator, ...], ...]
    """At least one of them must hold, each with all its comparators."""

    def __str__(self) -> str:
        return " || ".join(" ".join(map(str, comparators)) for comparators in self.alternatives)

    def matches(self, tag: str) -> bool:
        """Whether `tag` is a semantic version within the range; `v1`, `1.2` and `latest` are none."""
        version = parse_version(tag)
        return version is not None and any(_all_hold(comparators, version) for comparators in self.alternatives)


def parse_version(text: str) -> Version | None:
    """Read a complete version, with or without a leading `v`; `None` if it is none, or has over 512 characters."""
    match = _VERSION.fullmatch(text) if len(text) <= _TEXT_MAX else None
    if not match:
        return None
    major, minor, patch = (int(match[name]) for name in ("major", "minor", "patch"))
    prerelease = tuple(
        int(part) if part.isdecimal() else part for part in (match["prerelease"] or "").split(".") if part
    )
    return Version(major, minor, patch, prerelease, match["build"] or "")


def parse_range(text: str) -> Range:
    """Read a range such as `>=1.2 <3 || ~4.1`. Build metadata in it is ignored. Raises `NotARange`."""
    if len(text) > _TEXT_MAX:
        raise NotARange(f"a range of {len(text)} characters, at most {_TEXT_MAX} are allowed")
    try:
        return Range(tuple(_read_comparators(part.strip()) for part in text.split("||")))
    except NotARange as error:
        raise NotARange(f"{text!r}: {error}") from None


def _all_hold(comparators: tuple[Comparator, ...], version: Version) -> bool:
    if version.prerelease and not any(comparator.names_prerelease_of(version.numbers) for comparator in comparators):
        return False
    return all(comparator.holds(version) for comparator in comparators)


def _read_comparators(text: str) -> tuple[Comparator, ...]:
    comparators: list[Comparator] = []
    at, more = 0, True
    while more:
        match = _COMPARATOR.match(text, at)
        if not match:
            raise NotARange(
                f"a version is missing at {text[at:]!r}" if text[at:] else "a version is missing at the end"
            )
        at = match.end()
        more = match["and"] is not None
        if not more and at < len(text):
            raise NotARange(f"comma or space is missing before {text[at:]!r}")
        comparators.append(_read_comparator(match["operator"] or "=", match["version"]))
    return tuple(comparators)


def _read_comparator(operator: str, text: str) -> Comparator:
    checked = cast("Operator", operator)  # one of those that _COMPARATOR lists
    version = parse_version(text)
    if version:
        return Comparator(checked, version.numbers, version.prerelease)
    match = _PARTIAL.fullmatch(text)
    if not match:
        raise NotARange(f"{text!r} is no version (such as 1.2.3, 1.2.3-rc.1, 1.2, 1.x or *)")
    return Comparator(checked, tuple(int(number) for number in match.group("major", "minor") if number))
