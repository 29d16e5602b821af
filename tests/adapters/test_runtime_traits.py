"""The traits of a runtime follow from its name and version, and an unknown one has the careful ones."""

from __future__ import annotations

from itertools import pairwise

import pytest

from adapters.runtime_traits import TRAITS, RuntimeTraits, runtime_traits


@pytest.mark.parametrize(
    ("version", "row"),
    [
        ("containerd 1.6.20~ds1", ("containerd", (1, 6, 0))),
        ("containerd 1.6.22", ("containerd", (1, 6, 22))),
        ("containerd 1.7.2", ("containerd", (1, 7, 0))),
        ("containerd v1.7.34", ("containerd", (1, 7, 3))),
        ("containerd 2.4.0-beta.0", ("containerd", (1, 7, 3))),
        ("cri-o 1.28.4", ("cri-o", (1, 26, 0))),
        ("cri-o 1.36.3", ("cri-o", (1, 36, 0))),
    ],
)
def test_a_version_has_the_traits_of_the_last_row_that_is_not_newer(
    version: str, row: tuple[str, tuple[int, int, int]]
) -> None:
    found = runtime_traits(version)
    assert (found.runtime, found.since) == row


@pytest.mark.parametrize("version", ["", "memory 1", "containerd", "containerd 1.5.9", "containerd <unknown>"])
def test_an_unknown_runtime_has_the_traits_under_which_nothing_is_removed_or_pinned(version: str) -> None:
    found = runtime_traits(version)
    assert (found.removal, found.pins) == ("unknown", False)


def test_the_rows_of_a_runtime_are_in_the_order_of_versions() -> None:
    for before, after in pairwise(TRAITS):
        assert before.runtime != after.runtime or before.since < after.since
    assert len({(row.runtime, row.since) for row in TRAITS}) == len(TRAITS)
    assert RuntimeTraits("other", (0, 0, 0)).removal == "unknown"
