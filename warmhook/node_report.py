"""Encode and read the report of a node: the ConfigMap `warmhook-report-<node>`, which only its agent writes.

The annotation `warmhook.dev/warm` lists the versions of all warm lines, with a `~` behind a version whose tag
brought another digest than the line has. Every other line has a label with its state and version. So the metadata of a
report names every line that the agent has seen, in a few hundred bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias, get_args

from warmhook.api import (
    KIND_LABEL,
    LINE_LABEL,
    PEER_ANNOTATION,
    SEEN_ANNOTATION,
    TRANSFERS_ANNOTATION,
    VERSION_ANNOTATION,
    WARM_ANNOTATION,
)
from warmhook.node_lines import node_metadata
from warmhook.peers import PeerReport, Transfer, read_peer, read_transfers
from warmhook.pull_failures import FailureReason
from warmhook.timestamps import format_time, parse_time

# An agent refreshes `seen` every 4 minutes; a report that missed two refreshes is stale.
REACHABLE_FOR: Final = timedelta(minutes=10)
_MESSAGE_MAX: Final = 200
_MOVED: Final = "~"
_REPORT: Final = "warmhook-report-"
_MESSAGE_BYTES: Final = 256
TEXT_BYTES: Final = 32 * 1024
"""The limit for all messages of a report together, as etcd stores them."""
_SHORTEST_BYTES: Final = 32
_NEWER_REASON: Final = re.compile(r"([A-Z][a-z]+){1,4}")
_AGENT_VERSION: Final = re.compile(r"[0-9A-Za-z.+-]{1,64}")

LineState: TypeAlias = Literal["warm", "waiting", "pulling", "failed"]
_LABELLED: Final = frozenset({"waiting", "pulling", "failed"})


@dataclass(frozen=True, slots=True)
class LineReport:
    """The state of one line."""

    version: str
    """8 hex digits: the version of the line that the agent read."""
    state: LineState
    reason: FailureReason | Literal[""] = ""
    attempts: int = 0
    message: str = ""
    moved: str = ""
    """The digest that the pull of the tag brought, if the line expected another one."""

    def detail(self) -> str | None:
        """The value in the data of the report; `None` if version and state are enough."""
        fields: dict[str, object] = {}
        if self.reason:
            fields["reason"] = self.reason
        if self.attempts:
            fields["attempts"] = self.attempts
        if self.message:
            fields["message"] = clean_message(self.message)
        if self.moved:
            fields["moved"] = self.moved
        if not fields:
            return None
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Report:
    """The metadata of one report."""

    node: str
    seen: datetime | None = None
    """The last sign of life of the agent."""
    warm: frozenset[str] = frozenset()
    """Versions of warm lines."""
    states: Mapping[str, tuple[LineState, str]] = field(default_factory=dict)
    """Line key to state and version, for every line that is not warm."""
    moved: frozenset[str] = frozenset()
    """Versions of those warm lines whose tag brought another digest than the line has."""
    peer: PeerReport | None = None
    """Where the agent serves images; `None` if it does not."""
    transfers: Mapping[str, Transfer] = field(default_factory=dict)
    """By version what was fetched for a line."""
    agent: str = ""
    """The version of the agent; empty if it is unknown."""

    def reachable(self, now: datetime) -> bool:
        """Whether this report is recent enough to be valid for its node."""
        return was_seen(self.seen, now)

    def knows(self, key: str, version: str) -> bool:
        """Whether the agent has seen the line in this version."""
        return version in self.warm or self.states.get(key, ("", ""))[1] == version

    def state(self, key: str, version: str) -> LineState:
        """The state of a line; waiting if the agent has not seen it in this version."""
        return "warm" if version in self.warm else line_state(self.states.get(key), version)


def was_seen(seen: datetime | None, now: datetime) -> bool:
    """Whether an agent that was seen then counts as alive.

    A time in the future counts like one in the past: if the clock of a node is wrong by hours, its times do not show
    that its agent is alive.
    """
    return seen is not None and abs(now - seen) < REACHABLE_FOR


def line_state(reported: tuple[LineState, str] | None, version: str) -> LineState:
    """The state of a line that is not warm, by the state and version in the report: waiting if that is of another."""
    state, of_version = reported or ("waiting", "")
    return state if of_version == version else "waiting"


def report_name(node: str) -> str:
    """The ConfigMap that the agent of `node` writes."""
    return f"{_REPORT}{node}"


def report_node(name: str) -> str:
    """The node that a ConfigMap of this name belongs to; empty if it is not a report."""
    return name.removeprefix(_REPORT) if name.startswith(_REPORT) else ""


def read_report(metadata: Mapping[str, Any]) -> Report:
    """A report from an object's metadata. Nodes are hostile input too: unreadable values are ignored.

    The name, which the API server keeps unique, identifies the node; an object with another name has an empty node.
    """
    annotations = metadata.get("annotations") or {}
    states: dict[str, tuple[LineState, str]] = {}
    for label, value in (metadata.get("labels") or {}).items():
        state, dash, version = value.partition("-")
        if label.startswith(LINE_LABEL) and dash and state in _LABELLED:
            states[label.removeprefix(LINE_LABEL)] = (state, version)
    try:
        seen = parse_time(annotations.get(SEEN_ANNOTATION, ""))
    except ValueError:
        seen = None
    warm, moved = _warm_versions(annotations.get(WARM_ANNOTATION, ""))
    peer, transfers = annotations.get(PEER_ANNOTATION, ""), annotations.get(TRANSFERS_ANNOTATION, "")
    node = report_node(metadata.get("name", ""))
    agent = annotations.get(VERSION_ANNOTATION, "")
    agent = agent if _AGENT_VERSION.fullmatch(agent) else ""
    return Report(node, seen, warm, states, moved, read_peer(peer), read_transfers(transfers), agent)


# Thousands of nodes have the same lines, so they share a few sets.
@lru_cache(maxsize=64)
def _warm_versions(text: str) -> tuple[frozenset[str], frozenset[str]]:
    """The versions that are warm, and those of them whose tag has moved."""
    listed = [version for version in text.split(",") if version]
    warm = frozenset(version.removesuffix(_MOVED) for version in listed)
    return warm, frozenset(version.removesuffix(_MOVED) for version in listed if version.endswith(_MOVED))


def read_detail(text: str) -> tuple[FailureReason, str]:
    """Reason and message of a failed line from the report's data; a reason outside the closed list is RuntimeError.

    If that is one of a newer agent, it is in the message.
    """
    try:
        fields = json.loads(text)
        reason, message = str(fields.get("reason", "")), str(fields.get("message", ""))
    except (ValueError, AttributeError, RecursionError):
        reason, message = "", "the report could not be read"
    known = next((known for known in get_args(FailureReason) if known == reason), None)
    if known is None and _NEWER_REASON.fullmatch(reason):
        message = f"{reason}: {message}"
    return known or "RuntimeError", clean_message(message)


def bounded(reports: Mapping[str, LineReport]) -> dict[str, LineReport]:
    """`reports` with their messages cut so that all together take at most `TEXT_BYTES`; only text is ever cut.

    With more messages each is shorter, by halves, so that one more message seldom changes the others. If even that is
    too much, the last by key are empty.
    """
    texts = {key: clean_message(line.message) for key, line in sorted(reports.items()) if line.message}
    limit_bytes = _MESSAGE_BYTES
    while limit_bytes > _SHORTEST_BYTES and limit_bytes * len(texts) > TEXT_BYTES:
        limit_bytes //= 2
    kept = {key: _cut(text, limit_bytes) for key, text in list(texts.items())[: TEXT_BYTES // limit_bytes]}
    return {
        key: line if line.message == kept.get(key, "") else replace(line, message=kept.get(key, ""))
        for key, line in reports.items()
    }


def reads_the_same(one: LineReport | None, other: LineReport | None) -> bool:
    """Whether both have the same state: a change of only reason, attempts or message may wait for the next renewal."""
    if one is None or other is None:
        return one is other
    return replace(one, reason="", attempts=0, message="") == replace(other, reason="", attempts=0, message="")


def report_patch(
    node: str,
    node_uid: str,
    seen: datetime,
    have: Mapping[str, LineReport],
    want: Mapping[str, LineReport],
) -> dict[str, Any]:
    """The JSON merge patch from the current to the new content of the report."""
    labels: dict[str, str | None] = {KIND_LABEL: "report"}
    data: dict[str, str | None] = {}
    for key in have.keys() | want.keys():
        before, after = have.get(key), want.get(key)
        if before == after:
            continue
        shown = after is not None and after.state != "warm"
        labels[LINE_LABEL + key] = f"{after.state}-{after.version}" if after is not None and shown else None
        data[key] = after.detail() if after is not None else None
    metadata = node_metadata(node, node_uid, labels)
    metadata["annotations"] |= {
        SEEN_ANNOTATION: format_time(seen),
        WARM_ANNOTATION: ",".join(
            sorted(line.version + (_MOVED if line.moved else "") for line in want.values() if line.state == "warm")
        ),
    }
    return {"metadata": metadata, "data": data} if data else {"metadata": metadata}


def seen_patch(node: str, node_uid: str, seen: datetime) -> dict[str, Any]:
    """The patch of an agent without news."""
    metadata = node_metadata(node, node_uid, {})
    metadata["annotations"][SEEN_ANNOTATION] = format_time(seen)
    return {"metadata": metadata}


def clean_message(text: str) -> str:
    """`text` without control characters, at most 200 characters: it comes from registries and nodes."""
    printable = text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(printable.split())[:_MESSAGE_MAX]


def _cut(text: str, limit_bytes: int) -> str:
    """The beginning of `text`, clean, that takes at most so many bytes as a JSON string in UTF-8."""
    # Printable text: only these two characters are escaped.
    while (size := len(text.encode()) + text.count('"') + text.count("\\") + 2) > limit_bytes:
        text = text[: min(len(text) - 1, len(text) * limit_bytes // size)]
    return text
