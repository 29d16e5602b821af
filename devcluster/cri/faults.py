"""Which pulls shall fail or hang, for tests? A JSON file that is read anew at each pull.

{"*/shop/a:*": {"code": "UNKNOWN", "text": "no space left on device"}, "*/shop/b:1": "hang"}
"""

from __future__ import annotations

import asyncio
import fnmatch
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Fault", "Faults"]

_POLL_SECONDS: Final = 0.1
_HANG_POLLS_MAX: Final = 6000


@dataclass(frozen=True, slots=True)
class Fault:
    """How a pull fails."""

    code: str
    """A gRPC status by name."""
    text: str


@dataclass(frozen=True, slots=True)
class Faults:
    """The faults that `file` prescribes; none where it is `None` or absent."""

    file: Path | None = None

    async def strike(self, name: str) -> Fault | None:
        """How the pull of `name` fails, if it does; returns late where it is to hang (ten minutes at most)."""
        for _ in range(_HANG_POLLS_MAX):
            fault = self._read(name)
            if not isinstance(fault, str):
                return fault
            await asyncio.sleep(_POLL_SECONDS)
        return None

    def _read(self, name: str) -> Fault | str | None:
        if self.file is None or not self.file.exists():
            return None
        for pattern, fault in json.loads(self.file.read_bytes()).items():
            if fnmatch.fnmatchcase(name, pattern):
                return "hang" if fault == "hang" else Fault(fault["code"], fault["text"])
        return None
