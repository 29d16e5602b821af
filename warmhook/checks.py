"""State what was checked, how it is, and what mends it: the form in which commands and pages answer."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

CheckState: TypeAlias = Literal["ok", "waiting", "wrong", "unknown", "skipped"]
"""`waiting`: not done, and nothing is wrong. `unknown`: could not be read. `skipped`: not needed, or not reached."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    subject: str
    """What was looked at, in a word or two: `delivery`, `runtime`, `agents`."""
    state: CheckState
    message: str
    """What was found, in one sentence without a full stop."""
    mend: str = ""
    """The command or the change that mends it; empty if nothing is wrong or nobody knows."""
    reason: str = ""
    """A word in CamelCase that programs compare, as the `reason` of a condition; empty if all is well."""

    def as_object(self) -> dict[str, str]:
        """For JSON and YAML, without what is empty."""
        fields = {"subject": self.subject, "state": self.state, "reason": self.reason}
        fields |= {"message": self.message, "mend": self.mend}
        return {name: value for name, value in fields.items() if value}


def first_problem(checks: Iterable[Check]) -> Check | None:
    """The first check that is wrong, else the first that waits, else the first that is unknown; `None`: all is well."""
    found = list(checks)
    return next((check for state in ("wrong", "waiting", "unknown") for check in found if check.state == state), None)


def unreached(subject: str) -> Check:
    """What is not looked at, because something before it is wrong."""
    return Check(subject, "skipped", "not reached")


def named(names: Iterable[str], count: int = 3) -> str:
    """The first names, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + more


def command(*words: str) -> str:
    """A command line that can be pasted into a shell: every word that needs it is quoted."""
    return shlex.join(words)
