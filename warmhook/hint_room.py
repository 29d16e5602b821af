"""Decide which hints of a ConfigMap have room beside its lines: a hint saves time, a line is the image itself."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from warmhook.api import HINT_ANNOTATION
from warmhook.hints import NotAHint, hint_key, read_hint
from warmhook.node_lines import MAX_BYTES, MAX_LINES, Line, size_of
from warmhook.shares import Claim, Room, served


def surplus_hints(lines: Iterable[Line], hints: Mapping[str, str], now: float) -> frozenset[str]:
    """Keys of the lines whose hint has to go: what expired, belongs to no line or is no hint, and what has no room.

    `hints` are encoded, by the keys of their lines; `now` is in Unix seconds. Lines need their room first. If not all
    hints fit, they get half of the rest, so that the next ones fit without another write. Namespaces share it; of each
    the lines of the highest priority keep their hints, of equal priority those that expire last.
    """
    by_key = {line.key: line for line in lines}
    claims = []
    for key, text in hints.items():
        expires_at, line = _expiry(text), by_key.get(key)
        if line is not None and expires_at > now:
            size = len(json.dumps(text)) + len(hint_key(key)) + len(HINT_ANNOTATION + key) + 30
            claims.append(Claim(key, line.warmimage.namespace, line.pull.priority, expires_at, size))
    left = MAX_BYTES - sum(map(size_of, by_key.values()))
    if sum(claim.size_bytes for claim in claims) > left:
        left //= 2
    return frozenset(hints) - (served(claims, Room(MAX_LINES, left)) if left > 0 else frozenset())


def _expiry(text: str) -> int:
    try:
        return read_hint(text).expires_at
    except NotAHint:
        return 0
