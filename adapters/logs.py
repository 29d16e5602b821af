"""Write logs as events with fields: a line of JSON each, or coloured text on a terminal."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO, TypeAlias

from adapters.clock import utcnow

LogMode: TypeAlias = Literal["json", "console", "auto"]
LOG_MODES: Final[tuple[LogMode, ...]] = ("json", "console", "auto")
"""`auto` is `console` on a terminal and `json` everywhere else."""


def get_logger() -> Log:
    """The log of this process. Its events go to structlog until `set_up_logs` has chosen lines of JSON."""
    return _LOG


def set_up_logs(mode: LogMode, stream: TextIO) -> None:
    """Send all events, and what libraries warn of through `logging`, to `stream`; times are in UTC."""
    is_console = mode == "console" or (mode == "auto" and stream.isatty())
    _LOG.stream = None if is_console else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_set_up_console(stream) if is_console else _JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def _set_up_console(stream: TextIO) -> logging.Formatter:
    """Have structlog write coloured text; what does the same for `logging`."""
    import structlog

    # Plain tracebacks: the coloured ones show local variables, and those may be secrets.
    console = structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, timestamp_key="time"
    )
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    structlog.configure(
        processors=[*shared, console],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, console],
    )


class Log:
    """Writes each event to `stream` as a line of JSON; without a stream gives it to structlog."""

    def __init__(self) -> None:
        self.stream: TextIO | None = None

    def info(self, event: str, /, **fields: Any) -> None:
        """Something happened as it should."""
        self._write("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """Somebody may have to look at this."""
        self._write("warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Something was given up."""
        self._write("error", event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        """The exception that is being handled was not expected."""
        self._write("error", event, fields | {"exc_info": sys.exception()})

    def _write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        if self.stream is not None:
            self.stream.write(_json_line(level, event, fields) + "\n")
            self.stream.flush()
            return
        # Imported here: structlog always imports its console, and rich if that is installed. Programs in a cluster do
        # without these 7 MiB and 75 ms.
        import structlog

        getattr(structlog.get_logger(), level)(event, **fields)


_LOG: Final = Log()


class _JsonFormatter(logging.Formatter):
    """The log messages of libraries, in the form of events."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        return _json_line(record.levelname.lower(), record.getMessage(), {"logger": record.name, "exc_info": error})


def _json_line(level: str, event: str, fields: Mapping[str, Any]) -> str:
    """An event with its fields; `exc_info` is an exception or `None`.

    When, how grave and what come first: people read lines without a tool, and narrow terminals cut them.
    """
    time = utcnow().isoformat().replace("+00:00", "Z")
    head: dict[str, Any] = {"time": time, "level": level, "event": event}
    line = {**head, **fields, **head}
    if (error := line.pop("exc_info", None)) is not None:
        line["exception"] = "".join(traceback.format_exception(error)).rstrip("\n")
    text = json.dumps(line, ensure_ascii=False, default=repr)
    # A lone surrogate has no bytes; JSON has the same escape for it as Python.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
