"""Run until the process is asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

__all__ = ["on_signals", "until_stopped"]


@contextlib.contextmanager
def on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` whenever SIGTERM or SIGINT comes."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or a signal comes, which cancels it; its own errors are raised."""
    task = asyncio.create_task(work, name="program")
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        task.cancel()

    with on_signals(stop):
        try:
            await task
        except asyncio.CancelledError:
            if not stopped:
                raise
