"""Project WarmImages onto nodes: make the ConfigMap of each node have exactly the wanted lines.

Level-triggered and idempotent: the same code serves a push, a new node, a changed policy, a deleted image and the sync.
A node that is correct costs no write.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from adapters.kubernetes.errors import Unavailable
from handlers.reconcile.context import Context
from handlers.reconcile.full_lines import FullState, full_change, kept_lines, uncertain_lines, untouched, wanted_lines
from handlers.reconcile.hints import Hints, Scope, without_hints
from handlers.reconcile.node_configmaps import NodeChange, NodeWrites
from handlers.reconcile.objects import DesiredConfigMap, WarmImages, WarmImageVersion
from handlers.reconcile.outcomes import Outcomes
from handlers.reconcile.reader import FROM_CACHE, MAX_GETS
from handlers.reconcile.resolver import Resolver
from warmhook.node_lines import diff, line_key
from warmhook.placement import Node, RunningNodes, node_selector, pod_queries, reads_taints
from warmhook.warmimages import ObjectKey, WarmImage

# After this the rest is left to the repeat of the event, which finds less to do.
_SECONDS: Final = 20.0
# The API server lists up to so many different node selectors; beyond that all nodes are matched here.
_SELECTORS: Final = 4
_BEGUN_KNOWN: Final = 2000

FirstPass: TypeAlias = Literal["none", "cached", "noted"]
"""The reads of the first of two passes.

`cached`: what the API server has in its cache. `noted`: Nodes with all changes that were noted (`Reader.note_change`),
which serve both passes, and no index for new WarmImages. `none`: there is one pass.
"""


@dataclass(frozen=True, slots=True)
class _Batch:
    """WarmImages that are projected together."""

    keys: Collection[ObjectKey]
    found: WarmImages
    """Those that exist."""
    deadline: float
    outcomes: Outcomes
    running: RunningNodes = field(default_factory=dict)
    """The nodes of the Pods that their placement depends on."""

    @property
    def present(self) -> list[WarmImage]:
        """Those that can be used."""
        return [self.found.usable[key] for key in self.keys if key in self.found.usable]

    @property
    def line_keys(self) -> dict[str, ObjectKey]:
        """By the keys of their lines all whose lines may change."""
        return {line_key(key): key for key in self.keys if key not in self.found.unusable}


class Projection:
    """Projects WarmImages onto nodes."""

    def __init__(self, context: Context, writes: NodeWrites, resolver: Resolver) -> None:
        self._reader = context.reader
        self._resolver = resolver
        self._monotonic = context.clock.monotonic
        self._writes = writes
        self._hints = Hints(context)
        self._projected: set[ObjectKey] = set()
        """The WarmImages that are being projected."""
        self._ended = asyncio.Condition()
        self._begun: dict[str, None] = {}
        """The uids of the last that were projected."""

    async def project(
        self,
        keys: Collection[ObjectKey],
        outcomes: Outcomes,
        *,
        found: WarmImages | None = None,
        first: FirstPass = "none",
        deadline: float | None = None,
    ) -> None:
        """Update the lines of these WarmImages on every node; lines of deleted ones are removed.

        Lines of WarmImages that cannot be used stay as they are. `found` are those that exist, if they were read just
        now. A few are projected twice, since it may take 100 ms to read nodes and index as they are at this moment:
        `first` says what the first pass reads. Another handler may project an older or newer version of the same
        WarmImage at the same time, so this ends only when a consistent read after the last write shows the WarmImage as
        it was projected. Raises `Unavailable` when there is more to do than the API server takes in 20 seconds, or
        until `deadline` on the monotonic clock; nodes that are refused for good are in `outcomes`.
        """
        deadline = self._monotonic() + _SECONDS if deadline is None else deadline
        async with self._alone_with(keys) as at_once:
            await self._project(keys, found if at_once else None, first, deadline, outcomes)

    @asynccontextmanager
    async def _alone_with(self, keys: Collection[ObjectKey]) -> AsyncIterator[bool]:
        """Wait until no other projection of this process has one of these; yields whether there was none.

        Two at once would be correct as well, but they would write a node twice where one write is enough, and each
        write costs etcd the whole object.
        """
        async with self._ended:
            at_once = self._projected.isdisjoint(keys)
            await self._ended.wait_for(lambda: self._projected.isdisjoint(keys))
            self._projected.update(keys)
        try:
            yield at_once
        finally:
            self._projected.difference_update(keys)
            async with self._ended:
                self._ended.notify_all()

    async def _project(
        self,
        pending: Collection[ObjectKey],
        found: WarmImages | None,
        first: FirstPass,
        deadline: float,
        outcomes: Outcomes,
    ) -> None:
        while pending:
            if found is None:
                found = await self._reader.warmimages_of(pending)
            before, found = found, await self._resolver.complete(found)
            # Pods of a namespace that hangs delay its WarmImages only.
            parts: defaultdict[str, list[ObjectKey]] = defaultdict(list)
            for key in pending:
                usable = found.usable.get(key)
                parts[key.namespace if usable and pod_queries(usable) else ""].append(key)
            passes = (self._write_part(_Batch(keys, found, deadline, outcomes), first) for keys in parts.values())
            wrote = set[ObjectKey]().union(*await asyncio.gather(*passes))
            resolved = {key for key, one in found.usable.items() if one is not before.usable[key]}
            self._resolver.finish(resolved - wrote)
            if not wrote:
                return
            has_status = any(one.resolution or self._resolver.resolves(one) for one in found.usable.values())
            again = await self._reader.versions(wrote, resolved=has_status)
            pending = {key for key in wrote if again.get(key) != _version(found.usable.get(key))}
            found, first = None, "none"
            if pending and self._monotonic() > deadline:
                raise Unavailable("WarmImages changed faster than they were projected", retry_after_seconds=1)

    async def _write_part(self, batch: _Batch, first: FirstPass) -> set[ObjectKey]:
        """Project WarmImages whose Pods are read together, once or twice; those of which something was written."""
        running = await self._reader.pods.running(batch.present)
        batch = replace(batch, found=batch.found.without(running.unknown), running=running.nodes)
        for problem in running.unknown.values():
            if isinstance(problem, Unavailable):
                batch.outcomes.add_later(problem)
        # The second pass finds what the first one missed.
        twice = first != "none" and len(batch.keys) <= MAX_GETS
        wrote, nodes = await self._first_pass(batch, first) if twice else (set(), None)
        if nodes is None:
            nodes, desired = await self._read(batch, "", batch.line_keys)
        else:
            desired = await self._holding(batch.line_keys, "")
        return wrote | await self._write_lines(batch, nodes, desired)

    async def _first_pass(self, batch: _Batch, first: FirstPass) -> tuple[set[ObjectKey], dict[str, Node] | None]:
        """The WarmImages of which something was written, and the Nodes if they need not be read again.

        Old Nodes and an old index are safe, because the second pass reads the index of this moment. A handler that
        writes an older version of a line after that reads the WarmImage again, and projects it with a new index.
        """
        if first == "cached":
            return await self._write_lines(batch, *await self._read(batch, FROM_CACHE, batch.line_keys)), None
        new = {line_key(warmimage.key) for warmimage in batch.present if self._is_new(warmimage)}
        version = self._reader.as_noted("Node")
        nodes, desired = await self._read(batch, version, batch.line_keys.keys() - new)
        return await self._write_lines(batch, nodes, desired), nodes

    def _is_new(self, warmimage: WarmImage) -> bool:
        """Whether no node can have a line of it: it never changed, and this process projects it for the first time.

        A repeat reads the index, so that it does not begin with the nodes that have the line already.
        """
        known = warmimage.uid in self._begun
        self._begun[warmimage.uid] = None
        while len(self._begun) > _BEGUN_KNOWN:
            del self._begun[next(iter(self._begun))]
        return warmimage.generation == 1 and not known

    async def project_nodes(self, names: Collection[str], outcomes: Outcomes) -> None:
        """Update these nodes for every WarmImage, and every node for WarmImages with a limit.

        A limit ranks nodes against each other, so a node that joins or leaves may move a placement.
        """
        deadline = self._monotonic() + _SECONDS
        found = await self._reader.warmimages()
        limited = {key for key, warmimage in found.usable.items() if warmimage.template.nodes.limit is not None}
        await self._rebuild(names, found, deadline, outcomes)
        if limited:
            await self.project(limited, outcomes, deadline=deadline)

    async def _rebuild(self, names: Collection[str], every: WarmImages, deadline: float, outcomes: Outcomes) -> None:
        """Write every line of these nodes, and create missing ConfigMaps."""
        running = await self._reader.pods.among_others(every.usable.values())
        kept, every = kept_lines(every, running.unknown), every.without(running.unknown)
        few, warmimages = len(names) <= MAX_GETS, every.usable.values()
        if few and all(warmimage.template.nodes.limit is None for warmimage in warmimages):
            nodes = list((await self._reader.nodes_of(names)).values())
        else:
            nodes = await self._reader.nodes(taints=reads_taints(warmimages))
        found = await (self._reader.desired_of(names) if few else self._reader.desired())
        uncertain = uncertain_lines(every)
        desired = {have.node: untouched(have, uncertain, kept) for have in found}
        wanted = await wanted_lines(warmimages, nodes, running.nodes)
        changes: dict[str, NodeChange] = {}
        for node in nodes:
            if node.name in names:
                have, want = desired.get(node.name), wanted.get(node.name, {})
                change = full_change(node, have, want, self._reader.tenancy, uncertain=uncertain)
                changes |= {node.name: change} if change else {}
        scope = Scope(warmimages, {node.name: node for node in nodes}, desired)
        await self.write_full(changes, scope, deadline, outcomes)

    async def write_full(
        self, changes: Mapping[str, NodeChange], scope: Scope, deadline: float, outcomes: Outcomes
    ) -> None:
        """Write the changes of whole nodes, and project the WarmImages of `scope` that changed meanwhile again."""
        await self._write(changes, scope, deadline, outcomes)
        written = {key for change in changes.values() for key in change.lines}
        if written:
            await self._project_changed(scope.warmimages, deadline, outcomes, written)

    async def _write(
        self, changes: Mapping[str, NodeChange], scope: Scope, deadline: float, outcomes: Outcomes
    ) -> None:
        full = FullState(self._reader)
        await self._writes.write(await self._hints.add(changes, scope), deadline, full.change, outcomes)
        if full.warmimages:
            await self._project_changed(full.warmimages, deadline, outcomes)

    async def _project_changed(
        self,
        warmimages: Collection[WarmImage],
        deadline: float,
        outcomes: Outcomes,
        line_keys: Collection[str] | None = None,
    ) -> None:
        """Project again the WarmImages that changed since their lines were written: these or all."""
        before = {warmimage.key: _version(warmimage) for warmimage in warmimages}
        present = (await self._reader.warmimages()).usable
        after = {key: _version(warmimage) for key, warmimage in present.items()}
        stale = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        if line_keys is not None:
            stale = {key for key in stale if line_key(key) in line_keys}
        # Without exclusion: the projection that found them may have some of them itself.
        await self._project(stale, None, "none", deadline, outcomes)

    async def _read(
        self, batch: _Batch, not_older_than: str, line_keys: Collection[str]
    ) -> tuple[dict[str, Node], dict[str, DesiredConfigMap]]:
        """Nodes, and the ConfigMaps that hold one of the lines, by node. At once: a consistent list may take 100 ms."""
        of_index = FROM_CACHE if not_older_than else ""
        return await asyncio.gather(self._candidates(batch.present, not_older_than), self._holding(line_keys, of_index))

    async def _write_lines(
        self, batch: _Batch, nodes: Mapping[str, Node], desired: Mapping[str, DesiredConfigMap]
    ) -> set[ObjectKey]:
        """Write the lines that differ; the WarmImages of which something was written."""
        line_keys = batch.line_keys
        wanted = await wanted_lines(batch.present, nodes.values(), batch.running)
        changes: dict[str, NodeChange] = {}
        touched: set[ObjectKey] = set()
        off = without_hints(batch.present)
        for name in desired.keys() | wanted.keys():
            have, node = desired.get(name), nodes.get(name)
            held = {key: version for key, version in have.lines.items() if key in line_keys} if have else {}
            refused = have.refused if have else frozenset()
            differing = diff(held, {key: line for key, line in wanted.get(name, {}).items() if key not in refused})
            uid = node.uid if node else have.owner_uid if have else ""
            if differing:
                changes[name] = NodeChange(uid, differing)
                touched |= {line_keys[key] for key in differing}
            elif have is not None and not off.isdisjoint(have.hints):
                changes[name] = NodeChange(uid, {})
        await self._write(changes, Scope(batch.present, nodes, desired), batch.deadline, batch.outcomes)
        return touched

    async def _candidates(self, warmimages: Collection[WarmImage], not_older_than: str) -> dict[str, Node]:
        selectors = {node_selector(warmimage.template.nodes).query() for warmimage in warmimages}
        if len(selectors) > _SELECTORS:
            selectors = {""}
        taints = reads_taints(warmimages)
        lists = await asyncio.gather(
            *(self._reader.nodes(labels, not_older_than=not_older_than, taints=taints) for labels in sorted(selectors))
        )
        return {node.name: node for nodes in lists for node in nodes}

    async def _holding(self, line_keys: Collection[str], not_older_than: str) -> dict[str, DesiredConfigMap]:
        """The ConfigMaps that have one of the lines, by node."""
        if len(line_keys) > MAX_GETS:
            return {have.node: have for have in await self._reader.desired(not_older_than=not_older_than)}
        lists = await asyncio.gather(*(self._reader.desired(key, not_older_than=not_older_than) for key in line_keys))
        return {have.node: have for desired in lists for have in desired}


def _version(warmimage: WarmImage | None) -> WarmImageVersion | None:
    if warmimage is None:
        return None
    return WarmImageVersion(warmimage.uid, warmimage.generation, warmimage.purged, warmimage.resolved)
