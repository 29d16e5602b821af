"""Numbers, times and links are as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html import unescape

import pytest

from handlers.ui.formats import age, clock, duration, image_link, percent, printable, short_digest, split_image
from warmhook.warmimages import ObjectKey

NOW = datetime(2026, 3, 14, 2, 59, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.1804, "180 ms"),
        (4.23, "4.2 s"),
        (9.99, "10.0 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7512, "2 h 5 min"),
        (187_200, "2 d 4 h"),
        (-2, "\N{MINUS SIGN}2.0 s"),
    ],
)
def test_a_duration_has_its_two_greatest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "0 %"), (0, 9, "0 %"), (9, 9, "100 %"), (999_999, 1_000_000, "99.9 %"), (1, 1_000_000, "0.1 %")],
)
def test_a_percentage_is_everything_or_nothing_only_if_it_is(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s ago"), (59, "59 s ago"), (200, "3 min ago"), (-90, "in 1 min")])
def test_an_age_has_its_greatest_unit(seconds: float, text: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


def test_a_time_of_another_day_has_its_date() -> None:
    assert clock(NOW, NOW) == "02:59:12"
    assert clock(NOW - timedelta(hours=3), NOW) == "2026-03-13 23:59:12"
    assert clock(NOW) == "2026-03-14 02:59:12"


def test_a_link_keeps_to_its_path_whatever_is_in_a_name() -> None:
    assert image_link(ObjectKey("a/../b", 'x"?#')) == "/ui/images/a%2F..%2Fb/x%22%3F%23"


def test_an_image_has_a_host_only_if_it_is_written_as_one() -> None:
    assert split_image("harbor.example.com/shop/web:v1") == ("harbor.example.com/", "shop/web:v1")
    assert split_image("localhost/web") == ("localhost/", "web")
    assert split_image("library/nginx") == ("", "library/nginx")
    assert split_image("") == ("", "")


def test_a_digest_is_cut_as_runtimes_do() -> None:
    assert (
        short_digest(f"shop/web:v1@sha256:821a3097d85c{'6' * 52}")
        == "shop/web:v1@sha256:821a3097d85c\N{HORIZONTAL ELLIPSIS}"
    )
    assert short_digest("shop/web:v1@sha256:821a") == "shop/web:v1@sha256:821a"


def test_characters_that_nobody_sees_become_visible() -> None:
    assert unescape(printable("a\u202eb\x1b[0m\n\tc\0")) == "a\ufffdb\ufffd[0m\n\tc\ufffd"


def test_a_page_is_ascii() -> None:
    assert printable("\u2716 \U0001f600") == "&#10006; &#128512;"
