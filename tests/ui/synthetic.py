"""Make the values of pages for clusters of any size, the same ones for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Final

from handlers.ui.pages import View
from warmhook.checks import Check
from warmhook.delivery_records import DeliveryRecord
from warmhook.overview import (
    CellKind,
    Dimension,
    Failing,
    ImagePage,
    ImageRow,
    Moment,
    NodeCell,
    NodeGroup,
    NodePage,
    Overview,
    Tally,
)
from warmhook.warmimages import ObjectKey

NOW: Final = datetime(2026, 3, 14, 2, 59, 12, tzinfo=UTC)
VIEW: Final = View(reader="ada@example.com", change=7, namespaces=("data", "edge", "ml", "shop"), at=NOW)

_POOLS: Final = ("general", "general-spot", "memory", "gpu-a100", "gpu-h100", "edge", "ingress", "system")
_ZONES: Final = ("eu-central-1a", "eu-central-1b", "eu-central-1c")
_NAMES: Final = ("web", "cart", "checkout", "search", "pricing", "ledger", "trainer", "ingest", "gateway", "thumbnails")
_SPACES: Final = ("shop", "data", "ml", "edge")
_KINDS: Final = (
    CellKind("warm"),
    CellKind("pulling"),
    CellKind("waiting"),
    CellKind("failed", "NotFound"),
    CellKind("failed", "DiskFull"),
    CellKind("failed", "Network"),
    CellKind("unreachable", "NoAgent"),
)
_WARM, _PULLING, _WAITING, _NOT_FOUND, _DISK_FULL, _NETWORK, _SILENT = range(1, 8)
_MESSAGES: Final = {
    "NotFound": 'failed to resolve reference "harbor.example.com/ml/trainer:v4.7.1": not found',
    "DiskFull": "needs about 3.1 GiB of the node's disk for images, 1.2 GiB may be used",
    "Network": "dial tcp 203.0.113.9:443: i/o timeout",
    "NoAgent": "no report for 26 minutes",
}


@dataclass(frozen=True)
class SyntheticCluster:
    """Nodes by images, in which a few things are wrong."""

    nodes: int = 5000
    images: int = 200
    seed: int = 7
    change: int = 7
    """Each change has some more warm cells."""
    pools: int = len(_POOLS)

    @cached_property
    def node_names(self) -> list[tuple[str, str, str]]:
        """Name, pool and zone of each node, those of a pool side by side."""
        found = []
        for number in range(self.nodes):
            pool = number * self.pools // self.nodes
            name = _POOLS[pool % len(_POOLS)] + (f"-{pool // len(_POOLS)}" if pool >= len(_POOLS) else "")
            found.append((f"ip-10-{number // 65536}-{number // 256 % 256}-{number % 256}", name, _ZONES[number % 3]))
        return found

    @cached_property
    def cells(self) -> list[bytes]:
        """One byte for each node, for each image."""
        return [self._row(number) for number in range(self.images)]

    def _row(self, number: int) -> bytes:
        generator = random.Random(self.seed * 1000 + number)
        row = bytearray([_WARM]) * self.nodes
        gpu = [index for index, (_, pool, _) in enumerate(self.node_names) if pool.startswith("gpu")]
        if number % 9 == 4 and gpu:
            row = bytearray(self.nodes)
            row[gpu[0] : gpu[-1] + 1] = bytes([_WARM]) * len(gpu)
        wanted = [index for index, code in enumerate(row) if code]
        if number == 0:
            for index in wanted:
                row[index] = _NOT_FOUND if generator.random() < 0.02 else _WARM
        if number < 6:
            for index in wanted:
                if generator.random() < 0.3 / (number + 1) / max(1, self.change - 6):
                    row[index] = generator.choice((_PULLING, _WAITING, _WAITING))
        if number % 7 == 1:
            for index in generator.sample(wanted, k=min(len(wanted), max(1, self.nodes // 400))):
                row[index] = generator.choice((_DISK_FULL, _NETWORK, _DISK_FULL))
        for index in self.silent:
            row[index] = _SILENT if row[index] else 0
        return bytes(row)

    @cached_property
    def silent(self) -> list[int]:
        """Nodes without an agent that reports: one rack, and single ones."""
        some = random.Random(self.seed).sample(range(self.nodes), k=max(1, self.nodes // 500))
        return sorted({*some, *range(self.nodes // 3, self.nodes // 3 + self.nodes // 100)})

    def groups(self, dimension: Dimension) -> list[NodeGroup]:
        """The columns of the picture."""
        if dimension == "node":
            silent = set(self.silent)
            return [
                NodeGroup(name, 1, silent=int(index in silent), within=pool)
                for index, (name, pool, _) in enumerate(self.node_names)
            ]
        found: dict[str, list[int]] = {}
        for index, (_, pool, zone) in enumerate(self.node_names):
            found.setdefault(pool if dimension == "pool" else zone, []).append(index)
        return [
            NodeGroup(name, len(members), silent=len(set(members) & set(self.silent)))
            for name, members in sorted(found.items())
        ]

    def image(self, number: int) -> tuple[ObjectKey, str]:
        """The WarmImage and the reference of an image."""
        space, name = _SPACES[number % 4], _NAMES[number % 10]
        image = f"harbor.example.com/{space}/{name}:v{1 + number // 40}.{number % 40}.{number % 7}"
        return ObjectKey(space, f"{name}-{number:08x}"), image

    def row(self, number: int, dimension: Dimension) -> ImageRow:
        """One image across all groups."""
        key, image = self.image(number)
        cells = self.cells[number]
        total = _tally(cells)
        by_group: tuple[Tally, ...] = ()
        if dimension != "node":
            members: dict[str, bytearray] = {}
            for (_, pool, zone), code in zip(self.node_names, cells, strict=True):
                members.setdefault(pool if dimension == "pool" else zone, bytearray()).append(code)
            by_group = tuple(_tally(bytes(codes)) for _, codes in sorted(members.items()))
        return ImageRow(
            warmimage=key,
            image=image,
            policy=key.namespace,
            total=total,
            by_group=by_group,
            cells=cells if dimension == "node" else b"",
            kinds=_KINDS if dimension == "node" else (),
            pushed_at=NOW - timedelta(minutes=3 + 7 * number),
            ready=total.warm + total.unreachable == total.desired,
            reason="AllWarm" if total.warm == total.desired else "NotAllWarm",
        )

    def failing(self) -> list[Failing]:
        """Why nodes do not have an image."""
        found = []
        for number in range(self.images):
            key, image = self.image(number)
            for code in (_NOT_FOUND, _DISK_FULL, _NETWORK, _SILENT):
                indexes = [index for index, cell in enumerate(self.cells[number]) if cell == code]
                if indexes:
                    reason = _KINDS[code - 1].reason
                    names = tuple(sorted(self.node_names[index][0] for index in indexes[:10]))
                    found.append(Failing(key, image, reason, names, len(indexes), _MESSAGES[reason]))
        return found

    def overview(self, dimension: Dimension) -> Overview:
        """The first page, what fails first."""
        rows = [self.row(number, dimension) for number in range(self.images)]
        rows.sort(key=lambda row: (-row.total.failed, -row.total.pulling - row.total.waiting, row.image))
        checks = (
            Check(
                "agents",
                "wrong",
                f"{len(self.silent)} of {self.nodes} agents have reported nothing for 10 minutes",
                "kubectl -n warmhook-agents get pods -o wide --field-selector status.phase!=Running",
                "AgentsSilent",
            ),
        )
        return Overview(
            at=NOW,
            dimension=dimension,
            groups=tuple(self.groups(dimension)),
            rows=tuple(rows),
            failing=tuple(self.failing()),
            checks=checks if self.silent else (),
            nodes=self.nodes,
        )

    def image_page(self, number: int = 0) -> ImagePage:
        """One image whose push is under way."""
        row = self.row(number, "pool")
        cells = [
            NodeCell(
                name, pool, _KINDS[code - 1].state, _KINDS[code - 1].reason, _MESSAGES.get(_KINDS[code - 1].reason, "")
            )
            for (name, pool, _), code in zip(self.node_names, self.cells[number], strict=True)
            if code
        ]
        order = ("failed", "unreachable", "pulling", "waiting", "warm")
        cells.sort(key=lambda cell: (order.index(cell.state), cell.group, cell.node))
        pushed = NOW - timedelta(minutes=3)
        after = {"pushed": 0.0, "received": 0.41, "accepted": 0.46, "resolved": 0.9, "lines": 2.3, "first node": 9.8}
        moments = [Moment(name, pushed + timedelta(seconds=seconds)) for name, seconds in after.items()]
        moments[1] = replace(moments[1], detail="source harbor")
        moments[4] = replace(moments[4], detail=f"{row.total.desired:,} nodes")
        moments += [Moment("half of the nodes", pushed + timedelta(seconds=74)), Moment("last node", None)]
        return ImagePage(
            row=row,
            groups=tuple(self.groups("pool")),
            timeline=tuple(moments),
            cells=tuple(cells),
            failing=tuple(entry for entry in self.failing() if entry.warmimage == row.warmimage),
            digest="sha256:" + "5a1f" * 16,
            deliveries=tuple(delivery for delivery in self.deliveries() if row.image in delivery.images),
        )

    def node_page(self, number: int = 0) -> NodePage:
        """One node with all of its images."""
        name, pool, _ = self.node_names[number]
        images = {}
        for image_number in range(self.images):
            if code := self.cells[image_number][number]:
                kind = _KINDS[code - 1]
                key, image = self.image(image_number)
                cell = NodeCell(name, pool, kind.state, kind.reason, _MESSAGES.get(kind.reason, ""))
                images[key] = (image, cell)
        silent = number in self.silent
        return NodePage(name, pool, NOW - timedelta(minutes=26 if silent else 1), not silent, images)

    def deliveries(self) -> list[DeliveryRecord]:
        """The last ones, the newest first."""
        _, image = self.image(0)
        _, other = self.image(1)
        given = (
            ("accepted", "", (image,), ""),
            ("skipped", "no-policy", ("harbor.example.com/scratch/demo:latest",), ""),
            ("unauthorized", "bad-secret", (), ""),
            ("skipped", "host-not-allowed", ("registry.example.net/shop/web:v1",), ""),
            ("accepted", "", (other,), ""),
            ("skipped", "unknown-event", (), "SCANNING_COMPLETED"),
            ("unavailable", "api-server-unreachable", (image,), ""),
            ("skipped", "duplicate", (image,), ""),
        )
        found = []
        for number in range(40):
            result, reason, images, detail = given[number % len(given)]
            at = NOW - timedelta(seconds=179.5 + 47 * number)
            source, kind = ("harbor", "harbor") if number % 3 else ("ci", "generic")
            found.append(
                DeliveryRecord(at, source, kind, result, reason, images, detail=detail, seconds=0.012 + number / 900)
            )
        return found


def _tally(cells: bytes) -> Tally:
    return Tally(
        warm=cells.count(_WARM),
        pulling=cells.count(_PULLING),
        waiting=cells.count(_WAITING),
        failed=cells.count(_NOT_FOUND) + cells.count(_DISK_FULL) + cells.count(_NETWORK),
        unreachable=cells.count(_SILENT),
    )


class EmptyCluster(SyntheticCluster):
    """A cluster without WarmImages."""

    def __init__(self) -> None:
        super().__init__(nodes=3, images=0)

    def overview(self, dimension: Dimension) -> Overview:
        """Nothing is wrong either."""
        return replace(super().overview(dimension), rows=(), failing=(), checks=())

    def deliveries(self) -> list[DeliveryRecord]:
        """None yet."""
        return []
