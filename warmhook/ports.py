"""Define the interfaces to everything outside the programs: cluster, registries, runtime and clock.

Each port has a real adapter in `adapters/`, a twin in `devcluster/`, and one contract suite that both pass.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from warmhook.hints import Peer
from warmhook.images import Reference
from warmhook.manifests import Resolved
from warmhook.platforms import Platform
from warmhook.pull_failures import FailureReason
from warmhook.resolutions import Unresolved

Json: TypeAlias = Any
"""A value from JSON; foreign, so its type is not known before it is read."""
Object: TypeAlias = dict[str, Any]
"""A Kubernetes object in the form of the API server."""

Utcnow: TypeAlias = Callable[[], datetime]
"""The present time, aware, in UTC."""
Sleep: TypeAlias = Callable[[float], Awaitable[None]]
"""Wait that many seconds."""


# --- the API server --------------------------------------------------------------------------------------------------


class Unreachable(Exception):
    """The API server did not answer: connection refused, reset or timed out. A later attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP answer, whatever its status."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Stream:
    """An HTTP answer that is still being sent: a watch."""

    status: int
    headers: Mapping[str, str]
    lines: AsyncIterator[bytes]
    """The body line by line, without line ends; for a status other than 200 the error's body.
    Ends when the server ends it; raises `Unreachable` when the connection breaks."""


class Transport(Protocol):
    """One authenticated HTTP connection pool to an API server. No retries, no statuses interpreted."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = ...,
        headers: Mapping[str, str] = ...,
        body: Json | None = None,
        timeout_seconds: float = 10,
    ) -> Response:
        """Send `body` as JSON and return the answer. `content-type` is in `headers`. Raises `Unreachable`."""

    def stream(
        self,
        path: str,
        *,
        query: Mapping[str, str] = ...,
        headers: Mapping[str, str] = ...,
        timeout_seconds: float = 330,
    ) -> AbstractAsyncContextManager[Stream]:
        """GET `path` and read the answer as it arrives; leaving the context closes it. Raises `Unreachable`."""


# --- registries ------------------------------------------------------------------------------------------------------


class Registries(Protocol):
    """The registries that the configuration names. No call raises an error or waits for long."""

    def serves(self, host: str) -> bool:
        """Whether the registry of that canonical host may be asked."""

    async def resolve(self, image: Reference, known: Resolved | None = None) -> Resolved | Unresolved:
        """What the registry has under the tag of `image`, or under its digest if it has one.

        `known` is an earlier answer: it is returned itself if the tag still has its digest, for one small request.
        """


# --- the container runtime -------------------------------------------------------------------------------------------


class RuntimeUnreachable(Exception):
    """The socket of the runtime does not answer; the message names the endpoint and what to check."""


class PullFailed(Exception):
    """The runtime could not pull; a later attempt may succeed."""

    def __init__(self, reason: FailureReason, message: str, retry_after_seconds: float | None = None) -> None:
        """`retry_after_seconds`: how long a registry that limits its requests wants to be left alone."""
        super().__init__(f"{reason}: {message}")
        self.reason: FailureReason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class RuntimeImage:
    """An image as the runtime lists it."""

    id: str
    """The runtime's image ID: with containerd the config digest."""
    tags: tuple[str, ...] = ()
    """`host/repository:tag`, canonical."""
    digests: tuple[str, ...] = ()
    """`host/repository@digest`. They belong to the ID, not to one of the tags."""
    size_bytes: int = 0
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The configuration of an image, as the runtime has read it."""

    platform: Platform = field(default_factory=Platform)
    layers: int = 0
    """Layers of the root file system; 0 if it is not a container image but a chart, a signature, another artefact."""
    oversized: bool = False
    """Whether the configuration is too large to be read; then the other fields are unknown."""


@dataclass(frozen=True, slots=True)
class ImageFilesystem:
    """A file system with images of the runtime."""

    mountpoint: str
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials that the runtime sends to one registry host, never to another."""

    server_address: str
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class Runtime(Protocol):
    """The images of a container runtime over CRI. Every call raises `RuntimeUnreachable` if it does not answer."""

    async def version(self) -> str:
        """Name and version, for logs: `containerd 1.6.20`."""

    async def images(self) -> list[RuntimeImage]:
        """Every image on the node."""

    async def image(self, reference: str) -> RuntimeImage | None:
        """One image by tag, digest or ID; `None` if the runtime does not have it."""

    async def config(self, reference: str) -> ImageConfig | None:
        """The configuration of one image by tag, digest or ID; `None` if the runtime does not report it."""

    async def pull(self, reference: str, *, timeout_seconds: float, credentials: Credentials | None = None) -> str:
        """Pull and return the image ID, CRI-O a name with the digest. Cancelling cancels the pull at the runtime.

        Raises `PullFailed`.
        """

    async def remove(self, reference: str) -> None:
        """Remove the image with every name of its ID, as CRI does. Does nothing if it is absent."""

    async def used_images(self) -> frozenset[str]:
        """The images of all containers, in any state, and of all Pod sandboxes: names and IDs, as they were created.

        Raises `RuntimeUnreachable` also if one of them cannot be read.
        """

    async def filesystems(self) -> list[ImageFilesystem]:
        """The file systems that hold images."""


# --- containerd's own services ---------------------------------------------------------------------------------------


class NotContainerd(Exception):
    """The runtime is not containerd, or does not serve what containerd has beside CRI."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One name of an image in containerd; an image has several."""

    name: str
    """`host/repository:tag`, `host/repository@digest`, or the image ID."""
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Download:
    """A manifest, configuration or layer that is being downloaded."""

    digest: str
    offset_bytes: int
    """What has come so far."""
    total_bytes: int
    """0 if it is unknown."""


class Containerd(Protocol):
    """What containerd knows and CRI does not say. Every call raises `NotContainerd` or `RuntimeUnreachable`."""

    async def images(self) -> list[StoredImage]:
        """Every name of every image."""

    async def set_labels(self, name: str, labels: Mapping[str, str]) -> bool:
        """Set these labels of one name and leave others; an empty value removes a label. False if it is not there."""

    async def downloads(self, reference: str) -> list[Download]:
        """What is being downloaded now for this reference.

        containerd does not say for which pull it downloads, so pulls of one repository count for each other.
        """


@dataclass(frozen=True, slots=True)
class Content:
    """A blob in the content store."""

    digest: str
    size_bytes: int
    labels: Mapping[str, str] = field(default_factory=dict)


class Busy(Exception):
    """Another client is writing this blob now."""


class AlreadyThere(Exception):
    """The content store has this blob."""


class WrongDigest(Exception):
    """What was written is not the blob; it was dropped."""


class Writer(Protocol):
    """Writes one blob. Leaving it without a commit keeps what was written, for the next writer of its `ref`."""

    @property
    def offset(self) -> int:
        """The bytes that were written so far, also by a former writer."""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append. Returns when more may follow; `data` may be changed then."""

    async def restart(self) -> None:
        """Drop what was written, also after a write that was cancelled."""

    async def commit(self, labels: Mapping[str, str]) -> None:
        """Make it a blob of the store, with these labels. Raises `WrongDigest`, and `AlreadyThere`."""


class ContentStore(Protocol):
    """containerd's content store and its leases. Every call raises `NotContainerd` or `RuntimeUnreachable`."""

    async def info(self, digest: str) -> Content | None:
        """A blob; `None` if it is not there."""

    def read(self, digest: str, offset: int, size_bytes: int) -> AsyncGenerator[bytes, None]:
        """A part of a blob, in pieces. Raises `RuntimeUnreachable` also if it goes away meanwhile."""

    def open_writer(self, ref: str, digest: str, size_bytes: int, lease: str) -> AbstractAsyncContextManager[Writer]:
        """Write a blob that the lease keeps. Clients with one `ref` exclude each other.

        Raises `Busy`, and `AlreadyThere`: then the lease has it too.
        """

    async def abort(self, ref: str) -> None:
        """Drop what was written under `ref`; nothing if there is nothing."""

    async def create_lease(self, lease: str, expires_at: datetime) -> None:
        """Make a lease that ends by itself; nothing if it is there."""

    async def add_to_lease(self, lease: str, digest: str) -> None:
        """Keep a blob as long as the lease."""

    async def delete_lease(self, lease: str) -> None:
        """End a lease; nothing if it is not there."""

    async def leases(self) -> list[str]:
        """The leases that Warmhook made."""

    async def has_snapshot(self, snapshotter: str, chain_id: str) -> bool:
        """Whether the layers up to one are unpacked."""


# --- where blobs come from -------------------------------------------------------------------------------------------


class NotHere(Exception):
    """The peer does not have the blob, or refuses it. It may give it a little later, when it knows of its child."""


class NotYet(NotHere):
    """The peer gives the blob later: it expects it, or is busy."""


class SourceFailed(Exception):
    """The source broke off, is not reachable, or is not what it should be; the message has no secret."""


class SourceRefuses(Exception):
    """The registry gives nothing to this client; asking again cannot help. The message has no secret."""


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes of a blob from an offset to its end."""

    size_bytes: int
    """Of the whole blob."""
    data: AsyncIterator[bytes]
    """In pieces, never more than announced. Raises `SourceFailed`, also if no byte comes for long."""


class PeerBlobs(Protocol):
    """Blobs of the agents of other nodes. A line key names the image."""

    def read(self, peer: Peer, line_key: str, digest: str, offset: int) -> AbstractAsyncContextManager[Part]:
        """Raises `NotHere`, `NotYet` and `SourceFailed`."""

    async def done(self, peer: Peer, line_key: str) -> None:
        """Say that this node has the image and does not ask again. Never fails: the hint of the peer expires."""


class RegistryBlobs(Protocol):
    """The content of one image at its registry, read with the credentials of its pull."""

    def manifest(self, digest: str) -> AbstractAsyncContextManager[Part]:
        """An index or a manifest, from its first byte on. Raises `SourceFailed` and `SourceRefuses`."""

    def blob(self, digest: str, offset: int) -> AbstractAsyncContextManager[Part]:
        """A configuration or a layer. Raises `SourceFailed` and `SourceRefuses`."""
