"""Define the messages of containerd's own gRPC services, as far as they are used: protobuf ignores other fields.

Their numbers are from https://github.com/containerd/containerd/tree/main/api/services.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf import (  # type: ignore[import-untyped]  # its stubs are a package of their own
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

STAT: Final = 0
COMMIT: Final = 2
"""The `WriteAction` of a `WriteContentRequest`; `encode_write` has the third."""
COMMITTED: Final = 3
"""The `Kind` of a snapshot that can be a layer."""

_Field = descriptor_pb2.FieldDescriptorProto
# An enumeration has the form of an integer.
_SCALARS: Final = {"string": _Field.TYPE_STRING, "int64": _Field.TYPE_INT64, "bytes": _Field.TYPE_BYTES}
_PACKAGE: Final = "warmhook.containerd"
# Message to its fields: name, number and type. `*` is a list; a map of labels is sent as a list of its entries.
_MESSAGES: Final[Mapping[str, tuple[tuple[str, int, str], ...]]] = {
    "Empty": (),
    "Label": (("key", 1, "string"), ("value", 2, "string")),
    "FieldMask": (("paths", 1, "*string"),),
    "Descriptor": (("media_type", 1, "string"), ("digest", 2, "string"), ("size", 3, "int64")),
    "Image": (("name", 1, "string"), ("labels", 2, "*Label"), ("target", 3, "Descriptor")),
    "GetImageRequest": (("name", 1, "string"),),
    "GetImageResponse": (("image", 1, "Image"),),
    "ListImagesRequest": (("filters", 1, "*string"),),
    "ListImagesResponse": (("images", 1, "*Image"),),
    "UpdateImageRequest": (("image", 1, "Image"), ("update_mask", 2, "FieldMask")),
    "UpdateImageResponse": (),
    "Status": (("ref", 3, "string"), ("offset", 4, "int64"), ("total", 5, "int64")),
    "ListStatusesRequest": (("filters", 1, "*string"),),
    "ListStatusesResponse": (("statuses", 1, "*Status"),),
    "Info": (("digest", 1, "string"), ("size", 2, "int64"), ("labels", 5, "*Label")),
    "InfoRequest": (("digest", 1, "string"),),
    "InfoResponse": (("info", 1, "Info"),),
    "ListContentRequest": (("filters", 1, "*string"),),
    "ListContentResponse": (("info", 1, "*Info"),),
    "ReadContentRequest": (("digest", 1, "string"), ("offset", 2, "int64"), ("size", 3, "int64")),
    "ReadContentResponse": (("data", 2, "bytes"),),
    "WriteContentRequest": (
        ("action", 1, "int64"),
        ("ref", 2, "string"),
        ("total", 3, "int64"),
        ("expected", 4, "string"),
        ("offset", 5, "int64"),
        ("data", 6, "bytes"),
        ("labels", 7, "*Label"),
    ),
    "WriteContentResponse": (("action", 1, "int64"), ("offset", 4, "int64")),
    "AbortRequest": (("ref", 1, "string"),),
    "Lease": (("id", 1, "string"), ("labels", 3, "*Label")),
    "CreateLeaseRequest": (("id", 1, "string"), ("labels", 3, "*Label")),
    "CreateLeaseResponse": (),
    "DeleteLeaseRequest": (("id", 1, "string"),),
    "ListLeasesRequest": (("filters", 1, "*string"),),
    "ListLeasesResponse": (("leases", 1, "*Lease"),),
    "LeasedResource": (("id", 1, "string"), ("type", 2, "string")),
    "AddResourceRequest": (("id", 1, "string"), ("resource", 2, "LeasedResource")),
    "Snapshot": (("name", 1, "string"), ("kind", 3, "int64")),
    "StatSnapshotRequest": (("snapshotter", 1, "string"), ("key", 2, "string")),
    "StatSnapshotResponse": (("info", 1, "Snapshot"),),
}


def _message_types() -> dict[str, Any]:
    """A class of protobuf for each message, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="warmhook/containerd.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, text in fields:
            label = _Field.LABEL_REPEATED if text.startswith("*") else _Field.LABEL_OPTIONAL
            kind = text.removeprefix("*")
            if kind in _SCALARS:
                message.field.add(name=field, number=number, label=label, type=_SCALARS[kind])
            else:
                message.field.add(name=field, number=number, label=label, type_name=f".{_PACKAGE}.{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


TYPES: Final = _message_types()


def serialize(message: Any) -> bytes:
    """A message as it is sent; bytes are an encoded message."""
    if isinstance(message, bytes):
        return message
    content: bytes = message.SerializeToString()
    return content


def labels_of(message: Any) -> dict[str, str]:
    """The labels of an image, a blob or a lease."""
    return {label.key: label.value for label in message.labels}


def label_list(labels: Mapping[str, str]) -> Iterable[Any]:
    """Labels as a message has them."""
    return [TYPES["Label"](key=key, value=value) for key, value in labels.items()]


def encode_write(offset: int, data: bytes | bytearray | memoryview) -> bytes:
    """A `WriteContentRequest` with the bytes of a blob from `offset` on.

    protobuf takes 3.7 ms of CPU for each MiB, a hundred times as much.
    """
    return b"".join((b"\x08\x01\x28", _varint(offset), b"\x32", _varint(len(data)), data))


def _varint(number: int) -> bytes:
    """https://protobuf.dev/programming-guides/encoding/#varints."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
