"""Build the first page: images by groups of nodes, of what its reader may see and asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from warmhook.inventory import ImageFacts, Inventory, Rights
from warmhook.node_cells import NodeCells, lay_out
from warmhook.overview import CellState, Dimension, Failing, ImageRow, NodeGroup, Overview, Tally
from warmhook.overview_failing import failing_of, installation_checks
from warmhook.tallies import NO_TALLY, Tallies, merge, tally

ROWS_MAX: Final = 500
"""Images on a page."""
CELLS_MAX: Final = 20_000
"""Images times groups on a page."""
_GROUPS_MIN: Final = 20
"""Groups on a page however many images it has."""
FAILING_MAX: Final = 200
"""Reasons on a page."""
# No label has it.
_BETWEEN: Final = "\n"
_NEVER: Final = datetime(1, 1, 1, tzinfo=UTC)

GroupedBy: TypeAlias = Literal["pool", "zone"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a reader asked for."""

    dimension: Dimension = "pool"
    state: CellState | None = None
    """Only images that some node has in this state."""
    namespace: str = ""
    """Only WarmImages of this namespace; empty: all."""
    text: str = ""
    """Only images whose reference or name has this in it, in upper or lower case."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The counts of one revision of an inventory, from which all pages are built."""

    by_dimension: Mapping[GroupedBy, Tallies]
    by_line: Mapping[str, Tally]
    """The counts of each line on all nodes, by its key."""
    silent: Mapping[str, frozenset[str]]
    """By the key of a line the unreachable nodes that should hold it; absent: none."""
    by_node: Callable[[], NodeCells]
    """The states by node, which are laid out when they are asked for first: the inventory may be newer then."""


def count_all(inventory: Inventory) -> Totals:
    """Count everything once."""
    both = tally(inventory, {name: f"{node.pool}{_BETWEEN}{node.zone}" for name, node in inventory.nodes.items()})
    by_zone = merge(both, lambda name: name.partition(_BETWEEN)[2])
    keys = {key for cells in by_zone.cells.values() for key in cells}
    return Totals(
        by_dimension={"pool": merge(both, lambda name: name.partition(_BETWEEN)[0]), "zone": by_zone},
        by_line={key: by_zone.total(key) for key in keys},
        silent=_silent(inventory),
        by_node=functools.cache(lambda: lay_out(inventory, tuple(inventory.by_line))),
    )


def image_total(facts: ImageFacts, totals: Totals) -> Tally:
    """The counts of an image on all nodes.

    Nodes of a platform that the image does not have get no line, and only the status counts them.
    """
    if facts.complete:
        return facts.counted
    found = totals.by_line.get(facts.line_key, NO_TALLY)
    without = facts.counted.desired - found.desired
    if facts.limited_platforms and 0 < without <= facts.counted.failed:
        return replace(found, failed=found.failed + without)
    return found


def overview(inventory: Inventory, totals: Totals, rights: Rights, selection: Selection, at: datetime) -> Overview:
    """The first page for a reader with these rights."""
    wanted = select(inventory, totals, rights, selection)
    shown = wanted[:ROWS_MAX]
    limit = max(_GROUPS_MIN, CELLS_MAX // max(1, len(shown)))
    columns, left_out = _columns(totals, rights, selection.dimension, limit)
    most = max((total.desired for _facts, total in wanted), default=0)
    return Overview(
        at=at,
        dimension=selection.dimension,
        groups=columns.groups if columns is not None else (NodeGroup("", most),),
        rows=tuple(image_row(facts, total, columns) for facts, total in shown),
        failing=failing(inventory, totals, rights, selection)[:FAILING_MAX],
        checks=installation_checks(inventory, rights),
        nodes=len(inventory.nodes) if rights.nodes else 0,
        left_out=len(wanted) - len(shown),
        groups_left_out=left_out,
    )


def failing(inventory: Inventory, totals: Totals, rights: Rights, selection: Selection) -> tuple[Failing, ...]:
    """All that is failing, of the images that were asked for; what most nodes lack comes first."""
    found = [
        entry
        for facts, total in select(inventory, totals, rights, selection)
        for entry in failing_of(facts, total, totals.silent.get(facts.line_key, frozenset()), rights)
    ]
    return tuple(sorted(found, key=lambda entry: (entry.count > 0, -entry.count)))


def select(
    inventory: Inventory, totals: Totals, rights: Rights, selection: Selection
) -> list[tuple[ImageFacts, Tally]]:
    """The images that a reader may see and asked for: what is failing, then what is under way, then the newest."""
    text = selection.text.casefold()
    found = [
        (facts, image_total(facts, totals))
        for key, facts in inventory.images.items()
        if rights.sees(key.namespace)
        and selection.namespace in ("", key.namespace)
        and (text in facts.image.casefold() or text in str(key).casefold())
    ]
    if (state := selection.state) is not None:
        found = [(facts, total) for facts, total in found if getattr(total, state)]
    found.sort(key=lambda row: row[0].key)
    found.sort(key=lambda row: row[0].times.pushed_at or row[0].times.created_at or _NEVER, reverse=True)
    found.sort(key=lambda row: _urgency(*row))
    return found


def image_row(facts: ImageFacts, total: Tally, columns: Tallies | NodeCells | None) -> ImageRow:
    """One image; without columns there is one group of all nodes."""
    row = ImageRow(
        warmimage=facts.key,
        image=facts.image,
        policy=facts.policy,
        total=total,
        pushed_at=facts.times.pushed_at,
        ready=facts.ready,
        reason=facts.reason,
    )
    if columns is None:
        return replace(row, by_group=(total,))
    if isinstance(columns, NodeCells):
        cells, kinds = columns.row(facts)
        return replace(row, cells=cells, kinds=kinds)
    by_group = tuple(columns.cells.get(group.name, {}).get(facts.line_key, NO_TALLY) for group in columns.groups)
    return replace(row, by_group=by_group)


def _urgency(facts: ImageFacts, total: Tally) -> int:
    if facts.complete:
        return 2
    if total.failed or total.unreachable or (not facts.ready and not total.desired):
        return 0
    return 1 if total.pulling or total.waiting else 2


def _columns(
    totals: Totals, rights: Rights, dimension: Dimension, limit: int
) -> tuple[Tallies | NodeCells | None, int]:
    """The counts by group and how many groups beyond `limit` were left out; `None`: nodes may not be seen.

    By node there is no limit, since a cell is one byte then.
    """
    if not rights.nodes:
        return None, 0
    if dimension == "node":
        return totals.by_node(), 0
    found = totals.by_dimension[dimension]
    if len(found.groups) <= limit:
        return found, 0
    largest = {group.name for group in sorted(found.groups, key=lambda group: -group.nodes)[:limit]}
    kept = tuple(group for group in found.groups if group.name in largest)
    return replace(found, groups=kept), len(found.groups) - limit


def _silent(inventory: Inventory) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for name in inventory.silent:
        if (desired := inventory.desired.get(name)) is not None:
            for key in {*(key for key, _version in desired.lines), *desired.refused}:
                found.setdefault(key, set()).add(name)
    return {key: frozenset(names) for key, names in found.items()}
