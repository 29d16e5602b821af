"""Is a line warm? What the runtime lists, held against what the line expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from warmhook.images import parse_reference
from warmhook.lines import Line
from warmhook.ports import RuntimeImage
from warmhook.wanted import Wanted

__all__ = ["Images", "Pulled", "brought", "images_by_name", "is_warm", "moved_to"]

Images: TypeAlias = Mapping[str, RuntimeImage]
"""What the runtime lists, under every name it lists: `host/repository:tag` and `host/repository@digest`."""
Pulled: TypeAlias = Mapping[str, str]
"""Version of a line to the digest that a pull brought since that version was first seen; empty where none was told."""


def images_by_name(images: Iterable[RuntimeImage]) -> dict[str, RuntimeImage]:
    """The runtime's answer as `Images`."""
    return {name: image for image in images for name in (*image.tags, *image.digests)}


def is_warm(wanted: Wanted, images: Images, pulled: Pulled) -> bool:
    """Whether a Pod that names the line's image would find it, in the expected version, without a pull."""
    line, version = wanted.line, wanted.version
    image = images.get(line.image)
    if image is None or (_wants_a_pull(line) and version not in pulled):
        return False
    # Only a line that names a digest expects one. Where the tag has moved since, what its pull brought is right.
    expected = line.digest and (pulled.get(version) or line.digest)
    return not expected or f"{parse_reference(line.image).name}@{expected}" in image.digests


def moved_to(wanted: Wanted, pulled: Pulled) -> str:
    """The digest that the tag's pull brought in place of the line's; empty where they are the same."""
    digest = pulled.get(wanted.version, "")
    return digest if wanted.line.digest and digest != wanted.line.digest else ""


def brought(reference: str, before: Images, after: Images, expected: str = "") -> str:
    """The digest that a pull of `reference` brought, from what the runtime listed before and after it.

    A runtime lists digests by image, not by tag, and one image can have several. The expected one counts if it is
    among them, else one that is new, else any: all of them are the image that the tag names now. Empty where the
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
    """Whether presence is not enough: a tag was pushed and nobody said what it points at, or its author wants it."""
    return line.pull.policy == "Always" or (bool(line.pushed_at) and not line.digest)
