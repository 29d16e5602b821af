"""Read Markdown as GitHub does: links, headings and their anchors."""

from __future__ import annotations

import re
from typing import Final

_FENCED: Final = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", flags=re.MULTILINE | re.DOTALL)
_CODE: Final = re.compile(r"`[^`\n]*`")
_LINK: Final = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6} +(.+?) *$", flags=re.MULTILINE)


def links(text: str) -> list[str]:
    """The targets of links and images outside code."""
    return _LINK.findall(_CODE.sub("", _FENCED.sub("", text)))


def headings(text: str) -> list[str]:
    """The headings as they are written."""
    return _HEADING.findall(_FENCED.sub("", text))


def anchors(text: str) -> set[str]:
    """The anchors of the headings; a repeated heading has a number."""
    found: dict[str, int] = {}
    made = set()
    for heading in headings(text):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = found.get(anchor, 0)
        found[anchor] = count + 1
        made.add(f"{anchor}-{count}" if count else anchor)
    return made
