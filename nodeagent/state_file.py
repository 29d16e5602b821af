"""Save on disk what outlives an agent: its last lines and the results of their pulls."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from adapters.logs import Log

_FORMAT: Final = 1
# Far above 256 lines; a larger file is not ours.
_MOST_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class State:
    """The saved state of an agent."""

    resource_version: int = 0
    """Of the ConfigMap with the lines; 0 if it was never seen."""
    lines: Mapping[str, str] = field(default_factory=dict)
    """Key to encoded line, as they were read."""
    pulled: Mapping[str, str] = field(default_factory=dict)
    """Version of a line to the digest that its pull brought."""
    not_runnable: Mapping[str, str] = field(default_factory=dict)
    """Version of a line whose last completed pull brought an image that cannot run, to the runtime's message."""
    refreshed: Mapping[str, str] = field(default_factory=dict)
    """Key of a line to the last refresh that was done for it."""


class StateFile:
    """`state.json` of one node: whole or absent, never half-written."""

    def __init__(self, folder: Path, node: str, log: Log) -> None:
        self._path, self._node, self._log = folder / "state.json", node, log
        self._saving = threading.Lock()

    def load(self) -> State:
        """The last saved state; an empty one if there is no file. An unusable file is renamed."""
        try:
            with self._path.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return State()
        except OSError as error:
            self._log.warning("state-not-read", path=str(self._path), error=str(error))
            return State()
        try:
            return self._parse(content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            aside = self._path.with_suffix(".unusable")
            with contextlib.suppress(OSError):
                os.replace(self._path, aside)
            self._log.warning("state-set-aside", path=str(aside), error=str(error)[:200])
            return State()

    def save(self, state: State) -> None:
        """Write the state to the disk before the old one is replaced. Raises `OSError`.

        A thread cannot be cancelled, so the last save may start before the previous one has ended.
        """
        with self._saving:
            self._save(state)

    def _save(self, state: State) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": _FORMAT,
            "node": self._node,
            "resourceVersion": state.resource_version,
            "lines": dict(state.lines),
            "pulled": dict(state.pulled),
            "notRunnable": dict(state.not_runnable),
            "refreshed": dict(state.refreshed),
        }
        unfinished = self._path.with_suffix(".tmp")
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(content, file, sort_keys=True, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _parse(self, content: bytes) -> State:
        if len(content) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        fields: Any = json.loads(content)
        if fields["format"] != _FORMAT:
            raise ValueError(f"format {fields['format']!r}, this agent writes {_FORMAT}")
        if fields["node"] != self._node:
            raise ValueError(f"of node {fields['node']!r}, this is {self._node!r}")
        resource_version = fields["resourceVersion"]
        # Python reads numbers like 1e999 from JSON, which no int can hold.
        if not isinstance(resource_version, int) or resource_version < 0:
            raise ValueError(f"resourceVersion {resource_version!r} is no number of a version")
        later = [dict(fields.get(name, {})) for name in ("notRunnable", "refreshed")]
        texts = [dict(fields["lines"]), dict(fields["pulled"]), *later]
        if not all(isinstance(text, str) for mapping in texts for pair in mapping.items() for text in pair):
            raise ValueError("a line, digest or message is no text")
        return State(resource_version, *texts)
