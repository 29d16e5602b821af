"""Define the figures and their bars, and judge, print and write what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

__all__ = ["FIGURES", "Bar", "ClusterKind", "Figure", "Machine", "Measured", "Row", "as_json", "judge", "table"]

ClusterKind: TypeAlias = Literal["embedded", "real"]


@dataclass(frozen=True, slots=True)
class Bar:
    """What a value must keep to."""

    limit: float
    at_least: bool = False
    """Otherwise at most."""
    text: str = ""
    """How it is printed where the bare number would say too little."""

    def __str__(self) -> str:
        return self.text or f"{'>=' if self.at_least else '<='} {self.limit:g}"

    def holds(self, value: float) -> bool:
        """Whether `value` keeps to it; the limit itself does."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that is measured."""

    slug: str
    unit: str
    bar: Bar | None = None
    """`None`: it is printed only."""
    needs_real_cluster: bool = False
    """On the embedded API server the value says how fast that is: it is printed and not judged."""


FIGURES: Final = (
    Figure("patch-rate-ratio-20", "ratio", Bar(0.8, at_least=True), needs_real_cluster=True),
    Figure("patch-rate-ratio-200", "ratio", Bar(0.8, at_least=True), needs_real_cluster=True),
    Figure("webhook-p99-ratio", "ratio", Bar(3), needs_real_cluster=True),
    Figure("webhook-p50-ms", "ms", Bar(8), needs_real_cluster=True),
    Figure("accepted-at-once", "share", Bar(1.0, at_least=True, text=">= 1.0"), needs_real_cluster=True),
    Figure("accepted-p99-ms", "ms", Bar(400), needs_real_cluster=True),
    Figure("push-to-pull-p50-ms", "ms", Bar(100), needs_real_cluster=True),
    Figure("push-to-pull-p99-ms", "ms", Bar(500), needs_real_cluster=True),
    Figure("pull-overhead", "ratio", Bar(1.05, text="<= 1.05 plus 100 ms")),
    Figure("agent-idle-rss-mib", "MiB", Bar(60)),
    Figure("web-rss-mib", "MiB", Bar(100)),
    Figure("web-cold-start-s", "s", Bar(0.7)),
    Figure("image-mib", "MiB", Bar(30)),
    Figure("etcd-bytes-per-node-push", "bytes", Bar(57344)),
    Figure("push-reads", "requests", Bar(6)),
    Figure("push-writes", "requests", Bar(4)),
    Figure("writes-per-node", "writes", Bar(3)),
    Figure("writes-per-node-image", "writes", Bar(2)),
    Figure("objects-per-node-image", "objects", Bar(0.25)),
    Figure("resolve-5000-s", "s", Bar(0.5), needs_real_cluster=True),
    Figure("admission-p99-ms", "ms", Bar(10)),
    Figure("feasible-5000-ms", "ms"),
    Figure("plan-5000-ms", "ms", Bar(300)),
    Figure("peer-registry-bytes", "ratio", Bar(1.2, text="<= k0 + 0.2")),
    Figure("peer-transfer-ratio", "ratio", Bar(1.3)),
    Figure("peer-warm-ratio", "ratio", Bar(1.6)),
    Figure("peer-stream-ratio", "ratio", Bar(0.5, at_least=True)),
    Figure("peer-agent-rss-mib", "MiB", Bar(110)),
    Figure("early-blob-ratio", "ratio", Bar(0.5)),
    Figure("ui-load-s", "s", Bar(2)),
    Figure("ui-browser-mib", "MiB", Bar(200)),
    Figure("ui-cache-mib", "MiB", Bar(60)),
    Figure("ui-count-ms", "ms", Bar(500)),
    Figure("ui-count-by-node-ms", "ms", Bar(700)),
    Figure("webhook-rate-ratio", "ratio", Bar(0.4, at_least=True)),
    Figure("web-rss-after-100k-mib", "MiB", Bar(0, text="<= 1.1 x the value after 1,000")),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured."""

    cpus: int
    memory_gib: float
    cluster: ClusterKind


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out for one figure."""

    slug: str
    value: float | None
    """`None`: not measured, `note` says why."""
    runs: Sequence[float] = ()
    """What each run gave."""
    note: str = ""
    bar: Bar | None = None
    """In place of the figure's own, where that depends on another measurement."""


@dataclass(frozen=True, slots=True)
class Row:
    """A figure with its judgement."""

    figure: Figure
    measured: Measured
    holds: bool | None
    """`None`: printed only."""

    @property
    def bar(self) -> Bar | None:
        """The bar that applied; `None`: none."""
        return self.measured.bar or self.figure.bar


def judge(figure: Figure, measured: Measured, cluster: ClusterKind) -> Row:
    """Compare a value with its bar, where that means anything."""
    judged = measured.value is not None and (cluster == "real" or not figure.needs_real_cluster)
    bar = measured.bar or figure.bar
    return Row(figure, measured, bar.holds(measured.value) if judged and bar and measured.value is not None else None)


def as_json(rows: Sequence[Row], machine: Machine) -> str:
    """The rows as other programs read them."""
    return json.dumps([_object(row, machine) for row in rows], indent=2) + "\n"


def _object(row: Row, machine: Machine) -> dict[str, Any]:
    value = row.measured.value
    return {
        "figure": row.figure.slug,
        "value": None if value is None else round(value, 4),
        "unit": row.figure.unit,
        "bar": _bar(row),
        "holds": row.holds,
        "machine": asdict(machine),
    }


def _bar(row: Row) -> str:
    return "printed" if row.bar is None else str(row.bar)


def table(rows: Sequence[Row]) -> str:
    """The rows as a person reads them, each followed by what is to be known about its value."""
    cells = [("figure", "value", "unit", "bar", "holds", "spread")] + [_cells(row) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    notes = ["", *(f"    {row.measured.note}" if row.measured.note else "" for row in rows)]
    return "\n".join(line for pair in zip(lines, notes, strict=True) for line in pair if line)


def _cells(row: Row) -> tuple[str, ...]:
    value, runs = row.measured.value, row.measured.runs
    holds = "-" if row.holds is None else "yes" if row.holds else "NO"
    shown = "not measured" if value is None else _shown(value)
    spread = f"{_shown(min(runs))}..{_shown(max(runs))} ({len(runs)})" if runs else ""
    return (row.figure.slug, shown, row.figure.unit, _bar(row), holds, spread)


def _shown(value: float) -> str:
    """Three digits or all that stand before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
