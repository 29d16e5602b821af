"""How is an application served? By uvicorn, which leaves signals to the program around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import uvicorn

__all__ = ["Server"]


class Server(uvicorn.Server):
    """uvicorn's own signal handlers would raise the signal again when all is done, and the exit code would be its."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to the program."""
        yield
