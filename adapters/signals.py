"""Run until the process receives a signal to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, TypeVar

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_Result = TypeVar("_Result")


@contextlib.contextmanager
def on_signals(stop: Callable[[], None], signals: Sequence[signal.Signals] = STOP_SIGNALS) -> Iterator[None]:
    """Call `stop` at each of these signals."""
    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def until_signal(
    work: Coroutine[Any, Any, _Result], signals: Sequence[signal.Signals] = STOP_SIGNALS
) -> _Result | None:
    """The result of `work`, or `None` if a signal cancelled it; its own errors are raised.

    Only the first signal cancels: a second one must not interrupt a program that stops in order.
    """
    task = asyncio.create_task(work, name="program")
    stopped = False

    def stop() -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            task.cancel()

    with on_signals(stop, signals):
        try:
            return await task
        except asyncio.CancelledError:
            if not stopped:
                raise
            return None
