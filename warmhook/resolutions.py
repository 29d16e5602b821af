"""Decide what the last answer of a registry says about an image: what is asked, and what a new answer changes.

An answer holds as long as the same question would be asked: about the same image, of the same push.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeAlias

from warmhook.manifests import Resolved

ResolveProblem: TypeAlias = Literal["NotFound", "Unauthorized", "RateLimited", "Network", "Timeout", "Unusable"]
"""Why a registry did not say what it has: `Network` is also an answer of 500 and above, `Unusable` an answer that makes
no sense or is of a kind that is not read."""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A registry did not say what it has under a reference."""

    problem: ResolveProblem
    message: str
    """In the words of Warmhook, never of the registry, and without secrets."""
    retry_after_seconds: float | None = None
    """The least time that the registry wants to be left alone; `None` if it did not say."""
    answered: bool = False
    """Whether the registry answered, so that the problem may be that of this image alone."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about an image."""

    image: str
    """Its reference, with the digest of the event if there is one."""
    pushed_at: datetime | None = None
    """The time of the push; `None` if none is known, and for images of Pods."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """The last answer of a registry."""

    question: Question
    resolved: Resolved | None
    """`None` if the registry never answered this question."""
    checked_at: datetime
    problem: ResolveProblem | None = None
    """Why the last request failed; then `resolved` is what an earlier one said."""

    def news(self, before: Resolution | None) -> bool:
        """Whether it says something else than `before`, later or not."""
        return before is None or replace(before, checked_at=self.checked_at) != self


def after_answer(
    before: Resolution | None, question: Question, answer: Resolved | Unresolved, now: datetime
) -> Resolution:
    """The resolution after an answer. What was known stays if the registry is down, or no longer knows the image."""
    if isinstance(answer, Resolved):
        return Resolution(question, answer, now)
    known = before.resolved if before is not None and before.question == question else None
    return Resolution(question, known, now, answer.problem)
