"""Show from whom each node got an image, and what direct pulls would have cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from adapters.kubernetes.paths import configmaps
from cli.demo_run.progress import read_reports
from cli.demo_run.push import PEERS_MEGABYTES
from devcluster.cluster import Cluster
from devcluster.demo import PEERS_REGISTRY_RATE
from devcluster.install import NAMESPACE
from warmhook.hints import NotAHint, hint_key, read_hint
from warmhook.node_lines import Line, desired_name
from warmhook.peers import Transfer
from warmhook.ports import Sleep

_KIB: Final = 1024
_MEGABYTE: Final = 1_000_000
_REPORT_SECONDS: Final = 15.0
"""A node reports what it fetched a few seconds after it is warm."""
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class NodeTransfer:
    """What one node fetched."""

    node: str
    transfer: Transfer
    parents: tuple[str, ...]
    """The nodes that it asks, the nearest first; empty: it reads the registry."""


@dataclass(frozen=True, slots=True)
class Transfers:
    """What all nodes fetched."""

    nodes: Sequence[NodeTransfer]
    registry_bytes: int
    """That left the registry."""

    @property
    def image_bytes(self) -> int:
        """The size of the image."""
        return int(PEERS_MEGABYTES * _MEGABYTE)

    def table(self) -> Table:
        """A row for each node."""
        table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, header_style="bold")
        table.add_column("         NODE", no_wrap=True)
        for column in ("PEERS", "REGISTRY", "TRANSFER", "UNPACK"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("ASKS")
        for each in self.nodes:
            moved = each.transfer
            table.add_row(
                Text(f"         {each.node}"),
                _megabytes(moved.peer_kib * _KIB),
                _megabytes(moved.registry_kib * _KIB),
                f"{moved.transfer_ms / 1000:.1f} s",
                f"{moved.unpack_ms / 1000:.1f} s",
                Text(", ".join(each.parents) or "the registry"),
            )
        return table

    def comparison(self) -> str:
        """What left the registry, and what direct pulls by all nodes would have taken."""
        direct, rate = len(self.nodes) * self.image_bytes, PEERS_REGISTRY_RATE
        return (
            f"{_megabytes(self.registry_bytes)} left the registry, which sends {_megabytes(rate)} per second; "
            f"{len(self.nodes)} direct pulls take {_megabytes(direct)} and {direct / rate:.0f} s"
        )

    def fields(self) -> dict[str, Any]:
        """The same for programs."""
        nodes = [asdict(each.transfer) | {"node": each.node, "parents": each.parents} for each in self.nodes]
        return {"registryBytes": self.registry_bytes, "imageBytes": self.image_bytes, "transfers": nodes}


async def read_transfers(cluster: Cluster, line: Line, sleep: Sleep) -> Transfers:
    """What each node says that it fetched for this line, as soon as all say it. Raises `KubernetesError`."""
    nodes = await _read(cluster, line)
    try:
        async with asyncio.timeout(_REPORT_SECONDS):
            while not all(each.transfer.unpack_ms for each in nodes):
                await sleep(_POLL_SECONDS)
                nodes = await _read(cluster, line)
    except TimeoutError:
        pass
    return Transfers(nodes, cluster.registry_bytes())


async def _read(cluster: Cluster, line: Line) -> list[NodeTransfer]:
    reports, found = await read_reports(cluster), list[NodeTransfer]()
    for name in cluster.nodes:
        moved = reports[name].transfers.get(line.version) if name in reports else None
        found.append(NodeTransfer(name, moved or Transfer(line.version), await _parents(cluster, name, line)))
    return found


async def _parents(cluster: Cluster, node: str, line: Line) -> tuple[str, ...]:
    """The parents in the hint of the node; empty if it has none."""
    obj = await cluster.kubernetes.get(configmaps(NAMESPACE, desired_name(node)))
    try:
        hint = read_hint((obj.get("data") or {}).get(hint_key(line.key), ""))
    except NotAHint:
        return ()
    return tuple(peer.node for peer in hint.parents)


def _megabytes(size_bytes: float) -> str:
    return f"{size_bytes / _MEGABYTE:.1f} MB"
