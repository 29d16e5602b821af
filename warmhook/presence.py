"""Decide whether a line is warm: compare the images of the runtime with the line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from warmhook.desired_lines import DesiredLine
from warmhook.images import parse_reference
from warmhook.node_lines import Line
from warmhook.platforms import Platform, runs_on
from warmhook.ports import ImageConfig, RuntimeImage
from warmhook.pull_failures import FailureReason

Images: TypeAlias = Mapping[str, RuntimeImage]
"""The images that the runtime lists, under each of their names: `host/repository:tag` and `host/repository@digest`."""
Pulled: TypeAlias = Mapping[str, str]
"""Version of a line to the digest that its pull brought; an empty digest if the runtime reported none."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why the node cannot run a listed image."""

    reason: FailureReason
    message: str


# containerd 1.6 goes on listing images that it could not unpack, by tag and without a digest.
NO_DIGEST: Final = Unusable("RuntimeError", "the runtime lists the image without a digest, so it is perhaps not whole")

NO_CONFIG: Final = Unusable("RuntimeError", "the runtime does not say what kind of image this is")


def unusable(config: ImageConfig, node: Platform) -> Unusable | None:
    """Why a node of this platform cannot run an image with this configuration; `None` if it can.

    containerd 1.7 and later and CRI-O pull charts, signatures and images of other platforms without an error.
    """
    if config.oversized:
        return Unusable("NotRunnable", "the image's configuration is larger than 1 MiB and is not read")
    # Signatures have layers but, unlike images, no platform.
    if not config.layers or config.platform == Platform():
        return Unusable("NotRunnable", "no container image but a chart, a signature or another artefact")
    if not runs_on(config.platform, node):
        return Unusable("PlatformMissing", f"the image is for {config.platform}, this node is {node}")
    return None


def images_by_name(images: Iterable[RuntimeImage]) -> dict[str, RuntimeImage]:
    """The answer of the runtime as `Images`."""
    return {name: image for image in images for name in (*image.tags, *image.digests)}


def is_warm(wanted: DesiredLine, images: Images, usable: Collection[str], pulled: Pulled) -> bool:
    """Whether a Pod with the image of the line would find it, in the expected version, without a pull.

    `usable` are the IDs of images that were found to run on the node.
    """
    line, version = wanted.line, wanted.version
    image = images.get(line.image)
    if image is None or not image.digests or image.id not in usable:
        return False
    if _wants_a_pull(line) and version not in pulled:
        return False
    # Only a line with a digest expects one. If the tag has moved since, the digest of its pull is right.
    expected = line.digest and (pulled.get(version) or line.digest)
    return not expected or f"{parse_reference(line.image).name}@{expected}" in image.digests


def replaced_digest(wanted: DesiredLine, pulled: Pulled) -> str:
    """The digest that the tag's pull brought in place of the line's; empty if they are the same."""
    digest = pulled.get(wanted.version, "")
    return digest if wanted.line.digest and digest != wanted.line.digest else ""


def pulled_digest(reference: str, before: Images, after: Images, expected: str = "") -> str:
    """The digest that a pull of `reference` brought, from what the runtime listed before and after it.

    A runtime lists digests by image, not by tag, and one image can have several. The expected one counts if it is
    among them, else one that is new, else any: all of them are the image that the tag names now. Empty if the
    runtime lists none.
    """
    image = after.get(reference)
    if image is None:
        return ""
    prefix = f"{parse_reference(reference).name}@"
    digests = [name.removeprefix(prefix) for name in image.digests if name.startswith(prefix)]
    if expected in digests:
        return expected
    new = [digest for digest in digests if prefix + digest not in before]
    return min(new or digests, default="")


def _wants_a_pull(line: Line) -> bool:
    """Whether the line needs a pull of its own: a tag was pushed without its digest, or the policy is Always."""
    return line.pull.policy == "Always" or (bool(line.pushed_at) and not line.digest)
