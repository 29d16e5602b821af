"""Read and label the images of containerd over its own gRPC services, and see what it downloads. CRI can do neither.

The services are on the same socket as CRI.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Final

from adapters.containerd_calls import Calls, Missing
from adapters.containerd_messages import TYPES, label_list, labels_of
from adapters.cri import open_channel
from warmhook.images import parse_reference
from warmhook.ports import Containerd, Download, StoredImage

_CHILD: Final = "containerd.io/gc.ref.content."
"""Labels of a manifest or index: the digests of its children. Written before containerd downloads them."""
_SOURCE: Final = "containerd.io/distribution.source."
"""With the host of a registry, without its port: label of downloaded content, the repositories that it came from."""
_PORT: Final = re.compile(r":\d+$")


@contextlib.asynccontextmanager
async def open_containerd(endpoint: str) -> AsyncIterator[Containerd]:
    """containerd's own services at the endpoint of the runtime. Opening sends no request; see `open_channel`."""
    async with open_channel(endpoint) as (address, channel):
        yield _Containerd(Calls(address, channel))


class _Containerd:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def images(self) -> list[StoredImage]:
        answer = await self._calls.call("images.v1.Images/List", TYPES["ListImagesRequest"](), "ListImagesResponse")
        return [StoredImage(image.name, labels_of(image)) for image in answer.images]

    async def set_labels(self, name: str, labels: Mapping[str, str]) -> bool:
        try:
            found = await self._calls.call(
                "images.v1.Images/Get", TYPES["GetImageRequest"](name=name), "GetImageResponse"
            )
            # With its target: without one containerd 1.7 and later end in a panic. The mask lets containerd change
            # nothing else; it removes labels without a value.
            request = TYPES["UpdateImageRequest"](image=found.image)
            del request.image.labels[:]
            request.image.labels.extend(label_list(labels))
            request.update_mask.paths.extend(f"labels.{key}" for key in labels)
            await self._calls.call("images.v1.Images/Update", request, "UpdateImageResponse")
        except Missing:
            return False
        return True

    async def downloads(self, reference: str) -> list[Download]:
        request = TYPES["ListStatusesRequest"]()
        answer = await self._calls.call("content.v1.Content/ListStatuses", request, "ListStatusesResponse")
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
        request = TYPES["ListContentRequest"](filters=[f'labels."{source}"~="{image.repository}"'])
        digests = {image.digest}
        async for answer in self._calls.stream("content.v1.Content/List", request, "ListContentResponse"):
            for info in answer.info:
                # The filter is a regular expression.
                labels = labels_of(info)
                if image.repository in labels.get(source, "").split(","):
                    digests |= {value for key, value in labels.items() if key.startswith(_CHILD)}
        return digests
