"""Decide which of a policy's rules want a push."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from warmhook.globs import Globs
from warmhook.images import Reference
from warmhook.semver import Range


@dataclass(frozen=True, slots=True)
class PushRule:
    """One rule for pushes of a policy."""

    repository: str
    """Glob for host and repository: `harbor.example.com/shop/**`."""
    tags: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    """Globs for tags; these win over `tags`."""
    semver: Range | None = None
    untagged: bool = False
    """Whether to take pushes without a tag: those of the children of a multi-platform index."""
    keep: int = 1
    """Newest builds kept per repository; all tags that one build pushed count as one."""
    unread: bool = False
    """Whether a part of the rule cannot be read: then it takes no push, and its earlier images stay."""


class PushRules:
    """All rules of one policy, compiled: a push costs two passes over its name, however many globs there are."""

    def __init__(self, rules: Iterable[PushRule]) -> None:
        self._rules = tuple(rules)
        self._repositories = Globs(rule.repository for rule in self._rules)
        self._wanted = [at for at, rule in enumerate(self._rules) for _ in rule.tags]
        """The rule of each glob for tags; those of `exclude` come after all of `tags`."""
        self._excluded = [at for at, rule in enumerate(self._rules) for _ in rule.exclude]
        tags = [glob for rule in self._rules for glob in rule.tags]
        self._tags = Globs([*tags, *(glob for rule in self._rules for glob in rule.exclude)])

    def of_repository(self, image: Reference) -> list[PushRule]:
        """The rules for the image's repository, whatever their tags."""
        return [self._rules[at] for at in self._repositories.matching(image.canonical.name)]

    def matching(self, image: Reference) -> list[PushRule]:
        """The rules that want this push, as far as they can be read."""
        rules = self._repositories.matching(image.canonical.name)
        if not rules:
            return []
        if not image.tag:
            return [self._rules[at] for at in rules if self._rules[at].untagged]
        globs, tags = self._tags.matching(image.tag), len(self._wanted)
        wanted = {self._wanted[glob] for glob in globs if glob < tags}
        wanted -= {self._excluded[glob - tags] for glob in globs if glob >= tags}
        return [rule for rule in (self._rules[at] for at in rules if at in wanted) if _in_range(rule, image.tag)]


RulePart: TypeAlias = Literal["repository", "untagged", "tags", "exclude", "semver", "unread"]


def refusing_part(rule: PushRule, image: Reference) -> RulePart | None:
    """The part of the rule that keeps a push of this image away; `None` if the rule takes it.

    Each part is tried alone, without the others.
    """
    if PushRules([rule]).matching(image):
        return "unread" if rule.unread else None
    if not PushRules([rule]).of_repository(image):
        return "repository"
    if not image.tag:
        return "untagged"
    alone: dict[RulePart, PushRule] = {
        "tags": replace(rule, exclude=(), semver=None),
        "exclude": replace(rule, tags=("*",), semver=None),
        "semver": replace(rule, tags=("*",), exclude=()),
    }
    return next(part for part, each in alone.items() if not PushRules([each]).matching(image))


def _in_range(rule: PushRule, tag: str) -> bool:
    return rule.semver is None or rule.semver.matches(tag)
