"""Turn the image that an event names into a push, or into the reason to skip it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from adapters.registries.common.bodies import quoted
from adapters.registries.common.delivery import Source
from warmhook.events import Pushed, Skip
from warmhook.images import NotAReference, from_event

_MANIFESTS: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    }
)
"""The manifests that a runtime can pull. containerd no longer supports Docker's schema 1."""

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
# cosign's tags; without a suffix it is the referrers tag of the OCI distribution specification 1.1.
_COMPANION_TAG: Final = re.compile(r"sha256-[0-9a-f]{64}(?:\.(?:sig|att|sbom))?")
_DIGEST_END: Final = re.compile(r"[:@](sha(?:256|512):[^/]*)$")


class LooseReference(NamedTuple):
    """An image as a sender names it. Nothing is checked, and every part may be empty."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""


def pushed(
    source: Source,
    image: LooseReference,
    *,
    pushed_at: datetime | None = None,
    delivery_id: str = "",
    media_types: Iterable[str] = (),
) -> Pushed | Skip:
    """The push of one image, under the source's `registry_host` or else under the image's host.

    `media_types` are those of the configuration, artifact and layers, if the sender reports them.
    """
    for media_type in media_types:
        if media_type.lower().startswith(_NOT_RUNNABLE):
            return Skip("not-runnable", f"media type {quoted(media_type)}")
    if _COMPANION_TAG.fullmatch(image.tag):
        return Skip("not-runnable", f"tag {quoted(image.tag)}")
    host = source.registry_host or image.host
    if not host:
        return Skip("no-registry-host", "the payload names no host; set registryHost")
    try:
        reference = from_event(host, image.repository, image.tag, image.digest)
    except NotAReference as error:
        return Skip("malformed", str(error)[:120])
    if reference is None:
        return Skip("no-tag-no-digest")
    return Pushed(reference, pushed_at=pushed_at, delivery_id=delivery_id)


def is_manifest(media_type: str) -> bool:
    """Whether a media type is that of an image manifest or index, as opposed to a layer or an artifact of its own."""
    return media_type.partition(";")[0].strip().lower() in _MANIFESTS


def host_of(text: str) -> str:
    """The host of a URL, or of a reference with or without a scheme: `https://a:1/b` and `a:1/b` give `a:1`."""
    return re.split(r"[/?#]", text.partition("://")[2] or text, maxsplit=1)[0].rpartition("@")[2]


def split_reference(text: str) -> LooseReference:
    """The parts of a text that a sender calls a reference.

    A scheme or a user name in front, an empty tag at the end and Harbor 2.0's `repository:sha256:...` are accepted.
    The first element is the host only if it looks like one.
    """
    rest, digest = text.partition("://")[2] or text, ""
    if found := _DIGEST_END.search(rest):
        rest, digest = rest[: found.start()], found[1]
    before, _, after = rest.partition("@")
    # A user name and a password come before the host. Otherwise the text after `@` is a digest of an unknown kind.
    rest = after if "/" in after and "/" not in before else before
    tag, colon = "", rest.rfind(":")
    if colon > rest.rfind("/"):
        rest, tag = rest[:colon], rest[colon + 1 :]
    host, slash, repository = rest.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return LooseReference(host, repository, tag, digest)
    return LooseReference("", rest, tag, digest)
