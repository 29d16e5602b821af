"""Read the bodies of typed Kubernetes clients, which send objects as protobuf.

`kubectl create secret`, `kubectl auth can-i` and the release storage of Helm do. Field numbers are those of
`generated.proto` in k8s.io/api and k8s.io/apimachinery. Fields that none of these sends are left out, and skipped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Final

from devcluster.apiserver.errors import StatusError, bad_request
from warmhook.ports import Object

__all__ = ["MEDIA_TYPE", "json_of"]

MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"
_MAGIC: Final = b"k8s\x00"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Per message, field numbers with name and type: `text`, `bytes`, `int`, `bool` or a message; `[]` is a list of these,
# `{}` a map from texts to these.
_META: Final = {1: ("metadata", "ObjectMeta")}
_BOUND: Final = _META | {2: ("subjects", "[]Subject"), 3: ("roleRef", "RoleRef")}
_REVIEW: Final = {
    1: ("resourceAttributes", "ResourceAttributes"),
    2: ("nonResourceAttributes", "NonResourceAttributes"),
}
_KINDS: Final[dict[str, dict[int, tuple[str, str]]]] = {
    "Secret": _META
    | {2: ("data", "{}bytes"), 3: ("type", "text"), 4: ("stringData", "{}text"), 5: ("immutable", "bool")},
    "ConfigMap": _META | {2: ("data", "{}text"), 3: ("binaryData", "{}bytes"), 4: ("immutable", "bool")},
    "Namespace": _META,
    "ServiceAccount": _META | {4: ("automountServiceAccountToken", "bool")},
    "Role": _META | {2: ("rules", "[]PolicyRule")},
    "ClusterRole": _META | {2: ("rules", "[]PolicyRule")},
    "RoleBinding": _BOUND,
    "ClusterRoleBinding": _BOUND,
    "SelfSubjectAccessReview": {2: ("spec", "SelfSubjectAccessReviewSpec")},
    "SubjectAccessReview": {2: ("spec", "SubjectAccessReviewSpec")},
    "TokenReview": {2: ("spec", "TokenReviewSpec")},
    "TokenRequest": {2: ("spec", "TokenRequestSpec")},
    "DeleteOptions": {
        1: ("gracePeriodSeconds", "int"),
        2: ("preconditions", "Preconditions"),
        4: ("propagationPolicy", "text"),
        5: ("dryRun", "[]text"),
    },
}
_MESSAGES: Final[dict[str, dict[int, tuple[str, str]]]] = _KINDS | {
    "Unknown": {1: ("typeMeta", "TypeMeta"), 2: ("raw", "bytes")},
    "TypeMeta": {1: ("apiVersion", "text"), 2: ("kind", "text")},
    "ObjectMeta": {
        1: ("name", "text"),
        2: ("generateName", "text"),
        3: ("namespace", "text"),
        5: ("uid", "text"),
        6: ("resourceVersion", "text"),
        11: ("labels", "{}text"),
        12: ("annotations", "{}text"),
        13: ("ownerReferences", "[]OwnerReference"),
        14: ("finalizers", "[]text"),
    },
    "OwnerReference": {
        1: ("kind", "text"),
        3: ("name", "text"),
        4: ("uid", "text"),
        5: ("apiVersion", "text"),
        6: ("controller", "bool"),
        7: ("blockOwnerDeletion", "bool"),
    },
    "Preconditions": {1: ("uid", "text"), 2: ("resourceVersion", "text")},
    "PolicyRule": {
        number: (name, "[]text")
        for number, name in enumerate(("verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs"), 1)
    },
    "RoleRef": {1: ("apiGroup", "text"), 2: ("kind", "text"), 3: ("name", "text")},
    "Subject": {1: ("kind", "text"), 2: ("apiGroup", "text"), 3: ("name", "text"), 4: ("namespace", "text")},
    "SelfSubjectAccessReviewSpec": _REVIEW,
    "SubjectAccessReviewSpec": _REVIEW | {3: ("user", "text"), 4: ("groups", "[]text"), 6: ("uid", "text")},
    "ResourceAttributes": {
        number: (name, "text")
        for number, name in enumerate(("namespace", "verb", "group", "version", "resource", "subresource", "name"), 1)
    },
    "NonResourceAttributes": {1: ("path", "text"), 2: ("verb", "text")},
    "TokenReviewSpec": {1: ("token", "text"), 2: ("audiences", "[]text")},
    "TokenRequestSpec": {
        1: ("audiences", "[]text"),
        3: ("boundObjectRef", "BoundObjectReference"),
        4: ("expirationSeconds", "int"),
    },
    "BoundObjectReference": {1: ("kind", "text"), 2: ("apiVersion", "text"), 3: ("name", "text"), 4: ("uid", "text")},
}


def json_of(body: bytes) -> bytes:
    """The object of a body of `MEDIA_TYPE`, as JSON. Raises `StatusError` 400, or 415 for a kind that is not known."""
    try:
        envelope = _message("Unknown", body.removeprefix(_MAGIC))
        kind = str(envelope.get("typeMeta", {}).get("kind", ""))
        obj = _message(kind, base64.b64decode(envelope.get("raw", ""))) if kind in _KINDS else None
    except (ValueError, IndexError) as error:
        raise bad_request(f"the object provided is unrecognized: {error}") from None
    if obj is None:
        message = f"this server reads no {kind!r} as protobuf: send JSON"
        raise StatusError(415, "UnsupportedMediaType", message, {})
    return json.dumps({**envelope["typeMeta"], **obj}).encode()


def _message(name: str, content: bytes) -> Object:
    """One message. A text that is empty is left out, as in JSON of Kubernetes; one in a list or a map is not."""
    known = _MESSAGES[name]
    found: Object = {}
    for number, raw in _fields(content):
        if number not in known:
            continue
        field, kind = known[number]
        if kind.startswith("[]"):
            found.setdefault(field, []).append(_value(kind[2:], raw))
        elif kind.startswith("{}"):
            entry = dict(_fields(_bytes(raw)))
            found.setdefault(field, {})[_value("text", entry.get(1, b""))] = _value(kind[2:], entry.get(2, b""))
        elif kind != "text" or raw != b"":
            found[field] = _value(kind, raw)
    return found


def _value(kind: str, raw: int | bytes) -> Any:
    if kind == "int":
        number = int(raw) if isinstance(raw, int) else 0
        return number - (1 << 64) if number >> 63 else number
    if kind == "bool":
        return raw != 0
    if kind == "text":
        return _bytes(raw).decode()
    return base64.b64encode(_bytes(raw)).decode() if kind == "bytes" else _message(kind, _bytes(raw))


def _bytes(raw: int | bytes) -> bytes:
    if isinstance(raw, int):
        raise ValueError("a number is where bytes belong")  # noqa: TRY004 # of the sender, not of the caller
    return raw


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Each field with its number (https://protobuf.dev/programming-guides/encoding/)."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        if tag & 7 == _VARINT:
            number, at = _varint(content, at)
            yield tag >> 3, number
            continue
        sizes = {_FIXED64: 8, _FIXED32: 4}
        if tag & 7 == _BYTES:
            size, at = _varint(content, at)
        elif (tag & 7) in sizes:
            size = sizes[tag & 7]
        else:
            raise ValueError(f"it has a field of the unknown type {tag & 7}")
        if at + size > len(content):
            raise ValueError("it ends too soon")
        yield tag >> 3, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at + shift // 7]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + shift // 7 + 1
    raise ValueError("it has a number of more than 64 bits")
