"""Read manifests and indexes of a registry: platforms, sizes, and whether a container can run the content.

OCI image specification (https://github.com/opencontainers/image-spec/blob/main/manifest.md and image-index.md) and
Docker's schema 2. Schema 1 has no sizes and current containerd does not support it, so it is not read.
What cannot be known is runnable, and on every platform. All content is hostile input.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from warmhook.images import is_digest
from warmhook.platforms import Platform, platform_of, runs_on

BODY_MAX: Final = 4 * 1024 * 1024
"""Bytes of a manifest: the least that registries must accept (OCI distribution specification, "Pushing Manifests")."""
CONFIG_MAX: Final = 1024 * 1024
"""Bytes of a configuration; it is read for the platform only."""
CHILDREN_MAX: Final = 4
"""Manifests of an index that are read for their sizes: a public registry counts each of them as a pull."""
PLATFORMS_MAX: Final = 32
"""Platforms that are stored; an image with more has unknown platforms."""

_ENTRIES_MAX: Final = 1000
_VALUES_MAX: Final = 100_000
"""Values in a document: 4 MiB of empty lists would take half a second and 100 MB to read."""
_SIZE_MAX: Final = 2**53 - 1
"""The greatest integer that every reader of JSON keeps."""

INDEX_TYPES: Final = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
IMAGE_TYPES: Final = frozenset(
    {"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)
MANIFEST_TYPES: Final = INDEX_TYPES | IMAGE_TYPES
"""The media types of manifests that a runtime can pull."""

# Media types of configurations, artifacts and layers that no container can run: Helm charts, cosign signatures and
# attestations, in-toto statements, SBOMs, BuildKit's cache, the empty configuration of other artifacts, Wasm.
_NOT_RUNNABLE: Final = (
    "application/vnd.cncf.helm.",
    "application/vnd.acr.helm.",
    "application/vnd.dev.cosign.",
    "application/vnd.dev.sigstore.",
    "application/vnd.cncf.notary.",
    "application/vnd.in-toto",
    "application/vnd.dsse.",
    "application/spdx",
    "text/spdx",
    "application/vnd.cyclonedx",
    "application/vnd.buildkit.cacheconfig.",
    "application/vnd.oci.empty.",
    "application/vnd.wasm.",
    "application/vnd.module.wasm.",
    "application/wasm",
)
# BuildKit marks attestations: https://docs.docker.com/build/metadata/attestations/attestation-storage/
_REFERENCE_TYPE: Final = "vnd.docker.reference.type"
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_FIRST: Final = ("linux/amd64", "linux/arm64")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a registry has under a reference."""

    digest: str
    """Of the index if it is one."""
    media_type: str
    platforms: tuple[str, ...] = ()
    """`os/architecture[/variant]`, sorted; empty if unknown."""
    size_bytes: int = 0
    """The compressed bytes of all layers, for the largest Linux platform that was read; 0 if unknown."""
    runnable: bool = True
    """False if no container can run it: a chart, a signature, another artifact."""

    def lacks(self, node: Platform) -> bool:
        """Whether no platform of the image runs on that node."""
        return bool(self.platforms) and _lacking(self.platforms, node)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of one image."""

    config: str = ""
    """The digest of the configuration; empty if it tells no platform."""
    size_bytes: int = 0
    runnable: bool = True


@dataclass(frozen=True, slots=True)
class Child:
    """An image in an index."""

    digest: str
    platform: str = ""
    """`os/architecture[/variant]`; empty if unknown."""


@dataclass(frozen=True, slots=True)
class Index:
    """The images of an index, without attestations."""

    children: tuple[Child, ...] = ()
    runnable: bool = True
    """False if it says by its type, or by holding attestations only, that there is nothing to run."""
    complete: bool = True
    """False if entries could not be read, so that there may be other platforms."""


@dataclass(frozen=True, slots=True)
class Named:
    """The digests in one manifest or index."""

    manifests: tuple[str, ...] = ()
    blobs: tuple[str, ...] = ()
    """Of a configuration and layers."""


def is_runnable_type(media_type: str) -> bool:
    """False for the media type of a configuration, an artifact or a layer that no container can run."""
    return not media_type.lower().startswith(_NOT_RUNNABLE)


def read_manifest(body: bytes, media_type: str) -> Manifest | Index | None:
    """The manifest or index in `body`, which the registry calls `media_type`; `None` if it is of no known kind.

    A body that names another type than the registry is of no known kind, and one that is both as well: a runtime could
    read it differently (CVE-2021-41190).
    """
    given = media_type.partition(";")[0].strip().lower()
    fields = read_document(body)
    if not isinstance(fields, dict) or given not in MANIFEST_TYPES or fields.get("mediaType", given) != given:
        return None
    if given in INDEX_TYPES:
        entries = fields.get("manifests")
        return None if not isinstance(entries, list) or "layers" in fields else _index(fields, entries)
    layers = fields.get("layers")
    if not isinstance(layers, list) or "manifests" in fields or not isinstance(fields.get("config"), dict):
        return None
    return _manifest(fields, layers)


def named_digests(body: bytes) -> Named:
    """What the manifest or index in `body` names; nothing if it could be either, or is neither."""
    fields = read_document(body)
    if not isinstance(fields, dict) or ("manifests" in fields) == ("layers" in fields):
        return Named()
    if "manifests" in fields:
        return Named(manifests=_digests(fields["manifests"]))
    return Named(blobs=_digests([fields.get("config"), *_list(fields["layers"])]))


def read_platform(config: bytes) -> str:
    """The platform in the configuration of an image; empty if it has none."""
    return _platform(read_document(config))


def children_to_read(index: Index) -> list[Child]:
    """The images of an index whose sizes are worth a request each: Linux first, common architectures first."""
    return sorted(index.children, key=_rank)[:CHILDREN_MAX]


def resolved_manifest(digest: str, media_type: str, manifest: Manifest, platform: str) -> Resolved:
    """What is known of a single image with that platform."""
    platforms = (platform,) if platform else ()
    return Resolved(digest, media_type, platforms, manifest.size_bytes, manifest.runnable)


def resolved_index(digest: str, media_type: str, index: Index, read: Mapping[str, Manifest]) -> Resolved:
    """What is known of an index; `read` has those of its manifests that were read, by digest."""
    runnable = [child for child in index.children if child.digest not in read or read[child.digest].runnable]
    platforms = {child.platform for child in runnable}
    known = index.complete and "" not in platforms and len(platforms) <= PLATFORMS_MAX
    sizes = {child: read[child.digest].size_bytes for child in runnable if child.digest in read}
    linux = [size for child, size in sizes.items() if child.platform.startswith("linux/")]
    return Resolved(
        digest,
        media_type,
        tuple(sorted(platforms)) if known else (),
        max(linux or sizes.values(), default=0),
        index.runnable and (bool(runnable) or not index.children),
    )


# Asked for each image and node, of which there are few different ones.
@functools.lru_cache(maxsize=1024)
def _lacking(platforms: tuple[str, ...], node: Platform) -> bool:
    return not any(runs_on(_parsed(platform), node) for platform in platforms)


def read_document(text: bytes) -> object:
    """The value of a manifest or configuration; `None` for what is no JSON, or takes too long to read."""
    if sum(map(text.count, (b",", b"[", b"{"))) > _VALUES_MAX:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _manifest(fields: Mapping[str, Any], layers: list[Any]) -> Manifest:
    config = fields["config"]
    kinds = [_text(layer, "mediaType") for layer in layers[:_ENTRIES_MAX]]
    runnable = is_runnable_type(_text(config, "mediaType")) and is_runnable_type(_text(fields, "artifactType"))
    if kinds and not any(map(is_runnable_type, kinds)):
        runnable = False
    digest = _text(config, "digest")
    return Manifest(digest if is_digest(digest) and runnable else "", _total_size(layers), runnable)


def _total_size(layers: list[Any]) -> int:
    """0 if one size is not known, or there are more layers than any runtime takes."""
    sizes = [layer.get("size") if isinstance(layer, dict) else None for layer in layers[: _ENTRIES_MAX + 1]]
    total = 0
    for size in sizes:
        if type(size) is not int or not 0 <= size <= _SIZE_MAX:
            return 0
        total += size
    return total if total <= _SIZE_MAX and len(sizes) <= _ENTRIES_MAX else 0


def _index(fields: Mapping[str, Any], entries: list[Any]) -> Index:
    children, others = [], 0
    for entry in entries[:_ENTRIES_MAX]:
        if not isinstance(entry, dict) or not is_digest(_text(entry, "digest")):
            others += 1
        elif not _is_attestation(entry):
            # The platforms below an index in an index are not read.
            platform = "" if _text(entry, "mediaType").lower() in INDEX_TYPES else _platform(entry.get("platform"))
            children.append(Child(_text(entry, "digest"), platform))
    complete = not others and len(entries) <= _ENTRIES_MAX
    nothing = bool(entries) and complete and not children
    runnable = is_runnable_type(_text(fields, "artifactType")) and not nothing
    return Index(tuple(dict.fromkeys(children)), runnable, complete)


def _digests(descriptors: object) -> tuple[str, ...]:
    texts = [_text(descriptor, "digest") for descriptor in _list(descriptors)[:_ENTRIES_MAX]]
    return tuple(filter(is_digest, texts))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_attestation(entry: Mapping[str, Any]) -> bool:
    annotations, platform = entry.get("annotations"), entry.get("platform")
    if isinstance(annotations, dict) and _REFERENCE_TYPE in annotations:
        return True
    return isinstance(platform, dict) and platform.get("os") == "unknown" == platform.get("architecture")


def _platform(fields: object) -> str:
    """`os/architecture[/variant]` in the terms of the image specification; empty unless both are names."""
    if not isinstance(fields, dict):
        return ""
    words = platform_of(_text(fields, "os"), _text(fields, "architecture"))
    if not (_WORD.fullmatch(words.os) and _WORD.fullmatch(words.architecture)):
        return ""
    variant = _text(fields, "variant").lower()
    return f"{words}/{variant}" if _WORD.fullmatch(variant) else str(words)


def _parsed(platform: str) -> Platform:
    os, _, rest = platform.partition("/")
    return Platform(os, rest.partition("/")[0])


def _rank(child: Child) -> tuple[bool, int]:
    place = next((number for number, first in enumerate(_FIRST) if child.platform.startswith(first)), len(_FIRST))
    return (not child.platform.startswith("linux/"), place)


def _text(fields: object, name: str) -> str:
    """A field that should be text; empty if it is not there or something else."""
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, str) else ""
