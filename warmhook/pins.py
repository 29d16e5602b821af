"""Decide which names of images a node pins against the kubelet's image garbage collection.

A kubelet removes no image that the runtime lists as pinned. containerd lists an image as pinned if one of its names has
the label `PIN` (https://github.com/containerd/containerd/blob/main/internal/cri/labels/labels.go). Names that Warmhook
has pinned have the label `OURS` as well, so a restart forgets none, and what a person pinned stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from warmhook.images import parse_reference
from warmhook.node_lines import Line
from warmhook.ports import StoredImage
from warmhook.presence import Images

PIN: Final = "io.cri-containerd.pinned"
OURS: Final = "warmhook.dev/pinned"
PINNED: Final[Mapping[str, str]] = {PIN: "pinned", OURS: "true"}
"""The labels of a name that Warmhook pins."""
UNPINNED: Final[Mapping[str, str]] = {PIN: "", OURS: ""}
"""Removes them."""


@dataclass(frozen=True, slots=True)
class PinChanges:
    """The names to pin and those whose pin to remove, sorted."""

    pin: list[str]
    unpin: list[str]


def pinned_names(lines: Iterable[Line], images: Images) -> set[str]:
    """The names to pin for `lines`: of each pinned line its image, and the digests of that image in its repository."""
    names = set()
    for line in lines:
        if line.pull.pinned and not line.gives_up:
            names.add(line.image)
            prefix = f"{parse_reference(line.image).name}@"
            image = images.get(line.image)
            names.update(name for name in (image.digests if image else ()) if name.startswith(prefix))
    return names


def pin_changes(wanted: Collection[str], stored: Iterable[StoredImage]) -> PinChanges:
    """The changes that leave exactly the `wanted` names pinned, of those that are stored. Pins of others stay."""
    pin, unpin = [], []
    for image in stored:
        ours, pinned = OURS in image.labels, image.labels.get(PIN) == PINNED[PIN]
        if image.name in wanted and not pinned:
            pin.append(image.name)
        elif ours and image.name not in wanted:
            unpin.append(image.name)
    return PinChanges(sorted(pin), sorted(unpin))


def our_pins(stored: Iterable[StoredImage]) -> list[str]:
    """The names that Warmhook has pinned, sorted."""
    return pin_changes((), stored).unpin
