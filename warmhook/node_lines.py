"""Encode the lines of a node, one per WarmImage, and its ConfigMap `warmhook-desired-<node>`.

Every patch of a ConfigMap rewrites the whole object in etcd, so a line is as short as possible: one-letter keys,
and options only if they differ from their default.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from warmhook.api import (
    DROPPED_ANNOTATION,
    EARLY_HINT_ANNOTATION,
    HINT_ANNOTATION,
    KIND_LABEL,
    LINE_LABEL,
    NODE_ANNOTATION,
    TRUNCATED_LABEL,
)
from warmhook.hints import Early, Hint, early_key, encode_early, encode_hint, hint_key
from warmhook.images import parse_reference
from warmhook.limits import Tenancy
from warmhook.shares import Claim, Room, served
from warmhook.timestamps import format_time
from warmhook.warmimages import ObjectKey, OnRemoval, Pull, WarmImage

REFUSED_MAX: Final = 4096
"""70 KB of the 256 KiB that all annotations of an object may have."""
MAX_LINES: Final = 256
"""Lines that handlers write for one node and its agent accepts; namespaces share them, the rest is TooManyLines."""
MAX_BYTES: Final = 96 * 1024
"""Bytes that handlers write for one node: etcd stores every version of the whole object."""

_ROOM: Final = Room(MAX_LINES, MAX_BYTES)
_NO_HINTS: Final[Mapping[str, Hint | None]] = {}
_NO_EARLY: Final[Mapping[str, Early | None]] = {}
_BEFORE_ALL: Final = 10_000
"""More than any priority."""
_DESIRED: Final = "warmhook-desired-"
# One-letter names of the options of the pull and of the line, for the wire only.
_OPTIONS: Final = {
    "P": "policy",
    "t": "timeout_seconds",
    "b": "backoff_limit",
    "r": "priority",
    "k": "pinned",
    "c": "secrets",
}
_LINE_OPTIONS: Final = {"o": "on_removal", "s": "size_bytes", "z": "suspended", "x": "purged", "f": "refreshed_at"}
_KNOWN: Final = frozenset({"i", "w", "d", "p", *_OPTIONS, *_LINE_OPTIONS})


class NotALine(ValueError):
    """The text is not a line; the message has the reason."""


@dataclass(frozen=True, slots=True)
class Line:
    """The image that one node should hold."""

    warmimage: ObjectKey
    image: str
    """The image to pull, as a Pod would name it: `host/repository:tag`, or `host/repository@digest` without a tag."""
    digest: str = ""
    """The expected digest of the tag; for an index the digest of the index."""
    pushed_at: str = ""
    """Only without a digest: makes a second push of one tag a new version of the line."""
    pull: Pull = field(default_factory=Pull)
    on_removal: OnRemoval = "Retain"
    """Whether the node deletes the image that it pulled when the line goes."""
    size_bytes: int = 0
    """Compressed bytes of the image's layers, of the largest Linux platform; 0: unknown."""
    suspended: bool = False
    """Nothing is pulled and nothing deleted; the state goes on being reported."""
    purged: bool = False
    """The image is not wanted on the node for now, and is deleted under the rules of `Delete`."""
    refreshed_at: str = ""
    """Each new value makes the node pull the tag once more; what is warm stays warm meanwhile."""
    since: float = field(default=0.0, compare=False)
    """Seconds since the epoch of the push, the last admission or the creation. Decides about room; never sent."""

    @property
    def gives_up(self) -> bool:
        """Whether the image is to be deleted now, although the line exists."""
        return self.purged and not self.suspended

    @property
    def key(self) -> str:
        """The key in the ConfigMap's data and, behind a prefix, in its labels."""
        return line_key(self.warmimage)

    @property
    def idle(self) -> bool:
        """Whether nothing is pulled for it."""
        return self.suspended or self.purged

    @property
    def content(self) -> tuple[str, ...]:
        """What a pull for it brings: lines that agree in this share the result of a pull."""
        return self.image, self.digest, self.pushed_at, self.pull.policy

    def encode(self) -> str:
        """The value in the ConfigMap's data: JSON with sorted keys and no spaces."""
        fields: dict[str, object] = {"i": self.image, "w": str(self.warmimage)}
        if self.digest:
            fields["d"] = self.digest
        elif self.pushed_at:
            fields["p"] = self.pushed_at
        for source, letters in ((self.pull, _OPTIONS), (self, _LINE_OPTIONS)):
            for letter, name in letters.items():
                if getattr(source, name) != _DEFAULTS[name]:
                    fields[letter] = getattr(source, name)
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @property
    def version(self) -> str:
        """8 hex digits over the encoded line; the value of its label. Differs between WarmImages of one image."""
        return version_of(self.encode())


_ABSENT: Final = Line(ObjectKey("", ""), "")
_DEFAULTS: Final = {
    name: getattr(source, name)
    for source, letters in ((_ABSENT.pull, _OPTIONS), (_ABSENT, _LINE_OPTIONS))
    for name in letters.values()
}


def line_key(warmimage: ObjectKey) -> str:
    """16 hex digits that name a WarmImage in every node's ConfigMap."""
    return hashlib.sha256(str(warmimage).encode()).hexdigest()[:16]


def line_of(warmimage: WarmImage) -> Line:
    """The line that `warmimage` puts on each of its nodes.

    What the registry says of a tag counts more than an event, which may be late.
    """
    resolved, digest = warmimage.resolved, warmimage.digest
    # Pods run what is present: neither a new Pod nor the registry changes the line, and nothing is pulled again.
    if resolved is not None and warmimage.pod_origin is None:
        digest = warmimage.image.digest or resolved.digest
    moved = not digest and warmimage.pod_origin is None
    since, refreshed_at = warmimage.pushed_at or warmimage.created_at, warmimage.lifecycle.refreshed_at
    return Line(
        warmimage=warmimage.key,
        image=warmimage.image.pull_name,
        digest=digest,
        pushed_at=format_time(warmimage.pushed_at) if moved and warmimage.pushed_at else "",
        pull=warmimage.template.pull,
        on_removal=warmimage.template.on_removal,
        size_bytes=resolved.size_bytes if resolved is not None else 0,
        suspended=warmimage.template.suspend,
        purged=warmimage.purged,
        refreshed_at=format_time(refreshed_at) if refreshed_at and warmimage.lifecycle.refreshed_by_nodes else "",
        since=since.timestamp() if since else 0.0,
    )


def read_line(key: str, text: str) -> Line:
    """The line that `encode` wrote. Unknown fields are ignored, so that an older agent understands a newer handler.

    Raises `NotALine`.
    """
    try:
        fields = json.loads(text)
        namespace, slash, name = fields["w"].partition("/")
        pull = Pull(**_options(fields, _OPTIONS))
        options = _options(fields, _LINE_OPTIONS)
        line = Line(
            ObjectKey(namespace, name), fields["i"], fields.get("d", ""), fields.get("p", ""), pull=pull, **options
        )
        parse_reference(line.image)
        # A name with half a surrogate pair is not UTF-8, so it has no key.
        belongs = bool(slash) and line.key == key
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotALine(f"line {key}: {error}") from error
    if not isinstance(line.digest, str) or not isinstance(line.pushed_at, str):
        raise NotALine(f"line {key}: a field has the wrong type")
    if not belongs:
        raise NotALine(f"line {key}: belongs to WarmImage {fields['w']!r}")
    return line


def unknown_fields(data: Mapping[str, str]) -> frozenset[str]:
    """The names of fields in the lines of a ConfigMap that a newer handler knows and this program ignores."""
    names: set[str] = set()
    for key, text in data.items():
        with contextlib.suppress(ValueError, RecursionError):
            fields = json.loads(text) if "." not in key else None
            names.update(fields if isinstance(fields, dict) else ())
    return frozenset(names - _KNOWN)


def _options(fields: Mapping[str, Any], letters: Mapping[str, str]) -> dict[str, Any]:
    """The options in the fields of a line, by name. Raises `TypeError` if one has the wrong type."""
    options: dict[str, Any] = {}
    for letter, name in letters.items():
        if letter in fields:
            value, default = fields[letter], _DEFAULTS[name]
            if isinstance(default, tuple) and isinstance(value, list) and all(isinstance(item, str) for item in value):
                value = tuple(value)
            if type(value) is not type(default):
                raise TypeError(f"{name} has the wrong type")
            options[name] = value
    return options


def versions(labels: Mapping[str, str]) -> dict[str, str]:
    """The lines in the labels of an object: key to version."""
    return {name.removeprefix(LINE_LABEL): value for name, value in labels.items() if name.startswith(LINE_LABEL)}


def diff(have: Mapping[str, str], want: Mapping[str, Line]) -> dict[str, Line | None]:
    """The changes for a node that has lines in these versions; `None` removes a line."""
    changes: dict[str, Line | None] = {key: None for key in have if key not in want}
    changes.update((key, line) for key, line in want.items() if have.get(key) != line.version)
    return changes


def desired_name(node: str) -> str:
    """The ConfigMap that handlers write for `node`."""
    return f"{_DESIRED}{node}"


def desired_node(name: str) -> str:
    """The node that a ConfigMap of this name belongs to; empty if it is no desired ConfigMap."""
    return name.removeprefix(_DESIRED) if name.startswith(_DESIRED) else ""


def noted_refusals(refused: Collection[str]) -> list[str]:
    """The keys in the annotation `DROPPED_ANNOTATION`, sorted. Lines beyond them count as waiting, not as failed."""
    return sorted(refused)[:REFUSED_MAX]


def over_budget(lines: Iterable[Line], tenancy: Tenancy, kept: Iterable[Line] = ()) -> frozenset[str]:
    """Keys of the lines beyond `MAX_LINES` and `MAX_BYTES`, or beyond the room of their namespace.

    In each namespace these are the lines of the lowest priority and the oldest. The room of a namespace does not depend
    on the number of lines of others. `kept` are further lines that are there, and go before all others of their
    namespace.
    """
    claims = [_claim(line, line.pull.priority) for line in lines]
    every = [*claims, *(_claim(line, _BEFORE_ALL) for line in kept)]
    within = [claim for own in _by_namespace(every) for claim in _fitting(own, tenancy.of(own[0].namespace).room)]
    return frozenset(claim.key for claim in claims) - {claim.key for claim in _fitting(within, _ROOM)}


def size_of(line: Line) -> int:
    """The bytes that a line takes in its ConfigMap."""
    # The value as a JSON string, the key in data and labels, the label's prefix, version and punctuation.
    return len(json.dumps(line.encode())) + 2 * len(line.key) + 40


def _claim(line: Line, priority: int) -> Claim:
    return Claim(line.key, line.warmimage.namespace, priority, line.since, size_of(line))


def _by_namespace(claims: Iterable[Claim]) -> Iterable[list[Claim]]:
    found: defaultdict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        found[claim.namespace].append(claim)
    return found.values()


def _fitting(claims: list[Claim], room: Room) -> list[Claim]:
    if len(claims) <= room.lines and sum(claim.size_bytes for claim in claims) <= room.size_bytes:
        return claims
    fitting = served(claims, room)
    return [claim for claim in claims if claim.key in fitting]


def node_patch(
    node: str,
    node_uid: str,
    changes: Mapping[str, Line | None],
    refused: Collection[str] | None = None,
    hints: Mapping[str, Hint | None] = _NO_HINTS,
    early: Mapping[str, Early | None] = _NO_EARLY,
) -> dict[str, Any]:
    """The JSON merge patch that makes `changes` in a node's ConfigMap; patches of different lines commute.

    `refused` are the keys of all lines of the node that have no room; `None` leaves that annotation unchanged.
    `hints` and `early` are those that change, by the keys of their lines; `None` removes one.

    The current Node is always the owner: if a Node is registered again under its name, it adopts its ConfigMap before
    the garbage collector, which compares uids, deletes it with its new lines.
    """
    labels: dict[str, str | None] = {KIND_LABEL: "desired"}
    data: dict[str, str | None] = {}
    for key, line in changes.items():
        text = None if line is None else line.encode()
        data[key] = text
        labels[LINE_LABEL + key] = None if text is None else version_of(text)
    if refused is not None:
        labels[TRUNCATED_LABEL] = "true" if refused else None
    metadata = node_metadata(node, node_uid, labels)
    if refused is not None:
        metadata["annotations"][DROPPED_ANNOTATION] = ",".join(noted_refusals(refused)) or None
    for key, hint in hints.items():
        data[hint_key(key)] = None if hint is None else encode_hint(hint)
        metadata["annotations"][HINT_ANNOTATION + key] = None if hint is None else str(hint.expires_at)
    for key, blobs in early.items():
        data[early_key(key)] = None if blobs is None else encode_early(blobs)
        metadata["annotations"][EARLY_HINT_ANNOTATION + key] = None if blobs is None else str(blobs.expires_at)
    return {"metadata": metadata, "data": data} if data else {"metadata": metadata}


def node_metadata(node: str, node_uid: str, labels: Mapping[str, str | None]) -> dict[str, Any]:
    """The metadata of every write of the two ConfigMaps of a node.

    `managedFields: [{}]` makes the API server track no fields of an existing object, which halves its size; on create
    it has no effect (measured on kube-apiserver 1.36).
    """
    return {
        "labels": dict(labels),
        "annotations": {NODE_ANNOTATION: node},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid}],
        "managedFields": [{}],
    }


def new_configmap(name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
    """The ConfigMap to create if a merge patch finds none: the content of the patch, without nulls."""
    metadata = {field: value for field, value in patch["metadata"].items() if field != "managedFields"}
    for index in ("labels", "annotations"):
        metadata[index] = _without_nulls(metadata[index])
    data = _without_nulls(patch.get("data", {}))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata | {"name": name}, "data": data}


def _without_nulls(values: Mapping[str, str | None]) -> dict[str, str]:
    return {key: value for key, value in values.items() if value is not None}


def version_of(text: str) -> str:
    """The version of an encoded line, also with fields of a newer program."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]
