"""Read Nodes and their ConfigMaps: one half of the reader."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from adapters.clock import Clock
from adapters.kubernetes import paths
from adapters.kubernetes.client import Kubernetes, Listing
from adapters.kubernetes.errors import NotFound, Refused
from adapters.kubernetes.nodes import FULL_PAGE, read_node, reduced_node
from handlers.reconcile.objects import DesiredConfigMap, read_desired, version_number
from warmhook.api import KIND_LABEL, LINE_LABEL, TRUNCATED_LABEL
from warmhook.node_lines import desired_name
from warmhook.node_report import Report, read_report, report_name
from warmhook.placement import Node
from warmhook.ports import Object

Kind: TypeAlias = Literal["WarmPolicy", "WarmImage", "Node"]

FROM_CACHE: Final = "0"
"""`not_older_than` of a read that may be a little behind. kube-apiserver 1.36 answers it in 1 ms from its cache; a
consistent list took 97 ms after a write of another kind (median of 20), probably until etcd reports its progress."""
MAX_GETS: Final = 16
"""The most objects that are read one by one; one list is cheaper for more."""
_QUERY_MAX: Final = 4000
"""The most characters of a label selector: the API server accepts 1 MiB of URL and headers, proxies less."""
_PEERS_SECONDS: Final = 30.0
"""For so long the reports of the last list say which nodes serve images."""
_NO_PEERS_SECONDS: Final = 120.0
"""The same where none did, so that a cluster whose agents serve nothing seldom pays a read for it."""


@dataclass(slots=True)
class _Noted:
    """What is known of changes."""

    newest: dict[Kind, int] = field(default_factory=dict)
    """By kind the newest resourceVersion of a change, or of an object in a consistent list."""
    listed: set[Kind] = field(default_factory=set)
    """The kinds of which there was a consistent list of all objects: all changes since it are noted."""

    def add(self, kind: Kind, resource_version: int) -> None:
        self.newest[kind] = max(resource_version, self.newest.get(kind, 0))


@dataclass(slots=True)
class _Reports:
    """The reports of the last list, for what may be a little behind."""

    by_node: Mapping[str, Report] = field(default_factory=dict)
    """Only with where their nodes serve images, and what is warm there."""
    read_at: float = float("-inf")
    """On the monotonic clock."""

    def keep(self, reports: Mapping[str, Report], now: float) -> None:
        self.by_node = {
            name: replace(report, states={}, transfers={}) if report.states or report.transfers else report
            for name, report in reports.items()
        }
        self.read_at = now

    def serve(self, now: float) -> bool:
        """Whether they are recent enough."""
        peers = any(report.peer is not None for report in self.by_node.values())
        return now - self.read_at < (_PEERS_SECONDS if peers else _NO_PEERS_SECONDS)


class NodeReader:
    """Reads Nodes and their ConfigMaps, never writes.

    `not_older_than` is a resourceVersion of the same kind, or `FROM_CACHE`; without it a list is consistent.
    """

    def __init__(self, kubernetes: Kubernetes, namespace: str, clock: Clock) -> None:
        """`namespace` is that of the node ConfigMaps."""
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._clock = clock
        self._noted = _Noted()
        self._reports = _Reports()
        self._reports_once = asyncio.Lock()

    # --- what was noted ---

    def note_change(self, kind: Kind, resource_version: int) -> None:
        """Note that the watch of this process saw this version, and that its event is being handled.

        The change of a Node or a policy is handled with a list of WarmImages that is read after this call. So a
        WarmImage that this list does not show was created later, and Nodes and policies `as_noted` serve it.
        """
        self._noted.add(kind, resource_version)

    def forget_changes(self) -> None:
        """Note that there may be changes that were not noted, such as those that another process handled.

        Lists are consistent until one has all objects of the kind, as in a sync. One that is under way does not count.
        """
        self._noted = _Noted()

    def as_noted(self, kind: Kind) -> str:
        """`not_older_than` of a list that shows every change that was noted; the API server answers from its cache.

        Empty, which stands for a consistent list, where there may be others.
        """
        return str(self._noted.newest[kind]) if kind in self._noted.listed else ""

    async def _list_noted(self, kind: Kind, path: str, *, labels: str, not_older_than: str, **given: Any) -> Listing:
        """A list; what is noted from now on adds to the first that is consistent and has all objects."""
        noted = self._noted
        found = await self._kubernetes.list(path, labels=labels, not_older_than=not_older_than, **given)
        if not (labels or not_older_than or kind in noted.listed):
            # Not the version of the list: a cache may learn only from the next change that it is as new.
            versions = (version_number(obj["metadata"].get("resourceVersion", "")) for obj in found.items)
            noted.add(kind, max(versions, default=0))
            noted.listed.add(kind)
        return found

    # --- Nodes ---

    async def nodes(self, labels: str = "", *, not_older_than: str = "", taints: bool = False) -> list[Node]:
        """The Nodes under a label selector; without `taints` from their metadata only, a fifth of the bytes.

        The list may have other Nodes: a selector that is too long for a URL, or that the API server rejects, is left
        out, since placement compares labels.
        """
        path, labels = paths.NODES, labels if len(labels) <= _QUERY_MAX else ""
        try:
            if taints:
                found = await self._list_noted(
                    "Node", path, labels=labels, not_older_than=not_older_than, page=FULL_PAGE, keep=reduced_node
                )
            else:
                found = await self._list_noted(
                    "Node", path, labels=labels, not_older_than=not_older_than, metadata_only=True
                )
        except Refused:
            if not labels:
                raise
            return await self.nodes(not_older_than=not_older_than, taints=taints)
        now = self._clock.utcnow()
        return [read_node(node, now) for node in found.items]

    async def nodes_of(self, names: Collection[str]) -> dict[str, Node]:
        """The current Nodes that exist, by name: few one by one, many from one list."""
        if len(names) > MAX_GETS:
            return {node.name: node for node in await self.nodes() if node.name in names}
        found = await asyncio.gather(*map(self.node, names))
        return {node.name: node for node in found if node is not None}

    async def node(self, name: str) -> Node | None:
        """The current Node; `None` if it does not exist."""
        node = await self._get(paths.node(name))
        return None if node is None else read_node(node, self._clock.utcnow())

    # --- the ConfigMaps of nodes ---

    async def desired(self, line_key: str = "", *, not_older_than: str = "") -> list[DesiredConfigMap]:
        """The desired ConfigMaps: all of them, or those that have a line."""
        labels = f"{KIND_LABEL}=desired" + (f",{LINE_LABEL}{line_key}" if line_key else "")
        return _all_desired(await self._metadata(labels, not_older_than))

    async def truncated(self) -> list[DesiredConfigMap]:
        """The desired ConfigMaps that have no room for some of their lines."""
        return _all_desired(await self._metadata(f"{KIND_LABEL}=desired,{TRUNCATED_LABEL}"))

    async def desired_of(self, nodes: Collection[str]) -> list[DesiredConfigMap]:
        """The desired ConfigMaps of a few nodes, if they exist."""
        found = (paths.configmaps(self._namespace, desired_name(node)) for node in nodes)
        objects = await asyncio.gather(*(self._get(path, metadata_only=True) for path in found))
        return _all_desired([obj["metadata"] for obj in objects if obj is not None])

    async def desired_object(self, node: str) -> Object:
        """The whole desired ConfigMap of a node. Raises `NotFound`."""
        return await self._kubernetes.get(paths.configmaps(self._namespace, desired_name(node)))

    async def reports(self) -> dict[str, Report]:
        """Every node's report, by the node's name."""
        return self._kept(await self._metadata(f"{KIND_LABEL}=report"))

    async def peers(self) -> Mapping[str, Report]:
        """Every node's report as it was within the last 30 seconds, without the lines that are not warm.

        Those of the last list for any purpose; another one is read only if that is older.
        """
        async with self._reports_once:
            if not self._reports.serve(self._clock.monotonic()):
                self._kept(await self._metadata(f"{KIND_LABEL}=report", FROM_CACHE))
        return self._reports.by_node

    async def report_data(self, node: str) -> Mapping[str, str]:
        """The details of a node's report by line key; empty if it has none."""
        report = await self._get(paths.configmaps(self._namespace, report_name(node)))
        return (report or {}).get("data") or {}

    async def desired_and_reports(self) -> tuple[list[DesiredConfigMap], dict[str, Report]]:
        """Both kinds of ConfigMaps from one list."""
        listed = await self._metadata(f"{KIND_LABEL} in (desired,report)")
        return _all_desired(listed), self._kept(listed)

    def _kept(self, listed: Collection[Mapping[str, Any]]) -> dict[str, Report]:
        """The reports in a list, which serve `peers` from now on."""
        reports = {report.node: report for report in map(read_report, listed) if report.node}
        self._reports.keep(reports, self._clock.monotonic())
        return reports

    async def _metadata(self, labels: str, not_older_than: str = "") -> list[dict[str, Any]]:
        path = paths.configmaps(self._namespace)
        found = await self._kubernetes.list(path, labels=labels, metadata_only=True, not_older_than=not_older_than)
        return [obj["metadata"] for obj in found.items]

    async def _get(self, path: str, *, metadata_only: bool = False) -> Object | None:
        """The current object; `None` if it does not exist."""
        try:
            return await self._kubernetes.get(path, metadata_only=metadata_only)
        except NotFound:
            return None


def _all_desired(listed: Collection[Mapping[str, Any]]) -> list[DesiredConfigMap]:
    return [desired for metadata in listed if (desired := read_desired(metadata)) is not None]
