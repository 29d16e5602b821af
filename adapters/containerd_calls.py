"""Call containerd's own gRPC services, which are on the same socket as CRI, and translate their errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

import grpc
import grpc.aio

from adapters.containerd_messages import TYPES, serialize
from adapters.cri import sanitize
from warmhook.ports import NotContainerd, RuntimeUnreachable

_SECONDS: Final = 15
_NO_SNAPSHOTTER: Final = "snapshotter not loaded"


class Missing(RuntimeUnreachable):
    """containerd does not have what the request names."""


class Exists(RuntimeUnreachable):
    """containerd has already what the request would make."""


class Calls:
    """The services at one socket, in the namespace of CRI."""

    def __init__(self, endpoint: str, channel: grpc.aio.Channel) -> None:
        self._endpoint, self._channel = endpoint, channel

    async def call(self, method: str, request: Any, answer: str) -> Any:
        """The answer to one request. Raises `NotContainerd`, `Missing`, `Exists` and `RuntimeUnreachable`."""
        call = self._channel.unary_unary(_path(method), serialize, response_deserializer=TYPES[answer].FromString)
        try:
            return await call(request, timeout=_SECONDS, metadata=_metadata())
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error

    async def stream(
        self, method: str, request: Any, answer: str, *, pause_seconds: float = _SECONDS
    ) -> AsyncGenerator[Any]:
        """The answers to one request, each within `pause_seconds`. Raises as `call`."""
        call = self._channel.unary_stream(_path(method), serialize, response_deserializer=TYPES[answer].FromString)
        answers = call(request, metadata=_metadata())
        try:
            while True:
                async with asyncio.timeout(pause_seconds):
                    message = await answers.read()
                if message is grpc.aio.EOF:
                    return
                yield message
        except grpc.aio.AioRpcError as error:
            raise self.error(error) from error
        except TimeoutError:
            raise self.silent(pause_seconds) from None
        finally:
            answers.cancel()

    def open_stream(self, method: str, answer: str, *, lease: str) -> Any:
        """A call that sends and receives; its caller translates errors. Nothing is sent yet."""
        call = self._channel.stream_stream(_path(method), serialize, response_deserializer=TYPES[answer].FromString)
        return call(metadata=_metadata(lease))

    def error(self, error: grpc.aio.AioRpcError) -> Exception:
        """The error that callers know."""
        details = error.details() or ""
        text = f"{self._endpoint}: {error.code().name}: {sanitize(details)}"
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            return NotContainerd(f"{self._endpoint}: the runtime is not containerd, or hides its own services")
        if error.code() == grpc.StatusCode.NOT_FOUND or _NO_SNAPSHOTTER in details:
            return Missing(text)
        return Exists(text) if error.code() == grpc.StatusCode.ALREADY_EXISTS else RuntimeUnreachable(text)

    def silent(self, seconds: float) -> RuntimeUnreachable:
        """The error if containerd does not answer for so long."""
        return RuntimeUnreachable(f"{self._endpoint}: containerd did not answer within {seconds:g} s")


def _path(method: str) -> str:
    return f"/containerd.services.{method}"


def _metadata(lease: str = "") -> tuple[tuple[str, str], ...]:
    """`k8s.io` is where CRI keeps images and content."""
    namespace = ("containerd-namespace", "k8s.io")
    return (namespace, ("containerd-lease", lease)) if lease else (namespace,)
