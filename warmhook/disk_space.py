"""Decide which images fit on the disk of a node, so that no pull makes the kubelet evict Pods.

An image needs its compressed size times a factor that the node learns. containerd keeps the compressed layers as well
as the unpacked ones, and CRI-O only the latter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from warmhook.desired_lines import DesiredLine
from warmhook.images import parse_reference
from warmhook.presence import Images
from warmhook.pull_queue import Running, image_bytes
from warmhook.sizes import format_bytes

DEFAULT_FACTOR: Final = 3.5
"""Until a node has learned: the layers as they come, and 2.5 times that much unpacked, an estimate."""
LEAST_FACTOR: Final = 1.5
LARGEST_FACTOR: Final = 6.0
ENOUGH_BYTES: Final = 100 * 1024 * 1024
"""A node learns from so much; images of a few bytes say little."""
_UNPACKED: Final = 1.3
"""A runtime that lists images as this much larger than their compressed size lists their unpacked size."""


@dataclass(frozen=True, slots=True)
class Space:
    """The file system that holds images."""

    total_bytes: int
    free_bytes: int
    """As a kubelet counts it: used by root or not."""

    @property
    def free_percent(self) -> float:
        """The free share."""
        return 100 * self.free_bytes / self.total_bytes


@dataclass(frozen=True, slots=True)
class Learned:
    """What a node knows about the sizes of its images."""

    sizes: Sequence[tuple[int, int]] = ()
    """Of each image whose size a registry has said: that compressed size, and the size that the runtime lists."""
    all_listed_bytes: int = 0
    """Of all images, as the runtime lists them."""
    used_bytes: int = 0
    """Of all unpacked layers, as the runtime measures them; 0: unknown."""

    @property
    def factor(self) -> float:
        """Bytes on the disk for each compressed byte of an image.

        containerd lists compressed sizes, CRI-O unpacked ones; the median of the images decides, because a registry may
        say anything. Layers that images share make the factor smaller, and what containers write makes it larger.
        """
        if sum(listed for _, listed in self.sizes) < ENOUGH_BYTES:
            return DEFAULT_FACTOR
        listed = median(listed / compressed for compressed, listed in self.sizes)
        if listed >= _UNPACKED:
            return _bounded(listed)
        if not self.used_bytes or not self.all_listed_bytes:
            return DEFAULT_FACTOR
        return _bounded(1 + self.used_bytes / self.all_listed_bytes)


def learn(lines: Iterable[DesiredLine], images: Images, used_bytes: int) -> Learned:
    """Compare the sizes that the runtime lists, and what it uses in all, with those that registries have said."""
    listed = {image.id: image.size_bytes for image in images.values()}
    known = {
        images[wanted.line.image].id: size
        for wanted in lines
        if (size := image_bytes([wanted])) and wanted.line.image in images
    }
    return Learned([(size, listed[image_id]) for image_id, size in known.items()], sum(listed.values()), used_bytes)


def needing_space(wanted: DesiredLine, images: Images) -> DesiredLine:
    """The line, without a size if the runtime has its digest: then a pull needs no space."""
    line = wanted.line
    if line.size_bytes and line.digest and f"{parse_reference(line.image).name}@{line.digest}" in images:
        return replace(wanted, line=replace(line, size_bytes=0))
    return wanted


@dataclass(frozen=True, slots=True)
class Room:
    """The space that pulls may use."""

    usable_bytes: float = math.inf
    """Beyond the minimum that stays free, and what running pulls still need; negative if these need more."""
    factor: float = DEFAULT_FACTOR

    @property
    def image_bytes(self) -> float:
        """The compressed size of the largest image that fits."""
        return max(0.0, self.usable_bytes) / self.factor

    def refusal(self, size_bytes: int) -> str:
        """Why an image of this compressed size is not pulled; empty if it fits, or its size is 0: unknown."""
        if size_bytes <= self.image_bytes:
            return ""
        needed, usable = format_bytes(size_bytes * self.factor), format_bytes(self.usable_bytes)
        return f"needs about {needed} of the node's disk for images, {usable} may be used"


def room(space: Space | None, min_free_percent: int, factor: float, running: Iterable[Running]) -> Room:
    """The room for further pulls; without limit if the space is unknown or the minimum is 0.

    `running` are the pulls as they were when the space was measured. What they have downloaded is no longer free; when
    they unpack is not known, so that counts until they have ended.
    """
    if space is None or min_free_percent == 0:
        return Room(factor=factor)
    needed = sum(
        max(0.0, active.pull.size_bytes * factor - active.downloaded_bytes)
        for active in running
        if active.pull.size_bytes
    )
    return Room(space.free_bytes - space.total_bytes * min_free_percent / 100 - needed, factor)


def _bounded(factor: float) -> float:
    return min(max(factor, LEAST_FACTOR), LARGEST_FACTOR)
