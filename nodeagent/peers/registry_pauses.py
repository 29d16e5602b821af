"""Leave a registry alone that this node could not reach: the runtime may have mirrors that the agent does not know."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeAlias

from adapters.clock import Clock
from warmhook.images import Reference
from warmhook.ports import Credentials, Part, RegistryBlobs, SourceFailed, SourceRefuses

PAUSE_SECONDS: Final = 600.0
_HOSTS_MAX: Final = 256

OpenRegistry: TypeAlias = Callable[[Reference, tuple[Credentials, ...]], AbstractAsyncContextManager[RegistryBlobs]]


class RegistryPauses:
    """Opens registries, but for ten minutes none of a host that gave nothing to the last transfer that asked it.

    Each transfer would wait for the same time-outs again, and all nodes below this one with it.
    """

    def __init__(self, open_registry: OpenRegistry, clock: Clock) -> None:
        self._open_registry, self._clock = open_registry, clock
        self._until: dict[str, float] = {}
        """By host, in monotonic seconds."""

    @contextlib.asynccontextmanager
    async def open(self, image: Reference, credentials: tuple[Credentials, ...]) -> AsyncIterator[RegistryBlobs]:
        """The registry of an image. Opening sends no request."""
        host, now = image.canonical.host, self._clock.monotonic()
        self._until = {each: until for each, until in self._until.items() if until > now}
        async with self._open_registry(image, credentials) as registry:
            watched = _Watched(registry, paused=host in self._until)
            try:
                yield watched
            finally:
                if watched.failed and not watched.worked and len(self._until) < _HOSTS_MAX:
                    self._until[host] = self._clock.monotonic() + PAUSE_SECONDS


class _Watched:
    """`RegistryBlobs` of one image."""

    def __init__(self, registry: RegistryBlobs, *, paused: bool) -> None:
        self._registry, self._paused = registry, paused
        self.worked = self.failed = False
        """Whether a request was answered with bytes, and whether one was not answered."""

    def manifest(self, digest: str) -> AbstractAsyncContextManager[Part]:
        """As `RegistryBlobs.manifest`."""
        return self._watch(self._registry.manifest(digest))

    def blob(self, digest: str, offset: int) -> AbstractAsyncContextManager[Part]:
        """As `RegistryBlobs.blob`."""
        return self._watch(self._registry.blob(digest, offset))

    @contextlib.asynccontextmanager
    async def _watch(self, answer: AbstractAsyncContextManager[Part]) -> AsyncIterator[Part]:
        if self._paused:
            raise SourceRefuses("this node could not reach the registry a while ago")
        try:
            async with answer as part:
                self.worked = True
                yield part
        except SourceFailed:
            self.failed = True
            raise
