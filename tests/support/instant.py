"""Run tests of hours at once, on an event loop whose clock jumps to the next timer when nothing is ready."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from random import Random
from typing import Any, ParamSpec, TypeVar

from adapters.clock import Clock

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: the time that it was asked to wait has passed at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events:
            if timeout is None:
                raise RuntimeError("nothing will ever happen: no timer is set and nothing is ready")
            # Never less than a timer may be early, or who asks again for the rest of a nanosecond asks for ever.
            self.now += max(1e-6, timeout) if timeout > 0 else 0.0
        return events


class InstantLoop(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own. Nothing on it may wait for threads, sockets or processes."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the loop began."""
        return self._jumping.now


def instantly(main: Coroutine[Any, Any, _Result]) -> _Result:
    """`asyncio.run` on an `InstantLoop`."""
    with asyncio.Runner(loop_factory=InstantLoop) as runner:
        return runner.run(main)


def instant(test: Callable[_Given, Coroutine[Any, Any, None]]) -> Callable[_Given, None]:
    """Run an asynchronous test on an `InstantLoop`."""

    @functools.wraps(test)
    def run(*args: _Given.args, **kwargs: _Given.kwargs) -> None:
        instantly(test(*args, **kwargs))

    return run


def loop_clock(start: datetime, seed: int = 1) -> Clock:
    """The clock of the running loop, which began at `start`."""

    def monotonic() -> float:
        return asyncio.get_running_loop().time()

    def utcnow() -> datetime:
        return start + timedelta(seconds=monotonic())

    return Clock(utcnow, monotonic, asyncio.sleep, Random(seed).random)


async def until(holds: Callable[[], bool], *, seconds: float = 120, step: float = 0.05) -> float:
    """Let time pass until `holds` does; returns how many seconds that took, `TimeoutError` when too many."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not holds():
        if loop.time() - began > seconds:
            raise TimeoutError(f"not within {seconds} s")
        await asyncio.sleep(step)
    return loop.time() - began
