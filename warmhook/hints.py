"""Encode where a node gets an image from: hints beside the lines of its ConfigMap `warmhook-desired-<node>`.

A hint differs from node to node and from plan to plan, so it is no part of a line or of its version. An agent that
ignores it pulls from the registry. All times are Unix seconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from warmhook.images import is_digest

PARENTS_MAX: Final = 8
CHILDREN_MAX: Final = 64
BLOBS_MAX: Final = 64
"""Blobs that a node fetches before their manifest."""
BYTES_MAX: Final = 40 * 1024
"""Bytes of an encoded hint: more than one with all peers and blobs that are allowed, with the longest names."""
KEY_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
"""A key as hints and reports name it: SHA-256 over the SubjectPublicKeyInfo, in base64url without padding."""

_HINT: Final = ".hint"
_EARLY: Final = ".early"
NODE_MAX: Final = 253
_ADDRESS_MAX: Final = 60
_WAIT_MAX: Final = 7200
_TIME_MAX: Final = 2**40
_SIZE_MAX: Final = 2**50


class NotAHint(ValueError):
    """The text is not a hint; the message has the reason."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that serves an image."""

    node: str
    address: str
    """IP address and port: `10.0.0.5:9465`, `[fd00::5]:9465`."""
    key: str
    """Of its agent, as `KEY_PATTERN`."""


@dataclass(frozen=True, slots=True)
class Child:
    """A node that may ask for an image."""

    node: str
    key: str
    """Of its agent, as `KEY_PATTERN`."""


@dataclass(frozen=True, slots=True)
class Hint:
    """Where one node gets the image of one line from, and to whom it gives it."""

    expires_at: int
    digest: str = ""
    """Of the image, where the line has none."""
    parents: tuple[Peer, ...] = ()
    """The nearest first. Empty: the node reads the registry."""
    children: tuple[Child, ...] = ()
    """Every node that has this one among its parents."""
    seeds: int = 0
    """How many nodes read the registry at the same time."""
    wait_seconds: int = 0
    """How long the node waits before it pulls from the registry, because others go first."""


@dataclass(frozen=True, slots=True)
class Early:
    """Blobs that were pushed, and whose manifest has not been pushed yet."""

    expires_at: int
    host: str
    repository: str
    blobs: Mapping[str, int] = field(default_factory=dict)
    """Digest to size in bytes."""
    parents: tuple[Peer, ...] = ()
    children: tuple[Child, ...] = ()
    seeds: int = 0


def hint_key(line_key: str) -> str:
    """The key of the hint of a line in the data of the ConfigMap."""
    return line_key + _HINT


def line_of_hint(data_key: str) -> str:
    """The key of the line whose hint has this key; empty if it is no key of a hint."""
    return data_key.removesuffix(_HINT) if data_key.endswith(_HINT) else ""


def early_key(line_key: str) -> str:
    """The key of the blobs that are expected for the repository of a line."""
    return line_key + _EARLY


def encode_hint(hint: Hint) -> str:
    """JSON with sorted keys and no spaces; absent where a value is the default."""
    return _encode({"e": hint.expires_at, "d": hint.digest, "w": hint.wait_seconds, **_tree(hint)})


def encode_early(early: Early) -> str:
    """JSON with sorted keys and no spaces; absent where a value is the default."""
    return _encode(
        {"e": early.expires_at, "h": early.host, "i": early.repository, "b": dict(early.blobs), **_tree(early)}
    )


def read_hint(text: str) -> Hint:
    """The hint that `encode_hint` wrote; unknown fields are ignored. Raises `NotAHint`."""
    fields = _fields(text)
    digest = fields.get("d", "")
    if digest != "" and not (isinstance(digest, str) and is_digest(digest)):
        raise NotAHint("d is no digest")
    return Hint(
        _number(fields, "e", _TIME_MAX),
        digest,
        _parents(fields),
        _children(fields),
        _number(fields, "n", 10**6),
        min(_number(fields, "w", _TIME_MAX), _WAIT_MAX),
    )


def read_early(text: str) -> Early:
    """What `encode_early` wrote; unknown fields are ignored. Raises `NotAHint`."""
    fields = _fields(text)
    host, repository, blobs = fields.get("h"), fields.get("i"), fields.get("b")
    if not (isinstance(host, str) and isinstance(repository, str) and host and repository):
        raise NotAHint("h and i must name a host and a repository")
    if not isinstance(blobs, dict) or len(blobs) > BLOBS_MAX:
        raise NotAHint(f"b must be at most {BLOBS_MAX} blobs")
    for digest, size in blobs.items():
        if not is_digest(digest) or type(size) is not int or not 0 < size < _SIZE_MAX:
            raise NotAHint("b must be digests with sizes")
    return Early(
        _number(fields, "e", _TIME_MAX),
        host,
        repository,
        blobs,
        _parents(fields),
        _children(fields),
        _number(fields, "n", 10**6),
    )


def _tree(hint: Hint | Early) -> dict[str, Any]:
    parents = [[peer.node, peer.address, peer.key] for peer in hint.parents]
    return {"p": parents, "c": [[child.node, child.key] for child in hint.children], "n": hint.seeds}


def _encode(fields: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in fields.items() if value}, sort_keys=True, separators=(",", ":"))


def _fields(text: str) -> dict[str, Any]:
    if len(text) > BYTES_MAX:
        raise NotAHint(f"more than {BYTES_MAX} bytes")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotAHint(f"no JSON: {str(error)[:80]}") from error
    if not isinstance(fields, dict):
        raise NotAHint("no JSON object")
    return fields


def _number(fields: Mapping[str, Any], name: str, limit: int) -> int:
    value = fields.get(name, 0)
    if type(value) is not int or not 0 <= value <= limit:
        raise NotAHint(f"{name} must be a number of at most {limit}")
    return value


def _parents(fields: Mapping[str, Any]) -> tuple[Peer, ...]:
    return tuple(Peer(*row) for row in _rows(fields, "p", 3, PARENTS_MAX))


def _children(fields: Mapping[str, Any]) -> tuple[Child, ...]:
    return tuple(Child(*row) for row in _rows(fields, "c", 2, CHILDREN_MAX))


def _rows(fields: Mapping[str, Any], name: str, width: int, limit: int) -> list[list[str]]:
    """Lists of node, perhaps address, and key."""
    rows = fields.get(name, [])
    if not isinstance(rows, list) or len(rows) > limit:
        raise NotAHint(f"{name} must be a list of at most {limit}")
    for row in rows:
        if not isinstance(row, list) or len(row) != width or not all(isinstance(part, str) for part in row):
            raise NotAHint(f"{name} must have lists of {width} texts")
        sizes = len(row[0]) <= NODE_MAX and (width == 2 or 0 < len(row[1]) <= _ADDRESS_MAX)
        if not row[0] or not sizes or not KEY_PATTERN.fullmatch(row[-1]):
            raise NotAHint(f"{name} has a node, an address or a key that is none")
    return rows
