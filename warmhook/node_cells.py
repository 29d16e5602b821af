"""Lay out the state of each image on each node as one byte, for a picture of thousands of nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final

from warmhook.inventory import ImageFacts, Inventory
from warmhook.overview import STATES, CellKind, NodeGroup
from warmhook.tallies import keys_by_state

_CODES: Final = {state: code for code, state in enumerate(STATES, start=1)}
_KINDS: Final = tuple(map(CellKind, STATES))
_KINDS_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class NodeCells:
    """The states of all images on all nodes of one inventory."""

    groups: tuple[NodeGroup, ...]
    """Each node by itself, by pool and name; nodes without a pool come last."""
    cells: Mapping[str, bytes]
    """By the key of a line one byte for each group: 0: the node should not hold it; else the number of its state."""
    positions: Mapping[str, int]
    """Of each node in `groups`."""

    def row(self, facts: ImageFacts) -> tuple[bytes, tuple[CellKind, ...]]:
        """The cells of an image, and the kinds that their bytes name; with the reasons that its status has."""
        cells = self.cells.get(facts.line_key)
        if cells is None:
            return bytes(len(self.groups)), _KINDS
        named, kinds = bytearray(cells), list(_KINDS)
        for failure in facts.failures:
            position = self.positions.get(failure.node)
            if position is None or named[position] != _CODES["failed"]:
                continue
            kind = CellKind("failed", failure.reason)
            if kind not in kinds and len(kinds) < _KINDS_MAX:
                kinds.append(kind)
            named[position] = kinds.index(kind) + 1
        return bytes(named), tuple(kinds)


def lay_out(inventory: Inventory, keys: Sequence[str]) -> NodeCells:
    """The states of these lines on every node."""
    nodes = sorted(inventory.nodes.values(), key=lambda node: (not node.pool, node.pool, node.name))
    columns: dict[tuple[bool, int, int, int, int], bytes] = {}
    groups, laid_out = [], []
    for node in nodes:
        desired, report = inventory.desired_of(node.name), inventory.report_of(node.name)
        is_silent = node.name in inventory.silent
        groups.append(NodeGroup(node.name, 1, int(is_silent), node.pool))
        same = (is_silent, id(desired.lines), id(desired.refused), id(report.warm), id(report.states))
        column = columns.get(same)
        if column is None:
            codes: dict[str, int] = {}
            for state, those in keys_by_state(desired, report, is_silent=is_silent).items():
                codes |= dict.fromkeys(those, _CODES[state])
            column = columns[same] = bytes(map(codes.get, keys, repeat(0)))
        laid_out.append(column)
    everything, width = b"".join(laid_out), len(keys)
    cells = {key: everything[row::width] for row, key in enumerate(keys)}
    return NodeCells(tuple(groups), cells, {group.name: place for place, group in enumerate(groups)})
