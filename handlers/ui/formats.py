"""Format numbers, times, links and commands for people."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote

from warmhook.warmimages import ObjectKey

_STEPS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_DIGEST: Final = re.compile(r"(@sha256:[0-9a-f]{12})[0-9a-f]{52}$")
# Control characters, and marks that change the direction of what follows or that nobody sees.
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def printable(html: str) -> str:
    """`html` without control characters: a name must not turn the text around it, or hide a part of itself.

    The result is ASCII, in which browsers hold large pages in half the memory.
    """
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", html).encode("ascii", "xmlcharrefreplace").decode("ascii")


def count(number: int) -> str:
    """With commas between thousands."""
    return f"{number:,}"


def counted(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(part: int, whole: int) -> str:
    """In whole per cent; 100 % only if it is everything, and 0 % only if it is nothing."""
    if part == whole or not part:
        return "100 %" if part and whole else "0 %"
    return f"{min(99.9, max(0.1, 100 * part / whole)):.1f} %"


def duration(seconds: float) -> str:
    """In the two greatest units: `180 ms`, `4.2 s`, `3 min 20 s`, `2 d 4 h`."""
    if seconds < 0:
        return f"\N{MINUS SIGN}{duration(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    parts: list[tuple[int, str]] = []
    rest = round(seconds)
    for unit, size in _STEPS:
        number, rest = divmod(rest, size)
        if number or parts:
            parts.append((number, unit))
    return " ".join(f"{number} {unit}" for number, unit in parts[:2] if number)


def age(then: datetime, now: datetime) -> str:
    """How long ago that was, in the greatest unit; `in 3 min` if it has not come, as clocks differ."""
    seconds = round((now - then) / timedelta(seconds=1))
    unit, size = next(((unit, size) for unit, size in _STEPS if abs(seconds) >= size), ("s", 1))
    return f"{seconds // size} {unit} ago" if seconds >= 0 else f"in {-seconds // size} {unit}"


def clock(then: datetime, now: datetime | None = None) -> str:
    """The time in UTC, with the date if that is not the one of `now`."""
    then = then.astimezone(UTC)
    same_day = now is not None and then.date() == now.astimezone(UTC).date()
    return f"{then:%H:%M:%S}" if same_day else f"{then:%Y-%m-%d %H:%M:%S}"


def iso(then: datetime) -> str:
    """For the attribute `datetime`, and for titles."""
    return then.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def image_link(key: ObjectKey) -> str:
    """The path of the page of a WarmImage."""
    return f"/ui/images/{quote(key.namespace, safe='')}/{quote(key.name, safe='')}"


def node_link(node: str) -> str:
    """The path of the page of a node."""
    return f"/ui/nodes/{quote(node, safe='')}"


def short_digest(image: str) -> str:
    """An image with the first 12 digits of its digest, as container runtimes print it."""
    return _DIGEST.sub("\\1\N{HORIZONTAL ELLIPSIS}", image)


def split_image(image: str) -> tuple[str, str]:
    """The host with its slash, and the rest; an image without a host has none."""
    host, slash, rest = image.partition("/")
    return (f"{host}/", rest) if slash and ("." in host or ":" in host or host == "localhost") else ("", image)
