"""Every log event is one readable line, with structlog and without."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import TextIO, TypeAlias

import pytest
import structlog

from adapters.logs import Log, LogMode, open_log, set_up_logs

Open: TypeAlias = Callable[[LogMode, TextIO], Log]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def open_structlog(mode: LogMode, stream: TextIO) -> Log:
    set_up_logs(mode, stream)
    log: Log = structlog.get_logger()
    return log


with_and_without_structlog = pytest.mark.parametrize("opened", [open_log, open_structlog])


@with_and_without_structlog
def test_events_are_lines_of_json_with_a_time_in_utc(opened: Open) -> None:
    stream = io.StringIO()
    opened("auto", stream).info("pull", image="a\nb", seconds=1.5)
    event = json.loads(stream.getvalue())
    assert (event["event"], event["image"], event["level"]) == ("pull", "a\nb", "info")
    assert list(event)[:3] == ["time", "level", "event"]
    assert event["time"].endswith("Z")
    assert stream.getvalue().count("\n") == 1


@with_and_without_structlog
def test_a_value_that_is_not_json_is_written_as_its_repr(opened: Open) -> None:
    stream = io.StringIO()
    opened("json", stream).warning("malformed-line", error=ValueError("ü"))
    event = json.loads(stream.getvalue())
    assert (event["level"], event["error"]) == ("warning", "ValueError('ü')")


@with_and_without_structlog
def test_what_libraries_warn_of_looks_the_same(opened: Open) -> None:
    stream = io.StringIO()
    opened("json", stream)
    logging.getLogger("aiohttp").warning("slow %s", "answer")
    logging.getLogger("aiohttp").info("nobody needs this")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["logger"], event["level"]) == ("slow answer", "aiohttp", "warning")


@with_and_without_structlog
@pytest.mark.parametrize("mode", ["json", "console"])
def test_a_traceback_shows_no_local_variables(mode: LogMode, opened: Open) -> None:
    stream = io.StringIO()
    log = opened(mode, stream)
    password = "hunter" + "2"
    try:
        int("x" * len(password))
    except ValueError:
        log.exception("crashed")
        logging.getLogger("asyncio").exception("crashed too")
    assert stream.getvalue().count("invalid literal") == 2
    assert stream.getvalue().count("Traceback") == 2
    assert password not in stream.getvalue()
