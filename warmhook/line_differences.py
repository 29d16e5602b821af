"""Compare what a node should hold with what it reports."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from warmhook.node_lines import NotALine, read_line, version_of
from warmhook.node_report import LineState, Report, clean_message, read_detail
from warmhook.warmimages import ObjectKey

Difference: TypeAlias = Literal[
    "failed", "noRoom", "moved", "missing", "pulling", "unseen", "kept", "uncounted", "silent"
]
DIFFERENCES: Final[Mapping[Difference, str]] = {
    "failed": "the node could not pull the image, and goes on trying",
    "noRoom": "the ConfigMap of the node has no room for the line",
    "moved": "the tag brought another digest than the line has",
    "missing": "the agent knows the line, and does not pull now: not yet, between two attempts, or suspended",
    "pulling": "the node pulls the image now",
    "unseen": "the report is older than the line",
    "kept": "the image is purged, and still there",
    "uncounted": "the handlers have not counted the nodes of the WarmImage since it was made or changed",
    "silent": "the agent has reported nothing for 10 minutes, so nothing is known of the node",
}
"""What each means, the worst first."""


@dataclass(frozen=True, slots=True)
class NodeLine:
    """One image that a node should hold, and how it is there."""

    warmimage: ObjectKey
    image: str
    state: LineState
    difference: Difference | None
    """`None`: the node holds it as it should."""
    reason: str = ""
    message: str = ""

    def as_object(self) -> dict[str, Any]:
        """For JSON and YAML; what is empty is absent."""
        fields = {
            "namespace": self.warmimage.namespace,
            "name": self.warmimage.name,
            "image": self.image,
            "state": self.state,
            "difference": self.difference,
            "reason": self.reason,
            "message": self.message,
        }
        return {name: value for name, value in fields.items() if value}


def differences(
    lines: Mapping[str, str], refused: Collection[str], report: Report, purged: Collection[str]
) -> Iterator[tuple[str, Difference]]:
    """The lines of one node that are not as they should be, by key.

    `lines` has their versions, `refused` the keys of lines without room, `purged` those of images that are not wanted
    for now. The report must be recent.
    """
    for key in refused:
        if key not in lines:
            yield key, "noRoom"
    for key, version in lines.items():
        if (found := line_difference(report, key, version, purged=key in purged)) is not None:
            yield key, found


def line_difference(report: Report, key: str, version: str, *, purged: bool) -> Difference | None:
    """How the node differs from one line; `None` if it does not."""
    if version in report.warm:
        if purged:
            return "kept"
        return "moved" if version in report.moved else None
    if not report.knows(key, version):
        return "unseen"
    if purged:
        return None
    found: dict[LineState, Difference] = {"failed": "failed", "pulling": "pulling"}
    return found.get(report.state(key, version), "missing")


def node_lines(data: Mapping[str, str], report: Report, details: Mapping[str, str]) -> list[NodeLine]:
    """The lines of one node from the data of its desired ConfigMap, what differs first; `details`: of its report.

    A line that cannot be read, because a newer version or a person wrote it, is one that the agent does not see.
    """
    found = []
    for key, text in data.items():
        if "." in key:
            continue
        try:
            line, version = read_line(key, text), version_of(text)
        except (NotALine, UnicodeError) as error:
            found.append(NodeLine(ObjectKey("", key), "", "waiting", "unseen", "Malformed", clean_message(str(error))))
            continue
        state = report.state(key, version)
        differs = line_difference(report, key, version, purged=line.gives_up)
        reason, message = _detail(details.get(key, ""), state)
        if differs == "unseen":
            reason, message = "", DIFFERENCES["unseen"]
        found.append(NodeLine(line.warmimage, line.image, state, differs, reason, message))
    order = list(DIFFERENCES)
    return sorted(
        found,
        key=lambda each: (order.index(each.difference) if each.difference else len(order), each.image, each.warmimage),
    )


def _detail(text: str, state: LineState) -> tuple[str, str]:
    """Reason and message of a line in a report; both empty if it has none."""
    if state == "failed":
        return read_detail(text or "{}")
    try:
        fields = json.loads(text) if text else {}
        return (read_detail(text)[0] if "reason" in fields else ""), clean_message(str(fields.get("message", "")))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return "", ""
