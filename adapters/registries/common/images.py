"""Turn the image that an event names into a push, or into the reason to skip it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from adapters.registries.common.bodies import quoted
from adapters.registries.common.delivery import Source
from warmhook.events import BlobPushed, Pushed, Skip
from warmhook.images import NotAReference, Reference, from_event
from warmhook.manifests import MANIFEST_TYPES, is_runnable_type
from warmhook.secret_texts import without_credentials

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
        if not is_runnable_type(media_type):
            return Skip("not-runnable", f"media type {quoted(media_type)}")
    if _COMPANION_TAG.fullmatch(image.tag):
        return Skip("not-runnable", f"tag {quoted(image.tag)}")
    reference = _reference(source, image)
    if isinstance(reference, Skip):
        return reference
    return Pushed(reference, pushed_at=pushed_at, delivery_id=delivery_id)


def blob_pushed(
    source: Source, blob: LooseReference, size_bytes: int, pushed_at: datetime | None = None
) -> BlobPushed | Skip:
    """The push of one blob, which has a digest and no tag, under the host of `pushed`."""
    reference = _reference(source, blob._replace(tag=""))
    return reference if isinstance(reference, Skip) else BlobPushed(reference, size_bytes, pushed_at)


def _reference(source: Source, image: LooseReference) -> Reference | Skip:
    host = source.registry_host or image.host
    if not host:
        return Skip("no-registry-host", "the payload names no host; set registryHost")
    try:
        return from_event(host, image.repository, image.tag, image.digest) or Skip("no-tag-no-digest")
    except NotAReference as error:
        return Skip("malformed", without_credentials(str(error))[:120])


def is_manifest(media_type: str) -> bool:
    """Whether a media type is that of an image manifest or index, as opposed to a layer or an artifact of its own."""
    return media_type.partition(";")[0].strip().lower() in MANIFEST_TYPES


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
