"""Pull an image over the HTTP API of a registry: manifest, the child for this platform, config and layers.

Failures carry the codes and texts of containerd 1.6, observed by pulling the same images with both. Credentials are
sent as HTTP Basic; token services, which public registries need, are not supported. Layers are not unpacked.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import http
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakValueDictionary

import httpx

from devcluster.cri.store import Named, Store
from devcluster.nodes import architecture
from warmhook.images import NotAReference, Reference, parse_reference

_MANIFEST_TYPES: Final = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
_INDEX_TYPES: Final = (
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
)
_CONFIG_TYPES: Final = (
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.config.v1+json",
)
_LAYER_PREFIXES: Final = ("application/vnd.docker.image.rootfs.", "application/vnd.oci.image.layer.")
# containerd's max_concurrent_downloads.
_PARALLEL_LAYERS: Final = 3


class PullError(Exception):
    """The pull failed; `code` is a gRPC status by name."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class _Descriptor:
    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Puller:
    """Pulls into a store; pulls that want the same blob at once fetch it once."""

    store: Store
    client: httpx.AsyncClient
    platform: str
    """`os/architecture` chosen from an index."""
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def pull(self, text: str, auth: httpx.BasicAuth | None) -> str:
        """Pull an image and return its ID. Raises `PullError`; when cancelled nothing half-written stays."""
        try:
            reference = parse_reference(text, default_tag="latest")
        except NotAReference:
            raise PullError("UNKNOWN", f'failed to parse image reference "{text}": invalid reference format') from None
        name = f"{reference.name}@{reference.digest}" if reference.digest else reference.pull_name
        try:
            return await self._pull(reference, name, _Remote(self.client, reference, auth))
        except PullError as error:
            raise PullError(error.code, f'failed to pull and unpack image "{name}": {error.text}') from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            text = f'failed to pull and unpack image "{name}": failed to copy: write: no space left on device'
            raise PullError("UNKNOWN", text) from error

    async def _pull(self, reference: Reference, name: str, remote: _Remote) -> str:
        try:
            target = await remote.resolve(reference.digest or reference.tag)
        except PullError as error:
            raise PullError(error.code, f'failed to resolve reference "{name}": {error.text}') from error
        parts = [target]
        manifest = await self._json(remote, target)
        if target.media_type in _INDEX_TYPES:
            child = self._child(manifest)
            parts.append(child)
            manifest = await self._json(remote, child)
        if parts[-1].media_type not in _MANIFEST_TYPES:
            where = f"unexpected media type {parts[-1].media_type} for {parts[-1].digest}"
            raise PullError("NOT_FOUND", f"failed to unpack image on snapshotter overlayfs: {where}: not found")
        config = _descriptor(manifest["config"])
        layers = [_descriptor(layer) for layer in manifest["layers"]]
        await self._fetch(remote, config, "config")
        await self._fetch_layers(remote, [layer for layer in layers if layer.media_type.startswith(_LAYER_PREFIXES)])
        parts += [config, *layers]
        named = Named(config.digest, sum(part.size for part in parts), tuple(part.digest for part in parts))
        if refusal := self._not_runnable(config, layers):
            # containerd has named the image by then and keeps that name, without any repo digest.
            self.store.name(name, named)
            raise PullError("UNKNOWN", f"failed to unpack image on snapshotter overlayfs: {refusal}")
        self.store.name(name, named)
        self.store.name(f"{reference.name}@{target.digest}", named)
        return config.digest

    def _child(self, index: Any) -> _Descriptor:
        for entry in index["manifests"]:
            wanted = entry.get("platform")
            if wanted is None or f"{wanted.get('os')}/{wanted.get('architecture')}" == self.platform:
                return _descriptor(entry)
        raise PullError("NOT_FOUND", "no match for platform in manifest: not found")

    def _not_runnable(self, config: _Descriptor, layers: list[_Descriptor]) -> str:
        for layer in layers:
            if config.media_type in _CONFIG_TYPES and not layer.media_type.startswith(_LAYER_PREFIXES):
                processor = f"failed to get stream processor for {layer.media_type}: no processor for media-type"
                return f"failed to extract layer {layer.digest}: {processor}: unknown"
        rootfs = json.loads(self.store.blob(config.digest).read_bytes()).get("rootfs", {})
        if len(rootfs.get("diff_ids", ())) != len(layers):
            return "mismatched image rootfs and manifest layers"
        return ""

    async def _json(self, remote: _Remote, descriptor: _Descriptor) -> Any:
        await self._fetch(remote, descriptor, "index" if descriptor.media_type in _INDEX_TYPES else "manifest")
        return json.loads(self.store.blob(descriptor.digest).read_bytes())

    async def _fetch_layers(self, remote: _Remote, layers: list[_Descriptor]) -> None:
        gate = asyncio.Semaphore(_PARALLEL_LAYERS)

        async def fetch(layer: _Descriptor) -> None:
            async with gate:
                await self._fetch(remote, layer, "layer")

        try:
            async with asyncio.TaskGroup() as group:
                for layer in layers:
                    group.create_task(fetch(layer), name=f"layer {layer.digest}")
        except* (PullError, OSError) as errors:
            first = errors.exceptions[0]
            raise first from None

    async def _fetch(self, remote: _Remote, descriptor: _Descriptor, kind: str) -> None:
        lock = self._locks.setdefault(descriptor.digest, asyncio.Lock())
        async with lock:
            if self.store.has(descriptor.digest):
                return
            path, file = self.store.ingest()
            try:
                with file:
                    seen = hashlib.sha256()
                    async for chunk in remote.content(descriptor):
                        seen.update(chunk)
                        file.write(chunk)
                    size = file.tell()
                _check(descriptor, kind, size, f"sha256:{seen.hexdigest()}")
                self.store.commit(path, descriptor.digest)
            finally:
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Remote:
    """One repository at its registry."""

    client: httpx.AsyncClient
    reference: Reference
    auth: httpx.BasicAuth | None

    async def resolve(self, tag_or_digest: str) -> _Descriptor:
        """What a tag or digest stands for."""
        try:
            headers = {"accept": ", ".join((*_MANIFEST_TYPES, *_INDEX_TYPES, "*/*"))}
            url = self._url("manifests", tag_or_digest)
            answer = await self.client.head(url, headers=headers, auth=self.auth or httpx.USE_CLIENT_DEFAULT)
        except httpx.TransportError as error:
            raise PullError("UNKNOWN", self._unreached("Head", self._url("manifests", tag_or_digest), error)) from error
        if answer.status_code == 404:
            raise PullError("NOT_FOUND", f"{self.reference.pull_name}: not found")
        if answer.status_code >= 400:
            status = f"{answer.status_code} {http.HTTPStatus(answer.status_code).phrase}"
            host = self.reference.host
            text = f"pulling from host {host} failed with status code [manifests {tag_or_digest}]: {status}"
            raise PullError("UNKNOWN", text)
        digest = answer.headers.get("docker-content-digest", self.reference.digest)
        media_type = answer.headers.get("content-type", "").split(";")[0]
        return _Descriptor(media_type, digest, int(answer.headers.get("content-length", 0)))

    async def content(self, descriptor: _Descriptor) -> AsyncIterator[bytes]:
        """A manifest's or blob's bytes."""
        kind = "manifests" if descriptor.media_type in (*_MANIFEST_TYPES, *_INDEX_TYPES) else "blobs"
        url = self._url(kind, descriptor.digest)
        headers = {"accept": f"{descriptor.media_type}, */*"}
        auth = self.auth or httpx.USE_CLIENT_DEFAULT
        started = False
        try:
            async with self.client.stream("GET", url, headers=headers, auth=auth, follow_redirects=True) as answer:
                if answer.status_code == 404:
                    what = f"could not fetch content descriptor {descriptor.digest} ({descriptor.media_type})"
                    text = f"failed to copy: httpReadSeeker: failed open: {what} from remote: not found"
                    raise PullError("NOT_FOUND", text)
                if answer.status_code >= 400:
                    phrase = http.HTTPStatus(answer.status_code).phrase
                    what = f"unexpected status code {url}: {answer.status_code} {phrase}"
                    raise PullError("UNKNOWN", f"failed to copy: httpReadSeeker: failed open: {what}")
                async for chunk in answer.aiter_raw(1 << 20):
                    started = True
                    yield chunk
        except httpx.TransportError as error:
            if started:
                raise PullError("UNKNOWN", "failed to read expected number of bytes: unexpected EOF") from error
            what = self._unreached("Get", url, error)
            raise PullError("UNKNOWN", f"failed to copy: httpReadSeeker: failed open: {what}") from error

    def _url(self, kind: str, reference: str) -> str:
        host = "registry-1.docker.io" if self.reference.host == "docker.io" else self.reference.host
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        scheme = "http" if name in ("localhost", "[::1]") or name.startswith("127.") else "https"
        return f"{scheme}://{host}/v2/{self.reference.repository}/{kind}/{reference}"

    def _unreached(self, verb: str, url: str, error: httpx.TransportError) -> str:
        host = self.reference.host
        cause = f"dial tcp {host}: connect: connection refused"
        if isinstance(error, httpx.TimeoutException):
            cause = f"dial tcp {host}: i/o timeout"
        elif "refused" not in str(error) and "attempts failed" not in str(error):
            cause = f"dial tcp: lookup {host}: no such host" if "Name" in str(error) else f"read: {error}"
        return f'failed to do request: {verb} "{url}": {cause}'


def host_platform() -> str:
    """This machine as images name it: `linux/amd64`."""
    return f"linux/{architecture()}"


def _descriptor(value: Any) -> _Descriptor:
    return _Descriptor(str(value["mediaType"]), str(value["digest"]), int(value["size"]))


def _check(descriptor: _Descriptor, kind: str, size: int, digest: str) -> None:
    where = f'failed commit on ref "{kind}-{descriptor.digest}"'
    if size < descriptor.size:
        raise PullError("UNKNOWN", "failed to read expected number of bytes: unexpected EOF")
    if size > descriptor.size:
        what = f'"{kind}-{descriptor.digest}" failed size validation: {size} != {descriptor.size}'
        raise PullError("FAILED_PRECONDITION", f"{where}: {what}: failed precondition")
    if digest != descriptor.digest:
        what = f"unexpected commit digest {digest}, expected {descriptor.digest}"
        raise PullError("FAILED_PRECONDITION", f"{where}: {what}: failed precondition")
