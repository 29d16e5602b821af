"""Keep the hints of the node's lines: where it gets an image from, and to which nodes it gives the image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adapters.clock import Clock
from warmhook.desired_lines import DesiredLine
from warmhook.hints import Hint, NotAHint, hint_key, read_hint
from warmhook.node_lines import Line


@dataclass(frozen=True, slots=True)
class LineHint:
    """The hint of one line."""

    line: Line
    hint: Hint
    digest: str
    """Of the image: that of the line, else that of the hint; empty if neither has one."""

    @property
    def key(self) -> str:
        """The key of the line, by which parents and children name the image."""
        return self.line.key


class Hints:
    """The hints of one node. Those that have expired count as absent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hints: Mapping[str, LineHint] = {}
        """By line key."""
        self._by_image: Mapping[str, list[LineHint]] = {}
        """In the order of line keys."""
        self._malformed: Mapping[str, str] = {}
        self._pushes: set[tuple[str, ...]] = set()
        """Of every line whose image is wanted, or may stay."""

    def select(self, data: Mapping[str, str], lines: Mapping[str, DesiredLine]) -> Mapping[str, str]:
        """Take the hints of these lines from the data of the ConfigMap.

        Returns why hints cannot be used, by their key, only of those that were not malformed in the same way before.
        """
        self._pushes = {_push(wanted.line) for wanted in lines.values() if not wanted.line.gives_up}
        hints: dict[str, LineHint] = {}
        malformed: dict[str, str] = {}
        for key, wanted in sorted(lines.items()):
            if (text := data.get(hint_key(key))) is None:
                continue
            try:
                hints[key] = _bound(wanted.line, read_hint(text))
            except NotAHint as error:
                malformed[hint_key(key)] = f"hint of {wanted.line.image}: {error}"
        by_image: defaultdict[str, list[LineHint]] = defaultdict(list)
        for found in hints.values():
            by_image[found.line.image].append(found)
        known, self._hints, self._by_image, self._malformed = self._malformed, hints, dict(by_image), malformed
        return {key: why for key, why in malformed.items() if known.get(key) != why}

    def of_line(self, key: str) -> LineHint | None:
        """The hint of the line with this key; `None` also if its image is not wanted for now."""
        found = self._hints.get(key)
        return found if found is not None and self._valid(found) and not found.line.gives_up else None

    def of_image(self, image: str) -> LineHint | None:
        """The first hint by line key: one transfer serves all lines of the image."""
        return next((found for found in self.all_of_image(image) if not found.line.idle), None)

    def all_of_image(self, image: str) -> list[LineHint]:
        """The hints of all lines of the image, in the order of their keys."""
        return [found for found in self._by_image.get(image, []) if self._valid(found)]

    def is_superseded(self, found: LineHint) -> bool:
        """Whether its line is gone or its tag was pushed again: then other nodes serve nothing by it any more."""
        return _push(found.line) not in self._pushes

    def later(self, lines: Iterable[DesiredLine]) -> dict[str, float]:
        """The images whose turn at the registry comes later by the hints of all of these lines, and when.

        Nodes that get nothing from others wait after a line came, so that others go first. In monotonic seconds.
        """
        turns: dict[str, float] = {}
        for wanted in lines:
            found = self._hints.get(wanted.line.key)
            wait_seconds = found.hint.wait_seconds if found is not None and self._valid(found) else 0
            turn = wanted.since + wait_seconds
            turns[wanted.line.image] = min(turn, turns.get(wanted.line.image, turn))
        now = self._clock.monotonic()
        return {image: turn for image, turn in turns.items() if turn > now}

    def next_expiry(self) -> float | None:
        """The seconds until the next hint expires; `None` without hints."""
        now = self._clock.utcnow().timestamp()
        return min((found.hint.expires_at - now for found in self._hints.values() if self._valid(found)), default=None)

    def _valid(self, found: LineHint) -> bool:
        return found.hint.expires_at > self._clock.utcnow().timestamp()


def _push(line: Line) -> tuple[str, ...]:
    return line.key, line.image, line.digest, line.pushed_at


def _bound(line: Line, hint: Hint) -> LineHint:
    """Raises `NotAHint` if the hint is for another version of the image."""
    if line.digest and hint.digest not in ("", line.digest):
        raise NotAHint("names another digest than the line")
    return LineHint(line, hint, line.digest or hint.digest)
