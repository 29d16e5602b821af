"""Plan from which node each node gets an image, and add the hints to the writes of its lines.

A hint is written with the line of its node, so it costs no write. The exception are a few nodes that have the image
already and get a new child, which they would refuse otherwise.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Final

from adapters.kubernetes.errors import KubernetesError
from adapters.logs import get_logger
from handlers.reconcile.context import Context
from handlers.reconcile.hint_sources import (
    SOURCES_MAX,
    NodeHints,
    Wanted,
    changes_of_sources,
    ended_hints,
    find_sources,
    know_children,
)
from handlers.reconcile.node_configmaps import NodeChange
from handlers.reconcile.objects import DesiredConfigMap
from warmhook.distribution import Candidate, Plan, plan
from warmhook.hints import Hint
from warmhook.node_lines import MAX_BYTES, Line, line_key
from warmhook.node_report import Report
from warmhook.peer_rates import measured_rates
from warmhook.placement import Node
from warmhook.warmimages import WarmImage

_log = get_logger()

_SECONDS: Final = 5.0
"""For so long a projection plans; the lines of the other images are written without hints. A plan for 5,000 nodes takes
a quarter of a second, and other requests run between two plans."""
_LIFETIME_SECONDS: Final = 1800
_LONGEST_LIFETIME_SECONDS: Final = 6 * 3600
_LIFETIMES: Final = 3
"""A hint holds for so many times the estimate of the transfer, if that is longer."""
_LINE_BYTES: Final = 300
_HINT_BYTES: Final = 1024
"""Of most lines and hints; a ConfigMap that is too large after all is written once more."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a projection has read."""

    warmimages: Collection[WarmImage]
    nodes: Mapping[str, Node]
    """By name; at least those that get a line."""
    desired: Mapping[str, DesiredConfigMap]
    """By node; at least those of nodes that lose a line."""


@dataclass(slots=True)
class _Given:
    """The hints that a projection writes."""

    hints: dict[str, NodeHints]
    """By node."""
    room: dict[str, int]
    """By node how many more hints it has room for."""
    depths: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By node how many nodes are above it."""
    of_sources: dict[str, NodeHints] = field(default_factory=dict)
    """By node the hints that it gets only because of new children, with these."""

    def unwritten(self, hints: Mapping[str, Hint], nodes: Collection[str]) -> dict[str, Hint]:
        """Of the hints of one image, by node: those of the parents of `nodes` that are others, with these children.

        A parent that is not told of a child refuses it.
        """
        parents = {peer.node for name in nodes if name in hints for peer in hints[name].parents}
        return {name: _only_for(hints[name], nodes) for name in sorted((parents & hints.keys()).difference(nodes))}

    def has_turns(self, parents: Collection[str]) -> bool:
        """Whether these can be written because of new children as well."""
        return len(self.of_sources.keys() | parents) <= SOURCES_MAX

    def add(self, line_key: str, hints: Mapping[str, Hint], nodes: Collection[str]) -> None:
        """Add the hints of one image, by node: those of `nodes`, and of their parents if these are few.

        Many parents are those of a plan that is not written completely yet, and know these children by it.
        """
        written, parents = {name: hint for name, hint in hints.items() if name in nodes}, self.unwritten(hints, nodes)
        if self.has_turns(parents.keys()):
            for name, hint in parents.items():
                self.of_sources.setdefault(name, {})[line_key] = hint
        for name, hint in written.items():
            self.hints[name][line_key] = hint
            self.room[name] -= 1
        for name, depth in _depths(written).items():
            self.depths[name] = max(depth, self.depths[name])


class Hints:
    """Adds hints to changes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def add(self, changes: Mapping[str, NodeChange], scope: Scope) -> dict[str, NodeChange]:
        """The same changes with hints, and those of nodes that get a new child; each node comes after its parents.

        With a change go all hints of its node that have expired, and those of the lines that change. Nothing fails
        because of hints: a node without one pulls from the registry.
        """
        now = self._context.clock.utcnow().timestamp()
        off = without_hints(scope.warmimages)
        changing = {name: _changing(change, scope.desired.get(name)) for name, change in changes.items()}
        given = _Given(
            {name: ended_hints(scope.desired.get(name), {*off, *changing[name]}, now) for name in changes},
            {name: _room(change, scope.desired.get(name), now) for name, change in changes.items()},
        )
        due = _in_turns(_due(changing, scope, now))
        try:
            if due:
                await self._plan(due, scope, given)
            sources = await changes_of_sources(given.of_sources, self._context.reader, now)
            changes = {**sources, **changes}
            for name, change in sources.items():
                news = {key: hint for key, hint in change.hints.items() if hint is not None}
                given.hints[name] = {**change.hints, **given.hints.get(name, {}), **news}
        except KubernetesError as error:
            _log.warning("peers-not-read", problem=str(error))
        early = _ended_early(changes, scope, now)
        return {
            name: replace(changes[name], hints=given.hints.get(name, {}), early=early.get(name, {}))
            if name in early or given.hints.get(name)
            else changes[name]
            for name in sorted(changes, key=lambda name: (given.depths[name], name))
        }

    async def _plan(self, due: Collection[_Due], scope: Scope, given: _Given) -> None:
        """Add the hints of each image."""
        clock, reader = self._context.clock, self._context.reader
        until, now = clock.monotonic() + _SECONDS, clock.utcnow()
        reports = await reader.peers()
        serving = {name: one for name, one in reports.items() if one.peer is not None and one.reachable(now)}
        fleet = _Fleet(scope.nodes, reports, serving, now.timestamp())
        sources = await find_sources([each.wanted for each in due], scope.nodes, serving, reader)
        for one in due:
            nodes, key = frozenset(name for name in one.wanted.nodes if given.room[name] > 0), one.line.key
            each = replace(one, wanted=replace(one.wanted, nodes=nodes))
            found, hints = self._plan_one(each, fleet, sources) if clock.monotonic() < until else (None, {})
            parents = given.unwritten(hints, nodes)
            if not (given.has_turns(parents.keys()) or await know_children(parents, key, reader, fleet.now)):
                alone = replace(each, wanted=replace(each.wanted, under_way=frozenset()))
                few = await find_sources([alone.wanted], scope.nodes, serving, reader)
                found, hints = self._plan_one(alone, fleet, few[: SOURCES_MAX - len(given.of_sources)])
            self._context.count_plan("NotPlanned" if found is None else found.outcome)
            given.add(key, hints, nodes)
            await asyncio.sleep(0)

    def _plan_one(self, due: _Due, fleet: _Fleet, sources: Collection[Node]) -> tuple[Plan | None, dict[str, Hint]]:
        """The plan for one image and its hints by node; no plan because of a bug, which concerns this image alone."""
        image, source = due.warmimage.image.canonical, due.warmimage.template.source
        measured = [report.peer for report in fleet.serving.values() if report.peer is not None]
        rates = measured_rates(measured, image.host, self._context.rates)
        candidates = fleet.candidates(due, sources)
        try:
            found = plan(image.name, candidates, due.line.size_bytes, rates, source)
        except Exception:
            _log.exception("failed", what="plan", warmimage=str(due.warmimage.key))
            return None, {}
        if found.problem:
            _log.warning("plan-limited", warmimage=str(due.warmimage.key), problem=found.problem)
        return found, _hints_of(found, candidates, due.digest, fleet.now)


@dataclass(frozen=True, slots=True)
class _Due:
    """A line that is written, and whose image can be planned."""

    warmimage: WarmImage
    line: Line
    digest: str
    """Of the image, if the line does not have it."""
    wanted: Wanted

    @property
    def bytes(self) -> int:
        """What nodes get; 0 if no registry has told the size."""
        return len(self.wanted.nodes) * self.line.size_bytes


@dataclass(frozen=True, slots=True)
class _Fleet:
    """The nodes that plans are about."""

    nodes: Mapping[str, Node]
    """By name; at least those that get a line."""
    reports: Mapping[str, Report]
    serving: Mapping[str, Report]
    """The reports of nodes that serve images."""
    now: float

    def candidates(self, due: _Due, sources: Collection[Node]) -> list[Candidate]:
        """The nodes that get an image or may have it."""
        wanted, version = due.wanted, due.line.version
        others = [self.nodes[name] for name in sorted(wanted.under_way)] + wanted.held_by(sources, self.serving)
        getting = [self._candidate(self.nodes[name]) for name in sorted(wanted.nodes)]
        return getting + [self._candidate(node, version) for node in others]

    def _candidate(self, node: Node, version: str = "") -> Candidate:
        """A node that gets an image, or may have it: then `version` is that of the line."""
        report, serving = self.reports.get(node.name), self.serving.get(node.name)
        warm = report is not None and version in report.warm
        return Candidate(node, None if serving is None else serving.peer, warm)


def _changing(change: NodeChange, have: DesiredConfigMap | None) -> dict[str, Line | None]:
    """The lines of a node that change. A line that is sent again, in case its label is wrong, keeps its hint."""
    held = _lines(have)
    return {
        key: line for key, line in change.lines.items() if line is None or key not in held or line.version != held[key]
    }


def _due(changing: Mapping[str, Mapping[str, Line | None]], scope: Scope, now: float) -> Iterator[_Due]:
    lines: dict[str, Line] = {}
    nodes: defaultdict[str, set[str]] = defaultdict(set)
    for name, written in changing.items():
        for key, line in written.items():
            if line is not None:
                lines[key] = line
                nodes[key].add(name)
    for warmimage in scope.warmimages if lines else ():
        line = lines.get(line_key(warmimage.key))
        if line is None or line.idle or warmimage.template.source.mode == "registry":
            continue
        resolved, getting = warmimage.resolved, nodes[line.key]
        if _only_refreshed(warmimage):
            getting = {name for name in getting if line.key not in _lines(scope.desired.get(name))}
        digest = "" if line.digest or resolved is None else resolved.digest
        if getting and (line.digest or digest):
            under_way = _under_way(line, scope, now) - getting
            yield _Due(warmimage, line, digest, Wanted(line.version, frozenset(getting), under_way))


def _in_turns(due: Iterable[_Due]) -> list[_Due]:
    """Namespaces take turns, each with the image whose hints save most, in case there are more than can be planned."""
    by_namespace: defaultdict[str, list[_Due]] = defaultdict(list)
    for each in sorted(due, key=lambda each: -each.bytes):
        by_namespace[each.line.warmimage.namespace].append(each)
    turns = zip_longest(*by_namespace.values())
    return [each for turn in turns for each in turn if each is not None]


def _under_way(line: Line, scope: Scope, now: float) -> frozenset[str]:
    """The names of the nodes that have the line with a hint that holds."""
    key, version = line.key, line.version
    return frozenset(
        name
        for name, have in scope.desired.items()
        if have.hints.get(key, 0) > now and have.lines.get(key) == version and name in scope.nodes
    )


def _only_refreshed(warmimage: WarmImage) -> bool:
    """Whether the last news is that each node looks at the registry by itself, which seldom brings anything."""
    refreshed_at, pushed_at = warmimage.lifecycle.refreshed_at, warmimage.pushed_at
    by_nodes = warmimage.lifecycle.refreshed_by_nodes and refreshed_at is not None
    return by_nodes and (pushed_at is None or refreshed_at is None or pushed_at < refreshed_at)


def _lines(have: DesiredConfigMap | None) -> Mapping[str, str]:
    return have.lines if have is not None else {}


def _room(change: NodeChange, have: DesiredConfigMap | None, now: float) -> int:
    """How many hints a node has room for beside its lines and hints, about.

    At least half of what its lines leave: or else the hints of one namespace would keep those of all others away until
    they expire. If they do not fit after all, `surplus_hints` shares the room.
    """
    lines = len({*_lines(have), *change.lines})
    kept = sum(expires_at > now for expires_at in have.hints.values()) if have is not None else 0
    room = (MAX_BYTES - _LINE_BYTES * lines) // _HINT_BYTES
    return max(room - kept, room // 2)


def without_hints(warmimages: Collection[WarmImage]) -> frozenset[str]:
    """The keys of the lines that must have no hints."""
    return frozenset(line_key(one.key) for one in warmimages if one.template.source.mode == "registry")


def _ended_early(changes: Mapping[str, NodeChange], scope: Scope, now: float) -> dict[str, dict[str, None]]:
    """By node the keys of blobs whose push has ended, or did not end in time."""
    lasting = {line_key(one.key) for one in scope.warmimages if one.early_blobs and one.early_blobs.lasts(now)}
    known = {name: have.early for name in changes if (have := scope.desired.get(name)) is not None and have.early}
    return {
        name: dict.fromkeys(
            key for key, until in early.items() if until <= now or key in changes[name].lines.keys() - lasting
        )
        for name, early in known.items()
    }


def _hints_of(found: Plan, candidates: Collection[Candidate], digest: str, now: float) -> dict[str, Hint]:
    """The hints of a plan by node."""
    seconds = min(max(_LIFETIME_SECONDS, int(_LIFETIMES * found.seconds)), _LONGEST_LIFETIME_SECONDS)
    given = {each.node.name: found.hint(each.node.name, int(now) + seconds, digest) for each in candidates}
    return {name: hint for name, hint in given.items() if hint is not None}


def _only_for(hint: Hint, nodes: Collection[str]) -> Hint:
    """The hint of a node with those of its children that are among `nodes`."""
    return replace(hint, children=tuple(child for child in hint.children if child.node in nodes))


def _depths(hints: Mapping[str, Hint]) -> dict[str, int]:
    """By node the length of its path of first parents."""
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            parents = hints[name].parents if name in hints else ()
            depths[name] = 0
            depths[name] = 1 + depth(parents[0].node) if parents else 0
        return depths[name]

    return {name: depth(name) for name in hints}
