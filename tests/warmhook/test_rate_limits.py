"""A registry that limits requests is left alone, with all its images, and no other registry is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.warmhook.test_pull_queue import a_line, wanted
from warmhook.attempts import Attempts
from warmhook.desired_lines import DesiredLine
from warmhook.pull_queue import SLOW_SECONDS, ImagePull, Running
from warmhook.rate_limits import (
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    SHORTEST_WAIT_SECONDS,
    RateLimit,
    after_refusal,
    held_images,
    retry_after_seconds,
)

LIMITED, OTHER = "limited.example.com", "other.example.com"


def _line(host: str, name: str, *, priority: int = 0) -> DesiredLine:
    return wanted(a_line(f"{host}/shop/{name}:1", priority=priority))


def _held(lines: list[DesiredLine], until: float, now: float, running: dict[str, float] | None = None) -> set[str]:
    """The held images if one host is limited; `running` is when pulls of images began."""
    pulls = {
        image: Running(ImagePull(image, frozenset(), frozenset(), 0, 0.0, 600), began)
        for image, began in (running or {}).items()
    }
    hosts = {image: image.partition("/")[0] for image in [*(each.line.image for each in lines), *pulls]}
    return held_images(lines, hosts, {LIMITED: RateLimit(1, until)}, {}, pulls, now)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("429 Too Many Requests - Server message: toomanyrequests: retry-after: 1.5s, allowed: 44000/minute", 1.5),
        ("toomanyrequests: retry-after: 259.104µs, allowed: 44000/minute", 259.104e-6),
        ("too many requests, retry after 30 seconds", 30),
        ("Retry-After: 120", 120),
        ("please try again in 2 minutes", 120),
        ("retry-after: 1m30s", 90),
        ("retry in 1 hour", 3600),
    ],
)
def test_the_wait_that_an_error_asks_for_is_read(text: str, seconds: float) -> None:
    assert retry_after_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "429 Too Many Requests", "retry-after: Wed, 21 Oct 2026 07:28:00 GMT", "retry after some time", "retry later"],
)
def test_an_error_without_a_wait_asks_for_none(text: str) -> None:
    assert retry_after_seconds(text) is None


@given(st.text(alphabet="retry-af in0123456789.smhu: ", max_size=80))
def test_any_text_is_read(text: str) -> None:
    found = retry_after_seconds(f"retry-after: {text}")
    assert found is None or found >= 0


def test_a_registry_that_says_nothing_is_left_alone_for_twice_as_long_each_time_up_to_an_hour() -> None:
    limit, now, waits = None, 0.0, []
    for _ in range(8):
        limit = after_refusal(limit, None, now, 0.0)
        waits.append(limit.until - now)
        now = limit.until
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]


@pytest.mark.parametrize(("told", "waited"), [(30.0, 30.0), (0.0, SHORTEST_WAIT_SECONDS), (1e9, LONGEST_WAIT_SECONDS)])
def test_a_registry_that_says_how_long_is_left_alone_for_that_time_within_bounds(told: float, waited: float) -> None:
    assert after_refusal(None, told, 100.0, 0.0).until == 100.0 + waited


def test_a_refusal_of_a_pull_that_began_before_the_wait_does_not_lengthen_the_next_one() -> None:
    first = after_refusal(None, None, 0.0, 0.0)
    assert after_refusal(first, None, 1.0, 0.0).refusals == 1
    assert after_refusal(first, 5.0, 1.0, 0.0).until == first.until == FIRST_WAIT_SECONDS


@given(st.floats(0, 1), st.floats(0, 1e6), st.one_of(st.none(), st.floats(0, 1e9)))
def test_a_wait_is_never_longer_than_its_bound(random: float, now: float, told: float | None) -> None:
    wait = after_refusal(RateLimit(30, 0.0), told, now, random).until - now
    assert SHORTEST_WAIT_SECONDS <= round(wait, 3) <= LONGEST_WAIT_SECONDS * 1.1


def test_during_the_wait_all_images_of_the_host_are_held_and_no_others() -> None:
    lines = [_line(LIMITED, "a"), _line(LIMITED, "b"), _line(OTHER, "a")]
    assert _held(lines, until=60, now=10) == {f"{LIMITED}/shop/a:1", f"{LIMITED}/shop/b:1"}


def test_after_the_wait_one_image_of_the_host_is_tried_first() -> None:
    lines = [_line(LIMITED, "a"), _line(LIMITED, "b", priority=5), _line(OTHER, "a")]
    assert _held(lines, until=60, now=60) == {f"{LIMITED}/shop/a:1"}


def test_the_next_one_waits_for_the_first_until_the_registry_must_have_answered() -> None:
    lines, running = [_line(LIMITED, "a")], {f"{LIMITED}/shop/b:1": 61.0}
    assert _held(lines, until=60, now=62, running=running) == {f"{LIMITED}/shop/a:1"}
    assert _held(lines, until=60, now=61 + SLOW_SECONDS, running=running) == set()


def test_a_pull_that_began_before_the_wait_holds_nothing_after_it() -> None:
    assert _held([_line(LIMITED, "a")], until=60, now=61, running={f"{LIMITED}/shop/b:1": 50.0}) == set()


def test_an_image_in_back_off_is_not_the_one_that_is_tried_first() -> None:
    late, due = _line(LIMITED, "a", priority=5), _line(LIMITED, "b")
    hosts = {late.line.image: LIMITED, due.line.image: LIMITED}
    attempts = {late.version: Attempts(1, due_at=1000.0)}
    assert held_images([late, due], hosts, {LIMITED: RateLimit(1, 0.0)}, attempts, {}, 10.0) == {late.line.image}
