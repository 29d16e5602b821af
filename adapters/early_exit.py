"""End a program that is asked to stop while it still starts."""

from __future__ import annotations

import os
import signal

__all__ = ["exit_when_asked"]


def exit_when_asked() -> None:
    """From now on SIGTERM and SIGINT end the process with 0, until the program installs handlers of its own.

    Linux ignores both for process 1 of a container as long as there is no handler, and imports take a second: a Pod
    deleted in that time would be waited for until its grace period is over.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: os._exit(0))
