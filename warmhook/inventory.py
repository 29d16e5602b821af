"""Keep what nodes should hold and what they hold, small enough for thousands of nodes with hundreds of images.

Nodes that have the same lines, or report the same, share one tuple. Each change counts for the namespaces whose images
it is about, so that a reader hears of the changes that it may see, and of no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias, TypeVar

from warmhook.checks import Check
from warmhook.delivery_records import DeliveryRecord
from warmhook.node_lines import line_key
from warmhook.node_report import LineState
from warmhook.overview import Tally
from warmhook.status import Failure, is_silent
from warmhook.timeline import PushTimes
from warmhook.warmimages import ObjectKey

Lines: TypeAlias = tuple[tuple[str, str], ...]
"""Key and version of each line of a node, sorted."""
States: TypeAlias = tuple[tuple[str, LineState, str], ...]
"""Key, state and version of each line that a node reports and that is not warm, sorted."""
_Shared = TypeVar("_Shared", bound=tuple[object, ...])
_Item = TypeVar("_Item")

_SHARED_MAX: Final = 2000
"""Tuples that nodes may share; beyond that the sharing begins anew."""
# No namespace has such a name.
_NODES: Final = "/nodes"
_DELIVERIES: Final = "/deliveries"


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is kept of a Node."""

    name: str
    pool: str = ""
    """Empty: none that is known."""
    zone: str = ""
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DesiredFacts:
    """What is kept of the desired ConfigMap of a node."""

    lines: Lines = ()
    refused: tuple[str, ...] = ()
    """Keys of lines without room, sorted."""


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """What is kept of the report of a node."""

    seen: datetime | None = None
    warm: tuple[str, ...] = ()
    """Versions of warm lines, sorted."""
    states: States = ()


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is kept of a WarmImage."""

    key: ObjectKey
    image: str
    policy: str = ""
    digest: str = ""
    times: PushTimes = field(default_factory=PushTimes)
    counted: Tally = field(default_factory=Tally)
    """The counts of its status."""
    complete: bool = False
    """Whether it has ended and its lines have left the nodes, so that only its status has the counts."""
    limited_platforms: bool = False
    """Whether the registry named its platforms: nodes of others have no line and count as failed."""
    ready: bool = False
    reason: str = ""
    """Of its condition `Ready`."""
    message: str = ""
    """Of the same."""
    conditions: tuple[Check, ...] = ()
    failures: tuple[Failure, ...] = ()
    """Of its status: at most ten nodes."""

    @property
    def line_key(self) -> str:
        """Its key in the ConfigMaps of nodes."""
        return line_key(self.key)


@dataclass(frozen=True, slots=True)
class Rights:
    """What a reader may see."""

    namespaces: frozenset[str] | None = frozenset()
    """Whose WarmImages; `None`: all."""
    nodes: bool = False
    """The names of nodes, and the groups that they are in."""
    deliveries: bool = False

    def sees(self, namespace: str) -> bool:
        """Whether WarmImages of that namespace may be seen."""
        return self.namespaces is None or namespace in self.namespaces


ALL_RIGHTS: Final = Rights(None, nodes=True, deliveries=True)
_NO_DESIRED: Final = DesiredFacts()
_NO_REPORT: Final = ReportFacts()


@dataclass(frozen=True, slots=True)
class Changes:
    """How many changes each namespace had, and nodes and deliveries as a whole, until some moment."""

    counts: Mapping[str, int]

    def number(self, rights: Rights) -> int:
        """A number that grows with each change that a reader with these rights may see, and only then."""
        return sum(
            count
            for where, count in self.counts.items()
            if (rights.deliveries if where == _DELIVERIES else rights.nodes if where == _NODES else rights.sees(where))
        )


class Inventory:
    """Nodes, their lines and reports, WarmImages and deliveries, as they were last seen."""

    def __init__(self) -> None:
        self.nodes: dict[str, NodeFacts] = {}
        self.desired: dict[str, DesiredFacts] = {}
        """By the name of the node."""
        self.reports: dict[str, ReportFacts] = {}
        """By the name of the node."""
        self.images: dict[ObjectKey, ImageFacts] = {}
        self.by_line: dict[str, ObjectKey] = {}
        """The WarmImage of each line key."""
        self.deliveries: tuple[DeliveryRecord, ...] | None = None
        """Newest first; `None`: they cannot be read."""
        self.silent: frozenset[str] = frozenset()
        """The nodes that counted as unreachable when `note_time` was called last."""
        self._changes: Counter[str] = Counter()
        """As for `Changes`."""
        self._shared: dict[tuple[object, ...], tuple[object, ...]] = {}

    def changes(self) -> Changes:
        """The changes so far."""
        return Changes(dict(self._changes))

    def change_number(self, rights: Rights) -> int:
        """As for `Changes.number`, of the changes so far."""
        return Changes(self._changes).number(rights)

    def all_namespaces(self) -> list[str]:
        """Those with WarmImages, sorted."""
        return sorted({key.namespace for key in self.images})

    def desired_of(self, node: str) -> DesiredFacts:
        """What a node should hold; nothing if it has no desired ConfigMap."""
        return self.desired.get(node, _NO_DESIRED)

    def report_of(self, node: str) -> ReportFacts:
        """What a node reported; nothing if it has no report."""
        return self.reports.get(node, _NO_REPORT)

    def share(self, value: _Shared) -> _Shared:
        """An equal tuple that other nodes have, or this one."""
        if len(self._shared) >= _SHARED_MAX:
            self._shared.clear()
        return self._shared.setdefault(value, value)  # type: ignore[return-value]  # equal tuples have one type

    # --- changes ---

    def set_node(self, facts: NodeFacts) -> None:
        """A Node was added or changed."""
        if self.nodes.get(facts.name) != facts:
            self.nodes[facts.name] = facts
            self._changed_node(facts.name)

    def drop_node(self, name: str) -> None:
        """A Node was deleted."""
        if self.nodes.pop(name, None) is not None:
            self._changed_node(name)

    def set_desired(self, node: str, facts: DesiredFacts | None) -> None:
        """The lines of a node were written; `None`: its ConfigMap was deleted."""
        before, after = self.desired_of(node), facts or _NO_DESIRED
        if facts is None:
            self.desired.pop(node, None)
        else:
            self.desired[node] = facts
        if before != after:
            lines = {key for key, _version in _differing(before.lines, after.lines)}
            self._changed_lines(lines.union(_differing(before.refused, after.refused)))

    def set_report(self, node: str, facts: ReportFacts | None) -> None:
        """A node reported; `None`: its report was deleted. A sign of life alone changes nothing."""
        before, after = self.report_of(node), facts or _NO_REPORT
        if facts is None:
            self.reports.pop(node, None)
        else:
            self.reports[node] = facts
        if before.warm != after.warm or before.states != after.states:
            states = {key for key, _state, _version in _differing(before.states, after.states)}
            versions = frozenset(_differing(before.warm, after.warm))
            lines = self.desired_of(node).lines
            self._changed_lines(states.union(key for key, version in lines if version in versions))

    def set_image(self, facts: ImageFacts) -> None:
        """A WarmImage was added or changed."""
        if self.images.get(facts.key) != facts:
            self.images[facts.key] = facts
            self.by_line[facts.line_key] = facts.key
            self._changed(facts.key.namespace)

    def drop_image(self, key: ObjectKey) -> None:
        """A WarmImage was deleted."""
        facts = self.images.pop(key, None)
        if facts is not None:
            self.by_line.pop(facts.line_key, None)
            self._changed(key.namespace)

    def set_deliveries(self, records: tuple[DeliveryRecord, ...] | None) -> None:
        """The last deliveries; `None`: they cannot be read."""
        if self.deliveries != records:
            self.deliveries = records
            self._changed(_DELIVERIES)

    def note_time(self, now: datetime) -> None:
        """Find the nodes that are unreachable now."""
        silent = frozenset(
            name for name, node in self.nodes.items() if is_silent(node.created_at, self.reports.get(name), now)
        )
        for name in silent ^ self.silent:
            self._changed_node(name)
        self.silent = silent

    def _changed_node(self, name: str) -> None:
        self._changed(_NODES)
        facts = self.desired_of(name)
        self._changed_lines({*(key for key, _version in facts.lines), *facts.refused})

    def _changed_lines(self, keys: Iterable[str]) -> None:
        for namespace in {self.by_line[key].namespace for key in keys if key in self.by_line}:
            self._changed(namespace)

    def _changed(self, where: str) -> None:
        self._changes[where] += 1


def _differing(one: Iterable[_Item], other: Iterable[_Item]) -> set[_Item]:
    return set(one).symmetric_difference(other)
