"""Decide which blobs of an image a node needs, as containerd chooses them.

An image that containerd could read in another way, or with content that is not in its repository, raises
`LeaveToRuntime`: the runtime pulls it by itself. All content is hostile input.

https://github.com/opencontainers/image-spec/blob/main/manifest.md and image-index.md; the choice from an index:
https://github.com/containerd/platforms/blob/main/compare.go and containerd core/images/handlers.go, `LimitManifests`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from warmhook.manifests import BODY_MAX, IMAGE_TYPES, INDEX_TYPES, read_document
from warmhook.platforms import Platform, platform_of

CONFIG_MAX: Final = BODY_MAX
"""Bytes of a configuration."""
LAYERS_MAX: Final = 512
"""Layers of an image; a file system of a container has at most 500 with overlayfs."""

_ENTRIES_MAX: Final = 1000
_SIZE_MAX: Final = 2**50
_SHA256: Final = re.compile(r"sha256:[0-9a-f]{64}")
_CONFIG_TYPES: Final = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_LAYER_TYPES: Final = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    }
)
# Architecture to the variants that are the same as none; of others it is not certain what a node runs.
_PLAIN_VARIANTS: Final[Mapping[str, frozenset[str]]] = {
    "amd64": frozenset({"", "v1"}),
    "arm64": frozenset({"", "v8"}),
    "ppc64le": frozenset({""}),
    "riscv64": frozenset({""}),
    "s390x": frozenset({""}),
}


class LeaveToRuntime(Exception):
    """It is not certain what the runtime would download; the message says why."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A manifest, configuration or layer."""

    digest: str
    """sha256, the only one that all versions of containerd check."""
    size_bytes: int
    ref: str
    """containerd's name for its download; clients with one name exclude each other."""


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """The blobs of an image for one platform."""

    config: Blob
    layers: tuple[Blob, ...]
    """In order, the lowest first; a layer may come twice."""


def root_ref(body: bytes, digest: str) -> str:
    """containerd's name for the download of an index or a manifest. Raises `LeaveToRuntime`."""
    return _ref("index" if "manifests" in _read_root(body) else "manifest", digest)


def read_image(body: bytes, node: Platform) -> Blob | ImageManifest:
    """The manifest for that node if `body` is an index, or the blobs of the image. Raises `LeaveToRuntime`."""
    fields = _read_root(body)
    if "manifests" in fields:
        return _choose(fields["manifests"], node)
    layers = fields["layers"]
    if len(layers) > LAYERS_MAX:
        raise LeaveToRuntime(f"the image has more than {LAYERS_MAX} layers")
    config = _blob(fields.get("config"), "config", _CONFIG_TYPES)
    if config.size_bytes > CONFIG_MAX:
        raise LeaveToRuntime(f"the configuration has more than {CONFIG_MAX} bytes")
    return ImageManifest(config, tuple(_blob(layer, "layer", _LAYER_TYPES) for layer in layers))


def chain_ids(config: bytes, layers: int) -> tuple[str, ...]:
    """The name of the snapshot with each layer and all below it, in order; empty if that cannot be known.

    https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid
    """
    fields = read_document(config)
    rootfs = fields.get("rootfs") if isinstance(fields, dict) else None
    diffs = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diffs, list) or len(diffs) != layers or not all(map(_is_sha256, diffs)):
        return ()
    chain: list[str] = []
    for diff in diffs:
        text = f"{chain[-1]} {diff}" if chain else ""
        chain.append(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if text else diff)
    return tuple(chain)


def _read_root(body: bytes) -> Mapping[str, Any]:
    """The fields of an index, which has `manifests`, or of a manifest, which has `layers`."""
    fields = read_document(body)
    if not isinstance(fields, dict):
        raise LeaveToRuntime("the manifest is no JSON object")
    index, kind = "manifests" in fields, fields.get("mediaType", "")
    # A runtime could read as the other kind what is both (CVE-2021-41190).
    if index == ("layers" in fields) or (index and "config" in fields):
        raise LeaveToRuntime("the manifest is neither an index nor an image, or both")
    if kind not in ("", *(INDEX_TYPES if index else IMAGE_TYPES)):
        raise LeaveToRuntime("the manifest has an unknown type")
    if not isinstance(fields["manifests" if index else "layers"], list):
        raise LeaveToRuntime("the manifest names no list")
    return fields


def _choose(entries: list[Any], node: Platform) -> Blob:
    plain = _PLAIN_VARIANTS.get(node.architecture)
    if plain is None or node.os != "linux":
        raise LeaveToRuntime(f"the image may have several variants for {node}")
    if len(entries) > _ENTRIES_MAX:
        raise LeaveToRuntime("the index has too many manifests")
    for entry in entries:
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(platform, dict) or _platform(platform) != node:
            continue
        if str(platform.get("variant", "")) not in plain:
            continue
        # A newer containerd compares these too.
        if platform.get("os.version") or platform.get("os.features") or platform.get("features"):
            raise LeaveToRuntime("the index asks for features of the operating system")
        return _blob(entry, "manifest", IMAGE_TYPES)
    raise LeaveToRuntime(f"the index has no manifest for exactly {node}")


def _platform(fields: Mapping[str, Any]) -> Platform:
    system, machine = fields.get("os"), fields.get("architecture")
    return platform_of(system, machine) if isinstance(system, str) and isinstance(machine, str) else Platform()


def _blob(fields: object, kind: str, types: frozenset[str]) -> Blob:
    if not isinstance(fields, dict):
        raise LeaveToRuntime(f"a {kind} has no descriptor")
    digest, size, media_type = fields.get("digest"), fields.get("size"), fields.get("mediaType")
    if str(media_type) not in types or fields.get("urls"):
        raise LeaveToRuntime(f"a {kind} is of an unknown type, or is elsewhere")
    if not _is_sha256(digest) or type(size) is not int or not 0 < size <= _SIZE_MAX:
        raise LeaveToRuntime(f"a {kind} has no sha256 digest, or no size")
    return Blob(digest, size, _ref(kind, digest))


def _is_sha256(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def _ref(kind: str, digest: str) -> str:
    """As containerd core/remotes/handlers.go, `MakeRefKey`."""
    return f"{kind}-{digest}"
