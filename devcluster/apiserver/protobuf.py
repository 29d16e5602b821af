"""What does a protobuf body say? kubectl creates simple built-in objects in protobuf; answers are always JSON.

Field numbers: the generated.proto files of k8s.io/api/core/v1 and k8s.io/apimachinery. Kinds that are not listed are
answered 415, upon which clients have JSON to fall back to.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from warmhook.ports import Object

__all__ = ["MEDIA_TYPE", "NotProtobuf", "parse_protobuf"]

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"


class NotProtobuf(ValueError):
    """The bytes are no protobuf object of a kind known here."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    kind: Literal["text", "bytes", "flag", "message", "texts", "bytes_map"] = "text"
    many: bool = False
    message: dict[int, _Field] = field(default_factory=dict)


_OWNER = {
    1: _Field("kind"),
    3: _Field("name"),
    4: _Field("uid"),
    5: _Field("apiVersion"),
    6: _Field("controller", "flag"),
    7: _Field("blockOwnerDeletion", "flag"),
}
_METADATA = _Field(
    "metadata",
    "message",
    message={
        1: _Field("name"),
        2: _Field("generateName"),
        3: _Field("namespace"),
        5: _Field("uid"),
        6: _Field("resourceVersion"),
        11: _Field("labels", "texts"),
        12: _Field("annotations", "texts"),
        13: _Field("ownerReferences", "message", many=True, message=_OWNER),
        14: _Field("finalizers", many=True),
    },
)
_NAMED = {1: _Field("name")}
_KINDS: dict[str, dict[int, _Field]] = {
    "ConfigMap": {
        1: _METADATA,
        2: _Field("data", "texts"),
        3: _Field("binaryData", "bytes_map"),
        4: _Field("immutable", "flag"),
    },
    "Secret": {
        1: _METADATA,
        2: _Field("data", "bytes_map"),
        3: _Field("type"),
        4: _Field("stringData", "texts"),
        5: _Field("immutable", "flag"),
    },
    "Namespace": {1: _METADATA},
    "ServiceAccount": {
        1: _METADATA,
        3: _Field("imagePullSecrets", "message", many=True, message=_NAMED),
        4: _Field("automountServiceAccountToken", "flag"),
    },
}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
        elif tag & 7 == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise NotProtobuf("a field is longer than the body")
            yield tag >> 3, data[at : at + length]
            at += length
        else:
            raise NotProtobuf(f"wire type {tag & 7}")


def _message(data: bytes, known: dict[int, _Field]) -> Object:
    result: Object = {}
    for number, raw in _fields(data):
        spec = known.get(number)
        if spec is None:
            continue
        if isinstance(raw, int):
            result[spec.name] = bool(raw)
        elif spec.kind in ("texts", "bytes_map"):
            pair = dict(_fields(raw))
            key, value = pair.get(1, b""), pair.get(2, b"")
            if isinstance(key, int) or isinstance(value, int):
                raise NotProtobuf(f"{spec.name} holds numbers")
            text = value.decode() if spec.kind == "texts" else base64.b64encode(value).decode()
            result.setdefault(spec.name, {})[key.decode()] = text
        else:
            member = _message(raw, spec.message) if spec.kind == "message" else raw.decode()
            if spec.many:
                result.setdefault(spec.name, []).append(member)
            elif member:
                result[spec.name] = member
    return result


def parse_protobuf(body: bytes) -> Object:
    """The object in a `runtime.Unknown` envelope. Raises `NotProtobuf`."""
    if not body.startswith(_MAGIC):
        raise NotProtobuf("the envelope is missing")
    try:
        envelope = dict(_fields(body[len(_MAGIC) :]))
        types, raw = envelope.get(1, b""), envelope.get(2, b"")
        if isinstance(types, int) or isinstance(raw, int):
            raise NotProtobuf("the envelope holds numbers")
        named = _message(types, {1: _Field("apiVersion"), 2: _Field("kind")})
        known = _KINDS.get(named.get("kind", "")) if named.get("apiVersion") == "v1" else None
        if known is None:
            raise NotProtobuf(f"kind {named.get('kind')!r} is not read here")
        return {**named, **_message(raw, known)}
    except (IndexError, UnicodeDecodeError) as error:
        raise NotProtobuf("the body is cut short or no text") from error
