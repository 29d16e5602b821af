"""Read the manifests, the configuration and the layers of one image at its registry."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from adapters.clock import Clock
from adapters.registry_settings import EndpointSettings, Login
from warmhook.images import Reference
from warmhook.localhosts import is_local_host
from warmhook.manifests import MANIFEST_TYPES
from warmhook.ports import Credentials, Part, RegistryBlobs, SourceFailed, SourceRefuses
from warmhook.resolutions import ResolveProblem

if TYPE_CHECKING:
    import httpx

    from adapters.registry_endpoint import Endpoint

_MANIFESTS: Final = ", ".join(sorted(MANIFEST_TYPES))
_LATER: Final[frozenset[ResolveProblem]] = frozenset({"Network", "Timeout"})
_OF_CREDENTIALS: Final[frozenset[ResolveProblem]] = frozenset({"Unauthorized", "NotFound"})


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """How an agent reads registries. It knows no mirrors: the configuration of the runtime is not read."""

    clock: Clock
    plain_http: frozenset[str] = frozenset()
    """Hosts that are asked over HTTP without TLS."""
    ca_file: Path | None = None
    """Certificates that are trusted besides those of the system."""
    allow_local: bool = False
    """Whether registries may have addresses of this machine."""
    transport: httpx.AsyncBaseTransport | None = None
    """Replaces the network in tests."""

    @contextlib.asynccontextmanager
    async def open(self, image: Reference, credentials: Sequence[Credentials]) -> AsyncIterator[RegistryBlobs]:
        """The registry of an image, with the first of the credentials that work. Opening sends no request."""
        # The endpoint takes no identity tokens: the runtime pulls by itself then.
        logins = [(each.username, each.password) for each in credentials if each.password]
        blobs = _RegistryBlobs(self, image.canonical, [*logins, None])
        try:
            yield blobs
        finally:
            await blobs.close()


class _RegistryBlobs:
    """`RegistryBlobs` for one image."""

    def __init__(self, access: RegistryAccess, image: Reference, logins: list[Login | None]) -> None:
        """`logins`: to try, the best first; `None`: without credentials."""
        self._access, self._image, self._logins = access, image, logins
        self._endpoints: list[Endpoint] = []
        """Of the logins that were tried; the last is in use."""
        self._works = False

    def manifest(self, digest: str) -> contextlib.AbstractAsyncContextManager[Part]:
        """As `RegistryBlobs.manifest`."""
        return self._read(f"manifests/{digest}", 0, _MANIFESTS)

    def blob(self, digest: str, offset: int) -> contextlib.AbstractAsyncContextManager[Part]:
        """As `RegistryBlobs.blob`."""
        return self._read(f"blobs/{digest}", offset, "*/*")

    async def close(self) -> None:
        """Close all connections."""
        for endpoint in self._endpoints:
            await endpoint.close()

    @contextlib.asynccontextmanager
    async def _read(self, path: str, offset: int, accept: str) -> AsyncIterator[Part]:
        # `httpx` takes memory that an agent without such a read must not need.
        from adapters.registry_endpoint import Failed

        repository = self._image.repository
        while True:
            endpoint = self._endpoint()
            answer = endpoint.stream(f"/v2/{repository}/{path}", repository=repository, offset=offset, accept=accept)
            async with contextlib.AsyncExitStack() as opened:
                try:
                    length, pieces = await opened.enter_async_context(answer)
                except Failed as error:
                    if not self._try_next(endpoint, error.unresolved.problem):
                        later = error.unresolved.problem in _LATER
                        raise (SourceFailed if later else SourceRefuses)(str(error)) from error
                    continue
                self._works = True
                yield Part(offset + length, _translated(pieces))
                return

    def _endpoint(self) -> Endpoint:
        """That of the present login."""
        if is_local_host(self._image.host) and not self._access.allow_local:
            raise SourceRefuses(f"{self._image.host}: is an address of this node")
        if not self._endpoints:
            self._next_login()
        return self._endpoints[-1]

    def _next_login(self) -> None:
        from adapters.registry_endpoint import Endpoint

        host, access, login = self._image.host, self._access, self._logins.pop(0)
        settings = EndpointSettings(host, host in access.plain_http, access.ca_file, lambda: login)
        self._endpoints.append(Endpoint(settings, access.clock, access.transport))

    def _try_next(self, endpoint: Endpoint, problem: ResolveProblem) -> bool:
        """Whether other credentials, or none, may help: registries deny that there is what they refuse."""
        if endpoint is not self._endpoints[-1]:
            return True
        if self._works or problem not in _OF_CREDENTIALS or not self._logins:
            return False
        self._next_login()
        return True


async def _translated(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    from adapters.registry_endpoint import Failed

    try:
        async for piece in pieces:
            yield piece
    except Failed as error:
        raise SourceFailed(str(error)) from error
