"""List, pull and remove images at a container runtime, over CRI v1 and gRPC. No other file of the programs uses CRI.

The API: https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import grpc
import grpc.aio
from cri_api.v1 import api_pb2 as cri
from cri_api.v1.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub

from warmhook.error_texts import without_server_words
from warmhook.platforms import platform_of
from warmhook.ports import (
    Credentials,
    ImageConfig,
    ImageFilesystem,
    PullFailed,
    Runtime,
    RuntimeImage,
    RuntimeUnreachable,
)
from warmhook.pull_failures import failure_reason
from warmhook.rate_limits import retry_after_seconds
from warmhook.secret_texts import without_credentials

# The limit of the kubelet; a list of thousands of images exceeds gRPC's 4 MiB.
_RECEIVE_BYTES: Final = 16 * 1024 * 1024
_QUERY_SECONDS: Final = 30
# For one image of many: a runtime that hangs at one must not delay the others for long.
_CONFIG_SECONDS: Final = 10
_REMOVE_SECONDS: Final = 120
_SANDBOXES_AT_ONCE: Final = 8
_MESSAGE_MAX: Final = 200
_NAME_MAX: Final = 32
# What is cut out of known words can be read from what is left of them.
_SECRET_MIN: Final = 8
# A configuration as JSON; parsed it takes up to thirty times as much memory. Real images have a few KiB.
_CONFIG_BYTES: Final = 1024 * 1024

_C = grpc.StatusCode
_UNREACHED: Final = (
    ("no such file", "no socket: check that the runtime is running and that the folder of its socket is mounted"),
    ("permission denied", "no permission to open the socket: run as root, or check SELinux and AppArmor"),
    ("connection refused", "no program listens at the socket: check that the runtime is running"),
)
_WRAPPERS: Final = re.compile(
    r"rpc error: code = \w+ desc = |failed to (?:pull and unpack image|resolve reference) \"[^\"]*\": "
    r"|failed to resolve image: |get image config descriptor: |unable to pull image or OCI artifact: pull image err: "
)
# containerd, CRI-O, and CRI-O in the terms of kubelets.
_OF_A_PULL: Final = re.compile(r"failed to pull|unable to pull|RegistryUnavailable|SignatureValidationFailed")
_DIGEST: Final = re.compile(r"(sha(?:256|512):[0-9a-f]{12})[0-9a-f]+")

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _RECEIVE_BYTES),
    # The agent finds a restarted runtime within seconds, not minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # The limit for one attempt, despite its name: a busy runtime accepts late.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 3000),
    # A retry would be a second, unwanted pull.
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


@contextlib.asynccontextmanager
async def open_runtime(endpoint: str) -> AsyncIterator[Runtime]:
    """The runtime at `endpoint`. Opening sends no request; see `open_channel`."""
    async with open_channel(endpoint) as (address, channel):
        yield _CriRuntime(address, channel)


@contextlib.asynccontextmanager
async def open_channel(endpoint: str) -> AsyncIterator[tuple[str, grpc.aio.Channel]]:
    """The socket at `endpoint` (`unix:///run/containerd/containerd.sock`, or a path): its address and a channel to it.

    Raises `ValueError` if `endpoint` is empty.
    """
    if not endpoint:
        raise ValueError("the runtime's endpoint is empty; give its socket: unix:///run/containerd/containerd.sock")
    address = endpoint if "://" in endpoint else f"unix://{endpoint}"
    async with grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
        yield address, channel


class _CriRuntime:
    def __init__(self, endpoint: str, channel: grpc.aio.Channel) -> None:
        self._endpoint = endpoint
        self._images = ImageServiceStub(channel)
        self._runtime = RuntimeServiceStub(channel)

    async def version(self) -> str:
        answer = await self._call(self._runtime.Version, cri.VersionRequest())
        return f"{answer.runtime_name} {answer.runtime_version.removeprefix('v')}"

    async def images(self) -> list[RuntimeImage]:
        answer = await self._call(self._images.ListImages, cri.ListImagesRequest())
        return [_image(image) for image in answer.images]

    async def image(self, reference: str) -> RuntimeImage | None:
        if not reference:
            return None  # containerd treats "" as the beginning of every ID
        request = cri.ImageStatusRequest(image=cri.ImageSpec(image=reference))
        answer = await self._call(self._images.ImageStatus, request)
        return _image(answer.image) if answer.HasField("image") else None

    async def config(self, reference: str) -> ImageConfig | None:
        if not reference:
            return None
        request = cri.ImageStatusRequest(image=cri.ImageSpec(image=reference), verbose=True)
        try:
            answer = await self._images.ImageStatus(request, timeout=_CONFIG_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() == _C.RESOURCE_EXHAUSTED:
                # Longer than any answer that is received.
                return ImageConfig(oversized=True)
            if unreachable := self._unreachable(error):
                raise unreachable from error
            return None
        return _config(answer.info) if answer.HasField("image") else None

    async def pull(self, reference: str, *, timeout_seconds: float, credentials: Credentials | None = None) -> str:
        request = cri.PullImageRequest(
            image=cri.ImageSpec(image=reference),
            # Runtimes read it without checking whether it is present.
            sandbox_config=cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="warmhook", namespace="warmhook")),
        )
        if credentials:
            request.auth.CopyFrom(_auth(credentials))
        try:
            answer = await self._images.PullImage(request, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            # CRI-O 1.36 tries to pull as an artifact what it could not pull as an image, and adds that error.
            text = (error.details() or "").partition("; artifact err: ")[0]
            secrets = _secrets(credentials) if credentials else ()
            # containerd 2 forwards the 503 of a registry as UNAVAILABLE, so the code alone is ambiguous.
            if not _OF_A_PULL.search(text) and (unreachable := self._unreachable(error, secrets)):
                raise unreachable from None
            message = sanitize(without_server_words(text), secrets=secrets)
            if error.code() == _C.DEADLINE_EXCEEDED:
                # The message of gRPC itself is about a removed stream.
                message = f"the pull took longer than {timeout_seconds:g} s"
            reason = failure_reason(error.code().name, text)
            raise PullFailed(reason, message, retry_after_seconds(text)) from None
        return str(answer.image_ref)

    async def remove(self, reference: str) -> None:
        if not reference:
            return  # containerd would remove the only image
        request = cri.RemoveImageRequest(image=cri.ImageSpec(image=reference))
        await self._call(self._images.RemoveImage, request, _REMOVE_SECONDS)

    async def used_images(self) -> frozenset[str]:
        listed = await self._call(self._runtime.ListContainers, cri.ListContainersRequest())
        used: set[str] = set()
        for container in listed.containers:
            if not container.image_ref and not container.image_id:
                raise RuntimeUnreachable(f"{self._endpoint}: container {container.id} has no image")
            image = container.image
            used |= {container.image_ref, container.image_id, image.image, image.user_specified_image}
        sandboxes = (await self._call(self._runtime.ListPodSandbox, cri.ListPodSandboxRequest())).items
        for first in range(0, len(sandboxes), _SANDBOXES_AT_ONCE):
            some = sandboxes[first : first + _SANDBOXES_AT_ONCE]
            used.update(await asyncio.gather(*(self._sandbox_image(sandbox.id) for sandbox in some)))
        return frozenset(used - {""})

    async def _sandbox_image(self, sandbox: str) -> str:
        """The pause image of a sandbox; empty if it has none, or is gone."""
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox, verbose=True)
        try:
            answer = await self._runtime.PodSandboxStatus(request, timeout=_QUERY_SECONDS)
            # Not specified: containerd and CRI-O put JSON with `image` under "info"; for a sandbox without a pause
            # container CRI-O has an empty object.
            return str(json.loads(answer.info["info"]).get("image") or "")
        except grpc.aio.AioRpcError as error:
            if error.code() == _C.NOT_FOUND:
                return ""
            raise RuntimeUnreachable(f"{self._endpoint}: sandbox {sandbox}: {error.code().name}") from error
        except (ValueError, AttributeError, RecursionError) as error:
            raise RuntimeUnreachable(f"{self._endpoint}: sandbox {sandbox}: its image cannot be read") from error

    async def filesystems(self) -> list[ImageFilesystem]:
        answer = await self._call(self._images.ImageFsInfo, cri.ImageFsInfoRequest())
        return [
            ImageFilesystem(system.fs_id.mountpoint, system.used_bytes.value) for system in answer.image_filesystems
        ]

    async def _call(self, method: Any, request: Any, timeout_seconds: float = _QUERY_SECONDS) -> Any:
        try:
            return await method(request, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() == _C.DEADLINE_EXCEEDED:
                raise RuntimeUnreachable(f"{self._endpoint}: no answer within {timeout_seconds:g} s") from error
            failed = RuntimeUnreachable(f"{self._endpoint}: {error.code().name}: {sanitize(error.details() or '')}")
            raise self._unreachable(error) or failed from error

    def _unreachable(self, error: grpc.aio.AioRpcError, secrets: tuple[str, ...] = ()) -> RuntimeUnreachable | None:
        """The error with a hint, if no runtime answered; `None` if one did."""
        details = error.details() or ""
        text = details.lower()
        if error.code() == _C.UNIMPLEMENTED:
            check = "no CRI v1: containerd must be 1.6 or later, without `cri` in its disabled_plugins"
        elif error.code() == _C.UNAVAILABLE or "server is not initialized yet" in text:
            check = next((check for part, check in _UNREACHED if part in text), "the runtime is starting or stopping")
        else:
            return None
        return RuntimeUnreachable(f"{self._endpoint}: {check} ({sanitize(details, secrets=secrets)})")


def sanitize(text: str, *, secrets: tuple[str, ...] = ()) -> str:
    """The text of a runtime as one line of at most 200 characters that is safe to show and store.

    Runtimes repeat text of registries and redirects, so it is hostile. Control characters are removed, and so are user
    names in URLs, query strings (signed URLs), tokens and the given `secrets`. A longer text keeps both ends.
    """
    if any(len(secret) < _SECRET_MIN and secret in text for secret in secrets):
        return "the text of the runtime is withheld, because it may have a short password in it"
    for secret in secrets:
        text = text.replace(secret, "***")
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    line = without_credentials(_WRAPPERS.sub("", line))
    if len(line) > _MESSAGE_MAX:
        line = _DIGEST.sub(r"\1", line)
    if len(line) > _MESSAGE_MAX:
        half = (_MESSAGE_MAX - 3) // 2
        line = f"{line[:half]}...{line[-half:]}"
    return line


def _auth(credentials: Credentials) -> Any:
    # Without an address containerd offers the credentials to any mirror that asks; it compares hosts literally, and
    # finds a host only in a URL: "harbor.example.com" means no credentials at all, "127.0.0.1:5000" an error.
    host = credentials.server_address.rpartition("://")[2].partition("/")[0]
    host = "registry-1.docker.io" if host in ("docker.io", "index.docker.io") else host
    return cri.AuthConfig(
        username=credentials.username,
        password=credentials.password,
        identity_token=credentials.identity_token,
        server_address=f"https://{host}",
    )


def _secrets(credentials: Credentials) -> tuple[str, ...]:
    pair = f"{credentials.username}:{credentials.password}".encode()
    encoded = base64.b64encode(pair).decode() if credentials.password else ""
    return tuple(secret for secret in (encoded, credentials.password, credentials.identity_token) if secret)


def _image(image: Any) -> RuntimeImage:
    return RuntimeImage(image.id, tuple(image.repo_tags), tuple(image.repo_digests), image.size, image.pinned)


def _config(info: Mapping[str, str]) -> ImageConfig:
    """The configuration in `ImageStatusResponse.info`. It is not specified: containerd and CRI-O put JSON under "info".

    Both write the image's OCI configuration as `imageSpec`. CRI-O has no info for other artefacts.
    """
    if len(info.get("info", "")) > _CONFIG_BYTES:
        return ImageConfig(oversized=True)
    try:
        spec = json.loads(info["info"])["imageSpec"]
        layers = (spec.get("rootfs") or {}).get("diff_ids") or ()
        # The author of the image wrote these, and they are shown.
        system, machine = (sanitize(str(spec.get(name) or ""))[:_NAME_MAX] for name in ("os", "architecture"))
        return ImageConfig(platform_of(system, machine), len(layers))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ImageConfig()
