"""Let a test be a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Standard output is a terminal meanwhile; afterwards the list has what it showed."""
    ours, theirs = pty.openpty()
    shown: list[str] = []
    with os.fdopen(theirs, "w") as opened:
        monkeypatch.setattr(sys, "stdout", opened)
        yield shown
    parts = list[bytes]()
    # The end of a terminal that was closed is an error.
    with contextlib.suppress(OSError):
        while part := os.read(ours, 10_000):
            parts.append(part)
    os.close(ours)
    shown.append(b"".join(parts).decode())
