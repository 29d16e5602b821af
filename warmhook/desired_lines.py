"""Decide which lines of a node's ConfigMap its agent pulls: at most `MAX_LINES`, shared between namespaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from warmhook.node_lines import MAX_LINES, Line, NotALine, read_line, version_of
from warmhook.shares import Claim, Room, served
from warmhook.warmimages import ObjectKey


@dataclass(frozen=True, slots=True)
class DesiredLine:
    """A line as the agent read it."""

    line: Line
    version: str
    """Over the text that was read: a newer handler's line may hold fields that this agent does not know."""
    since: float
    """Monotonic seconds at which this version was first seen; the oldest is pulled first."""

    @property
    def secrets(self) -> tuple[ObjectKey, ...]:
        """The Secrets with credentials for its image."""
        return tuple(ObjectKey(self.line.warmimage.namespace, name) for name in self.line.pull.secrets)


@dataclass(frozen=True, slots=True)
class Selection:
    """The lines of a ConfigMap, by key."""

    lines: Mapping[str, DesiredLine]
    surplus: Mapping[str, DesiredLine]
    """Lines beyond the limit; they are reported, never pulled."""
    malformed: Mapping[str, str]
    """Values that are not lines, with the reason."""


@dataclass(frozen=True, slots=True)
class Changes:
    """The number of lines that a new ConfigMap added, changed and removed."""

    added: int
    changed: int
    removed: int
    malformed: Mapping[str, str]
    """Key to reason, of lines and hints, only of values that were not malformed in the same way before."""


def compare_lines(
    before: Mapping[str, DesiredLine], after: Mapping[str, DesiredLine], malformed: Mapping[str, str]
) -> Changes:
    """The changes from one selection to the next."""
    changed = [key for key in after.keys() & before.keys() if after[key].version != before[key].version]
    return Changes(len(after.keys() - before.keys()), len(changed), len(before.keys() - after.keys()), malformed)


def select_lines(data: Mapping[str, str], before: Mapping[str, DesiredLine], now: float) -> Selection:
    """Read `data`, keys to encoded lines. A version that is in `before`, selected or not, keeps its age.

    Of each namespace the lines of the highest priority are selected, of equal priority the newest. A key with a dot
    (`<key>.hint`) is not a line; it belongs to one.
    """
    readable: dict[str, DesiredLine] = {}
    malformed: dict[str, str] = {}
    for key, text in data.items():
        if "." in key:
            continue
        try:
            line, version = read_line(key, text), version_of(text)
        except (NotALine, UnicodeError) as error:
            malformed[key] = str(error)
            continue
        last = before.get(key)
        since = last.since if last is not None and last.version == version else now
        readable[key] = DesiredLine(line, version, since)
    claims = (
        Claim(key, wanted.line.warmimage.namespace, wanted.line.pull.priority, wanted.since)
        for key, wanted in readable.items()
    )
    # The handlers bound the bytes.
    selected = served(claims, Room(MAX_LINES, 1))
    return Selection(
        lines={key: wanted for key, wanted in readable.items() if key in selected},
        surplus={key: wanted for key, wanted in readable.items() if key not in selected},
        malformed=malformed,
    )
