"""Know the bearer token of `/events`: that of a file, or one that this process made for itself."""

from __future__ import annotations

import hmac
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from handlers.settings import Settings

__all__ = ["EventsToken", "events_token"]

_BITS: Final = 192


@dataclass(frozen=True, slots=True)
class EventsToken:
    """What a request to `/events` carries."""

    file: Path | None = None
    """Read for each request, so it may be replaced; `None`: `own` counts."""
    own: str = field(default="", repr=False)
    """Known to this process alone; empty: there is none."""

    def header(self) -> str:
        """The value of `Authorization`; empty where there is no token. Raises `OSError` and `UnicodeDecodeError`."""
        token = self.own if self.file is None else self.file.read_text(encoding="ascii").strip()
        return f"Bearer {token}" if token else ""

    def accepts(self, authorization: str) -> bool:
        """Whether that is the header of who knows the token. Raises `OSError` and `UnicodeDecodeError`."""
        expected = self.header()
        given = authorization.encode("latin-1", errors="replace")
        return bool(expected) and hmac.compare_digest(given, expected.encode())


def events_token(settings: Settings, rng: random.Random) -> EventsToken:
    """The token of the settings, or without one a random one for `watch` inside the same process."""
    if settings.events_token_file is not None:
        return EventsToken(settings.events_token_file)
    return EventsToken(own=f"{rng.getrandbits(_BITS):0{_BITS // 4}x}")
