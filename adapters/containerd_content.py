"""Read and write blobs in containerd's content store, and keep them by leases. CRI can do neither."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final

from adapters.containerd_calls import Calls, Exists, Missing
from adapters.containerd_messages import COMMITTED, TYPES, label_list, labels_of
from adapters.containerd_writer import open_writer
from adapters.cri import open_channel
from warmhook.api import GROUP
from warmhook.ports import Content, ContentStore, Writer
from warmhook.timestamps import format_time

_READ_SECONDS: Final = 60
_EXPIRE: Final = "containerd.io/gc.expire"
"""When containerd may end a lease: RFC 3339. https://github.com/containerd/containerd/blob/main/docs/garbage-collection.md."""
_OURS: Final = f"{GROUP}/lease"
"""Label of the leases that Warmhook made."""


@contextlib.asynccontextmanager
async def open_content_store(endpoint: str) -> AsyncIterator[ContentStore]:
    """The content store at the endpoint of the runtime. Opening sends no request; see `open_channel`."""
    async with open_channel(endpoint) as (address, channel):
        yield _ContentStore(Calls(address, channel))


class _ContentStore:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def info(self, digest: str) -> Content | None:
        request = TYPES["InfoRequest"](digest=digest)
        try:
            found = (await self._calls.call("content.v1.Content/Info", request, "InfoResponse")).info
        except Missing:
            return None
        return Content(found.digest, found.size, labels_of(found))

    async def read(self, digest: str, offset: int, size_bytes: int) -> AsyncGenerator[bytes]:
        if size_bytes == 0:
            return  # containerd would send everything
        request = TYPES["ReadContentRequest"](digest=digest, offset=offset, size=size_bytes)
        answers = self._calls.stream(
            "content.v1.Content/Read", request, "ReadContentResponse", pause_seconds=_READ_SECONDS
        )
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer.data

    def open_writer(self, ref: str, digest: str, size_bytes: int, lease: str) -> AbstractAsyncContextManager[Writer]:
        return open_writer(self._calls, ref, digest, size_bytes, lease)

    async def abort(self, ref: str) -> None:
        with contextlib.suppress(Missing):
            await self._calls.call("content.v1.Content/Abort", TYPES["AbortRequest"](ref=ref), "Empty")

    async def create_lease(self, lease: str, expires_at: datetime) -> None:
        labels = label_list({_EXPIRE: format_time(expires_at), _OURS: "true"})
        request = TYPES["CreateLeaseRequest"](id=lease, labels=labels)
        with contextlib.suppress(Exists):
            await self._calls.call("leases.v1.Leases/Create", request, "CreateLeaseResponse")

    async def add_to_lease(self, lease: str, digest: str) -> None:
        resource = TYPES["LeasedResource"](id=digest, type="content")
        request = TYPES["AddResourceRequest"](id=lease, resource=resource)
        await self._calls.call("leases.v1.Leases/AddResource", request, "Empty")

    async def delete_lease(self, lease: str) -> None:
        with contextlib.suppress(Missing):
            await self._calls.call("leases.v1.Leases/Delete", TYPES["DeleteLeaseRequest"](id=lease), "Empty")

    async def leases(self) -> list[str]:
        request = TYPES["ListLeasesRequest"](filters=[f'labels."{_OURS}"==true'])
        answer = await self._calls.call("leases.v1.Leases/List", request, "ListLeasesResponse")
        return sorted(lease.id for lease in answer.leases)

    async def has_snapshot(self, snapshotter: str, chain_id: str) -> bool:
        request = TYPES["StatSnapshotRequest"](snapshotter=snapshotter, key=chain_id)
        try:
            answer = await self._calls.call("snapshots.v1.Snapshots/Stat", request, "StatSnapshotResponse")
        except Missing:
            return False
        return bool(answer.info.kind == COMMITTED)
