"""Serve CRI v1 on a unix socket: the image service, and of the runtime service what probes need.

The answers are those of containerd 1.6; `tests/contract/test_runtime.py` runs on both.
"""

from __future__ import annotations

import contextlib
import functools
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Never
from urllib.parse import urlsplit

import grpc
import grpc.aio
import httpx
from cri_api.v1 import api_pb2 as cri

from devcluster.cri.pull import Puller, PullError, host_platform
from devcluster.cri.store import Store, StoredImage, open_store

_MESSAGE_BYTES: Final = 16 * 1024 * 1024
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
)
_CONNECT_SECONDS: Final = 10.0
# A registry that stops sending does not end a pull of containerd 1.6; here ten minutes do.
_READ_SECONDS: Final = 600.0


@contextlib.asynccontextmanager
async def serve_cri(
    socket: Path, root: Path, *, platform: str = "", on_pull: Callable[[str], None] = lambda _name: None
) -> AsyncIterator[None]:
    """Serve CRI at `socket` with its content below `root`, which is created if it is absent.

    `platform` is `os/architecture`, by default this machine's. `on_pull` is called with the image of each PullImage.
    """
    store = _prepared(socket, root)
    timeout = httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(timeout=timeout, limits=limits, verify=_tls(), trust_env=False) as client:
        server = grpc.aio.server(options=_OPTIONS)
        images = _Images(store, Puller(store, client, platform or host_platform()), on_pull)
        server.add_generic_rpc_handlers((_image_service(images), _runtime_service()))
        server.add_insecure_port(f"unix://{socket}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(grace=0)


@dataclass(slots=True)
class _Images:
    store: Store
    puller: Puller
    on_pull: Callable[[str], None]
    pulling: int = 0

    async def list(self, _request: Any, _: object) -> Any:
        """List every image: containerd 1.6 reads no filter."""
        return cri.ListImagesResponse(images=[_image(image) for image in self.store.images()])

    async def status(self, request: Any, _: object) -> Any:
        """One image, with its configuration if `verbose`; an empty answer if it is absent."""
        found = self.store.find(request.image.image)
        if found is None:
            return cri.ImageStatusResponse()
        info = {"info": _info(self.store.blob(found.id).read_bytes())} if request.verbose else {}
        return cri.ImageStatusResponse(image=_image(found), info=info)

    async def pull(self, request: Any, context: Any) -> Any:
        """Pull, or fail as containerd does. A cancelled call stops the download."""
        name = request.image.image
        self.on_pull(name)
        self.pulling += 1
        try:
            return cri.PullImageResponse(image_ref=await self.puller.pull(name, _credentials(request)))
        except PullError as error:
            await _abort(context, error.code, error.text)
        finally:
            self.pulling -= 1

    async def remove(self, request: Any, _: object) -> Any:
        """Remove every name of the image; nothing happens if it is absent."""
        if found := self.store.find(request.image.image):
            self.store.remove(found.id)
            # A pull may count on a blob that only the removed image names; then the next removal collects.
            if not self.pulling:
                self.store.collect()
        return cri.RemoveImageResponse()

    async def filesystems(self, _request: Any, _: object) -> Any:
        """The one file system."""
        usage = cri.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=cri.FilesystemIdentifier(mountpoint=str(self.store.root)),
            used_bytes=cri.UInt64Value(value=self.store.used_bytes()),
        )
        return cri.ImageFsInfoResponse(image_filesystems=[usage])


async def _version(_request: Any, _: object) -> Any:
    return cri.VersionResponse(
        version="0.1.0", runtime_name="devcluster", runtime_version="v1.0.0", runtime_api_version="v1"
    )


async def _ready(_request: Any, _: object) -> Any:
    conditions = [cri.RuntimeCondition(type=each, status=True) for each in ("RuntimeReady", "NetworkReady")]
    return cri.StatusResponse(status=cri.RuntimeStatus(conditions=conditions))


async def _containers(_request: Any, _: object) -> Any:
    return cri.ListContainersResponse()


async def _sandboxes(_request: Any, _: object) -> Any:
    return cri.ListPodSandboxResponse()


def _image_service(images: _Images) -> grpc.GenericRpcHandler:
    methods = {
        "ListImages": (images.list, cri.ListImagesRequest),
        "ImageStatus": (images.status, cri.ImageStatusRequest),
        "PullImage": (images.pull, cri.PullImageRequest),
        "RemoveImage": (images.remove, cri.RemoveImageRequest),
        "ImageFsInfo": (images.filesystems, cri.ImageFsInfoRequest),
    }
    return _service("runtime.v1.ImageService", methods)


def _runtime_service() -> grpc.GenericRpcHandler:
    methods = {
        "Version": (_version, cri.VersionRequest),
        "Status": (_ready, cri.StatusRequest),
        "ListContainers": (_containers, cri.ListContainersRequest),
        "ListPodSandbox": (_sandboxes, cri.ListPodSandboxRequest),
    }
    return _service("runtime.v1.RuntimeService", methods)


def _service(name: str, methods: Mapping[str, tuple[Any, Any]]) -> grpc.GenericRpcHandler:
    """A service of these methods; gRPC answers UNIMPLEMENTED to all others."""
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=request.FromString, response_serializer=_serialized
        )
        for method, (answer, request) in methods.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _credentials(request: Any) -> httpx.BasicAuth | None:
    """The request's credentials, where they are for the registry it names.

    containerd finds the host of `server_address` in a URL only, and sends nothing to any other host.
    """
    auth = request.auth
    host = request.image.image.partition("/")[0]
    if not auth.username or (auth.server_address and urlsplit(auth.server_address).netloc != host):
        return None
    return httpx.BasicAuth(auth.username, auth.password)


@functools.cache
def _tls() -> ssl.SSLContext:
    """Reading the trusted certificates takes longer than all the rest of a start."""
    return httpx.create_ssl_context()


def _prepared(socket: Path, root: Path) -> Store:
    root.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    return open_store(root)


def _image(image: StoredImage) -> Any:
    return cri.Image(id=image.id, repo_tags=image.tags, repo_digests=image.digests, size=image.size_bytes)


def _info(config: bytes) -> str:
    """What containerd's `imageStatus` makes of a configuration: fields that it does not know are left out."""
    content = json.loads(config)
    fields = content if isinstance(content, dict) else {}
    rootfs = fields.get("rootfs") or {"type": "", "diff_ids": None}
    spec = {"architecture": fields.get("architecture", ""), "os": fields.get("os", ""), "rootfs": rootfs}
    return json.dumps({"imageSpec": spec})


async def _abort(context: Any, code: str, text: str) -> Never:
    await context.abort(grpc.StatusCode[code], text)
    raise AssertionError("abort raises")
