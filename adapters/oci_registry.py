"""Ask registries over the OCI distribution API which digest a tag has, for which platforms, and how large it is.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md, "Pulling manifests" and "Pulling blobs".
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx

from adapters.clock import Clock
from adapters.registry_endpoint import Answer, Endpoint, Failed
from adapters.registry_settings import EndpointSettings, RegistrySettings
from warmhook.images import Reference, is_digest
from warmhook.manifests import (
    BODY_MAX,
    CONFIG_MAX,
    MANIFEST_TYPES,
    Index,
    Manifest,
    Resolved,
    children_to_read,
    read_manifest,
    read_platform,
    resolved_index,
    resolved_manifest,
)
from warmhook.resolutions import Unresolved

_ACCEPT: Final = ", ".join(sorted(MANIFEST_TYPES))
_SECONDS: Final = 10.0
"""The limit for one registry, with all its requests."""
_MIRROR_SECONDS: Final = 3.0
_DETAILS_SECONDS: Final = 5.0
"""The limit for what is good to know: platforms and sizes. Without them the digest counts alone."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A repository at a registry or at a mirror of it."""

    endpoint: Endpoint
    repository: str
    query: str
    seconds: float

    async def manifest(self, reference: str, method: str = "GET") -> Answer:
        path = f"/v2/{self.repository}/manifests/{reference}{self.query}"
        get = self.endpoint.get
        return await get(path, repository=self.repository, limit_bytes=BODY_MAX, accept=_ACCEPT, method=method)

    async def blob(self, digest: str) -> bytes:
        path = f"/v2/{self.repository}/blobs/{digest}{self.query}"
        answer = await self.endpoint.get(path, repository=self.repository, limit_bytes=CONFIG_MAX, accept="*/*")
        return self.verified(answer.body, digest)

    def verified(self, body: bytes, digest: str) -> bytes:
        """The body if it has that digest. Raises `Failed`."""
        if digest_of(body, digest) != digest:
            raise Failed("Unusable", f"{self.endpoint.settings.host}: content with another digest than announced")
        return body


@dataclass(eq=False)
class OciRegistries:
    """The registries of the configuration; implements the port `Registries`."""

    settings: Mapping[str, RegistrySettings]
    """By canonical host."""
    clock: Clock
    count: Callable[[str], None] = lambda _result: None
    """Called with each result: `resolved`, `unchanged` or the problem."""
    transport: httpx.AsyncBaseTransport | None = None
    """Replaces the network in tests."""
    _endpoints: dict[str, Endpoint] = field(default_factory=dict)

    def serves(self, host: str) -> bool:
        """Whether the registry of that canonical host may be asked."""
        return host in self.settings

    async def resolve(self, image: Reference, known: Resolved | None = None) -> Resolved | Unresolved:
        """As `Registries.resolve`: mirrors in order, then the registry itself, whose problem counts."""
        outcome: Resolved | Unresolved = Unresolved("Unusable", f"{image.host}: not configured")
        for place in self._places(image.canonical):
            try:
                async with asyncio.timeout(place.seconds):
                    outcome = await _resolve(place, image, known)
            except TimeoutError:
                outcome = Unresolved("Timeout", f"{image.host}: no answer within {place.seconds:g} seconds")
            except Failed as error:
                outcome = error.unresolved
            if isinstance(outcome, Resolved):
                break
        unchanged = "unchanged" if outcome is known else "resolved"
        self.count(unchanged if isinstance(outcome, Resolved) else outcome.problem)
        return outcome

    async def close(self) -> None:
        """Close all connections."""
        for endpoint in self._endpoints.values():
            await endpoint.close()

    def _places(self, image: Reference) -> Iterable[_Place]:
        settings = self.settings.get(image.host)
        if settings is None:
            return
        for mirror in settings.mirrors:
            # Mirrors of several registries tell them apart by `ns`, which containerd sends as well.
            repository, query = f"{mirror.prefix}{image.repository}", f"?ns={image.host}"
            yield _Place(self._endpoint(mirror.host), repository, query, _MIRROR_SECONDS)
        yield _Place(self._endpoint(image.host), image.repository, "", _SECONDS)

    def _endpoint(self, host: str) -> Endpoint:
        if host not in self._endpoints:
            settings = self.settings.get(host)
            known = settings.endpoint if settings else EndpointSettings(host)
            self._endpoints[host] = Endpoint(known, self.clock, self.transport)
        return self._endpoints[host]


async def _resolve(place: _Place, image: Reference, known: Resolved | None) -> Resolved:
    reference = image.digest or image.tag
    if known is not None and await _has(place, reference, known.digest):
        return known
    answer = await place.manifest(reference)
    announced = image.digest or answer.headers.get("docker-content-digest", "")
    # Without a digest of the registry its body decides.
    digest = announced if is_digest(announced) else digest_of(answer.body)
    body = place.verified(answer.body, digest)
    media_type = answer.headers.get("content-type", "")
    match read_manifest(body, media_type):
        case Index() as index:
            read: dict[str, Manifest] = {}
            await _details(_read_children(place, index, read))
            return resolved_index(digest, _plain(media_type), index, read)
        case Manifest() as manifest:
            found: list[str] = []
            await _details(_read_config(place, manifest, found))
            return resolved_manifest(digest, _plain(media_type), manifest, "".join(found))
    raise Failed("Unusable", f"{place.endpoint.settings.host}: a manifest of a kind that is not read")


async def _has(place: _Place, reference: str, digest: str) -> bool:
    """Whether the reference has this digest; False also if the registry does not say so. Raises `Failed`."""
    try:
        head = await place.manifest(reference, "HEAD")
    except Failed as error:
        if error.unresolved.problem == "Unusable":  # a registry without HEAD
            return False
        raise
    return bool(head.headers.get("docker-content-digest") == digest)


async def _details(reading: Coroutine[None, None, None]) -> None:
    """Read what is good to know as far as time allows."""
    try:
        async with asyncio.timeout(_DETAILS_SECONDS):
            await reading
    except (TimeoutError, Failed):
        pass


async def _read_children(place: _Place, index: Index, read: dict[str, Manifest]) -> None:
    for child in children_to_read(index):
        answer = await place.manifest(child.digest)
        body = place.verified(answer.body, child.digest)
        manifest = read_manifest(body, answer.headers.get("content-type", ""))
        if isinstance(manifest, Manifest):
            read[child.digest] = manifest


async def _read_config(place: _Place, manifest: Manifest, found: list[str]) -> None:
    if manifest.config:
        found.append(read_platform(await place.blob(manifest.config)))


def digest_of(body: bytes, like: str = "sha256:") -> str:
    """The digest of a body, with the algorithm of the digest `like`."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"


def _plain(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()
