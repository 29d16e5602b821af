"""Is every log event one readable line?"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from adapters.logs import set_up_logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_events_are_lines_of_json_with_a_time_in_utc() -> None:
    stream = io.StringIO()
    set_up_logs("auto", stream)
    structlog.get_logger().info("pull", image="a\nb", seconds=1.5)
    event = json.loads(stream.getvalue())
    assert (event["event"], event["image"], event["level"]) == ("pull", "a\nb", "info")
    assert event["time"].endswith("Z")
    assert stream.getvalue().count("\n") == 1


def test_what_libraries_warn_of_looks_the_same() -> None:
    stream = io.StringIO()
    set_up_logs("json", stream)
    logging.getLogger("aiohttp").warning("slow %s", "answer")
    logging.getLogger("aiohttp").info("nobody needs this")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["logger"], event["level"]) == ("slow answer", "aiohttp", "warning")


@pytest.mark.parametrize("mode", ["json", "console"])
def test_a_traceback_shows_no_local_variables(mode: str) -> None:
    stream = io.StringIO()
    set_up_logs("json" if mode == "json" else "console", stream)
    password = "hunter" + "2"
    try:
        int("x" * len(password))
    except ValueError:
        structlog.get_logger().exception("crashed")
    assert "invalid literal" in stream.getvalue()
    assert password not in stream.getvalue()
