"""Durations are read and written as kubectl has them."""

from __future__ import annotations

import pytest

from warmhook.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1h1s", 3601), ("0s", 0)]
)
def test_a_duration_is_in_seconds(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "1x", "-1s", "1.5h", "1m1h", "٣s", "9" * 20, "1 m"])
def test_another_text_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 90s, 10m or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0.9, "0s"),
        (119, "119s"),
        (120, "2m"),
        (330, "5m30s"),
        (630, "10m"),
        (7199, "119m"),
        (7260, "2h1m"),
        (36060, "10h"),
        (2 * 86400 + 3600, "2d1h"),
        (400 * 86400, "400d"),
    ],
)
def test_an_age_has_the_units_that_matter(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
