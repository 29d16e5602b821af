"""Write logs as events with fields: one line of JSON each, or coloured text on a terminal."""

from __future__ import annotations

import logging
from typing import Final, Literal, TextIO, TypeAlias

import structlog

__all__ = ["LOG_MODES", "LogMode", "set_up_logs"]

LogMode: TypeAlias = Literal["json", "console", "auto"]
LOG_MODES: Final[tuple[LogMode, ...]] = ("json", "console", "auto")
"""`auto` is `console` on a terminal and `json` everywhere else."""


def set_up_logs(mode: LogMode, stream: TextIO) -> None:
    """Send the events of structlog, and warnings of libraries through `logging`, to `stream`; times are in UTC."""
    if mode == "auto":
        mode = "console" if stream.isatty() else "json"
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    last: list[structlog.typing.Processor]
    if mode == "console":
        # Plain tracebacks: the coloured ones show local variables, and those may be secrets.
        console = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, timestamp_key="time"
        )
        last = [console]
    else:
        last = [structlog.processors.format_exc_info, _readable, structlog.processors.JSONRenderer(ensure_ascii=False)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def _readable(
    _logger: structlog.typing.WrappedLogger, _method: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Put time, level and event first in a line: people read lines without a tool, and narrow terminals cut them."""
    return {name: fields[name] for name in ("time", "level", "event") if name in fields} | dict(fields)
