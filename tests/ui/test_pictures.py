"""A picture has one pixel for each node, and a bar shows each state that occurs."""

from __future__ import annotations

import base64
import json
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.ui.pictures import bands, describe, kind_names, picture, segments, shape
from warmhook.overview import CellKind, NodeGroup, Tally

KINDS = (CellKind("warm"), CellKind("failed", "NotFound"), CellKind("failed", "DiskFull"))


def pixels(address: str) -> list[bytes]:
    """The rows of a PNG of ours, each pixel one byte; the checksums of its parts must hold."""
    png = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        name, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length) == (zlib.crc32(name + content),)
        parts[name], at = content, at + length + 12
    width, height, depth, colour = struct.unpack_from(">IIBB", parts[b"IHDR"])
    assert (depth, colour) == (8, 3)
    lines = zlib.decompress(parts[b"IDAT"])
    assert len(lines) == height * (width + 1)
    return [lines[row * (width + 1) + 1 : (row + 1) * (width + 1)] for row in range(height)]


@given(st.binary(min_size=1, max_size=6000).map(lambda cells: bytes(cell % 4 for cell in cells)))
def test_each_node_has_its_pixel_from_top_to_bottom_and_then_to_the_right(cells: bytes) -> None:
    form = shape(len(cells))
    rows = pixels(picture(cells, KINDS, form))
    found = bytes(rows[number % form.rows][number // form.rows] for number in range(len(cells)))
    assert found == cells


@pytest.mark.parametrize(
    ("nodes", "width", "height"), [(0, 14, 14), (1, 14, 14), (57, 798, 14), (58, 290, 20), (5000, 770, 26)]
)
def test_pictures_of_all_sizes_fit_into_a_row(nodes: int, width: int, height: int) -> None:
    form = shape(nodes)
    assert (form.width, form.height) == (width, height)


@given(st.integers(min_value=0, max_value=20_800))
def test_no_picture_is_wider_than_a_screen(nodes: int) -> None:
    form = shape(nodes)
    assert form.width <= 800
    assert form.columns * form.rows >= nodes


def test_the_script_is_told_the_state_and_the_reason_of_each_kind() -> None:
    assert json.loads(kind_names(KINDS)) == ["not wanted", "warm", "failed: NotFound", "failed: DiskFull"]


def test_a_picture_of_the_same_cells_is_the_same_so_that_a_page_need_not_draw_it_again() -> None:
    assert picture(b"\1\2\3", KINDS, shape(3)) == picture(b"\1\2\3", KINDS, shape(3))


def test_pools_are_side_by_side_above_a_picture() -> None:
    groups = [NodeGroup(f"n{number}", 1, within="a" if number < 100 else "b") for number in range(300)]
    form = shape(300)
    first, second = bands(groups, form)
    assert (first.name, first.nodes, first.x) == ("a", 100, 0)
    assert (second.name, second.nodes) == ("b", 200)
    assert first.width == second.x
    assert second.x + second.width == form.width


@given(st.tuples(*[st.integers(min_value=0, max_value=5000)] * 5).filter(any))
def test_the_segments_of_a_bar_fill_it_and_show_each_state(numbers: tuple[int, ...]) -> None:
    tally = Tally(*numbers)
    parts = segments(tally)
    assert len(parts) == sum(number > 0 for number in numbers)
    assert all(part.width >= 1.99 for part in parts)
    assert sum(part.width for part in parts) == pytest.approx(100, abs=0.1)
    assert parts[-1].x + parts[-1].width == pytest.approx(100, abs=0.1)


def test_a_tally_reads_as_a_sentence() -> None:
    assert describe(Tally(4990, pulling=3, failed=7)) == "4,990 of 5,000 warm, 3 pulling, 7 failed"
