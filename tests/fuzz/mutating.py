"""Change an input so that it stays interesting: if its body is JSON, one place of it at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any, Final

__all__ = ["mutate"]

_VALUES: Final[tuple[Any, ...]] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        2**63,
        10**400,
        1e308,
        0.1,
        "",
        " ",
        "latest",
        "a" * 300,
        "sha256:",
        "sha256:" + "a" * 64,
    ),
    *("\ud800", "\x00", "http://[", "//", "..", "a/../b", "%2e%2e", "9999-12-31T23:59:59-14:00", "0001-01-01", [], {}),
)
_CHARACTERS: Final = "[]{}!*?/\\:@;._-+%#&=\x00\x7f\xe9\u0663\ud800 \n\"'"


def mutate(data: bytes, max_size: int, rng: Random, otherwise: Callable[[bytes, int], bytes]) -> bytes:
    """`data` with one change, in at most `max_size` bytes; half of the changes are left to `otherwise`."""
    head, separator, body = data.partition(b"\n\n")
    if not separator or rng.random() < 0.5:
        return otherwise(data, max_size)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        text = _text(body.decode("utf-8", "replace"), rng)
        return (head + separator + text.encode("utf-8", "surrogatepass"))[:max_size]
    try:
        changed = json.dumps(_changed(value, rng)).encode()
    except (ValueError, RecursionError):
        return otherwise(data, max_size)
    if rng.random() < 0.05:
        changed = changed.replace(b'": ', b'": 0, "a": ', 1)  # a doubled key, or no JSON at all
    if rng.random() < 0.05:
        changed = b"[" * rng.choice((5, 500, 5000)) + changed
    return (head + separator + changed)[:max_size]


def _changed(value: Any, rng: Random) -> Any:
    inside = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
    if not inside or rng.random() < 0.1:
        return _replaced(value, rng)
    key = rng.choice(list(inside))
    if rng.random() < 0.1:
        kept = {name: one for name, one in inside.items() if name != key}
    else:
        kept = {**inside, key: _changed(inside[key], rng)}
    return list(kept.values()) if isinstance(value, list) else kept


def _replaced(value: Any, rng: Random) -> Any:
    choice = rng.random()
    if isinstance(value, str) and choice < 0.6:
        return _text(value, rng)
    return [value] if choice > 0.95 else rng.choice(_VALUES)


def _text(text: str, rng: Random) -> str:
    place = rng.randrange(len(text) + 1)
    end = min(len(text), place + rng.choice((0, 0, 1, 3)))
    return text[:place] + rng.choice(_CHARACTERS) * rng.choice((1, 1, 2)) + text[end:]
