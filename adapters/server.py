"""Serve an application by uvicorn, which leaves signals to the program around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import uvicorn


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: they raise the signal again at the end, which would set the exit code."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield
