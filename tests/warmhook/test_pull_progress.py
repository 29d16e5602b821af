"""Only bytes that were not there before are progress."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmhook.ports import Download
from warmhook.pull_progress import Downloaded
from warmhook.sizes import format_bytes


def test_a_part_that_has_ended_still_counts() -> None:
    assert Downloaded().after([Download("a", 5, 10)]).after([Download("b", 2, 2)]).bytes == 7


def test_a_part_that_begins_again_is_no_progress_until_it_is_further_than_before() -> None:
    first = Downloaded().after([Download("a", 5, 10)])
    assert [first.after([Download("a", offset, 10)]).bytes for offset in (0, 5, 6)] == [5, 5, 6]


@given(st.lists(st.lists(st.builds(Download, st.sampled_from("abc"), st.integers(0, 9), st.just(9)))))
def test_what_was_downloaded_never_shrinks(looks: list[list[Download]]) -> None:
    downloaded, before = Downloaded(), 0
    for downloads in looks:
        downloaded = downloaded.after(downloads)
        assert downloaded.bytes >= before
        before = downloaded.bytes


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.0 KiB"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (3.1 * 1024**3, "3.1 GiB"),
        (5 * 1024**5, "5120.0 TiB"),
    ],
)
def test_a_size_is_shown_in_its_greatest_unit(size: float, text: str) -> None:
    assert format_bytes(size) == text
