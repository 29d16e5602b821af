"""Decode untrusted JSON: no duplicate keys, no NaN, limited nesting, UTF-8 only."""

from __future__ import annotations

import json
from typing import NoReturn

from warmhook.ports import Json


def decode(body: bytes | str) -> Json:
    """One JSON document. Raises `ValueError` with a message that quotes no value."""
    try:
        text = body if isinstance(body, str) else body.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {str(error)[:80]}") from None


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    # Two readers of a duplicate key may see two values, and the checked value may not be the used one.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")
