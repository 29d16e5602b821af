"""Read and label the images of containerd over its own gRPC services, and see what it downloads. CRI can do neither.

The services are on the same socket as CRI. Only the fields that are used are declared: protobuf ignores others. Their
numbers are from https://github.com/containerd/containerd/tree/main/api/services.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import (  # type: ignore[import-untyped]  # its stubs are a package of their own
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)

from adapters.cri import open_channel, sanitize
from warmhook.images import parse_reference
from warmhook.ports import Containerd, Download, NotContainerd, RuntimeUnreachable, StoredImage

# Where CRI keeps images and content.
_METADATA: Final = (("containerd-namespace", "k8s.io"),)
_SECONDS: Final = 15
_CHILD: Final = "containerd.io/gc.ref.content."
"""Labels of a manifest or index: the digests of its children. Written before containerd downloads them."""
_SOURCE: Final = "containerd.io/distribution.source."
"""With the host of a registry, without its port: label of downloaded content, the repositories that it came from."""
_PORT: Final = re.compile(r":\d+$")

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {"string": _Field.TYPE_STRING, "int64": _Field.TYPE_INT64}
_PACKAGE: Final = "warmhook.containerd"
# Message to its fields: name, number and type. `*` is a list; a map of labels is sent as a list of its entries.
_MESSAGES: Final[Mapping[str, tuple[tuple[str, int, str], ...]]] = {
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
    "Info": (("digest", 1, "string"), ("labels", 5, "*Label")),
    "ListContentRequest": (("filters", 1, "*string"),),
    "ListContentResponse": (("info", 1, "*Info"),),
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


_TYPES: Final = _message_types()


@contextlib.asynccontextmanager
async def open_containerd(endpoint: str) -> AsyncIterator[Containerd]:
    """containerd's own services at the endpoint of the runtime. Opening sends no request; see `open_channel`."""
    async with open_channel(endpoint) as (address, channel):
        yield _Containerd(address, channel)


class _Containerd:
    def __init__(self, endpoint: str, channel: grpc.aio.Channel) -> None:
        self._endpoint, self._channel = endpoint, channel

    async def images(self) -> list[StoredImage]:
        answer = await self._call("images.v1.Images/List", _TYPES["ListImagesRequest"](), "ListImagesResponse")
        return [StoredImage(image.name, _labels(image)) for image in answer.images]

    async def set_labels(self, name: str, labels: Mapping[str, str]) -> bool:
        try:
            found = await self._call("images.v1.Images/Get", _TYPES["GetImageRequest"](name=name), "GetImageResponse")
            # With its target: without one containerd 1.7 and later end in a panic. The mask lets containerd change
            # nothing else; it removes labels without a value.
            request = _TYPES["UpdateImageRequest"](image=found.image)
            del request.image.labels[:]
            for key, value in labels.items():
                request.image.labels.add(key=key, value=value)
                request.update_mask.paths.append(f"labels.{key}")
            await self._call("images.v1.Images/Update", request, "UpdateImageResponse")
        except _Missing:
            return False
        return True

    async def downloads(self, reference: str) -> list[Download]:
        request = _TYPES["ListStatusesRequest"]()
        answer = await self._call("content.v1.Content/ListStatuses", request, "ListStatusesResponse")
        # Like "layer-sha256:...", "manifest-sha256:...".
        active = {status.ref.partition("-")[2]: status for status in answer.statuses}
        if not active:
            return []
        digests = await self._contents(reference)
        return [Download(digest, status.offset, status.total) for digest, status in active.items() if digest in digests]

    async def _contents(self, reference: str) -> set[str]:
        """The digests of what belongs to the image's repository: what came from it, and what that refers to."""
        image = parse_reference(reference)
        source = _SOURCE + _PORT.sub("", image.host).strip("[]")
        request = _TYPES["ListContentRequest"](filters=[f'labels."{source}"~="{image.repository}"'])
        digests = {image.digest}
        async for answer in self._stream("content.v1.Content/List", request, "ListContentResponse"):
            for info in answer.info:
                # The filter is a regular expression.
                labels = _labels(info)
                if image.repository in labels.get(source, "").split(","):
                    digests |= {value for key, value in labels.items() if key.startswith(_CHILD)}
        return digests

    async def _call(self, method: str, request: Any, answer: str) -> Any:
        call = self._channel.unary_unary(
            f"/containerd.services.{method}", _serialize, response_deserializer=_TYPES[answer].FromString
        )
        try:
            return await call(request, timeout=_SECONDS, metadata=_METADATA)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    async def _stream(self, method: str, request: Any, answer: str) -> AsyncIterator[Any]:
        call = self._channel.unary_stream(
            f"/containerd.services.{method}", _serialize, response_deserializer=_TYPES[answer].FromString
        )
        try:
            async for message in call(request, timeout=_SECONDS, metadata=_METADATA):
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    def _error(self, error: grpc.aio.AioRpcError) -> Exception:
        text = f"{self._endpoint}: {error.code().name}: {sanitize(error.details() or '')}"
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            return NotContainerd(f"{self._endpoint}: the runtime is not containerd, or hides its own services")
        return _Missing(text) if error.code() == grpc.StatusCode.NOT_FOUND else RuntimeUnreachable(text)


class _Missing(RuntimeUnreachable):
    """containerd does not have what the request names."""


def _labels(message: Any) -> dict[str, str]:
    return {label.key: label.value for label in message.labels}


def _serialize(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content
