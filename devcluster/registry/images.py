"""Build real, deterministic images, and write them into the folder of a registry.

Layers are gzip-compressed tar archives that a runtime can unpack, configs name their layers' `diff_ids`
(https://github.com/opencontainers/image-spec/blob/main/config.md), so real containerd runs into no surprise.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from devcluster.registry.folder import Folder, digest_of

_OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
_DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest or an index, with everything below it."""

    media_type: str
    manifest: bytes
    blobs: tuple[bytes, ...] = ()
    """Config first, then layers; empty for an index."""
    children: tuple[Image, ...] = ()
    """An index's manifests."""
    platform: str = ""
    """`os/architecture`; empty for an index."""

    @property
    def digest(self) -> str:
        """What the registry calls it."""
        return digest_of(self.manifest)

    @property
    def config_digest(self) -> str:
        """What containerd calls the image once pulled; raises `IndexError` for an index."""
        return digest_of(self.blobs[0])


def incompressible(size_bytes: int, seed: str) -> bytes:
    """The same bytes for the same seed, and no compressor makes them smaller."""
    return hashlib.shake_256(seed.encode()).digest(size_bytes)


def build_image(*contents: bytes, platform: str = "linux/amd64", docker: bool = False, note: str = "") -> Image:
    """An image with one layer for each content, each a single file.

    `docker` writes Docker's media types instead of OCI's; `note` becomes a label, so that equal layers can make
    different images.
    """
    archives = [_archive(f"content-{i}", content) for i, content in enumerate(contents)]
    system, _, architecture = platform.partition("/")
    config = _json(
        {
            "architecture": architecture,
            "os": system,
            "created": "1970-01-01T00:00:00Z",
            "config": {"Cmd": ["/bin/true"]} | ({"Labels": {"note": note}} if note else {}),
            "rootfs": {"type": "layers", "diff_ids": [digest_of(archive) for archive in archives]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "devcluster"} for _ in archives],
        }
    )
    # Level 0 stores: the bytes do not depend on the version of zlib, and large test layers cost no time.
    layers = [gzip.compress(archive, compresslevel=0, mtime=0) for archive in archives]
    media_type = _DOCKER_MANIFEST if docker else _OCI_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _descriptor(config, _DOCKER_CONFIG if docker else _OCI_CONFIG),
        "layers": [_descriptor(layer, _DOCKER_LAYER if docker else _OCI_LAYER) for layer in layers],
    }
    return Image(media_type, _json(manifest), (config, *layers), platform=platform)


def _archive(name: str, content: bytes) -> bytes:
    """A tar archive with one file, owned by root, dated 1970."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        entry.mode = 0o644
        tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def incompressible_image(megabytes: float, seed: str, *, layers: int = 1, platform: str = "linux/amd64") -> Image:
    """An image whose layers together have this size (in units of 1,000,000 bytes), the same for the same seed."""
    each = int(megabytes * 1_000_000 / layers)
    return build_image(*(incompressible(each, f"{seed}/{i}") for i in range(layers)), platform=platform)


def build_index(images: Iterable[Image], *, attestation: bool = False, docker: bool = False) -> Image:
    """An index of images for several platforms; `attestation` adds one for each, as BuildKit does.

    Attestations have the platform `unknown/unknown` and must never be run
    (https://docs.docker.com/build/metadata/attestations/attestation-storage/).
    """
    children = list(images)
    entries = [_child(image) for image in children]
    if attestation:
        for image in tuple(children):
            extra = build_artifact("attestation", image.manifest)
            children.append(extra)
            marks = {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": image.digest,
            }
            entries.append(_child(extra) | {"annotations": marks})
    media_type = _DOCKER_LIST if docker else _OCI_INDEX
    body = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries}
    return Image(media_type, _json(body), children=tuple(children))


def build_artifact(kind: Literal["attestation", "helm", "signature"], content: bytes = b"content") -> Image:
    """Something a registry holds and a node cannot run.

    An attestation has an image's config with the platform `unknown/unknown`; a Helm chart and a signature say by
    their media types that they are none (https://helm.sh/docs/topics/registries/).
    """
    types = {
        "attestation": (_OCI_CONFIG, "application/vnd.in-toto+json"),
        "helm": (
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        ),
        "signature": (_OCI_CONFIG, "application/vnd.dev.cosign.simplesigning.v1+json"),
    }
    config_type, layer_type = types[kind]
    if kind == "helm":
        config = _json({"name": "chart", "version": "1.0.0", "apiVersion": "v2"})
    else:
        unknown = "unknown" if kind == "attestation" else ""
        rootfs = {"type": "layers", "diff_ids": [digest_of(content)]}
        config = _json({"architecture": unknown, "os": unknown, "config": {}, "rootfs": rootfs})
    manifest = {
        "schemaVersion": 2,
        "mediaType": _OCI_MANIFEST,
        "config": _descriptor(config, config_type),
        "layers": [_descriptor(content, layer_type)],
    }
    return Image(_OCI_MANIFEST, _json(manifest), (config, content), platform="unknown/unknown")


def write_image(root: Path, repository: str, tag: str, image: Image) -> str:
    """Put an image into a registry's folder, with its children, and return its digest. No tag: by digest only."""
    folder = Folder(root)
    for child in image.children:
        write_image(root, repository, "", child)
    for blob in image.blobs:
        folder.write_blob(blob)
    digest = folder.write_manifest(repository, image.manifest, image.media_type)
    if tag:
        folder.write_tag(repository, tag, digest)
    return digest


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _child(image: Image) -> dict[str, Any]:
    system, _, architecture = image.platform.partition("/")
    return _descriptor(image.manifest, image.media_type) | {"platform": {"architecture": architecture, "os": system}}
