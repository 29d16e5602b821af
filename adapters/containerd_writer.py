"""Write one blob into containerd's content store, as its bytes come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Final

import grpc
import grpc.aio

from adapters.containerd_calls import Calls
from adapters.containerd_messages import COMMIT, STAT, TYPES, encode_write, label_list
from warmhook.ports import AlreadyThere, Busy, RuntimeUnreachable, WrongDigest

_MESSAGE_BYTES: Final = 1024 * 1024
"""Smaller messages cost containerd a quarter more CPU, larger ones memory. It accepts 16 MiB."""
_UNANSWERED_MAX: Final = 2
"""Messages in flight. More are not faster, since containerd writes one after the other."""
_WRITE_SECONDS: Final = 60
_DISK_SECONDS: Final = 600
"""To open what another writer left, which containerd reads again, and to commit, for which it flushes the disk."""
_CLOSE_SECONDS: Final = 5
_WRONG: Final = ("unexpected commit", "failed size validation")
_LOCKED: Final = " locked"
"""containerd says UNAVAILABLE also if another client has the ref: `ref k8s.io/1/layer-... locked for 5s (since ..)`."""


@contextlib.asynccontextmanager
async def open_writer(calls: Calls, ref: str, digest: str, size_bytes: int, lease: str) -> AsyncIterator[BlobWriter]:
    """A writer as of `ContentStore.open_writer`."""
    writer = BlobWriter(calls, calls.open_stream("content.v1.Content/Write", "WriteContentResponse", lease=lease))
    try:
        await writer.begin(ref, digest, size_bytes)
        yield writer
    finally:
        await writer.close()


class BlobWriter:
    """A `Writer`. containerd checks the offset of each message, and the digest at the end."""

    def __init__(self, calls: Calls, call: Any) -> None:
        self._calls, self._call = calls, call
        self._buffer = bytearray()
        self._sent = self._size = self._unanswered = 0
        self._digest = self._ref = ""
        self._running: asyncio.Future[Any] | None = None
        """A read or write of the call that has not ended."""

    @property
    def offset(self) -> int:
        """The bytes that were written so far, also by a former writer."""
        return self._sent + len(self._buffer)

    async def begin(self, ref: str, digest: str, size_bytes: int) -> None:
        """Lock `ref`."""
        self._ref, self._digest, self._size = ref, digest, size_bytes
        # With the digest containerd finds a blob that is there, and gives it to the lease.
        await self._send(self._request(STAT, ref=ref))
        self._sent = (await self._answer(_DISK_SECONDS)).offset

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer += data
        while len(self._buffer) >= _MESSAGE_BYTES:
            await self._flush()

    async def restart(self) -> None:
        self._buffer.clear()
        if self._running is not None:
            # The owner was cancelled meanwhile.
            running, self._running = self._running, None
            await running
        # containerd truncates if the offset is 0; then come the answers to what was written before.
        await self._send(encode_write(0, b""))
        while (await self._answer(_WRITE_SECONDS)).offset:
            pass
        self._sent = self._unanswered = 0

    async def commit(self, labels: Mapping[str, str]) -> None:
        while self._buffer:
            await self._flush()
        await self._drain(0)
        request = self._request(COMMIT, offset=self._sent)
        request.labels.extend(label_list(labels))
        try:
            await self._send(request)
            await self._answer(_DISK_SECONDS)
        except WrongDigest:
            # containerd keeps it, and would commit it with another digest.
            await self._calls.call("content.v1.Content/Abort", TYPES["AbortRequest"](ref=self._ref), "Empty")
            raise

    async def close(self) -> None:
        """Unlock the ref and keep what was written. Returns once another client can lock it, if containerd answers."""
        try:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    if self._running is not None:
                        # The owner was cancelled meanwhile; what is in the buffer is lost.
                        await self._running
                        self._buffer.clear()
                    while self._buffer:
                        await self._flush()
                    await self._call.done_writing()
                    while await self._call.read() is not grpc.aio.EOF:
                        pass
        finally:
            # The owner may be cancelled again.
            self._call.cancel()

    def _request(self, action: int, *, offset: int = 0, ref: str = "") -> Any:
        return TYPES["WriteContentRequest"](
            action=action, ref=ref, total=self._size, expected=self._digest, offset=offset
        )

    async def _flush(self) -> None:
        """Send the first part of the buffer."""
        await self._drain(_UNANSWERED_MAX - 1)
        count = min(len(self._buffer), _MESSAGE_BYTES)
        with memoryview(self._buffer) as whole:
            message = encode_write(self._sent, whole[:count])
        del self._buffer[:count]
        self._sent += count
        self._unanswered += 1
        await self._send(message)

    async def _drain(self, unanswered: int) -> None:
        while self._unanswered > unanswered:
            await self._answer(_WRITE_SECONDS)
            self._unanswered -= 1

    async def _send(self, message: Any) -> None:
        try:
            await self._run(self._call.write(message), _WRITE_SECONDS)
        except TimeoutError:
            raise self._calls.silent(_WRITE_SECONDS) from None
        except asyncio.InvalidStateError:
            # containerd has ended the call; the reason comes after the answers.
            while True:
                await self._answer(_WRITE_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error

    async def _answer(self, seconds: float) -> Any:
        try:
            answer = await self._run(self._call.read(), seconds)
        except TimeoutError:
            raise self._calls.silent(seconds) from None
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error
        if answer is grpc.aio.EOF:
            raise RuntimeUnreachable(f"containerd ended the write of {self._digest}")
        return answer

    async def _run(self, operation: Coroutine[Any, Any, Any], seconds: float) -> Any:
        """The result of a read or write. It goes on if the caller is cancelled: otherwise gRPC would end the call, and
        containerd would unlock the ref at some later time."""
        self._running = asyncio.ensure_future(operation)
        async with asyncio.timeout(seconds):
            await asyncio.wait((self._running,))
        ended, self._running = self._running, None
        return ended.result()

    def _error(self, error: grpc.aio.AioRpcError) -> Exception:
        code, text = error.code(), error.details() or ""
        if code == grpc.StatusCode.ALREADY_EXISTS:
            return AlreadyThere(self._digest)
        if code == grpc.StatusCode.UNAVAILABLE and _LOCKED in text:
            return Busy(self._ref)
        if code == grpc.StatusCode.FAILED_PRECONDITION and any(words in text for words in _WRONG):
            return WrongDigest(self._digest)
        return self._calls.error(error)
