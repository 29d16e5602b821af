"""A pull is refused exactly if it would take the disk below its minimum, by what the node knows of its images."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.disk_space import DEFAULT_FACTOR, LARGEST_FACTOR, LEAST_FACTOR, Learned, Room, Space, room
from warmhook.pull_queue import ImagePull, Running

MIB, GIB = 2**20, 2**30
DISK = Space(100 * GIB, 30 * GIB)


def running(size_bytes: int, downloaded_bytes: int = 0) -> Running:
    return Running(
        ImagePull("a", frozenset(), frozenset(), 0, 0, 600, size_bytes), 0.0, downloaded_bytes=downloaded_bytes
    )


@pytest.mark.parametrize(
    ("learned", "factor"),
    [
        pytest.param(Learned(), DEFAULT_FACTOR, id="nothing is known"),
        pytest.param(Learned([(99 * MIB, 99 * MIB)], 99 * MIB, 900 * MIB), DEFAULT_FACTOR, id="too little is known"),
        pytest.param(Learned([(GIB, GIB)], 4 * GIB, 8 * GIB), 3.0, id="containerd: compressed and unpacked"),
        pytest.param(Learned([(GIB, GIB)], 4 * GIB, 0), DEFAULT_FACTOR, id="containerd, what is used is not known"),
        pytest.param(Learned([(GIB, 2 * GIB)], 9 * GIB, 9 * GIB), 2.0, id="CRI-O: unpacked only"),
        pytest.param(Learned([(GIB, GIB)], 4 * GIB, 1), LEAST_FACTOR, id="all layers are shared"),
        pytest.param(Learned([(GIB, GIB)], GIB, 99 * GIB), LARGEST_FACTOR, id="containers write a lot"),
        pytest.param(Learned([(GIB, GIB)] * 2 + [(1, GIB)], 4 * GIB, 8 * GIB), 3.0, id="one registry says too little"),
        pytest.param(Learned([(GIB, GIB)] * 2 + [(2**50, 1)], 4 * GIB, 8 * GIB), 3.0, id="one registry says too much"),
    ],
)
def test_the_factor_follows_from_what_the_runtime_lists_and_uses_within_bounds(learned: Learned, factor: float) -> None:
    assert learned.factor == factor


def test_an_image_that_does_not_fit_is_refused_with_figures() -> None:
    found = room(DISK, 20, 3.5, [])
    assert found.usable_bytes == 10 * GIB
    assert found.refusal(2 * GIB) == ""
    assert found.refusal(3 * GIB) == "needs about 10.5 GiB of the node's disk for images, 10.0 GiB may be used"


def test_running_pulls_keep_what_they_still_need() -> None:
    assert room(DISK, 20, 3.5, [running(2 * GIB)]).usable_bytes == 3 * GIB
    assert room(DISK, 20, 3.5, [running(2 * GIB, downloaded_bytes=GIB)]).usable_bytes == 4 * GIB
    assert room(DISK, 20, 3.5, [running(0, downloaded_bytes=GIB)]).usable_bytes == 10 * GIB


@pytest.mark.parametrize(("space", "minimum"), [(None, 20), (Space(100, 0), 0)], ids=["unknown", "no minimum"])
def test_without_a_known_space_or_a_minimum_everything_fits(space: Space | None, minimum: int) -> None:
    assert room(space, minimum, 3.5, [running(GIB)]).image_bytes == math.inf


def test_an_image_of_unknown_size_is_never_refused() -> None:
    assert Room(usable_bytes=-5.0).refusal(0) == ""


@given(st.integers(0, 2**50), st.floats(-(2**50), 2**50), st.floats(LEAST_FACTOR, LARGEST_FACTOR))
def test_what_is_not_refused_fits(size: int, usable: float, factor: float) -> None:
    found = Room(usable, factor)
    if not found.refusal(size) and size:
        assert size * factor <= usable * (1 + 1e-9)
