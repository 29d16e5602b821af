"""Remove credentials from a text that somebody else wrote, before it is shown or stored."""

from __future__ import annotations

import re
from typing import Final

_USERINFO: Final = re.compile(r"//[^/\s@\"']+@")
_QUERY: Final = re.compile(r"\?[\w.%~-]+=[^\s\"']*")
_TOKEN: Final = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """`text` without user names in URLs, query strings (signed URLs) and tokens."""
    return _TOKEN.sub(r"\1 ***", _QUERY.sub("", _USERINFO.sub("//", text)))
