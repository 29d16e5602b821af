"""Build the page of one image and that of one node, of what their reader may see."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

from warmhook.delivery_records import deliveries_of
from warmhook.inventory import ImageFacts, Inventory, Rights
from warmhook.node_report import was_seen
from warmhook.overview import WORST_FIRST, CellState, ImagePage, NodeCell, NodeGroup, NodePage
from warmhook.overview_failing import failing_of, lacks_room
from warmhook.overview_rows import Totals, image_row, image_total
from warmhook.status import NO_WORD
from warmhook.tallies import keys_by_state, state_on
from warmhook.timeline import timeline
from warmhook.warmimages import ObjectKey

Details: TypeAlias = Mapping[str, tuple[str, str]]
"""Reason and message, by the name of a node or the key of a line."""


def image_page(inventory: Inventory, totals: Totals, rights: Rights, facts: ImageFacts, details: Details) -> ImagePage:
    """The page of an image that the reader may see; `details` are by node."""
    total = image_total(facts, totals)
    silent = totals.silent.get(facts.line_key, frozenset())
    columns = totals.by_dimension["pool"] if rights.nodes else None
    records = inventory.deliveries if rights.deliveries else None
    known = None if records is None else deliveries_of(facts.image, facts.digest, records)
    return ImagePage(
        row=image_row(facts, total, columns),
        groups=columns.groups if columns is not None else (NodeGroup("", total.desired),),
        timeline=timeline(facts.times, total, known),
        cells=_cells(inventory, facts, details) if rights.nodes else (),
        failing=tuple(failing_of(facts, total, silent, rights)),
        conditions=facts.conditions,
        digest=facts.digest,
        deliveries=known or (),
    )


def failed_nodes(inventory: Inventory, facts: ImageFacts) -> list[str]:
    """The nodes that report a failure of the image, sorted: their reports say why."""
    key = facts.line_key
    return sorted(
        name
        for name, report in inventory.reports.items()
        if any(reported == key and state == "failed" for reported, state, _version in report.states)
    )


def node_page(inventory: Inventory, rights: Rights, name: str, details: Details, now: datetime) -> NodePage | None:
    """The page of a node, for a reader who may see nodes; `details` are by line. `None` if there is no such node."""
    node = inventory.nodes.get(name)
    if node is None:
        return None
    desired, report = inventory.desired_of(name), inventory.report_of(name)
    images: dict[ObjectKey, tuple[str, NodeCell]] = {}
    for state, keys in keys_by_state(desired, report, is_silent=name in inventory.silent).items():
        for line in keys:
            key = inventory.by_line.get(line)
            if key is not None and rights.sees(key.namespace):
                reason, message = _reason(state, details.get(line), full=line in desired.refused)
                images[key] = (inventory.images[key].image, NodeCell(name, node.pool, state, reason, message))
    return NodePage(
        name=name,
        group=node.pool,
        seen=report.seen,
        reachable=was_seen(report.seen, now),
        images=dict(sorted(images.items(), key=lambda item: (WORST_FIRST.index(item[1][1].state), item[0]))),
        truncated=lacks_room(inventory, rights, name),
    )


def _cells(inventory: Inventory, facts: ImageFacts, details: Details) -> tuple[NodeCell, ...]:
    named = {failure.node: (failure.reason, failure.message) for failure in facts.failures}
    cells = []
    for name, node in inventory.nodes.items():
        state = state_on(inventory, name, facts.line_key)
        if state is not None:
            full = facts.line_key in inventory.desired_of(name).refused
            reason, message = _reason(state, details.get(name) or named.get(name), full=full)
            cells.append(NodeCell(name, node.pool, state, reason, message))
    # A node of a platform that the image does not have gets no line.
    without = {cell.node for cell in cells}
    for name, (reason, message) in named.items():
        if reason == "PlatformMissing" and name in inventory.nodes and name not in without:
            cells.append(NodeCell(name, inventory.nodes[name].pool, "failed", reason, message))
    cells.sort(key=lambda cell: (WORST_FIRST.index(cell.state), cell.group, cell.node))
    return tuple(cells)


def _reason(state: CellState, known: tuple[str, str] | None, *, full: bool) -> tuple[str, str]:
    """Reason and message of a cell; `full`: the node has no room for the line."""
    if state == "unreachable":
        return "NoAgent", NO_WORD
    if state != "failed":
        return "", ""
    if full:
        return "TooManyLines", "the node's ConfigMap has no room for another line"
    return known or ("", "")
