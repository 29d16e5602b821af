"""Save on disk what outlives an agent: its last lines and the results of their pulls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.logs import Log
from nodeagent.json_file import JsonFile


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
    """`state.json` of one node."""

    def __init__(self, folder: Path, node: str, log: Log) -> None:
        self._file = JsonFile(folder / "state.json", node, log)

    def load(self) -> State:
        """The last saved state; an empty one if there is no usable file."""
        return self._file.load(_parse, State())

    def save(self, state: State) -> None:
        """Write the state. Raises `OSError`."""
        self._file.save(
            {
                "resourceVersion": state.resource_version,
                "lines": dict(state.lines),
                "pulled": dict(state.pulled),
                "notRunnable": dict(state.not_runnable),
                "refreshed": dict(state.refreshed),
            }
        )


def _parse(fields: Mapping[str, Any]) -> State:
    resource_version = fields["resourceVersion"]
    # Python reads numbers like 1e999 from JSON, which no int can hold.
    if not isinstance(resource_version, int) or resource_version < 0:
        raise ValueError(f"resourceVersion {resource_version!r} is no number of a version")
    later = [dict(fields.get(name, {})) for name in ("notRunnable", "refreshed")]
    texts = [dict(fields["lines"]), dict(fields["pulled"]), *later]
    if not all(isinstance(text, str) for mapping in texts for pair in mapping.items() for text in pair):
        raise ValueError("a line, digest or message is no text")
    return State(resource_version, *texts)
