"""Write logs as events with fields: a line of JSON each, or coloured text on a terminal."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Any, Final, Literal, Protocol, TextIO, TypeAlias

from adapters.clock import utcnow

__all__ = ["LOG_MODES", "Log", "LogMode", "open_log", "set_up_logs"]

LogMode: TypeAlias = Literal["json", "console", "auto"]
LOG_MODES: Final[tuple[LogMode, ...]] = ("json", "console", "auto")
"""`auto` is `console` on a terminal and `json` everywhere else."""


class Log(Protocol):
    """What writes events; structlog's loggers do."""

    def info(self, event: str, /, **fields: Any) -> Any:
        """Something happened as it should."""

    def warning(self, event: str, /, **fields: Any) -> Any:
        """Somebody may have to look at this."""

    def exception(self, event: str, /, **fields: Any) -> Any:
        """The exception that is being handled was not expected."""


def open_log(mode: LogMode, stream: TextIO) -> Log:
    """A log to `stream` without structlog, unless a person reads it; times are in UTC.

    structlog always imports its console, and rich if that is installed: 7 MiB that an agent on each node does without.
    """
    if _is_console(mode, stream):
        set_up_logs(mode, stream)
        import structlog

        log: Log = structlog.get_logger()
        return log
    _handle_warnings(stream, _JsonFormatter())
    return _JsonLog(stream)


def set_up_logs(mode: LogMode, stream: TextIO) -> None:
    """Send structlog's events, and what libraries warn of through `logging`, to `stream`; times are in UTC."""
    # Imported here: see `open_log`.
    import structlog

    processors: list[structlog.typing.Processor] = [_json_line]
    formatter: logging.Formatter = _JsonFormatter()
    if _is_console(mode, stream):
        # Plain tracebacks: the coloured ones show local variables, and those may be secrets.
        console = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, timestamp_key="time"
        )
        shared: list[structlog.typing.Processor] = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        ]
        processors = [*shared, console]
        formatter = structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, console],
        )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    _handle_warnings(stream, formatter)


def _is_console(mode: LogMode, stream: TextIO) -> bool:
    return mode == "console" or (mode == "auto" and stream.isatty())


def _handle_warnings(stream: TextIO, formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


class _JsonLog:
    """Writes each event at once, as a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def info(self, event: str, /, **fields: Any) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._write("warning", event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        self._write("exception", event, {**fields, "exc_info": True})

    def _write(self, method: str, event: str, fields: Mapping[str, Any]) -> None:
        self._stream.write(_json_line(None, method, {"event": event, **fields}) + "\n")
        self._stream.flush()


class _JsonFormatter(logging.Formatter):
    """What libraries log, in the form of events."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"event": record.getMessage(), "logger": record.name, "exc_info": record.exc_info}
        return _json_line(None, record.levelname.lower(), fields)


def _json_line(_logger: object, method: str, fields: Mapping[str, Any]) -> str:
    """An event as a processor of structlog renders it.

    When, how grave and what come first: people read lines without a tool, and narrow terminals cut them.
    """
    time = utcnow().isoformat().replace("+00:00", "Z")
    line = {"time": time, "level": "error" if method == "exception" else method, "event": fields["event"]}
    line |= {name: value for name, value in fields.items() if name not in line and name != "exc_info"}
    if error := _exception(fields.get("exc_info")):
        line["exception"] = "".join(traceback.format_exception(error)).rstrip("\n")
    return json.dumps(line, ensure_ascii=False, default=repr)


def _exception(exc_info: Any) -> BaseException | None:
    """From what `logging` and structlog accept: an exception, the triple of `sys.exc_info`, or whether there is one."""
    if isinstance(exc_info, BaseException):
        return exc_info
    triple = exc_info if isinstance(exc_info, tuple) else sys.exc_info() if exc_info else (None, None, None)
    error: BaseException | None = triple[1]
    return error
