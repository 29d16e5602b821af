"""Draw how an image is on thousands of nodes: a small PNG per image, and the segments of a bar."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from warmhook.overview import STATES, CellKind, CellState, NodeGroup, Tally

# They differ in lightness as well as in hue, and are seen on white and on black. `page.css` has the same ones.
_COLOURS: Final[dict[CellState, tuple[int, int, int]]] = {
    "warm": (0x7A, 0xBC, 0xAB),
    "pulling": (0x2F, 0x72, 0xD2),
    "waiting": (0xE2, 0xBF, 0x45),
    "failed": (0xCF, 0x32, 0x1F),
    "unreachable": (0x7C, 0x84, 0x90),
}
_WIDTH: Final = 800
"""Pixels that a picture should not be wider than."""
_SHAPES: Final = ((1, 14), (2, 10), (3, 7), (4, 5), (5, 4), (7, 3), (10, 2), (13, 2), (26, 1))
"""Rows of cells and pixels of one cell: pictures of all sizes are 14 to 26 pixels high."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How a number of nodes fills a picture: from top to bottom, then from left to right."""

    columns: int
    rows: int
    cell: int
    """Pixels of one side of a cell."""

    @property
    def width(self) -> int:
        return self.columns * self.cell

    @property
    def height(self) -> int:
        return self.rows * self.cell


@dataclass(frozen=True, slots=True)
class Band:
    """Columns of a picture whose nodes are in one pool."""

    name: str
    nodes: int
    x: int
    """Pixels from the left."""
    width: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar that is 100 wide."""

    state: CellState
    x: float
    width: float


def shape(nodes: int) -> Shape:
    """The one with the greatest cells that is not too wide; more than 20,000 nodes make it wider."""
    fits = ((rows, cell) for rows, cell in _SHAPES if -(-nodes // rows) * cell <= _WIDTH)
    rows, cell = next(fits, _SHAPES[-1])
    return Shape(max(1, -(-nodes // rows)), rows, cell)


def picture(cells: bytes, kinds: Sequence[CellKind], form: Shape) -> str:
    """A PNG as a `data:` address. Each node is one pixel, whose index in the palette is its byte of `cells`.

    https://www.w3.org/TR/png-3/: colour type 3, 8 bits, no filter, not interlaced. The script of the page reads it.
    """
    padded = cells.ljust(form.columns * form.rows, b"\0")
    lines = b"".join(b"\0" + padded[row :: form.rows] for row in range(form.rows))
    palette = bytes(3) + b"".join(bytes(_COLOURS[kind.state]) for kind in kinds)
    header = struct.pack(">IIBBBBB", form.columns, form.rows, 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", header),
        (b"PLTE", palette),
        (b"tRNS", b"\0"),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    png = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in parts)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def kind_names(kinds: Iterable[CellKind]) -> str:
    """What the script says of a cell, by its number, as JSON."""
    names = [f"{kind.state}: {kind.reason}" if kind.reason else kind.state for kind in kinds]
    return json.dumps(["not wanted", *names])


def bands(groups: Sequence[NodeGroup], form: Shape) -> list[Band]:
    """The pools along a picture of these nodes; one that shares its first column with another begins after it."""
    found, start = [], 0
    for name, members in groupby(groups, key=lambda group: group.within):
        number = sum(1 for _ in members)
        first, last = -(-start // form.rows), -(-(start + number) // form.rows)
        found.append(Band(name, number, first * form.cell, (last - first) * form.cell))
        start += number
    return found


def segments(tally: Tally) -> list[Segment]:
    """The bar of a tally. Each state that occurs is at least 2 wide, so that one failed node of 5,000 is seen."""
    numbers = [(state, getattr(tally, state)) for state in STATES if getattr(tally, state)]
    widths = {state: max(2.0, 100 * number / tally.desired) for state, number in numbers}
    # What small states get too much, the greatest one gives.
    if widths:
        widths[max(widths, key=lambda state: widths[state])] -= sum(widths.values()) - 100
    found, x = [], 0.0
    for state, width in widths.items():
        found.append(Segment(state, round(x, 2), round(width, 2)))
        x += width
    return found


def describe(tally: Tally) -> str:
    """A tally in words, for readers who do not see the bar."""
    others = [f"{getattr(tally, state):,} {state}" for state in STATES[1:] if getattr(tally, state)]
    return ", ".join([f"{tally.warm:,} of {tally.desired:,} warm", *others])
