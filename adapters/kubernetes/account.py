"""Read the files of the Pod's ServiceAccount, which the kubelet replaces while the program runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["ServiceAccount"]

_FRESH_SECONDS: Final = 10.0


class ServiceAccount:
    """The token and the CAs of the cluster, read again every 10 seconds at most.

    The age counts on the monotonic clock: a wall clock that is set back would leave an expired token in use. A file
    that is empty or cannot be read changes nothing: the previous token may stay valid for minutes.
    """

    def __init__(self, folder: Path, *, monotonic: Callable[[], float], trust: Callable[[str], None]) -> None:
        """`trust` gets each new version of the CAs, in PEM."""
        self._folder = folder
        self._monotonic = monotonic
        self._trust = trust
        self._read_at: float | None = None
        self._token = ""
        self._authorities = ""

    def token(self) -> str:
        """The current token; empty if none was ever read."""
        now = self._monotonic()
        if self._read_at is None or now - self._read_at >= _FRESH_SECONDS:
            self._read_at = now
            self._token = self._content("token") or self._token
            authorities = self._content("ca.crt")
            if authorities and authorities != self._authorities:
                self._authorities = authorities
                self._trust(authorities)
        return self._token

    def _content(self, name: str) -> str:
        try:
            return (self._folder / name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""
