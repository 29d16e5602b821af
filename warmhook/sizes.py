"""Format numbers of bytes for people."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")


def format_bytes(size: float) -> str:
    """A size in the greatest unit of which there is one, `1.2 GiB`; never with more digits than it is known."""
    scaled, unit = max(size, 0.0) / 1024, _UNITS[0]
    for larger in _UNITS[1:]:
        # What would be written as 1024.0 is one of the next unit.
        if scaled < 1023.95:
            break
        scaled, unit = scaled / 1024, larger
    return f"{scaled:.1f} {unit}"
