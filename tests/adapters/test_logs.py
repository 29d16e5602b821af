"""Every log event is one readable line, in JSON or as text for a terminal."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from adapters.logs import LogMode, get_logger, set_up_logs


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
    get_logger().info("pull", image="a\nb", seconds=1.5)
    event = json.loads(stream.getvalue())
    assert (event["event"], event["image"], event["level"]) == ("pull", "a\nb", "info")
    assert list(event) == ["time", "level", "event", "image", "seconds"]
    assert event["time"].endswith("Z")
    assert stream.getvalue().count("\n") == 1


def test_a_value_that_is_not_json_is_written_as_its_repr() -> None:
    stream = io.StringIO()
    set_up_logs("json", stream)
    get_logger().warning("malformed-line", error=ValueError("ü"))
    assert json.loads(stream.getvalue())["error"] == "ValueError('ü')"
    assert "ü" in stream.getvalue()


def test_a_field_never_replaces_when_how_grave_and_what() -> None:
    stream = io.StringIO()
    set_up_logs("json", stream)
    get_logger().info("pull", time="never", level="fine", event="push", image="web")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["level"], event["image"]) == ("pull", "info", "web")
    assert event["time"].endswith("Z")


def test_a_text_that_has_no_bytes_is_written_escaped() -> None:
    written = io.BytesIO()
    # As stdout is; stderr writes everything.
    stream = io.TextIOWrapper(written, encoding="utf-8", errors="strict", write_through=True)
    set_up_logs("json", stream)
    get_logger().info("pull", image="ü\ud800")
    logging.getLogger("aiohttp").warning("\udfff")
    first, second = written.getvalue().splitlines()
    assert json.loads(first)["image"] == "ü\ud800"
    assert json.loads(second)["event"] == "\udfff"


def test_a_warning_of_a_library_looks_like_an_event() -> None:
    stream = io.StringIO()
    set_up_logs("json", stream)
    logging.getLogger("aiohttp").warning("slow %s", "answer")
    logging.getLogger("aiohttp").info("nobody needs this")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["logger"], event["level"]) == ("slow answer", "aiohttp", "warning")


def test_a_person_reads_text() -> None:
    stream = io.StringIO()
    set_up_logs("console", stream)
    get_logger().error("gave-up", attempts=3)
    logging.getLogger("aiohttp").warning("slow answer")
    first, second = stream.getvalue().splitlines()
    assert "error" in first
    assert "gave-up" in first
    assert "attempts=3" in first
    assert "slow answer" in second


@pytest.mark.parametrize("mode", ["json", "console"])
def test_a_traceback_shows_no_local_variables(mode: LogMode) -> None:
    stream = io.StringIO()
    set_up_logs(mode, stream)
    password = "hunter" + "2"
    try:
        int("x" * len(password))
    except ValueError:
        get_logger().exception("crashed")
        logging.getLogger("asyncio").exception("crashed too")
    assert stream.getvalue().count("invalid literal") == 2
    assert stream.getvalue().count("Traceback") == 2
    assert password not in stream.getvalue()
