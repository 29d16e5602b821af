"""Plan from which node each node gets an image, and add the hints to the writes of its lines.

A hint is written with the line of its node, so it costs no write. The exception are a few nodes that have the image
already and get a new child, which they would refuse otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from adapters.kubernetes.errors import KubernetesError
from adapters.logs import get_logger
from handlers.reconcile.context import Context
from handlers.reconcile.node_configmaps import NodeChange
from handlers.reconcile.objects import DesiredConfigMap, read_desired
from handlers.reconcile.reader import MAX_GETS
from warmhook.distribution import ZONE_LABEL, Candidate, Plan, plan
from warmhook.hints import CHILDREN_MAX, Child, Hint, NotAHint, hint_key, read_hint
from warmhook.node_lines import Line, line_key
from warmhook.node_report import Report
from warmhook.peer_rates import measured_rates
from warmhook.placement import Node
from warmhook.ports import Object
from warmhook.warmimages import WarmImage

_log = get_logger()

_SECONDS: Final = 5.0
"""For so long a projection plans; the lines of the other images are written without hints. A plan for 5,000 nodes takes
a tenth of a second, and other requests run between two plans."""
_LIFETIME_SECONDS: Final = 1800
_LONGEST_LIFETIME_SECONDS: Final = 6 * 3600
_LIFETIMES: Final = 3
"""A hint holds for so many times the estimate of the transfer, if that is longer."""
_SOURCES_MAX: Final = 8
"""Nodes that one projection writes only because they get a new child."""
_SOURCES_PER_IMAGE: Final = 2

_Hints: TypeAlias = dict[str, dict[str, Hint | None]]
"""By node the hints that change, by the keys of their lines; `None` removes one."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a projection has read."""

    warmimages: Collection[WarmImage]
    nodes: Mapping[str, Node]
    """By name; at least those that get a line."""
    desired: Mapping[str, DesiredConfigMap]
    """By node; at least those of nodes that lose a line."""


@dataclass(frozen=True, slots=True)
class _Due:
    """A line that is written, and whose image can be planned."""

    warmimage: WarmImage
    line: Line
    digest: str
    """Of the image, if the line does not have it."""
    nodes: frozenset[str]
    """The names of the nodes that get the line."""


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
        hints: _Hints = {name: _ended(scope.desired.get(name), {*off, *changing[name]}, now) for name in changes}
        depths: defaultdict[str, int] = defaultdict(int)
        # Where it saves most, in case there are more images than can be planned.
        due = sorted(_due(changing, scope.warmimages), key=lambda each: -len(each.nodes) * each.line.size_bytes)
        try:
            if due:
                await self._plan(due, scope, hints, depths)
            sources = {name: found for name, found in hints.items() if name not in changes}
            changes = {**changes, **await self._changes_of_sources(sources, now)}
        except KubernetesError as error:
            _log.warning("peers-not-read", problem=str(error))
        order = sorted(changes, key=lambda name: (depths[name], name))
        early = _ended_early(changes, scope, now)
        return {
            name: replace(changes[name], hints=hints.get(name, {}), early=early.get(name, {}))
            if name in early or hints.get(name)
            else changes[name]
            for name in order
        }

    async def _plan(self, due: Collection[_Due], scope: Scope, hints: _Hints, depths: defaultdict[str, int]) -> None:
        """Add the hints of each image, and the number of nodes that are above each node."""
        clock = self._context.clock
        until, now = clock.monotonic() + _SECONDS, clock.utcnow()
        reports = await self._context.reader.peers()
        serving = {name: one for name, one in reports.items() if one.peer is not None and one.reachable(now)}
        sources = await self._sources(due, scope, serving)
        for each in due:
            candidates = [_candidate(scope.nodes[name], serving) for name in sorted(each.nodes)]
            candidates += [replace(_candidate(node, serving), warm=True) for node in _having(each, sources, serving)]
            found = self._plan_one(each, candidates, serving) if clock.monotonic() < until else None
            self._context.count_plan("NotPlanned" if found is None else found.outcome)
            if found is not None:
                given = _hints_of(found, candidates, each.digest, now.timestamp())
                for name, hint in given.items():
                    hints.setdefault(name, {})[each.line.key] = hint
                for name, depth in _depths(given).items():
                    depths[name] = max(depth, depths[name])
            await asyncio.sleep(0)

    def _plan_one(self, due: _Due, candidates: Collection[Candidate], serving: Mapping[str, Report]) -> Plan | None:
        """The plan for one image; `None` if there is none because of a bug, which concerns this image alone."""
        image, source = due.warmimage.image.canonical, due.warmimage.template.source
        measured = [report.peer for report in serving.values() if report.peer is not None]
        rates = measured_rates(measured, image.host, self._context.rates)
        try:
            found = plan(image.name, candidates, due.line.size_bytes, rates, source)
        except Exception:
            _log.exception("failed", what="plan", warmimage=str(due.warmimage.key))
            return None
        if found.problem:
            _log.warning("plan-limited", warmimage=str(due.warmimage.key), problem=found.problem)
        return found

    async def _sources(self, due: Collection[_Due], scope: Scope, serving: Mapping[str, Report]) -> list[Node]:
        """Nodes that have the images already: few for all of them, since each may cost a write."""
        versions = {each.line.version for each in due}
        getting = frozenset[str]().union(*(each.nodes for each in due))
        warm = [name for name, report in serving.items() if not report.warm.isdisjoint(versions)]
        first = min(getting)
        # Others for each new node, so that not the same few nodes serve all that join.
        warm.sort(key=lambda name: hashlib.sha256(f"{first}\n{name}".encode()).digest())
        known = [scope.nodes[name] for name in warm if name in scope.nodes and name not in getting]
        if not known:
            others = [name for name in warm if name not in getting][:MAX_GETS]
            known = list((await self._context.reader.nodes_of(others)).values())
            known.sort(key=lambda node: others.index(node.name))
        zones = {_zone(scope.nodes[name]) for name in getting}
        known.sort(key=lambda node: _zone(node) not in zones)
        chosen = list[Node]()
        for each in due:
            having = len(_having(each, chosen, serving))
            for node in _having(each, known, serving):
                if having >= _SOURCES_PER_IMAGE or len(chosen) == _SOURCES_MAX:
                    break
                if node not in chosen:
                    chosen.append(node)
                    having += 1
        return chosen

    async def _changes_of_sources(self, sources: _Hints, now: float) -> dict[str, NodeChange]:
        """The changes of nodes that get new children and keep the others; hints are added to `sources` in place."""
        objects = await asyncio.gather(*map(self._desired, sources))
        changes = {}
        for name, obj in zip(sources, objects, strict=True):
            have = read_desired(obj["metadata"]) if obj is not None else None
            if obj is None or have is None:
                continue
            changes[name] = NodeChange(have.owner_uid, {})
            new = {key: hint and _with_children_of(hint, obj, key, now) for key, hint in sources[name].items()}
            sources[name].update(_ended(have, (), now) | new)
        return changes

    async def _desired(self, node: str) -> Object | None:
        try:
            return await self._context.reader.desired_object(node)
        except KubernetesError:
            return None


def _changing(change: NodeChange, have: DesiredConfigMap | None) -> dict[str, Line | None]:
    """The lines of a node that change. A line that is sent again, in case its label is wrong, keeps its hint."""
    held = have.lines if have is not None else {}
    return {
        key: line for key, line in change.lines.items() if line is None or key not in held or line.version != held[key]
    }


def _due(changing: Mapping[str, Mapping[str, Line | None]], warmimages: Collection[WarmImage]) -> Iterator[_Due]:
    lines: dict[str, Line] = {}
    nodes: defaultdict[str, set[str]] = defaultdict(set)
    for name, written in changing.items():
        for key, line in written.items():
            if line is not None:
                lines[key] = line
                nodes[key].add(name)
    for warmimage in warmimages if lines else ():
        line = lines.get(line_key(warmimage.key))
        if line is None or line.idle or warmimage.template.source.mode == "registry":
            continue
        resolved = warmimage.resolved
        digest = "" if line.digest or resolved is None else resolved.digest
        if line.digest or digest:
            yield _Due(warmimage, line, digest, frozenset(nodes[line.key]))


def without_hints(warmimages: Collection[WarmImage]) -> frozenset[str]:
    """The keys of the lines that must have no hints."""
    return frozenset(line_key(one.key) for one in warmimages if one.template.source.mode == "registry")


def _ended(have: DesiredConfigMap | None, keys: Collection[str], now: float) -> dict[str, Hint | None]:
    """The hints of a node that have expired, or belong to these lines."""
    known = have.hints if have is not None else {}
    return {key: None for key, expires_at in known.items() if expires_at <= now or key in keys}


def _ended_early(changes: Mapping[str, NodeChange], scope: Scope, now: float) -> dict[str, dict[str, None]]:
    """By node the keys of blobs whose push has ended, or did not end in time."""
    lasting = {line_key(one.key) for one in scope.warmimages if one.early_blobs and one.early_blobs.expires_at > now}
    known = {name: have.early for name in changes if (have := scope.desired.get(name)) is not None and have.early}
    return {
        name: dict.fromkeys(
            key for key, until in early.items() if until <= now or key in changes[name].lines.keys() - lasting
        )
        for name, early in known.items()
    }


def _candidate(node: Node, serving: Mapping[str, Report]) -> Candidate:
    report = serving.get(node.name)
    return Candidate(node, report.peer if report is not None else None)


def _having(due: _Due, nodes: Collection[Node], serving: Mapping[str, Report]) -> list[Node]:
    """Those of `nodes` that have the image and do not get its line now."""
    version = due.line.version
    return [node for node in nodes if node.name not in due.nodes and version in serving[node.name].warm]


def _hints_of(found: Plan, candidates: Collection[Candidate], digest: str, now: float) -> dict[str, Hint]:
    """The hints of a plan by node."""
    seconds = min(max(_LIFETIME_SECONDS, int(_LIFETIMES * found.seconds)), _LONGEST_LIFETIME_SECONDS)
    given = {each.node.name: found.hint(each.node.name, int(now) + seconds, digest) for each in candidates}
    return {name: hint for name, hint in given.items() if hint is not None}


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


def _with_children_of(hint: Hint, obj: Object, key: str, now: float) -> Hint:
    """The hint of a node that goes on serving the children that it has in its ConfigMap."""
    data: Mapping[str, Any] = obj.get("data") or {}
    try:
        known = read_hint(data.get(hint_key(key), ""))
    except NotAHint:
        return hint
    if known.expires_at <= now or known.digest != hint.digest:
        return hint
    children: dict[str, Child] = {child.node: child for child in (*known.children, *hint.children)}
    expires_at = max(hint.expires_at, known.expires_at)
    return replace(hint, children=tuple(children.values())[-CHILDREN_MAX:], expires_at=expires_at)


def _zone(node: Node) -> str:
    return node.labels.get(ZONE_LABEL, "")
